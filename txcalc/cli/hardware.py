"""Commands about accelerators: which there are, and what fits."""

from __future__ import annotations

from typing import Annotated

import typer

from txcalc.cli.call import Call
from txcalc.cli.commands import ALL, command
from txcalc.cli.options import (
    FIT,
    MEMORY,
    CommonOptions,
    ModelArgument,
    OutputOptions,
    RanksOption,
    Run,
    SetOption,
    complete,
    device_names,
)
from txcalc.trace import workload_defaults


@command("memory", *ALL, rows=MEMORY, verbose="Every storage that is alive at the peak, every rule.",
         quiet="The numbers alone.")
def memory(call: Call, model: ModelArgument, run: Run, set_: SetOption, *, ranks: RanksOption = False) -> None:
    """Say what a run needs, when that is most, and whether it fits.

    The peak of live bytes with all that is alive then, phase by phase, and what would take less. Exit code 1 if it
    does not fit the device. A saved answer is counted again, under its own workload and device.

    Example: txcalc memory gpt2 --phase training --batch 8 --device t4
    """
    from txcalc.answer import engine
    from txcalc.answer.memory import saved

    card, reserve = run.pop("device", None), run.pop("reserve", None)
    loaded = call.load(model, set_, None if "dtype" in run else workload_defaults.DTYPE, noted=True)
    was = saved(loaded, run)
    found = engine.memory(loaded.model, run if was is None else was.run, card or (was and was.card), reserve=reserve,
                          origin=call.origin(loaded), ranks=ranks)
    call.tell(() if was is None else was.since(found.document.peak, card))
    call.answer(found, document=found.document, more="-v (everything alive at the peak, rules), --json")
    if found.document.fits is False:
        raise typer.Exit(1)


@command("fit", OutputOptions, CommonOptions, rows=FIT, verbose="Every rule.", quiet="The numbers alone.")
def fit(call: Call, model: ModelArgument, run: Run, set_: SetOption) -> None:
    """Find the most that fits into a device.

    The largest batch at a length, the longest sequence at a batch, one against the other, and what binds. Each is
    counted where it fits and one step beyond. Exit code 1 if nothing fits, or not the batch and length that are given.
    A saved answer is counted again, under its own workload and device.

    Example: txcalc fit llama3-8b --phase training --device b200
    """
    from txcalc.answer import engine
    from txcalc.answer.memory import saved

    card, reserve, over = (run.pop(name, None) for name in ("device", "reserve", "over"))
    loaded = call.load(model, set_, None if "dtype" in run else workload_defaults.DTYPE, noted=True)
    was = saved(loaded, run)
    found = engine.capacity(
        loaded.model, run if was is None else was.run, card or (was and was.card), reserve=reserve, over=over,
        make=lambda field: call.load(model, [*set_, field], noted=True).model, origin=call.origin(loaded))
    call.tell(() if was is None else was.since(found.document.peak, card))
    call.answer(found, document=found.document, more="-v (rules), --json")
    given = len({"batch", "seq", "past", "context"} & run.keys()) == 2
    if found.document.short_bytes is not None or (given and not found.document.fits):
        raise typer.Exit(1)


@command("devices", OutputOptions, CommonOptions, quiet="")
def devices(
    call: Call,
    name: Annotated[str | None, typer.Argument(
        metavar="[NAME]", show_default=False, autocompletion=complete(device_names),
        help="One of them, with the sources of its figures.")] = None,
) -> None:
    """List the accelerators, or show one.

    Memory as the driver reports it, bandwidth, rates and links. Wherever --device is taken, it is one of these names
    or a size of memory: 24GB, 24GiB.

    Example: txcalc devices rtx-4090
    """
    from txcalc.answer.devices import listed

    call.answer(listed(name))
