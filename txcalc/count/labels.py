"""The names of quantities that several tables and titles say."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

KV_CACHE: Final = "KV cache"
_OTHERS: Final = {"state": "Recurrent state", "inputs": "Cached layer inputs"}


def of_caches(kinds: Collection[str]) -> str:
    """The label of caches of these kinds together."""
    first, *others = {*kinds} or {""}
    return KV_CACHE if others else _OTHERS.get(first, KV_CACHE)
