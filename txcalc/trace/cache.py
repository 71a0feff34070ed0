"""What one call keeps for the tokens to come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from txcalc.trace.record import Trace
    from txcalc.trace.tensors import Number, Tensor


class Cache(NamedTuple):
    """Keys and values, or a state of constant size (one "token" of it), that one call keeps for later tokens."""

    kind: Literal["self", "cross", "state"]
    per_token: Number  # elements per sequence and token
    tokens: Number  # held per sequence after this run
    batch: Number
    role: Literal["kv", "float32"] = "kv"  # in the workload's kv_dtype, or always fp32
    # Of self-attention: which tokens, and what of them.
    layout: Literal["full", "window", "chunk", "latent", "inputs", "source"] = "full"
    end: Number | None = None  # position after the last token held, where earlier ones have been dropped
    limit: Number | None = None  # tokens held at most
    # (how many, elements of each): the vectors of one token, each of which a format of a few bits packs by itself.
    rows: tuple[tuple[Number, Number], ...] = ()

    @property
    def name(self) -> str:
        """``full``, ``window``, ``chunk``, ``latent``, ``inputs``, ``cross`` or ``state``."""
        return self.layout if self.kind == "self" else self.kind

    def blocks(self, size: Number) -> Number:
        """Blocks of ``size`` tokens that the tokens of one sequence touch: a window may straddle one more."""
        end = self.tokens if self.end is None else self.end
        return -(-end // size) - (end - self.tokens) // size

    @property
    def elements(self) -> Number:
        """All elements of this cache after the run."""
        return self.batch * self.tokens * self.per_token


def kv_cache(
    kind: Literal["self", "cross"], rows: tuple[tuple[Number, Number], ...], tokens: Number, batch: Number, **more: Any
) -> Cache:
    """A cache of vectors: how many of each size one token has."""
    return Cache(kind, sum(count * size for count, size in rows), tokens, batch, rows=rows, **more)


def extend(t: Trace, k: Tensor, v: Tensor, before: Number, held: Number) -> tuple[Tensor, Tensor]:
    """Keys and values (b, n, width) after those of the ``before`` tokens that are cached, and the cache's own copies.

    ``torch.cat`` copies all of them; of that the last ``held`` tokens are copied once more, and replace what was there.
    """
    seen = []
    with t.frame():
        for label, x in (("keys", k), ("values", v)):
            b, n, width = x.shape
            if t.size(before) != 0:
                old, new = t.hold(t.tensor(b, before, width, label=f"cached {label}")), x
                t.op("cache", "past", writes=(old,))
                x = t.tensor(b, before + n, width, label=label)
                t.op("cache", "elementwise", reads=(old, new), writes=(x,))
            seen.append(x)
        for x in seen:
            b, _, width = x.shape
            t.op("cache", "cache", reads=(x,), writes=(t.tensor(b, held, width, label=f"cached {x.label}"),))
    return seen[0], seen[1]


def keep(t: Trace, k: Tensor, v: Tensor, before: Number, held: Number) -> tuple[Tensor, Tensor]:
    """Keys and values (b, n, width) of a source, cached as they are, or the ``held`` ones that are cached already."""
    if t.size(before) != 0:
        k, v = (t.tensor(x.shape[0], held, x.shape[-1], label=label) for label, x in (("keys", k), ("values", v)))
        t.op("cache", "past", writes=(k, v))
    t.op("cache", "cache", reads=(k, v))
    return k, v
