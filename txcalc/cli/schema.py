"""``txcalc schema DOCUMENT``."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from txcalc.cli.options import CommonOptions, Offer, grouped

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)


def complete_document(incomplete: str) -> list[str]:
    """Names of documents, for shell completion."""
    from txcalc.show.schema import DOCUMENTS

    return [name for name in DOCUMENTS if name.startswith(incomplete)]
OFFER: Final = Offer(quiet="")


@app.command()
@grouped(OFFER)
def schema(
    ctx: typer.Context,
    document: Annotated[
        str, typer.Argument(metavar="DOCUMENT", show_default=False,
                            help="preset, report, comparison, attention, mixers, explanation, diff, validation "
                                 "or presets.",
                            autocompletion=complete_document)
    ],
    common: CommonOptions,
) -> None:
    """Print the JSON Schema of a document.

    Example: txcalc schema preset
    """
    import sys

    from txcalc.cli import write
    from txcalc.show.data import json
    from txcalc.show.schema import json_schema

    write.to_stream(json(json_schema(document)), sys.stdout)
