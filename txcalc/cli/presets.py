"""``txcalc presets``: what there is, and ``txcalc presets show NAME``."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from txcalc.cli.errors import Group
from txcalc.cli.options import CommonOptions, Offer, OutputOptions, complete_model, grouped


class Presets(Group):
    """``txcalc presets gpt2`` means to show it."""

    for_model = "txcalc presets show {}"
    meant = "LISTING"


app = typer.Typer(
    cls=Presets, add_completion=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    suggest_commands=False,
)
OFFER: Final = Offer(quiet="")


@app.callback(invoke_without_command=True)
@grouped(OFFER)
def presets(
    ctx: typer.Context,
    output: OutputOptions,
    common: CommonOptions,
    search: Annotated[
        str | None, typer.Option("--search", metavar="TEXT", show_default=False,
                                 help="Only those that mention it, are made so (moe, gqa, mla, window, "
                                 "encoder-decoder, vision) or come from it (an arXiv number).")
    ] = None,
) -> None:
    """List the presets, or show one.

    Those of TXCALC_PRESETS, a folder of YAML files, come beside the built-in ones.

    Example: txcalc presets --search llama
    """
    if ctx.invoked_subcommand is not None:
        return
    from txcalc.answer.catalogue import listing
    from txcalc.cli import write

    common = ctx.obj.common.joined(common)
    write.check_target(output)
    form = write.chosen_format(output, OFFER.formats)
    found = listing(search)
    write.answer("presets", found, form, output, common)


@app.command()
@grouped(OFFER)
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_model, show_default=False)],
    common: CommonOptions,
) -> None:
    """Print a preset's YAML, its path above it."""
    import sys

    from txcalc.answer.catalogue import shown
    from txcalc.cli import write

    write.to_stream(shown(name), sys.stdout)
