"""The options that commands share, as frozen groups that a command takes as one argument each.

``@grouped`` turns ``def count(..., run: RunOptions)`` into a function whose signature has every field of
``RunOptions`` as an option of its own, which is what typer reads.
"""

from __future__ import annotations

import copy
import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import typer

from txcalc.show.formats import FORMATS
from txcalc.spec import words
from txcalc.spec.formats import NAMES

SIZES: Final = ("batch", "seq", "past", "source_seq", "images", "kv_block")


def complete_model(incomplete: str) -> list[str]:
    """Preset names and aliases, for shell completion. Completion never fails."""
    from txcalc.models.load import names
    from txcalc.spec.errors import SpecError

    try:
        known = [name for info in names() for name in (info.name, *info.aliases)]
    except SpecError:
        return []
    return sorted(name for name in known if name.startswith(incomplete))


ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A preset, a YAML file, a config.json, or - for stdin.",
                        autocompletion=complete_model, show_default=False)
]
ModelsArgument = Annotated[
    list[str], typer.Argument(metavar="MODEL...", help="Presets, YAML files, config.json files, or - for stdin.",
                              autocompletion=complete_model, show_default=False)
]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a field, such as attention.kv_heads=4. "
                            "Repeatable.", show_default=False)
]


def _text(metavar: str, text: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, show_default=False)


BATCH: Final = ("--batch", "-b")


class RunOptions(NamedTuple):
    """What the model is run on. None: not given."""

    batch: Annotated[str | None, _text("N", "Sequences at a time. Default 1.", *BATCH)] = None
    seq: Annotated[str | None, _text("N", "New tokens. Default: the model's context or 2,048, whichever is shorter; "
                                     "1 in decoding. k is 1,000, K is 1,024.")] = None
    past: Annotated[str | None, _text("N", "Tokens already in the KV cache. Default 0; in decoding as many as "
                                      "leave room.")] = None
    source_seq: Annotated[str | None, _text("N", "Tokens that an encoder-decoder's encoder reads. "
                                            "Default: as many as the decoder.")] = None
    images: Annotated[str | None, _text("N", "Images that a model's tower reads; their tokens are part of --seq. "
                                        "Default 0, or one to each text where both are compared.")] = None
    phase: Annotated[str | None, _text("PHASE", "forward, training, prefill or decode. Default forward.")] = None
    dtype: Annotated[str | None, _text("DTYPE", "What is computed in: fp32, fp16 or bf16. Default bf16.")] = None
    weights: Annotated[str | None, _text("FORMAT", f"How weights are stored: {', '.join(NAMES)} (as the model's own "
                                         "files). Default: as its checkpoint, else --dtype.")] = None
    kv_dtype: Annotated[str | None, _text("DTYPE", "The KV cache's own dtype: fp8, int8, int4, q8_0, q5_1, q5_0, "
                                          "q4_1, q4_0. Default: --dtype.")] = None
    kv_block: Annotated[str | None, _text("N", "Tokens in a block of a paged engine's KV cache, such as 16: adds what "
                                          "it allocates.")] = None
    attention: Annotated[str | None, _text("KIND", "eager, flash, efficient, math, or sdpa: what PyTorch chooses. "
                                           "Default flash; what runs in its place is named.")] = None
    dropout: Annotated[str | None, _text("P", "Dropout probability, from 0 to below 1. Default 0.")] = None
    masked: Annotated[str | None, _text("RULE", "Masked (query, key) pairs are counted or skipped. "
                                        "Default counted.")] = None
    kernels: Annotated[str | None, _text("KIND", "cuda or cpu: whose operators run, which decides what is kept. "
                                         "Default cuda.")] = None
    device: Annotated[str | None, typer.Option(metavar="KIND", hidden=True)] = None
    implementation: Annotated[str | None, _text("NAME", "Whose code calls the operators: torch. Default torch.")] = None
    latents: Annotated[str | None, _text("HOW", "absorbed or expanded: how cached latents are read. Default absorbed "
                                         "in decoding, else expanded.")] = None
    recipe: Annotated[str | None, _text("NAME", "Training state: adam-mixed, adam-mixed-fp32-grads, adam-fp32 or "
                                        "sgd-momentum-fp32. Default adam-mixed.")] = None

    def given(self) -> dict[str, Any]:
        """The fields that were given, numbers and words read. Raises ``SpecError`` for what is no number."""
        from txcalc.spec.errors import all_of
        from txcalc.trace.workload import plain

        fields = self._asdict()
        device = fields.pop("device")
        if device is not None:
            fields["kernels"] = fields["kernels"] or _kernels(device)
        given = {name: raw for name, raw in fields.items() if raw is not None}
        read = all_of(functools.partial(_read, name, raw) for name, raw in given.items())
        return plain(dict(zip(given, read, strict=True)))


class OutputOptions(NamedTuple):
    """Where the answer goes and in which format."""

    format: Annotated[str | None, _text("FORMAT", "", "--format", "-f")] = None
    json: Annotated[bool, typer.Option("--json", help="Same as --format json.", show_default=False)] = False
    markdown: Annotated[bool, typer.Option("--markdown", help="Same as --format md.", show_default=False)] = False
    output: Annotated[str | None, _text("FILE", "Write to a file, whole or not at all.", "--output", "-o")] = None
    force: Annotated[bool, typer.Option("--force", help="Let --output replace a file.", show_default=False)] = False


class CommonOptions(NamedTuple):
    """What may stand before the command and after it."""

    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, metavar="", show_default=False, help="")] = 0
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="", show_default=False)] = False
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours.", show_default=False)] = False
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what a config.json holds and no class reads.",
                                         show_default=False)] = False
    debug: Annotated[bool, typer.Option("--debug", help="Errors with a traceback.", show_default=False)] = False

    def joined(self, other: CommonOptions) -> CommonOptions:
        """Both: an option counts wherever it stands."""
        return CommonOptions(
            self.verbose + other.verbose, self.quiet or other.quiet,
            self.no_color or other.no_color, self.strict or other.strict, self.debug or other.debug,
        )


class Offer(NamedTuple):
    """What a command makes of the options that all have: its formats, and what -v adds and -q leaves, if anything."""

    formats: Sequence[str] = FORMATS
    verbose: str = ""
    quiet: str = "No notes beside the answer."

    def texts(self) -> dict[str, str]:
        """The help of these options; an empty one hides an option that would do nothing."""
        *most, last = self.formats
        return {
            "format": f"{', '.join(most)} or {last}. Default: from the suffix of --output, else table.",
            "markdown": "Same as --format md." if "md" in self.formats else "",
            "verbose": self.verbose, "quiet": self.quiet,
        }


def grouped(offer: Offer) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace every parameter of a command that is a group of options by the group's options."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = typing.get_type_hints(command, include_extras=True)
        groups = {name: kind for name, kind in hints.items() if isinstance(kind, type) and issubclass(kind, tuple)}
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(command).parameters.items():
            own = [parameter.replace(annotation=hints[name])]
            parameters += _expanded(groups[name], offer.texts()) if name in groups else own

        @functools.wraps(command)
        def call(**options: Any) -> None:
            command(**_collected(options, groups))

        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


def _expanded(group: Any, texts: Mapping[str, str]) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    defaults = group._field_defaults
    hints |= {name: _described(hints[name], text) for name, text in texts.items() if name in hints}
    hints |= {name: Annotated[str | None, typer.Option(hidden=True)] for name in _others(group)}
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name), annotation=hint)
        for name, hint in hints.items()
    ]


def _others(group: Any) -> list[str]:
    """Other names of the group's fields: read like these, and not listed."""
    return [other for other, name in words.FIELDS.items() if name in group._fields]


def _described(annotation: Any, text: str) -> Any:
    """An option with this help, hidden where there is none."""
    kind, option = typing.get_args(annotation)
    option = copy.copy(option)
    option.help, option.hidden = text, not text
    return Annotated[kind, option]


def _collected(options: Mapping[str, Any], groups: Mapping[str, Any]) -> dict[str, Any]:
    rest = dict(options)
    return {name: group(**_fields(rest, group)) for name, group in groups.items()} | rest


def _fields(options: dict[str, Any], group: Any) -> dict[str, Any]:
    """The group's fields, taken out of the options. Raises ``SpecError`` for one that is given by two names."""
    found = {name: options.pop(name) for name in group._fields}
    others = {name: options.pop(name) for name in _others(group)}
    return found | words.fields({
        **{name: found[name] for name in words.FIELDS.values() if found.get(name) is not None},
        **{name: value for name, value in others.items() if value is not None},
    })


def _kernels(device: str) -> str:
    """What ``--device`` meant in earlier releases. Raises ``SpecError`` for a card."""
    from txcalc.cli.write import notice
    from txcalc.spec.errors import SpecError

    if device not in ("cuda", "cpu"):
        from txcalc.answer.devices import device as card

        raise SpecError(f"no card changes what is counted; txcalc attention MODEL --device {card(device).name} shows "
                        "what fits on it, --kernels cuda or cpu says whose operators run", field="device")
    notice(f"--device {device} is now --kernels {device}; the old spelling goes in the next release")
    return device


def _read(name: str, raw: str) -> Any:
    from txcalc import units
    from txcalc.spec.errors import SpecError

    try:
        return units.parse_count(raw) if name in SIZES else float(raw) if name == "dropout" else raw
    except units.SeveralError as error:
        taker = "; txcalc attention MODEL --seq takes a list" if name in ("seq", "past") else ""
        raise SpecError(f"{error}{taker}", field=name) from None
    except ValueError as error:
        message = f"must be a number, got {raw!r}" if name == "dropout" else str(error)
        raise SpecError(message, field=name) from None
