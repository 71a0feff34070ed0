"""What one call keeps for the tokens to come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from txcalc.trace.record import Number



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
