"""Blocks of PyTorch's caching allocator that loaded weights take, of which it does not split the last.

``c10/cuda/CUDACachingAllocator.cpp``: up to 1 MiB is cut from segments of 2 MiB, up to 10 MiB from such of 20 MiB, and
more is a segment of its own, of whole 2 MiB. The smallest free block that is large enough is taken, and what is left of
it is cut off if it is 512 B of a small one, or over 1 MiB of a large one; else it counts as allocated.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from math import prod

from txcalc.count.weights import packed_matrices, storages, stored
from txcalc.spec.quantization import StoredTensors
from txcalc.trace.record import Trace
from txcalc.trace.workload import BYTES

MIB = 2**20


class Pool:
    """Free blocks of segments, as (bytes, address), of which one is cut if more than ``least`` bytes are left of it."""

    def __init__(self, least: int, ready: int = 0) -> None:
        self.least, self.free, self.end = least, [(ready, 0)], ready + 1

    def take(self, asked: int) -> tuple[int, int]:
        """The block that is handed out for so many bytes."""
        at = bisect_left(self.free, (asked, 0))
        if at == len(self.free):
            self.free.append((_segment(asked), self.end))
            self.end += self.free[-1][0] + 1
        size, address = self.free.pop(at)
        if size - asked > self.least:
            insort(self.free, (size - asked, address + asked))
            size = asked
        return size, address

    def give(self, block: tuple[int, int]) -> None:
        """A block is free again, one with its neighbours in its segment."""
        size, address = block
        for each in [(n, at) for n, at in self.free if at + n == address or at == address + size]:
            self.free.remove(each)
            size, address = size + each[0], min(address, each[1])
        insort(self.free, (size, address))


def taken(sizes: Iterable[int], ready: int = 0) -> int:
    """Bytes that count as allocated for storages of these sizes, one after another, from a free segment of ``ready``
    bytes and then from new ones."""
    small, large = Pool(511), Pool(MIB, ready)
    blocks = (-(-size // 512) * 512 for size in sizes)
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
