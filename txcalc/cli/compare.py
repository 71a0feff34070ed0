"""``txcalc compare MODEL...``."""

from __future__ import annotations

from typing import Final

import typer

from txcalc.cli import plot
from txcalc.cli.options import CommonOptions, ModelsArgument, Offer, OutputOptions, RunOptions, SetOption, grouped

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)
OFFER: Final = Offer(verbose="Every total, every rule.")


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

    The first one is what the others are relative to. Beyond four models, each is a row. A saved comparison is
    counted again, under its own workload.

    Example: txcalc compare gpt2 gpt3 llama3-8b
    """
    from txcalc.answer.compare import Named
    from txcalc.answer.compare import compare as compared
    from txcalc.answer.rerun import again, changes, recorded
    from txcalc.cli import write
    from txcalc.cli.models import load_all, tell

    common = ctx.obj.common.joined(common)
    write.check_target(output)
    plot.check(plot_, output)
    form = write.chosen_format(output, OFFER.formats)
    given = run.given()
    dtype = None if "dtype" in given else "bf16"
    loaded = [each for name in models
              for each in load_all(name, set_, common, dtype=dtype, noted=form == "table")]
    saved = [each for each in map(recorded, loaded) if each is not None]
    as_saved = len(saved) == len(loaded) and all(each.workload == saved[0].workload for each in saved)
    fields = again(loaded[0].model, saved[0], given) if as_saved else given
    found = compared([Named(each.model, each.source, each.overrides, each.notes) for each in loaded], fields,
                     command=ctx.obj.command)
    if as_saved:
        for was, model, entry in zip(saved, loaded, found.entries, strict=True):
            tell(changes(was, model.model, entry.workload), common)
    write.answer("compare", found, form, output, common, figure=plot_)
