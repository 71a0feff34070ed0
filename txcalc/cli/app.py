"""The ``txcalc`` command: what every subcommand has in common. Each of them is made when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.main import get_command

import txcalc
import txcalc.cli.hardware  # for its commands
import txcalc.cli.proof  # for its commands
from txcalc.cli.call import Call, begin
from txcalc.cli.commands import COMMANDS, PRESETS
from txcalc.cli.exits import Group, report_error
from txcalc.cli.options import CommonOptions, Offer, expanded, option

EXAMPLES: Final = """\
  txcalc count gpt2                                parameters, FLOPs, memory of a preset
  txcalc count path/to/config.json --batch 8       of a model of yours, also a GGUF file's
  txcalc compare llama3-8b qwen3-8b                two side by side
"""
"""First examples, for a reader who has asked for nothing."""

SETTINGS: Final[dict[str, Any]] = {
    "rich_markup_mode": None, "suggest_commands": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class Commands(Group):
    """Makes a command when it is called, and says what went wrong in one line."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order in which help lists them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, or None."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.commands[cmd_name] = _made(cmd_name)
        return self.commands.get(cmd_name)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run and exit: 0, or what the error says."""
        given = tuple(sys.argv[1:] if args is None else args)
        extra = {**extra, "obj": Call(given, CommonOptions()), "standalone_mode": False}
        extra.setdefault("prog_name", "txcalc")
        try:
            code = super().main(list(given), *rest, **extra)
        except (Exception, KeyboardInterrupt) as error:
            code = report_error(error, given)
        sys.exit(code if isinstance(code, int) else 0)


class Presets(Group):
    """``txcalc presets gpt2`` means to show it."""

    for_model = "txcalc presets show {}"
    meant = "LISTING"


def _made(name: str) -> Any:
    """The command of this name for click; ``presets`` has commands of its own, and runs where none of them is named."""
    group = name == "presets"
    made = typer.Typer(cls=Presets if group else None, add_completion=False, **SETTINGS)
    (made.callback(invoke_without_command=True) if group else made.command(name))(expanded(*COMMANDS[name], begin))
    for each in PRESETS if group else ():
        made.command(each)(expanded(*PRESETS[each], begin))
    return get_command(made)


app = typer.Typer(cls=Commands, name="txcalc", pretty_exceptions_enable=False, **SETTINGS)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"txcalc {txcalc.__version__}")
        raise typer.Exit


def txcalc_(
    call: Call,
    version: Annotated[bool, option(None, "The version.", "--version", "-V", is_eager=True, callback=_version)] = False,
) -> None:
    """The exact calculator for Transformers: parameters, FLOPs, KV cache, activations, attention."""


def _begin(ctx: typer.Context, groups: dict[type, Any]) -> Call:
    ctx.obj = begin(ctx, groups)
    if ctx.invoked_subcommand is None:
        typer.echo(f"{EXAMPLES}\n{ctx.get_help()}")
    call: Call = ctx.obj
    return call


app.callback(invoke_without_command=True)(expanded(
    txcalc_, Offer(groups=(CommonOptions,), verbose="More: each command's help says what.", quiet="Less."), _begin))


def main() -> None:
    """The command line; leaves by ``SystemExit``."""
    for name in ("stdout", "stderr"):  # closed by the caller
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
