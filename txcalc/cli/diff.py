"""``txcalc diff A B``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from txcalc.cli.options import CommonOptions, Offer, OutputOptions, RunOptions, complete_model, grouped

if TYPE_CHECKING:
    from txcalc.answer.diff import Run
    from txcalc.models.loaded import Loaded

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)


def _side(metavar: str, text: str) -> Any:
    return typer.Argument(metavar=metavar, help=text, autocompletion=complete_model, show_default=False)
OFFER: Final = Offer()


@app.command()
@grouped(OFFER)
def diff(
    ctx: typer.Context,
    a: Annotated[str, _side("A", "A report, or any MODEL: a preset, a YAML file, a config.json, - for stdin.")],
    b: Annotated[
        str | None, _side("B", "Likewise. A model without a workload of its own takes the other's. Left out where A "
                               "is a saved difference, which is counted again.")
    ] = None,
    *,
    run: RunOptions,
    output: OutputOptions,
    common: CommonOptions,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", show_default=False,
                                help="Change a field of B, such as attention.kv_heads=4. Repeatable.")
    ] = [],  # noqa: B006  typer copies it
) -> None:
    """Say which field explains which change in which total.

    The fields that differ are changed one at a time, from A to B, and every step is counted.

    Example: txcalc diff gpt2 gpt2-medium
    """
    from txcalc.answer.diff import diff as difference
    from txcalc.answer.rerun import changes, recorded
    from txcalc.cli import write
    from txcalc.cli.models import load, load_all, tell
    from txcalc.spec.errors import SpecError

    common = ctx.obj.common.joined(common)
    write.check_target(output)
    form = write.chosen_format(output, OFFER.formats)
    if b is None:
        loaded = load_all(a, [], common, dtype=None)
        if len(loaded) != 2 or set_:
            raise SpecError("give two models, A and B; only a saved difference stands for both, as it is")
    else:
        loaded = [load(a, [], common, dtype=None), load(b, set_, common, dtype=None)]
    first, second = _runs(loaded, run.given())
    found = difference(first, second, command=ctx.obj.command)
    if b is None:
        for was, each in zip(map(recorded, loaded), (first, second), strict=True):
            tell(changes(was, each.spec, each.workload) if was else (), common)
    write.answer("diff", found, form, output, common)


def _runs(loaded: list[Loaded], given: dict[str, Any]) -> list[Run]:
    """Reports under their own workloads, other models under that of the report beside them, or under one for both."""
    from txcalc.answer.defaults import workload
    from txcalc.answer.diff import Run
    from txcalc.answer.rerun import again, recorded

    found = [recorded(each) for each in loaded]
    models = [each.model for each in loaded]
    runs = []
    for each, own, other in zip(loaded, found, reversed(found), strict=True):
        fields = again(each.model, own or other, given)
        filled, _ = workload(models, fields)
        runs.append(Run(each.model, filled, each.source, each.overrides))
    return runs
