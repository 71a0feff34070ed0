"""``txcalc compare MODEL...``."""

from __future__ import annotations

from typing import Final

import typer

from txcalc.cli import plot
from txcalc.cli.options import CommonOptions, ModelsArgument, Offer, OutputOptions, RunOptions, SetOption, grouped

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)
OFFER: Final = Offer()


@app.command()
@grouped(OFFER)
def compare(
    ctx: typer.Context,
    models: ModelsArgument,
    *,
    set_: SetOption = [],  # noqa: B006  typer copies it
    run: RunOptions,
    plot_: plot.PlotOption = None,
    output: OutputOptions,
    common: CommonOptions,
) -> None:
    """Put models side by side.

    The first one is what the others are relative to. Beyond four models, each is a row.

    Example: txcalc compare gpt2 gpt3 llama3-8b
    """
    from txcalc.answer.compare import Named
    from txcalc.answer.compare import compare as compared
    from txcalc.answer.render.formats import render_comparison
    from txcalc.cli import write
    from txcalc.cli.models import load

    common = ctx.obj.common.joined(common)
    write.check_target(output)
    plot.check(plot_, output)
    form = write.chosen_format(output, OFFER.formats)
    given = run.given()
    dtype = None if "dtype" in given else "bf16"
    found_models = [load(name, set_, common, dtype=dtype) for name in models]
    named = [Named(loaded.model, loaded.source, loaded.overrides) for loaded in found_models]
    found = compared(named, given, command=ctx.obj.command)
    plot.save("comparison", found, plot_, output, common)
    write.write(render_comparison(found, form, write.screen(output, common)), output, common)
