"""Blocks of PyTorch's caching allocator: what it hands out, and what it reserves for them.

``c10/cuda/CUDACachingAllocator.cpp``: up to 1 MiB is cut from segments of 2 MiB, up to 10 MiB from such of 20 MiB, and
more is a segment of its own, of whole 2 MiB. The smallest free block that is large enough is taken, and what is left of
it is cut off if it is 512 B of a small one, or over 1 MiB of a large one; else it counts as allocated. With
``expandable_segments`` there is one segment each for small and large blocks, which grows by whole pages of as much, and
all that is left is cut off. Every stream has segments of its own.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from math import prod

from txcalc.count.weights import packed_matrices, storages, stored
from txcalc.spec.quantization import StoredTensors
from txcalc.trace.record import Trace
from txcalc.trace.workload import BYTES

MIB, BLOCK = 2**20, 512


class Pool:
    """Free blocks of segments, as (bytes, address), of which one is cut if more than ``least`` bytes are left of it.

    ``ready``: bytes of a segment that is there. ``page``: there is one segment, which grows by whole ones of so many
    bytes. ``reserved``: bytes of all segments.
    """

    def __init__(self, least: int, ready: int = 0, page: int = 0) -> None:
        self.least, self.page, self.reserved, self._end = least, page, ready, ready if page else ready + 1
        self._free, self._sizes, self._ends = list[tuple[int, int]](), dict[int, int](), dict[int, int]()
        if ready:
            self._keep(ready, 0)

    def take(self, asked: int) -> tuple[int, int]:
        """The block that is handed out for so many bytes."""
        at = bisect_left(self._free, (asked, 0))
        if at == len(self._free):
            self._grow(asked)
            at = bisect_left(self._free, (asked, 0))
        elif self.page and sum(self._free[at]) == self._end and at + 1 < len(self._free):
            at += 1  # what ends the segment can grow, so that all others fit better
        size, address = self._free[at]
        self._drop(address)
        if size - asked > self.least:
            self._keep(size - asked, address + asked)
            size = asked
        return size, address

    def give(self, block: tuple[int, int]) -> None:
        """A block is free again, one with its neighbours in its segment."""
        size, address = block
        if (before := self._ends.get(address)) is not None:
            size, address = size + self._drop(before), before
        if address + size in self._sizes:
            size += self._drop(address + size)
        self._keep(size, address)

    def _grow(self, asked: int) -> None:
        """A new segment, or pages at the end of the one, beside what is free there."""
        start = self._ends.get(self._end, self._end) if self.page else self._end
        there = self._drop(start) if start < self._end else 0
        new = -(-(asked - there) // self.page) * self.page if self.page else _segment(asked)
        self._keep(there + new, start)
        self._end, self.reserved = self._end + new + (not self.page), self.reserved + new

    def _keep(self, size: int, address: int) -> None:
        insort(self._free, (size, address))
        self._sizes[address], self._ends[address + size] = size, address

    def _drop(self, address: int) -> int:
        size = self._sizes.pop(address)
        del self._ends[address + size], self._free[bisect_left(self._free, (size, address))]
        return size


Block = tuple[Pool, tuple[int, int]]
"""Bytes that are handed out, and where from."""


class Allocator:
    """Pools of small and large blocks of every stream. ``expands``: with ``expandable_segments``."""

    def __init__(self, *, expands: bool = False) -> None:
        self.expands, self._pools = expands, dict[tuple[str, bool], Pool]()

    def take(self, size: int, stream: str = "") -> Block:
        """Hand out a block for so many bytes."""
        asked = max(-(-size // BLOCK), 1) * BLOCK
        key = stream, asked <= MIB
        if key not in self._pools:
            least, page = (BLOCK - 1, 2 * MIB) if key[1] else (BLOCK - 1 if self.expands else MIB, 20 * MIB)
            self._pools[key] = Pool(least, page=page if self.expands else 0)
        pool = self._pools[key]
        return pool, pool.take(asked)

    @property
    def reserved(self) -> int:
        """Bytes of all segments, none of which is given back."""
        return sum(pool.reserved for pool in self._pools.values())


def taken(sizes: Iterable[int], ready: int = 0) -> int:
    """Bytes that count as allocated for storages of these sizes, one after another, from a free segment of ``ready``
    bytes and then from new ones."""
    small, large = Pool(BLOCK - 1), Pool(MIB, ready)
    blocks = (-(-size // BLOCK) * BLOCK for size in sizes)
    return sum((small if size <= MIB else large).take(size)[0] for size in blocks)


def _segment(size: int) -> int:
    if size < 10 * MIB:
        return 2 * MIB if size <= MIB else 20 * MIB
    return -(-size // (2 * MIB)) * 2 * MIB


def loaded(trace: Trace) -> Iterator[int]:
    """Bytes of every storage of the weights: those outside of layers first, then layer by layer."""
    width, packing = stored(trace)
    assert not isinstance(packing, StoredTensors)
    codes = set() if packing is None else {op.path for op, _, _ in packed_matrices(trace, packing)}
    each = list[tuple[float, int]]()
    for op, often in trace.placed:
        if not op.weights:
            continue
        sizes = [int(prod(shape) * width) for _, shape in op.weights]
        if packing is not None and op.path in codes:
            rows, columns = op.matrix
            sizes[:1] = [int(size) for size in storages(rows, columns, packing, BYTES[trace.workload.dtype]) if size]
        turns = range(int(often.copies))
        each += [(turn / len(turns) if op.within.layer else -1, size) for turn in turns for size in sizes]
    yield from (size for _, size in sorted(each, key=lambda found: found[0]))
