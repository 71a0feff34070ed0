"""One call of a command: what all of them do before and after the one thing that each does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from txcalc.cli import write
from txcalc.cli.options import CommonOptions, OutputOptions, PlotOptions, Run
from txcalc.show.writers import FORMATS, SUFFIXES
from txcalc.spec.errors import MissingPackage, SpecError, not_one_of

if TYPE_CHECKING:
    from txcalc.answer.report import Origin
    from txcalc.document import Part
    from txcalc.models.store import Loaded

_FIGURES: Final = ("svg", "png", "pdf")


class Call(NamedTuple):
    """The arguments as given, and what of the shared options holds. ``form``: the format of the answer."""

    args: tuple[str, ...]
    common: CommonOptions
    output: OutputOptions = OutputOptions()
    plot: str | None = None
    form: str = "table"

    @property
    def command(self) -> tuple[str, ...]:
        """The command line that a report says made it."""
        return ("txcalc", *self.args)

    @property
    def to_file(self) -> bool:
        """True where the answer goes to a file."""
        return self.output.output not in (None, write.STDOUT)

    def origin(self, loaded: Loaded) -> Origin:
        """The origin of an answer's model."""
        from txcalc.answer.report import Origin

        return Origin(loaded.source, loaded.overrides, loaded.notes, self.command)

    def load(
        self, model: str, overrides: Sequence[str], dtype: str | None = None, *, noted: bool = False
    ) -> Loaded:
        """Load a model, and say what its reader should know.

        ``dtype``: the one that weights are counted in by default, None where none is. ``noted``: a table has the
        model's notes.

        Raises ``SpecError``, see ``txcalc.models.load.load``.
        """
        from txcalc.models import load as presets

        return self._told(presets.load(model, overrides, strict=self.common.strict), dtype, noted=noted)

    def load_all(
        self, model: str, overrides: Sequence[str], dtype: str | None = None, *, noted: bool = False
    ) -> list[Loaded]:
        """Load every model of a saved answer about several, of anything else its one. Raises as ``load`` does."""
        from txcalc.models import load as presets

        found = presets.load_all(model, overrides, strict=self.common.strict)
        return [self._told(each, dtype, noted=noted) for each in found]

    def _told(self, loaded: Loaded, dtype: str | None, *, noted: bool) -> Loaded:
        own = () if noted and self.form == "table" else loaded.notes
        self.tell((*own, *_dtype_note(loaded, dtype)))
        return loaded

    def workload(self, run: Run) -> Run:
        """The workload's fields, ``device`` as earlier releases meant it. Raises ``SpecError`` for a card."""
        if "device" not in run:
            return run
        kernels = run.pop("device")
        if kernels not in ("cuda", "cpu"):
            from txcalc.answer.devices import device

            raise SpecError(f"no card changes what is counted; txcalc attention MODEL --device {device(kernels).name} "
                            "shows what fits on it, --kernels cuda or cpu says whose operators run", field="device")
        write.notice(f"--device {kernels} is now --kernels {kernels}; the old spelling goes in the next release")
        return {"kernels": kernels} | run

    def tell(self, notes: Iterable[str]) -> None:
        """Say on stderr how the request was read, and what is counted otherwise than a saved answer says."""
        if not self.common.quiet:
            for each in notes:
                write.notice(each)

    def answer(self, found: Any, *, document: Part | None = None, notation: str = "unicode", more: str = "") -> None:
        """Write an answer in its format, and its charts to the figure that was asked for.

        ``document``: what machines read, where that is not all of the answer. ``more``: what would show more of it.
        """
        from txcalc.show import writers

        machines = self.plot is None and FORMATS[self.form].machine
        blocks = () if machines else tuple(writers.blocks(found))
        detail = 0 if self.common.quiet else 1 + self.common.verbose
        screen = write.screen(to_file=self.to_file, color=not self.common.no_color)._replace(notation=notation)
        shown = writers.write(document or found, blocks, self.form, screen, detail)
        if self.plot is not None:
            from txcalc.show import plot

            self._write(plot.write(blocks, _figure(self.plot)), self.plot)
        self._write(shown, self.output.output)
        if more and self.form == "table" and not (self.common.quiet or self.common.verbose):
            write.note(f"more: {more}")

    def _write(self, content: str | bytes, path: str | None) -> None:
        write.write(content, path, force=self.output.force, quiet=self.common.quiet)


def begin(context: Any, groups: dict[type, Any]) -> Call:
    """The call of a command, once it is clear that its answer can be written in the end.

    Raises ``SpecError`` for a format, a file or a figure that cannot be, ``MissingPackage`` without matplotlib.
    """
    above: Call = context.obj
    call = above._replace(common=above.common.joined(groups[CommonOptions]))
    if OutputOptions not in groups:
        return call
    output: OutputOptions = groups[OutputOptions]
    figure = groups[PlotOptions].plot if PlotOptions in groups else None
    write.check(output.output, force=output.force)
    if figure is not None:
        _check_figure(figure)
        write.check(figure, force=output.force)
    return call._replace(output=output, plot=figure, form=_format(output))


def _figure(path: str) -> str:
    return path.rpartition(".")[2].lower()


def _check_figure(path: str) -> None:
    from importlib.util import find_spec

    if _figure(path) not in _FIGURES:
        raise SpecError(f"a figure is one of {', '.join(f'.{form}' for form in _FIGURES)}, got {path!r}", field="plot")
    if find_spec("matplotlib") is None:
        raise MissingPackage("a figure needs matplotlib", "matplotlib")


def _format(output: OutputOptions) -> str:
    """The one format that --format, --json, --markdown and the suffix of --output agree on. Raises ``SpecError``."""
    asked: dict[str, str] = {"--json": "json"} if output.json else {}
    asked |= {"--markdown": "md"} if output.markdown else {}
    if output.format is not None:
        if output.format not in FORMATS:
            raise SpecError(not_one_of([*FORMATS], output.format), field="format")
        asked[f"--format {output.format}"] = output.format
    to_file = output.output not in (None, write.STDOUT)
    suffix = next((end for end in SUFFIXES if to_file and str(output.output).lower().endswith(end)), None)
    if suffix is not None:
        asked[f"--output {output.output}"] = SUFFIXES[suffix]
    if len(set(asked.values())) > 1:
        raise SpecError(f"{' and '.join(asked)} ask for different formats")
    if to_file and not asked:
        raise SpecError(f"no format follows from its suffix: use {', '.join(SUFFIXES)}, or --format", field="output")
    return next((form for form in FORMATS if form in asked.values()), "table")


def _dtype_note(loaded: Loaded, dtype: str | None) -> list[str]:
    """Weights are counted as asked, and in the same dtype for every model: a file's own is only a hint."""
    from txcalc.trace.workload import BYTES

    own = next((known for known in BYTES if known == loaded.dtype), None)
    counted = next((known for known in BYTES if known == dtype), None)
    if own is None or counted is None or BYTES[own] == BYTES[counted]:
        return []
    return [f"{loaded.source}: its weights are {own}; counted in {counted}, see --dtype"]
