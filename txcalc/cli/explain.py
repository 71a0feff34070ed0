"""``txcalc explain MODEL QUANTITY``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from txcalc.cli.options import CommonOptions, ModelArgument, Offer, OutputOptions, RunOptions, SetOption, grouped

if TYPE_CHECKING:
    from txcalc.derivation.explanation import QuantityName

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)


def complete_quantity(incomplete: str) -> list[str]:
    """Names of quantities, for shell completion."""
    from txcalc.derivation.explanation import QUANTITIES

    return [name for name in QUANTITIES if name.startswith(incomplete)]


QuantityArgument = Annotated[
    str, typer.Argument(metavar="QUANTITY", autocompletion=complete_quantity, show_default=False,
                        help="params, active-params, flops, flops-backward, flops-training, flops-per-token, "
                        "activations, kv-cache, kv-cache-per-token, weights or training-state.")
]
NOTATIONS: Final = ("unicode", "ascii", "latex")
OFFER: Final = Offer(quiet="The closed form alone.")


@app.command()
@grouped(OFFER)
def explain(
    ctx: typer.Context,
    model: ModelArgument,
    quantity: QuantityArgument,
    run: RunOptions,
    output: OutputOptions,
    common: CommonOptions,
    set_: SetOption = [],  # noqa: B006  typer copies it
    notation: Annotated[
        str | None, typer.Option("--notation", metavar="NAME", show_default=False, help="unicode, ascii or latex. "
                                 "Default: unicode on a terminal and in files, ascii in a pipe.")
    ] = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="Same as --notation latex.", show_default=False)
    ] = False,
) -> None:
    """Show how a number comes about.

    Its formula, where each part comes from, and what textbooks write instead. The formula comes from the code that
    counts; its value is checked against the count on every run.

    Example: txcalc explain transformer-base params
    """
    from txcalc.answer.defaults import workload
    from txcalc.cli import write
    from txcalc.cli.models import load
    from txcalc.derivation.explain import explain as explained

    common = ctx.obj.common.joined(common)
    write.check_target(output)
    form = write.chosen_format(output, OFFER.formats)
    name = known_quantity(quantity)
    style = _known_notation("latex" if latex and notation is None else notation)
    loaded = load(model, set_, common, dtype=None, resolved=True)
    given = run.given()
    filled, _ = workload([loaded.model], given)
    found = explained(
        loaded.model, filled, name, source=loaded.source, overrides=loaded.overrides, command=ctx.obj.command
    )
    style = style or ("ascii" if form == "table" and _plain(output) else "unicode")
    if (form, style) == ("table", "latex"):
        form = "latex"
    write.answer("explain", found, form, output, common, notation=style)


def known_quantity(raw: str) -> QuantityName:
    """The quantity of this name. Raises ``SpecError`` that names the nearest one."""
    from txcalc.derivation.explanation import QUANTITIES
    from txcalc.spec.errors import SpecError, nearest

    for name in QUANTITIES:
        if name == raw.casefold().replace("_", "-"):
            return name
    close = nearest(raw, QUANTITIES)
    hint = f"did you mean {close}?" if close else f"one of {', '.join(QUANTITIES)}"
    raise SpecError(f"no quantity {raw!r}; {hint}")


def _known_notation(raw: str | None) -> str | None:
    from txcalc.spec.errors import SpecError

    if raw is not None and raw not in NOTATIONS:
        raise SpecError(f"must be one of {', '.join(NOTATIONS)}, got {raw!r}", field="notation")
    return raw


def _plain(output: OutputOptions) -> bool:
    """Whether the answer goes to a pipe, or to a terminal that cannot show a square."""
    from txcalc.cli.write import STDOUT

    if output.output not in (None, STDOUT):
        return False
    try:
        "²₁·≤⌊".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return True
    return not sys.stdout.isatty()
