"""Every command: its options, its help, and the one call that it makes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from txcalc.cli import write
from txcalc.cli.call import Call
from txcalc.cli.options import (
    COUNT,
    CURVE,
    LAYERS,
    RUN,
    CommonOptions,
    FileOption,
    ForceOption,
    ModelArgument,
    Offer,
    OutputOptions,
    PlotOptions,
    RanksOption,
    Run,
    SetOption,
    complete,
    model_argument,
    option,
)
from txcalc.show.writers import FORMATS
from txcalc.trace import workload_defaults

if TYPE_CHECKING:
    from txcalc.answer.difference import Run as Side
    from txcalc.models.store import Loaded

ALL: Final = (PlotOptions, OutputOptions, CommonOptions)


class Command(NamedTuple):
    """A command: what it does, and what it takes beside its own parameters."""

    run: Callable[..., None]
    offer: Offer


COMMANDS: Final[dict[str, Command]] = {}
"""Every command by its name."""
PRESETS: Final[dict[str, Command]] = {}
"""The commands of ``txcalc presets``."""


def command(
    name: str, *groups: type, rows: Any = None, among: dict[str, Command] = COMMANDS, **offer: str
) -> Callable[[Callable[..., None]], Any]:
    """Make the function a command of this name."""

    def made(run: Callable[..., None]) -> Callable[..., None]:
        among[name] = Command(run, Offer(rows or {}, groups, **offer))
        return run

    return made


@command("count", *ALL, rows=COUNT, verbose="Shapes, published figures, every rule; -vv: sources too.",
         quiet="The numbers alone.")
def count(
    call: Call, model: ModelArgument, run: Run, set_: SetOption,
    by_module: Annotated[bool, option(None, "Break down to single operations.", "--by-module")] = False,
    *, ranks: RanksOption = False,
) -> None:
    """Count one model, and say where it goes.

    Parameters, FLOPs, weights, KV cache and the activations kept for backward, each with its exact integer. A report
    is counted again, under its own workload, and what has changed since is shown.

    Example: txcalc count gpt2 --phase training --batch 8
    """
    from txcalc.answer.rerun import recorded
    from txcalc.answer.view import view

    given = call.workload(run)
    loaded = call.load(model, set_, None if "dtype" in given else workload_defaults.DTYPE, noted=True)
    found = view(
        loaded.model, given, origin=call.origin(loaded), by_module=by_module, ranks=ranks,
        details=bool(call.common.verbose) or FORMATS[call.form].whole, recorded=recorded(loaded),
    )
    more = "" if by_module else "-v (rules), --by-module, --json, txcalc memory"
    call.answer(found, document=found.report, more=more)


@command("compare", *ALL, rows=RUN, verbose="Every total, every rule.")
def compare(
    call: Call,
    models: Annotated[list[str], model_argument("MODEL...", "Presets, YAML files, config.json files, or - for stdin.")],
    run: Run,
    set_: SetOption,
) -> None:
    """Put models side by side.

    The first one is what the others are relative to. Beyond four models, each is a row. A saved comparison is
    counted again, under its own workload; other saved answers keep the layout of their devices alone.

    Example: txcalc compare gpt2 gpt3 llama3-8b
    """
    from txcalc.answer.comparison import compare as compared
    from txcalc.answer.report import Named
    from txcalc.answer.rerun import again, changes, recorded

    given = call.workload(run)
    dtype = None if "dtype" in given else workload_defaults.DTYPE
    loaded = [each for name in models for each in call.load_all(name, set_, dtype, noted=True)]
    saved = [each for each in map(recorded, loaded) if each is not None]
    as_saved = len(saved) == len(loaded) and all(each.workload == saved[0].workload for each in saved)
    fields = again(loaded[0].model, saved[0], given) if as_saved else given
    layouts = [was and was.workload.get("layout") for was in map(recorded, loaded)] if saved and not as_saved else []
    found = compared([Named(each.model, call.origin(each)) for each in loaded], fields, layouts=layouts,
                     command=call.command)
    if as_saved:
        for was, model, entry in zip(saved, loaded, found.entries, strict=True):
            call.tell(changes(was, model.model, entry.workload))
    call.answer(found)


@command("diff", OutputOptions, CommonOptions, rows=RUN)
def diff(
    call: Call,
    a: Annotated[str, model_argument(
        "A", "A report, or any MODEL: a preset, a YAML file, a config.json, - for stdin.")],
    run: Run,
    b: Annotated[str | None, model_argument(
        "B", "Likewise. A model without a workload of its own takes the other's. Left out where A is a saved "
        "difference, which is counted again.")] = None,
    *,
    set_: Annotated[list[str], option(
        "KEY=VALUE", "Change a field of B, such as attention.kv_heads=4. Repeatable.", "--set", default_factory=list)],
) -> None:
    """Say which field explains which change in which total.

    The fields that differ are changed one at a time, from A to B, and every step is counted.

    Example: txcalc diff gpt2 gpt2-medium
    """
    from txcalc.answer.difference import diff as difference
    from txcalc.answer.rerun import changes, recorded
    from txcalc.spec.errors import SpecError

    given = call.workload(run)
    loaded = call.load_all(a, []) if b is None else [call.load(a, []), call.load(b, set_)]
    if b is None and (len(loaded) != 2 or set_):
        raise SpecError("give two models, A and B; only a saved difference stands for both, as it is")
    first, second = _sides(call, loaded, given)
    found = difference(first, second, command=call.command)
    if b is None:
        for was, each in zip(map(recorded, loaded), (first, second), strict=True):
            call.tell(changes(was, each.spec, each.workload) if was else ())
    call.answer(found)


def _sides(call: Call, loaded: Sequence[Loaded], given: Run) -> list[Side]:
    """Reports under their own workloads, other models under that of the report beside them, or under one for both."""
    from txcalc.answer.difference import Run as Side
    from txcalc.answer.fit import fill
    from txcalc.answer.rerun import again, recorded

    found = [recorded(each) for each in loaded]
    models = [each.model for each in loaded]
    return [Side(each.model, fill(models, again(each.model, own or other, given))[0], call.origin(each))
            for each, own, other in zip(loaded, found, reversed(found), strict=True)]


def _quantities() -> Iterable[str]:
    from txcalc.explain.explanation import QUANTITIES

    return QUANTITIES


@command("explain", OutputOptions, CommonOptions, rows=RUN, quiet="The closed form alone.")
def explain(
    call: Call,
    model: ModelArgument,
    quantity: Annotated[str, typer.Argument(
        metavar="QUANTITY", autocompletion=complete(_quantities), show_default=False,
        help="params, active-params, flops, flops-backward, flops-training, flops-per-token, activations, kv-cache, "
        "kv-cache-per-token, weights, training-state or peak.")],
    run: Run,
    set_: SetOption,
    notation: Annotated[str | None, option(
        "NAME", "unicode, ascii or latex. Default: unicode on a terminal and in files, ascii in a pipe.")] = None,
    latex: Annotated[bool, option(None, "Same as --notation latex.", "--latex")] = False,
) -> None:
    """Show how a number comes about.

    Its formula, where each part comes from, and what textbooks write instead. The formula comes from the code that
    counts; its value is checked against the count on every run.

    Example: txcalc explain transformer-base params
    """
    from txcalc.answer.fit import fill
    from txcalc.explain.explain import explain as explained
    from txcalc.explain.explanation import known
    from txcalc.spec.errors import SpecError

    name = known(quantity)
    style = "latex" if latex and notation is None else notation
    if style not in (None, "unicode", "ascii", "latex"):
        raise SpecError(f"must be one of unicode, ascii, latex, got {style!r}", field="notation")
    loaded = call.load(model, set_)
    filled, _ = fill([loaded.model], call.workload(run))
    found = explained(loaded.model, filled, name, origin=call.origin(loaded))
    in_pipe = call.form == "table" and not call.to_file and not write.is_terminal_with("²₁·≤⌊")
    style = style or ("ascii" if in_pipe else "unicode")
    form = "latex" if (call.form, style) == ("table", "latex") else call.form
    call._replace(form=form).answer(found, notation=style)


@command("attention", *ALL, rows=CURVE, verbose="What is kept, memory traffic, the whole model, every rule.",
         quiet="The numbers alone.")
def attention(call: Call, model: ModelArgument, run: Run, set_: SetOption) -> None:
    """Draw the O(N²) curve: what attention costs.

    What it keeps and moves, eager with its score matrix and flash without, and where each stops fitting a device.

    Example: txcalc attention gpt2 --seq 1K..64K --device a100-40gb
    """
    from txcalc.answer.curve import attention_curve
    from txcalc.answer.devices import DEFAULT, device
    from txcalc.answer.limits import reserved
    from txcalc.cli.progress import progress
    from txcalc.spec.errors import SpecError
    from txcalc.trace.workload import Workload

    seq, past, card, sram, reserve = (run.pop(name, None) for name in ("seq", "past", "device", "sram", "reserve"))
    given = call.workload(run | ({"device": card} if card in ("cuda", "cpu") else {}))
    workload = Workload(seq=1, **given)
    decoding = workload.phase == "decode"
    if decoding and seq is not None:
        raise SpecError("decodes one token at a time; --past RANGE is the lengths of the cache", field="seq")
    if not decoding and past is not None:
        raise SpecError("needs --phase decode; --seq RANGE is the lengths of a pass", field="past")
    lengths = seq if past is None else tuple(length + 1 for length in past)
    default = DEFAULT if workload.kernels == "cuda" else None
    card = default if card in (None, "cuda", "cpu") else card
    accelerator = None if card is None else device(card)
    loaded = call.load(model, set_)
    with progress("lengths") as tell:
        found = attention_curve(
            loaded.model, workload, lengths, accelerator, sram, reserve=reserved(reserve, accelerator),
            origin=call.origin(loaded), progress=tell,
        )
    call.answer(found, more="-v (what is kept, memory traffic, the whole model, rules), --json")


@command("mixers", *ALL, rows=LAYERS, verbose="Every length, sources, every rule.", quiet="The costs alone.")
def mixers(
    call: Call,
    run: Run,
    saved: Annotated[str | None, typer.Argument(
        metavar="SAVED", show_default=False, help="A saved answer of this command, to be counted again.")] = None,
) -> None:
    """Put recurrence, convolution and attention side by side.

    One layer of each, and of what came after: its costs, and how they grow with the length.

    Example: txcalc mixers --d 512 --seq 1K..64K
    """
    from txcalc.answer.mixer_table import LENGTHS, Sizes, changes, read_saved
    from txcalc.answer.mixer_table import mixers as side_by_side
    from txcalc.cli.progress import progress
    from txcalc.trace.workload import Workload

    was = None if saved is None else read_saved(saved)
    fields, sizes, lengths = ({}, {}, LENGTHS) if was is None else (was.workload, was.sizes, was.lengths)
    lengths = run.pop("seq", lengths)
    sizes = {**sizes, **{name: run.pop(name) for name in Sizes._fields if name in run}}
    with progress("layers") as step:
        found = side_by_side(Sizes(**sizes), Workload.of({**fields, **run, "seq": 1}), lengths,
                             command=call.command, progress=step)
    call.tell(() if was is None else changes(was, found))
    call.answer(found, more="-v (every length, sources, rules), --json")


@command("import", CommonOptions)
def import_(
    call: Call,
    model: Annotated[str, typer.Argument(
        metavar="CONFIG", show_default=False,
        help="A config.json, its folder, - for stdin, hf:org/name, or any MODEL.")],
    set_: SetOption,
    output: FileOption = None,
    force: ForceOption = False,
    check: Annotated[bool, option(None, "Write nothing; say whether all of it is understood.", "--check")] = False,
) -> None:
    """Turn a Hugging Face configuration into a spec.

    Only what is not a default is written. What could change the architecture and is not understood is an error.

    Example: txcalc import config.json
    """
    from txcalc.spec.shorten import shorten
    from txcalc.spec.yaml import dump_yaml

    if not check:
        write.check(output, force=force)
    text = dump_yaml(shorten(call.load(model, set_).model))
    if not check:
        write.write(text, output, force=force, quiet=call.common.quiet)


@command("presets", OutputOptions, CommonOptions, quiet="")
def presets(
    call: Call,
    search: Annotated[str | None, option(
        "TEXT", "Only those that mention it, are made so (moe, gqa, mla, window, encoder-decoder, vision) or come "
        "from it (an arXiv number).", "--search")] = None,
    serving: Annotated[bool, option(
        None, "What it takes to serve each: weights as released, what the KV cache of a sequence holds whatever its "
        "length, and what a token adds.", "--serving")] = False,
) -> None:
    """List the presets, or show one.

    Those of TXCALC_PRESETS, a folder of YAML files, come beside the built-in ones.

    Example: txcalc presets --search llama
    """
    from txcalc.answer.catalogue import listing

    call.answer(listing(search, serving=serving))


@command("show", CommonOptions, among=PRESETS, quiet="")
def show(
    call: Call,
    name: Annotated[str, model_argument("NAME", "")],
) -> None:
    """Print a preset's YAML, its path above it."""
    from txcalc.answer.catalogue import shown

    write.to_stream(shown(name), sys.stdout)


def _documents() -> Iterable[str]:
    from txcalc.show.schema import DOCUMENTS

    return DOCUMENTS


@command("schema", CommonOptions, quiet="")
def schema(
    call: Call,
    document: Annotated[str, typer.Argument(
        metavar="DOCUMENT", show_default=False, autocompletion=complete(_documents),
        help="preset, report, comparison, attention, memory, mixers, explanation, diff, validation, presets, devices, "
        "fit or reproduction.")],
) -> None:
    """Print the JSON Schema of a document.

    Example: txcalc schema preset
    """
    from txcalc.show.schema import json_schema
    from txcalc.show.writers import json

    write.to_stream(json(json_schema(document)), sys.stdout)
