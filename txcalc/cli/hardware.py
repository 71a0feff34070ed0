"""Commands about accelerators: which there are, and what fits."""

from __future__ import annotations

from typing import Annotated

import typer

from txcalc.cli.call import Call
from txcalc.cli.commands import ALL, command
from txcalc.cli.options import (
    MEMORY,
    CommonOptions,
    ModelArgument,
    OutputOptions,
    Run,
    SetOption,
    complete,
    device_names,
)


@command("memory", *ALL, rows=MEMORY, verbose="Every storage that is alive at the peak, every rule.",
         quiet="The numbers alone.")
def memory(call: Call, model: ModelArgument, run: Run, set_: SetOption) -> None:
    """Say what a run needs, when that is most, and whether it fits.

    The peak of live bytes with all that is alive then, phase by phase, and what would take less. Exit code 1 if it
    does not fit the device. A saved answer is counted again, under its own workload and device.

    Example: txcalc memory gpt2 --phase training --batch 8 --device t4
    """
    from txcalc.answer.memory import memory as needed
    from txcalc.answer.memory import saved

    card, reserve = run.pop("device", None), run.pop("reserve", None)
    loaded = call.load(model, set_, None if "dtype" in run else "bf16", noted=True)
    was = saved(loaded, run)
    found = needed(
        loaded.model, run if was is None else was.run, card=card or (was and was.card), reserve=reserve,
        source=loaded.source, overrides=loaded.overrides, command=call.command, noted=loaded.notes,
    )
    call.tell(() if was is None else [was.since(found.memory)])
    call.answer(found, document=found.memory, more="-v (everything alive at the peak, rules), --json")
    if found.memory.fits is False:
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
