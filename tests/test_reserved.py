"""What PyTorch's caching allocator reserves: its rules beside a plain list of blocks, and a step replayed in them."""

import random
from typing import Any

import pytest

from txcalc.answer import memory
from txcalc.answer.devices import device
from txcalc.answer.passes import passes
from txcalc.count import reserved, segments
from txcalc.count.segments import BLOCK, MIB, Allocator, Block
from txcalc.models.load import load


def by_list(asked: list[tuple[str, int]], *, expands: bool) -> int:
    """Bytes of all segments, each a list of [bytes, name or None], after blocks are taken and given in turn."""
    found: dict[bool, list[list[list[Any]]]] = {True: [], False: []}
    for name, size in asked:
        size = -(-size // BLOCK) * BLOCK
        for each in found.values():
            for segment in each:
                for i, block in enumerate(segment):
                    if block[1] == name:  # given, with free neighbours
                        free = [j for j in (i - 1, i, i + 1)
                                if 0 <= j < len(segment) and (j == i or segment[j][1] is None)]
                        segment[free[0]:free[-1] + 1] = [[sum(segment[j][0] for j in free), None]]
                        break
        if not size:
            continue
        small = size <= MIB
        pools, page = found[small], 2 * MIB if small else 20 * MIB
        fits = [(block[0], s, i) for s, segment in enumerate(pools) for i, block in enumerate(segment)
                if block[1] is None and block[0] >= size]
        if not fits and expands:
            segment = pools[0] if pools else []
            pools[:] = [segment]
            there = segment.pop()[0] if segment and segment[-1][1] is None else 0
            segment.append([there - (there - size) // page * page, None])
            fits = [(segment[-1][0], 0, len(segment) - 1)]
        elif not fits:
            pools.append([[page if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB, None]])
            fits = [(pools[-1][0][0], len(pools) - 1, 0)]
        there, s, i = min(fits, key=lambda fit: (expands and fit[2] == len(pools[0]) - 1, fit))  # that grows: the last
        cut = there - size >= BLOCK if small or expands else there - size > MIB
        pools[s][i:i + 1] = [[size, name], [there - size, None]] if cut else [[there, name]]
    return sum(block[0] for pools in found.values() for segment in pools for block in segment)


@pytest.mark.parametrize("expands", [False, True])
def test_an_allocator_is_a_list_of_blocks(expands: bool) -> None:
    for seed in range(12):
        draw, pool, there = random.Random(seed), Allocator(expands=expands), dict[str, Block]()
        asked = [(f"{draw.randrange(9)}", draw.choice([0, 700, 3 * MIB // 7, MIB + 1, 5 * MIB, 11 * MIB, 31 * MIB])
                  + draw.randrange(99) * 512 * draw.randrange(2)) for _ in range(60)]
        for name, size in asked:
            if name in there:
                source, block = there.pop(name)
                source.give(block)
            if size:
                there[name] = pool.take(size)
        assert pool.reserved == by_list(asked, expands=expands)


class Handed(Allocator):
    """An allocator that tells the most bytes that it had handed out at once."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.now = self.most = 0

    def take(self, size: int, stream: str = "") -> Block:
        pool, block = super().take(size, stream)
        self.now += block[0]
        self.most = max(self.most, self.now)
        return pool, block


@pytest.mark.parametrize("run", [
    {}, {"accumulate": 7}, {"dp": 3, "fsdp": "yes", "loss": "fp32"}, {"dp": 2, "fsdp": "yes", "recompute": "full"},
    {"implementation": "megatron", "zero": 1, "dp": 3, "accumulate": 5}, {"precision": "bf16", "clip": True},
    {"pp": 2, "schedule": "1f1b", "accumulate": 9}, {"pp": 2, "schedule": "zb:2", "accumulate": 4},
])
def test_a_replayed_step_hands_out_what_is_allocated(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    card = device("h100-80gb")
    found = passes(load("llama3.2-1b@layers=6,d_model=192,vocab=3001").model,
                   {"phase": "training", "batch": 3, "seq": 77, **run})
    made = list[Handed]()
    monkeypatch.setattr(reserved, "Allocator", lambda **more: made.append(Handed(**more)) or made[-1])
    give = segments.Pool.give

    def given(pool: segments.Pool, block: tuple[int, int]) -> None:
        made[-1].now -= block[0]
        give(pool, block)

    monkeypatch.setattr(segments.Pool, "give", given)
    most = memory.peak_reserved(found, card, expands=True)
    assert made[0].most == memory.allocated(found._replace(traces=found.traces[:1]), card)
    assert most is not None
    assert most >= max(each.most for each in made)
