"""Orders in which a rank of a pipeline runs the passes of its stages, as data.

They are those of ``torch.distributed.pipelining`` (2.13), action by action: GPipe (arXiv 1811.06965), 1F1B
(1806.03377), interleaved 1F1B (2104.04473), breadth first (``looped``, 2211.05953), zero bubble (2401.10241; ``zb``:
ZB1P, ``zbv``: ZB-V) and DualPipe's V (2412.19437), whose passes that overlap run one after the other.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, get_args

from txcalc.spec.errors import SpecError
from txcalc.trace.layout import Layout

Kind = Literal["F", "B", "I", "W"]
"""A forward pass; a backward one, or its halves: gradients of the stage's input, gradients of its weights."""


class Action(NamedTuple):
    """A pass of one micro-batch, on a rank's first stage, 0, or a further one."""

    chunk: int
    kind: Kind


def least(layout: Layout) -> int:
    """Micro-batches that a schedule wants at least."""
    return {"1f1b": layout.pp, "dualpipe": layout.stages}.get(layout.order, 1)


def order(layout: Layout, rank: int, micro_batches: int) -> Iterator[Action]:
    """The passes of a rank. Raises ``SpecError`` for a number of micro-batches that the schedule does not take."""
    if layout.order in ("zbv", "dualpipe"):
        return _folded(layout, rank, micro_batches)
    return _turns(layout, rank, micro_batches)


def _turns(layout: Layout, rank: int, micro_batches: int) -> Iterator[Action]:
    """Micro-batches in rounds, each on one stage after the other: some forward, then one forward and one back in turn.

    Gradients of weights, if by themselves, follow those of as many inputs as the rank has others before it.
    """
    chunks, after = layout.per_rank, layout.pp - 1 - rank
    rounds = max(1, micro_batches // layout.pp)
    in_rounds, late = layout.order in ("interleaved", "zb"), layout.order == "zb"
    if in_rounds and micro_batches % rounds:
        raise SpecError(f"{layout.schedule} wants {rounds} rounds of as many micro-batches each, not {micro_batches} "
                        f"together; {micro_batches - micro_batches % rounds} would do", field="accumulate")
    each, every = micro_batches // rounds if in_rounds else micro_batches, micro_batches * chunks
    ahead = min(every, {"1f1b": after, "interleaved": (chunks - 1) * each + 2 * after,
                        "zb": (chunks - 1) * each + after}.get(layout.order, every))
    for i in range(ahead):
        yield Action(i // each % chunks, "F")
    for i in range(every + late * rank):
        if ahead + i < every:
            yield Action((ahead + i) // each % chunks, "F")
        if i < every:
            yield Action(chunks - 1 - i // each % chunks, "I" if late else "B")
        if late and 0 <= i - rank < every:
            yield Action(chunks - 1 - (i - rank) // each % chunks, "W")


F0, B0, I0, W0, F1, B1, I1, W1 = (Action(chunk, kind) for chunk in (0, 1) for kind in get_args(Kind))
W: Final = Action(-1, "W")
"""Of the first micro-batch that waits for it."""


def _folded(layout: Layout, rank: int, micro_batches: int) -> Iterator[Action]:
    """Two stages to a rank, of which the pipeline passes the second on its way back: how often which passes follow each
    other."""
    before, after = rank, layout.pp - 1 - rank
    parts: list[tuple[int, list[Action]]]
    if layout.order == "zbv":  # counted for at least so many, of which those that there are run
        most = max(micro_batches, 2 * layout.pp - 1)
        parts = [(2 * after + 1, [F0]), (before, [F1, F0]), (after + 1, [F1, I1, W1]),
                 (most - layout.pp - after, [F0, I0, W0, F1, I1, W1]), (after, [I0, W0, F1, I1, W1]),
                 (before, [I0, I1]), (after + 1, [I0, W0]), (before, [W1]), (before, [W0])]
    else:
        last = [([I1, I0] if i > rank else [B1, B0])[i % 2] for i in range(2 * (rank + 1))]
        parts = [(2 * after, [F0]), (before + 1, [F0, F1]), (after, [I1, W, F1]),
                 (micro_batches - layout.pp - after, [F0, B1, F1, B0]), (after, [B1, F1, B0]), (1, last),
                 (after, [W, I0]), (before + 1, [W])]
    run, waiting = Counter[Action](), deque[Action]()
    for action in (each for times, several in parts for _ in range(times) for each in several):
        if action == W and not waiting:
            continue
        if action.kind == "I":
            waiting.append(Action(action.chunk, "W"))
        action = waiting.popleft() if action == W else action
        run[action] += 1
        if run[action] <= micro_batches:
            yield action
