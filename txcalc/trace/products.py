"""Matrix products: what FLOPs are counted of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from txcalc.trace.record import Number
    from txcalc.trace.workload import Masked


class Product(NamedTuple):
    """``batch`` matrix products (m, k) x (k, n), and how many of that size each pass computes.

    ``backward``: one for each factor that needs a gradient. ``recomputed``: forward ones that the backward pass
    computes once more. ``kept``: multiply-accumulates of one (query, key) mask, where it goes over the products.
    """

    batch: Number
    m: Number
    n: Number
    k: Number
    kept: Number | None = None
    forward: int = 1
    backward: int = 2
    recomputed: int = 0

    def flops(self, masked: Masked = "counted") -> Number:
        """FLOPs of one of them, in all batches, with masked pairs or without."""
        if masked == "skipped" and self.kept is not None:
            return 2 * self.batch * self.kept
        return 2 * self.batch * self.m * self.n * self.k
