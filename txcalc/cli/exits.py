"""One line on stderr for what went wrong, and the exit code that says so."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

# Older typers raise click's errors, newer ones their own: both have this line of ancestors.
_UsageError: Any = typer.BadParameter.__base__
_ClickError: Any = _UsageError.__base__


class Group(TyperGroup):
    """Commands under one name; for one that there is not, the nearest is named."""

    for_model = "txcalc count {}"
    """The command that is meant where a model stands in its place."""
    meant = "COMMANDS"
    """The table of ``txcalc.cli.foreign`` with what is typed for a command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments name. Raises a usage error that names the nearest one."""
        if args and self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise _UsageError(_no_command(args[0], self.list_commands(ctx), self), ctx=ctx)
        return super().resolve_command(ctx, args)


def report_error(error: BaseException, args: Sequence[str]) -> int:
    """Say what went wrong and give the exit code: 2 for what the user can put right, 3 for a missing package.

    Raises what is a bug.
    """
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return 130
    if "--debug" in args:
        raise error
    from txcalc.spec.errors import MissingPackage, SpecError

    if isinstance(error, SpecError):
        message = "\n".join(map(_option, error.every))
    elif isinstance(error, _ClickError):
        message = _usage(error)
    elif isinstance(error, MissingPackage):
        message = str(error)
    else:
        raise error
    for line in message.splitlines():
        sys.stderr.write(f"error: {' '.join(line.split())}\n")
    return 3 if isinstance(error, MissingPackage) else 2


def _option(error: Any) -> str:
    """A field of no file is an option of the command line."""
    if error.source is None and error.field is not None and "." not in error.field:
        return f"--{error.field.replace('_', '-')}: {error.message}"
    return str(error)


def _usage(error: Any) -> str:
    """A usage error with the nearest name, and where to read more."""
    name = getattr(error, "option_name", None)
    if name is not None and type(error).__name__ == "NoSuchOption":
        message = f"no such option {name}{_hint(name, error.ctx)}"
    else:
        raw = str(error.format_message()).rstrip(".")
        message = raw[:1].lower() + raw[1:]
    path = getattr(error.ctx, "command_path", None) if getattr(error, "ctx", None) else None
    return f"{message} (see {path} --help)" if path and sys.stderr.isatty() else message


def _hint(name: str, ctx: Any) -> str:
    from txcalc.cli import foreign

    group = ctx.find_root().command
    commands = {each: group.get_command(ctx, each) for each in group.list_commands(ctx)}
    others = {each: foreign.options_of(command, ctx) for each, command in commands.items()}
    found = foreign.hint(name, foreign.options_of(ctx.command, ctx), others)
    return f"; {found}" if found else ""


def _no_command(name: str, known: list[str], group: Group) -> str:
    from txcalc.cli import foreign
    from txcalc.models.library import find
    from txcalc.spec.errors import SpecError, nearest

    if meant := getattr(foreign, group.meant).get(name.casefold()):
        return f"no such command {name!r}; see {meant}"
    close = nearest(name, known)
    try:
        model = None if close else find(name)
    except SpecError:
        model = None
    is_model = model or os.path.isfile(name)  # noqa: PTH113  Path.is_file raises for a NUL
    hint = close or (group.for_model.format(name) if is_model else None)
    return f"no such command {name!r}" + (f"; did you mean {hint}?" if hint else f"; one of {', '.join(known)}")
