"""``txcalc count MODEL``."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from txcalc.cli import plot
from txcalc.cli.options import CommonOptions, ModelArgument, Offer, OutputOptions, RunOptions, SetOption, grouped

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)
OFFER: Final = Offer(verbose="Shapes, published figures, every rule; -vv: sources too.", quiet="The numbers alone.")


@app.command()
@grouped(OFFER)
def count(
    ctx: typer.Context,
    model: ModelArgument,
    *,
    set_: SetOption = [],  # noqa: B006  typer copies it
    run: RunOptions,
    by_module: Annotated[
        bool, typer.Option("--by-module", help="Break down to single operations.", show_default=False)
    ] = False,
    plot_: plot.PlotOption = None,
    output: OutputOptions,
    common: CommonOptions,
) -> None:
    """Count one model, and say where it goes.

    Parameters, FLOPs, weights, KV cache and the activations kept for backward, each with its exact integer. A report
    is counted again, under its own workload, and what has changed since is shown.

    Example: txcalc count gpt2 --phase training --batch 8
    """
    from txcalc.answer.rerun import recorded
    from txcalc.answer.view import view
    from txcalc.cli import write
    from txcalc.cli.models import load

    common = ctx.obj.common.joined(common)
    write.check_target(output)
    plot.check(plot_, output)
    form = write.chosen_format(output, OFFER.formats)
    given = run.given()
    loaded = load(model, set_, common, dtype=None if "dtype" in given else "bf16", resolved=True, noted=form == "table")
    found = view(
        loaded.model, given, source=loaded.source, overrides=loaded.overrides, command=ctx.obj.command,
        by_module=by_module, details=bool(common.verbose) or form == "html",
        recorded=recorded(loaded), noted=loaded.notes,
    )
    write.answer("count", found, form, output, common, document=found.report, figure=plot_)
    if form == "table" and not (common.quiet or common.verbose or by_module):
        write.note("more: -v (tensors, rules), --by-module, --json")
