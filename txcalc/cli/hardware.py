"""Commands about accelerators: which there are, and what fits."""

from __future__ import annotations

from typing import Annotated

import typer

from txcalc.cli.call import Call
from txcalc.cli.commands import command
from txcalc.cli.options import CommonOptions, OutputOptions, complete, device_names


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
