"""Commands that hold the counts against others: live PyTorch, files, and what was published or measured."""

from __future__ import annotations

from typing import Annotated

import typer

from txcalc.cli import write
from txcalc.cli.call import Call
from txcalc.cli.commands import command
from txcalc.cli.options import CommonOptions, OutputOptions, SetOption, model_argument, option


@command("validate", OutputOptions, CommonOptions, verbose="Everything that differs, of many models.")
def validate(
    call: Call,
    models: Annotated[list[str] | None, model_argument("[MODEL...]", "Presets, YAML files, config.json files.")] = None,
    *,
    every: Annotated[bool, option(None, "Every preset.", "--all")] = False,
    set_: SetOption,
    on: Annotated[str | None, option(
        "WHERE", "cpu, cuda or fake-cuda: where the reference runs. Default cpu.")] = None,
    device: Annotated[str | None, option("WHERE", "", hidden=True)] = None,
    against: Annotated[str, option(
        "WHAT", "reference (ours, in PyTorch), transformers (its class of the same architecture), published (printed "
        "figures; needs no torch), or a safetensors, index or GGUF file. Default reference.")] = "reference",
    jobs: Annotated[int | None, option(
        "N", "Processes that models are shared out to, at up to 3 GB each. Default: as many as cores; on cuda always "
        "1.", "--jobs", "-j", min=1)] = None,
) -> None:
    """Check the counts against live PyTorch models. Exit code 1 if anything differs.

    Example: txcalc validate gpt2
    """
    from txcalc.check.against import compared
    from txcalc.cli.progress import progress
    from txcalc.models.load import names
    from txcalc.spec.errors import SpecError

    if bool(models) == every:
        raise SpecError("name a model, or give --all")
    if device is not None:
        write.notice(f"--device {device} is now --on {device}; the old spelling goes in the next release")
    wanted = [info.name for info in names()] if every else models or []
    with progress("models") as tell:
        answer = compared(
            lambda: [call.load(name, set_) for name in wanted], against, on or device or "cpu", jobs, progress=tell)
    call.answer(answer)
    if answer.agrees is False:
        raise typer.Exit(1)


@command("reproduce", OutputOptions, CommonOptions, verbose="Every row, what its source leaves open.")
def reproduce(
    call: Call,
    families: Annotated[list[str] | None, typer.Argument(
        metavar="[FAMILY...]", show_default=False, help="Families of rows, such as megatron. Default: all.")] = None,
) -> None:
    """Recompute published and measured figures.

    Ours beside theirs, with the errors of every family. Exit code 1 if a hard gate moves: a figure that was equal, or
    within its bound, and no longer is.

    Example: txcalc reproduce
    """
    from txcalc.answer.reproduce import reproduce as recomputed

    found = recomputed(families or ())
    call.answer(found, more="-v (every row)")
    if not found.holds:
        raise typer.Exit(1)
