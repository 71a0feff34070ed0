"""``txcalc mixers``."""

from __future__ import annotations

from typing import Annotated, Any, Final, NamedTuple

import typer

from txcalc.cli import plot
from txcalc.cli.options import BATCH, CommonOptions, Offer, OutputOptions, RunOptions, grouped

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)


def _text(metavar: str, text: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, show_default=False)


class MixerOptions(NamedTuple):
    """The layers' sizes and what they are run on. None: not given."""

    d: Annotated[str | None, _text("N", "Width of the layers. Default 512.")] = None
    seq: Annotated[str | None, _text("RANGE", "Lengths: 1K..64K doubles, 1K,3K lists. Default 1K..64K.")] = None
    heads: Annotated[str | None, _text("N", "Attention heads. Default 8 where that divides the width, else 1.")] = None
    kernel: Annotated[str | None, _text("N", "Width of the convolution. Default 3.")] = None
    window: Annotated[str | None, _text("N", "Keys that the sliding window holds. Default 512.")] = None
    state: Annotated[str | None, _text("N", "State dimension of Mamba-2. Default 128.")] = None
    batch: Annotated[str | None, _text("N", "Sequences at a time. Default 1.", *BATCH)] = None
    dtype: Annotated[str | None, _text("DTYPE", "fp32, fp16 or bf16. Default bf16.")] = None
    kv_dtype: Annotated[str | None, _text("DTYPE", "The state's dtype. Default: --dtype.")] = None
    masked: Annotated[str | None, _text("RULE", "Masked (query, key) pairs are counted or skipped. "
                                        "Default counted.")] = None

    def given(self) -> dict[str, Any]:
        """The workload's fields that were given. Raises ``SpecError`` for what is no number."""
        names = ("batch", "dtype", "kv_dtype", "masked")
        return RunOptions(**{name: getattr(self, name) for name in names}).given()
OFFER: Final = Offer(verbose="Every length, sources, every rule.", quiet="The costs alone.")


@app.command()
@grouped(OFFER)
def mixers(
    ctx: typer.Context,
    saved: Annotated[
        str | None, typer.Argument(metavar="SAVED", show_default=False,
                                   help="A saved answer of this command, to be counted again.")
    ] = None,
    *, layer: MixerOptions, plot_: plot.PlotOption = None, output: OutputOptions,
    common: CommonOptions,
) -> None:
    """Put recurrence, convolution and attention side by side.

    One layer of each, and of what came after: its costs, and how they grow with the length.

    Example: txcalc mixers --d 512 --seq 1K..64K
    """
    from txcalc.answer.mixers import LENGTHS, Sizes
    from txcalc.answer.mixers import mixers as side_by_side
    from txcalc.answer.saved_mixers import changes, read
    from txcalc.cli import write
    from txcalc.cli.models import tell
    from txcalc.cli.progress import progress
    from txcalc.trace.workload import Workload

    common = ctx.obj.common.joined(common)
    write.check_target(output)
    plot.check(plot_, output)
    form = write.chosen_format(output, OFFER.formats)
    was = None if saved is None else read(saved)
    fields, sizes, lengths = ({}, {}, LENGTHS) if was is None else (was.workload, was.sizes, was.lengths)
    workload = Workload.of({**fields, **layer.given(), "seq": 1})
    with progress("layers") as step:
        found = side_by_side(Sizes(**{**sizes, **_sizes(layer)}), workload, _lengths(layer.seq) or lengths,
                             command=ctx.obj.command, progress=step)
    tell(() if was is None else changes(was, found), common)
    write.answer("mixers", found, form, output, common, figure=plot_)
    if form == "table" and not (common.quiet or common.verbose):
        write.note("more: -v (every length, sources, rules), --json")


def _sizes(layer: MixerOptions) -> dict[str, int]:
    from txcalc import units
    from txcalc.answer.mixers import Sizes
    from txcalc.spec.errors import SpecError

    found = {}
    for name in Sizes._fields:
        raw = getattr(layer, name)
        if raw is None:
            continue
        try:
            found[name] = units.parse_count(raw)
        except ValueError as error:
            raise SpecError(str(error), field=name) from None
        if found[name] < 1:
            raise SpecError("must be at least 1", field=name)
    return found


def _lengths(raw: str | None) -> tuple[int, ...] | None:
    from txcalc import units
    from txcalc.spec.errors import SpecError

    try:
        return None if raw is None else units.parse_range(raw)
    except ValueError as error:
        raise SpecError(str(error), field="seq") from None
