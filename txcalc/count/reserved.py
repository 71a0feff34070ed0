"""Bytes that PyTorch's caching allocator reserves over a training step: the step replayed, block by block.

Optimizer states come with the first step, among its gradients. What a stream has let go of is for its own use alone:
that in which FSDP2 gathers weights, and that in which it scatters gradients
(``torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py``). Of the optimizer's step the highest moment is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial
from itertools import chain
from typing import Any, Final

from txcalc.count import optimizers, stages
from txcalc.count.entries import Entry
from txcalc.count.lifetimes import again, follow
from txcalc.count.moments import Mode
from txcalc.count.optimizers import STATE
from txcalc.count.segments import Allocator, Block
from txcalc.count.step import Step, storages
from txcalc.count.turns import Memory, count
from txcalc.trace.record import Trace

STEPS: Final = 3
"""Steps that are replayed: from the second on there are states, and from the third on blocks are where they stay."""

STREAMS: Final = {"shards": "gathering", "all-gather output": "gathering", "reduce-scatter output": "scattering",
                  "sharded gradients": "scattering"}
"""Streams of buffers by what they are, where that is not the one of all else."""


def reserved(trace: Trace, workspaces: Iterable[int], *, expands: bool, most: int | None = None) -> int | None:
    """Bytes of all segments after some steps; None where they are not replayed: of inference, of pipelines of sharded
    weights, and of more than ``most`` operations.

    ``workspaces``: bytes of each that matrix products set aside. ``expands``: with ``expandable_segments``.
    """
    if trace.workload.phase != "training" or (trace.layout.shards and trace.layout.pp > 1):
        return None
    passes = stages.some(trace)
    if most is not None and sum(often.calls for _, often in trace.placed) * len(passes) > most:
        return None
    step, pool = Step(trace, in_place=True), Allocator(expands=expands)
    states, inputs = ([each for each in step.resident if each.part == part] for part in (STATE, "inputs"))
    _taken(pool, (each for each in step.resident if each.part not in (STATE, "inputs")))
    for size in workspaces:
        pool.take(size)
    run = cache(partial(_parts, step))
    for turn in range(STEPS):
        made, waiting = [_taken(pool, inputs)], dict[tuple[int, str], list[_Blocks]]()
        for each in passes:
            beside = _taken(pool, stages.around(trace, each))
            of = _Blocks() if each.kind == "F" else waiting[each.chunk, "I" if each.kind == "W" else "F"].pop(0)
            for place, size, times, stream in run(*each.run)[each.kind]:
                for _ in range(times):
                    of.setdefault(place, []).append(pool.take(size, stream))
                for _ in range(-times):
                    _give(of[place].pop())
            for block in beside:
                _give(block)
            if each.kind in "FI":
                waiting.setdefault((each.chunk, each.kind), []).append(of)
            else:
                results = [of.pop(place) for place in of.keys() & run(*each.run)["results"]]
                made += (*of.values(), *(results if each is passes[-1] else ()))
                for block in () if each is passes[-1] else chain(*results):
                    _give(block)
        if not turn:
            _taken(pool, states)
        for block in chain(_taken(pool, _updating(step)), *made):
            _give(block)
    return pool.reserved


_Blocks = dict[int, list[Block]]
"""Blocks of a micro-batch, by the place of their storage among all that it has."""


def _taken(pool: Allocator, entries: Iterable[Entry]) -> list[Block]:
    return [pool.take(size) for each in entries for size in storages(each) for _ in range(each.times)]


def _give(block: Block) -> None:
    pool, own = block
    pool.give(own)


def _parts(step: Step, chunk: int, mode: Mode) -> Mapping[str, Any]:
    """Storages that come and go in each kind of a micro-batch's passes: which, bytes, how many more, and the stream.

    ``results``: those of the forward pass, which is all that is left of it in the end.
    """
    trace = step.chunks[chunk]
    run = partial(follow, trace, unroll=True, amount=lambda memory: memory, number=partial(count, trace))
    found, part = dict[str, list[tuple[int, int, int, str]]](), list[tuple[int, int, int, str]]()
    places = dict[int, int]()
    for what, more in again(trace, run(), run, step.adds(mode)):
        if isinstance(what, Memory):
            place = places.setdefault(id(what), len(places))
            part.append((place, what.bytes, more, STREAMS.get(what.what, "")))
        elif what is None:
            found.setdefault(more[0], []).extend(part)
            part = []
    forward, backward = found["forward"], found["backward"]
    return {"F": forward, "B": backward, "I": backward, "W": found.get("weights", []),
            "results": {place for place, *_ in forward}}


def _updating(step: Step) -> list[Entry]:
    """All that the optimizer's step has allocated at its highest moment."""
    most, there = 0, list[Entry]()
    for _, made in optimizers.moments(step.trace.workload, step.in_order()):
        if made.now > most:
            most, there = made.now, made.entries()
    return there
