"""``txcalc import config.json``."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from txcalc.cli.options import CommonOptions, Offer, OutputOptions, SetOption, grouped

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)
OFFER: Final = Offer()


@app.command(name="import")
@grouped(OFFER)
def import_(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A config.json, its folder, - for stdin, hf:org/name, or any MODEL.",
                            show_default=False)
    ],
    common: CommonOptions,
    set_: SetOption = [],  # noqa: B006  typer copies it
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write to a file, whole or not at all.",
                                 show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --output replace a file.", show_default=False)] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; say whether all of it is understood.", show_default=False)
    ] = False,
) -> None:
    """Turn a Hugging Face configuration into a spec.

    Only what is not a default is written. What could change the architecture and is not understood is an error.

    Example: txcalc import config.json
    """
    from txcalc.cli import write
    from txcalc.cli.models import load
    from txcalc.spec.shorten import shorten
    from txcalc.spec.yaml import dump_yaml

    common = ctx.obj.common.joined(common)
    target = OutputOptions(output=output, force=force)
    if not check:
        write.check_target(target)
    text = dump_yaml(shorten(load(model, set_, common, dtype=None).model))
    if not check:
        write.write(text, target, common)
