"""Functions of sizes, whatever they are: matrix products, pairs that a mask keeps, the smaller of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from txcalc.trace.record import Trace
    from txcalc.trace.tensors import Number
    from txcalc.trace.workload import Masked


class Product(NamedTuple):
    """``batch`` matrix products (m, k) x (k, n), and how many of that size each pass computes."""

    batch: Number
    m: Number
    n: Number
    k: Number
    unmasked: Number | None = None  # multiply-accumulates of one (query, key) mask, where one goes over the products
    forward: int = 1
    backward: int = 2  # one for each factor that needs a gradient
    recomputed: int = 0  # forward ones that the backward pass computes once more

    def flops(self, masked: Masked = "counted") -> Number:
        """FLOPs of one of them, in all batches, with masked pairs or without."""
        if masked == "skipped" and self.unmasked is not None:
            return 2 * self.batch * self.unmasked
        return 2 * self.batch * self.m * self.n * self.k


def least(a: Number, b: Number) -> Number:
    """The smaller of two sizes: a sliding window never holds more keys than there are tokens."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return b.least(a) if isinstance(a, int) else a.least(b)


def same(a: Number, b: Number) -> bool:
    """Tell whether two sizes are one: symbols where they have one name."""
    return bool(a == b)


def several(t: Trace, *axes: Number) -> bool:
    """Tell whether all these axes are longer than one, so that a reshape has to respect them."""
    return all(t.size(axis) != 1 for axis in axes)


def visible_pairs(
    new: Number, past: Number, *, causal: bool, window: Number | None = None, chunk: Number | None = None
) -> Number:
    """(query, key) pairs that the mask keeps, for ``new`` queries after ``past`` cached tokens.

    Causal: query i sees itself and all before it, at most ``window`` keys, and none before its ``chunk``.
    Otherwise every query sees every key, or those at most ``window // 2`` away on either side
    (arXiv 2004.05150, section 3.1), or those of its ``chunk``.
    """
    if causal and chunk is not None:
        return _chunked_pairs(past + new, chunk) - _chunked_pairs(past, chunk)
    if causal:
        return _causal_pairs(past + new, window) - _causal_pairs(past, window)
    if chunk is not None:
        whole = new // chunk
        return whole * chunk**2 + (new - whole * chunk) ** 2
    if window is None:
        return new * (past + new)
    reach = least(window // 2, new - 1)
    return new - reach * (reach + 1) + 2 * new * reach


def block_pairs(new: Number, past: Number, block: Number, blocks: Number, *, whole_ones: bool = False) -> Number:
    """Pairs where a query sees its own block, up to itself, and of those before it the ``blocks`` - 1 best, or, of
    ``whole_ones``, the ``blocks`` best that end with it or before, and what comes after the last of these."""
    def seen(tokens: Number) -> Number:
        whole = least(tokens, block * blocks)
        rest = tokens - whole
        others = blocks * rest - rest // block if whole_ones else (blocks - 1) * rest
        return _causal_pairs(whole, None) + others * block + _chunked_pairs(rest, block)
    return seen(past + new) - seen(past)


def whole_blocks(new: Number, past: Number, block: Number) -> Number:
    """Blocks that end with a query or before, of all queries together."""
    def before(tokens: Number) -> Number:
        whole = tokens // block
        return block * (whole * (whole - 1) // 2) + whole * (tokens - whole * block + 1)
    return before(past + new) - before(past)


def _causal_pairs(tokens: Number, window: Number | None) -> Number:
    full = tokens if window is None else least(tokens, window)
    return (tokens - full) * full + full * (full + 1) // 2


def _chunked_pairs(tokens: Number, chunk: Number) -> Number:
    whole = tokens // chunk
    rest = tokens - whole * chunk
    return whole * (chunk * (chunk + 1) // 2) + rest * (rest + 1) // 2
