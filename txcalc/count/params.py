"""Parameters: the weights of every operation, times its copies."""

from __future__ import annotations

from txcalc.trace.record import Number, Op, Trace

# Kaplan et al. (arXiv 2001.08361), section 1.3: N leaves out the token and position tables; we leave out
# the token type table and the output head as well.
EMBEDDING_KINDS = ("embedding", "head")


def params(trace: Trace) -> Number:
    """All weights; a tied weight once."""
    return sum(often.copies * op.params for op, often in trace.placed)


def active_params(trace: Trace) -> Number:
    """The weights that one token passes: its top experts, and everything that is always on."""
    return sum(often.active * op.params for op, often in trace.placed)


def embedding_params(trace: Trace) -> Number:
    """The tables of tokens, positions and types, and an output head that is not tied."""
    return sum(often.copies * op.params for op, often in trace.placed if op.kind in EMBEDDING_KINDS)


def weight_shapes(op: Op) -> dict[str, tuple[Number, ...]]:
    """``{path: shape}`` of one copy's weights; a bare parameter has the operation's own path."""
    return {f"{op.path}.{name}".rstrip("."): shape for name, shape in op.weights}
