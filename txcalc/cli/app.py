"""The ``txcalc`` command: what every subcommand has in common. Each of them is a module that is loaded when called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.main import get_command

import txcalc
from txcalc.cli.errors import Group, Invocation, report_error
from txcalc.cli.options import CommonOptions, Offer, grouped

COMMANDS: Final = {
    "count": "txcalc.cli.count",
    "compare": "txcalc.cli.compare",
    "validate": "txcalc.cli.validate",
    "diff": "txcalc.cli.diff",
    "explain": "txcalc.cli.explain",
    "attention": "txcalc.cli.attention",
    "mixers": "txcalc.cli.mixers",
    "import": "txcalc.cli.import_",
    "presets": "txcalc.cli.presets",
    "schema": "txcalc.cli.schema",
}
"""Every command and the module whose ``app`` it is."""

EXAMPLES: Final = """\
  txcalc count gpt2                                parameters, FLOPs, memory of a preset
  txcalc count path/to/config.json --batch 8       of a model of yours
  txcalc compare llama3-8b qwen3-8b                two side by side
"""
"""What a reader sees first who has asked for nothing."""

SETTINGS: Final[dict[str, Any]] = {"help_option_names": ["-h", "--help"]}


class Commands(Group):
    """Loads a command when it is called, and says what went wrong in one line."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order in which help lists them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, or None."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.commands[cmd_name] = get_command(import_module(COMMANDS[cmd_name]).app)
        return self.commands.get(cmd_name)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run and exit: 0, or what the error says."""
        given = tuple(sys.argv[1:] if args is None else args)
        extra = {**extra, "obj": Invocation(given, CommonOptions()), "standalone_mode": False}
        extra.setdefault("prog_name", "txcalc")
        try:
            code = super().main(list(given), *rest, **extra)
        except (Exception, KeyboardInterrupt) as error:
            code = report_error(error, given)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=Commands, name="txcalc", context_settings=SETTINGS, rich_markup_mode=None, pretty_exceptions_enable=False,
    suggest_commands=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"txcalc {txcalc.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
@grouped(Offer(verbose="More: each command's help says what.", quiet="Less."))
def txcalc_(
    ctx: typer.Context,
    common: CommonOptions,
    version: Annotated[
        bool, typer.Option("--version", "-V", is_eager=True, callback=_version, help="The version.", show_default=False)
    ] = False,
) -> None:
    """The exact calculator for Transformers: parameters, FLOPs, KV cache, activations, attention."""
    ctx.obj = Invocation(ctx.obj.args, common)
    if ctx.invoked_subcommand is None:
        typer.echo(f"{EXAMPLES}\n{ctx.get_help()}")


def main() -> None:
    """The command line; leaves by ``SystemExit``."""
    for name in ("stdout", "stderr"):  # closed by the caller
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
