"""Parameters: the weights of every operation, times its copies."""

from __future__ import annotations

from collections.abc import Iterator

from txcalc.count.entries import Entry, total
from txcalc.trace.record import Op, Trace
from txcalc.trace.tensors import Number

# Kaplan et al. (arXiv 2001.08361), section 1.3: N leaves out the token and position tables; we leave out
# the token type table and the output head as well.
EMBEDDING_KINDS = ("embedding", "head")


def entries(trace: Trace) -> Iterator[Entry]:
    """All weights; a tied weight once."""
    return (Entry(op, "weights", op.params, often.copies) for op, often in trace.placed if op.weights)


def active(trace: Trace) -> Iterator[Entry]:
    """The weights that one token passes: its top experts, and everything that is always on."""
    return (Entry(op, "weights", op.params, often.active) for op, often in trace.placed if op.weights)


def trained(trace: Trace) -> Iterator[Entry]:
    """The weights that are trained: not those of frozen parts, and with adapters none but theirs."""
    return (entry for entry in entries(trace) if not entry.op.frozen)


def tables(trace: Trace) -> Iterator[Entry]:
    """The tables of tokens, positions and types, and an output head that is not tied."""
    return (entry for entry in entries(trace) if entry.op.kind.group in EMBEDDING_KINDS)


def params(trace: Trace) -> Number:
    """The number of all weights."""
    return total(entries(trace))


def weight_shapes(op: Op) -> dict[str, tuple[Number, ...]]:
    """``{path: shape}`` of one copy's weights; a bare parameter has the operation's own path."""
    return {f"{op.path}.{name}".rstrip("."): shape for name, shape in op.weights}
