"""What an engine adds to an answer: how it was started, its pool, and what makes room for more requests."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from txcalc import units
from txcalc.answer.engines import engine
from txcalc.answer.serving import Served
from txcalc.show import blocks as b
from txcalc.show.headings import dtypes
from txcalc.trace.workload import Workload


def of_run(served: Served, workload: Workload, defaults: Collection[str]) -> list[str]:
    """``vLLM 0.11 · context 32,768 · bf16 · 2 cards, tensor-parallel``, in parts."""
    parallel = ", tensor-parallel" if served.tp > 1 else ""
    return [
        engine(f"{served.name}@{served.version}").called,
        f"context {units.exact(served.context)}{' (default)' * ('context' in defaults)}",
        dtypes(workload),
        f"{served.cards} cards{parallel}, figures of the fullest" if served.cards > 1 else "",
    ]


def facts(served: Served) -> Iterator[b.Fact]:
    """The pool, and what it holds."""
    yield b.Fact("Pool", b.Number(served.pool_bytes, "memory"), "",
                 f"{units.exact(served.blocks)} blocks of {units.exact(served.block)} tokens")
    yield b.Fact("tokens", b.Number(served.tokens), "", "as the engine counts them", sub=True)
    length = f"of {units.exact(served.context)} tokens"
    yield b.Fact("requests at once", b.Number(served.requests), "", length, sub=True)
    if served.host_bytes:
        yield b.Fact("CPU's memory", b.Number(served.host_bytes + served.host_cache_bytes, "memory"), "", host(served))


def host(served: Served) -> str:
    """``25.1 GiB of weights, 1 GiB of keys and values``: what is in the CPU's memory."""
    parts = [f"{units.memory(size)} of {what}" for what, size in (
        ("weights", served.host_bytes), ("keys and values", served.host_cache_bytes)) if size]
    return ", ".join(parts)


def levers(served: Served) -> b.Table:
    """Each lever with the requests and tokens that there is room for then."""
    columns = (b.Column("What would help"), b.Column("room for requests", "n"), b.Column("tokens", "n"),
               b.Column("how", "words", fold="{}", place="beside", order=1))
    return b.Table("What would help", columns, [
        b.Row((each.option, b.Number(each.requests), b.Number(each.tokens), each.note)) for each in served.levers
    ], level=1)
