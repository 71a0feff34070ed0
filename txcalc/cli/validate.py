"""``txcalc validate MODEL``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from txcalc.cli.options import CommonOptions, Offer, OutputOptions, SetOption, complete_model, grouped

if TYPE_CHECKING:
    from txcalc.answer.validation import Validation
    from txcalc.models.loaded import Loaded


app = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)
OFFER: Final = Offer(verbose="Everything that differs, of many models.")


@app.command()
@grouped(OFFER)
def validate(
    ctx: typer.Context,
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL...]", help="Presets, YAML files, config.json files.",
                                         autocompletion=complete_model, show_default=False)
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every preset.", show_default=False)] = False,
    set_: SetOption = [],  # noqa: B006  typer copies it
    on: Annotated[
        str | None, typer.Option(metavar="WHERE", help="cpu, cuda or fake-cuda: where the reference runs. Default cpu.",
                                 show_default=False)
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="WHERE", hidden=True)] = None,
    against: Annotated[
        str, typer.Option(metavar="WHAT", show_default=False,
                          help="reference (ours, in PyTorch), transformers (its class of the same architecture), "
                               "published (printed figures; needs no torch), or a safetensors, index or GGUF file. "
                               "Default reference.")
    ] = "reference",
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", min=1, show_default=False,
                                 help="Processes that models are shared out to, at "
                                 "up to 3 GB each. Default: as many as cores; on cuda always 1.")
    ] = None,
    output: OutputOptions,
    common: CommonOptions,
) -> None:
    """Check the counts against live PyTorch models, to the last digit. Exit code 1 if anything differs.

    Example: txcalc validate gpt2
    """
    from txcalc.answer.validation import Validations
    from txcalc.check.processes import cores, in_processes
    from txcalc.cli import write
    from txcalc.cli.models import load
    from txcalc.cli.progress import progress
    from txcalc.models.load import names
    from txcalc.spec.errors import SpecError

    common = ctx.obj.common.joined(common)
    write.check_target(output)
    form = write.chosen_format(output, OFFER.formats)
    if bool(models) == every:
        raise SpecError("name a model, or give --all")
    if device is not None:
        write.notice(f"--device {device} is now --on {device}; the old spelling goes in the next release")
    compare = _comparison(against, on or device or "cpu")
    wanted = [info.name for info in names()] if every else models or []
    loaded = [load(name, set_, common, dtype=None) for name in wanted]
    live = against in ("reference", "transformers") and "cuda" not in (on, device)
    groups = _alike(loaded) if live else [dict(enumerate(loaded))]
    found: dict[int, Validation] = {}
    with progress("models") as tell:
        tell(0, len(loaded))
        for number, result in in_processes(compare, groups, min(jobs or cores(), len(groups))):
            found[number] = result
            tell(len(found), len(loaded))
    answer = Validations.of([found[number] for number in range(len(loaded))])
    write.answer("validate", answer, form, output, common)
    if answer.agrees is False:
        raise typer.Exit(1)


def _comparison(against: str, on: str) -> Callable[[Loaded], Validation]:
    from txcalc.answer.validation import DEVICES
    from txcalc.spec.errors import SpecError, nearest, not_one_of

    if on not in DEVICES:
        wanted, got = not_one_of(DEVICES, on)
        raise SpecError(f"must be {wanted}{got}", field="on")
    if against == "published":
        return _with_published
    if against == "reference":
        _need_torch()
        return _reference(on)
    if against == "transformers":
        _need_torch()
        return _transformers()
    if not any(mark in against for mark in ("/", ".")):
        close = nearest(against, ("reference", "transformers", "published"))
        hint = f"; did you mean {close}?" if close else ""
        raise SpecError(f"must be reference, transformers, published or a file, got {against!r}{hint}", field="against")
    return _checkpoint(against)


def _alike(loaded: list[Loaded]) -> list[dict[int, Loaded]]:
    """Numbered models by their small sibling, which is compared once for all that have it; the largest group first."""
    from txcalc.check.sibling import sibling

    groups: dict[str, dict[int, Loaded]] = {}
    for number, item in enumerate(loaded):
        same = repr(sibling(item.model).replaced(name="", family=None))
        groups.setdefault(same, {})[number] = item
    return sorted(groups.values(), key=len, reverse=True)


def _reference(on: str) -> Callable[[Loaded], Validation]:
    import torch

    from txcalc.spec.errors import SpecError

    if on == "cuda" and not torch.cuda.is_available():
        raise SpecError("this PyTorch sees no CUDA device", field="on")
    return functools.partial(_with_reference, on=on)


def _transformers() -> Callable[[Loaded], Validation]:
    from importlib.util import find_spec

    from txcalc.spec.errors import MissingPackage

    if find_spec("transformers") is None:
        raise MissingPackage("--against transformers needs transformers", "transformers")
    return _with_transformers


def _with_published(loaded: Loaded) -> Validation:
    from txcalc.check.third_party import against_published

    return against_published(loaded.model)


def _with_reference(loaded: Loaded, on: Any) -> Validation:
    from txcalc.check.validate import validate as compare

    return compare(loaded.model, device=on)


def _with_transformers(loaded: Loaded) -> Validation:
    from txcalc.answer.validation import Validation
    from txcalc.check.third_party import against_transformers, known_config

    config = None if loaded.overrides else known_config(loaded.model)
    if config is None:
        return Validation.of(loaded.model.name, "transformers", (),
                             left_out=("no class of the same architecture is known for it",))
    return against_transformers(loaded.model, config)


def _checkpoint(path: str) -> Callable[[Loaded], Validation]:
    from txcalc.answer.validation import Validation
    from txcalc.check.checkpoint import compare_checkpoint, read_checkpoint

    checkpoint = read_checkpoint(path)
    return lambda loaded: Validation.of(
        loaded.model.name, path, compare_checkpoint(loaded.model, None, checkpoint)
    )


def _need_torch() -> None:
    from importlib.util import find_spec

    from txcalc.spec.errors import MissingPackage

    if find_spec("torch") is None:
        raise MissingPackage("validation needs PyTorch", "torch")
