"""Beam search of transformers: what ``_beam_search`` (``generation/utils.py``, 5.23) allocates around a pass.

A sequence is as many rows of the pass as it has beams. The prompt and its positions are there before, and stay. Scores
over the vocabulary outlive their pass, and every layer's cache is copied in the order of the beams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from txcalc.spec import words
from txcalc.trace.record import Node, Op, Repeat, Trace, operations
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.trace.heads import Outputs

_ROLES: Final = {"i": Role.INDEX, "c": Role.COUNT, "f": Role.FLOAT32, "b": Role.BOOL}
_MASK: Final = "top b T"
_ON_CPU: Final = "ones b K; zeros b K; top b T < ones zeros"
_STATE: Final = ("running i R L; sequences i R L; running_scores f R; scores f R; finished b R; open b B; hits b H;"
                 "running_beams c R N; beams c R N")
_PAST: Final = ("logits f R V; log_probs f R V; top_scores f Q; top_running i Q L; top_beams c Q N")
_LATER: Final = "flat i R L; ids i R"
_STEP: Final = "new_ids i R < ids; ids = new_ids"
_PLACED: Final = "new_ids i R; new_places i R < ids places; ids = new_ids; places = new_places"
_PLACES: Final = "one i; step i R < one; next i R < step; positions i R F < next"
_MASKED: Final = """
one i; step i R < one; next i R < step; more i R F < next; fresh i R; new_mask i R F < fresh positions
positions = more; old_mask = mask; mask = new_mask
"""
_SCORES: Final = """
logits f R V; log_probs f R V < output; log_probs f R V
new_scores f Q, best i Q; which i Q; at i Q N; new_beams c Q N < at; at i Q L; new_running i Q L < at; tokens i Q
row i B; offset i B < row; at i Q < best which tokens offset at; top_scores = new_scores; top_running = new_running
top_beams = new_beams; done b Q; longest b Q; done b Q < longest; found b Q; longest b Q < found; done b Q < longest
hits = done; x f Q; y f Q < x; live f Q < y; y f R, order i R < y; at i R L; new i R L < at; at i R; new_scores f R < at
at i R N; new_beams c R N < at live order; flat = running; running = new; running_scores = new_scores
was = running_beams; running_beams = new_beams
"""
_FINISHED: Final = """
just b Q; own f Q; x b B; full b B < x; x f B; y f B < x y; x b B; y f B < x; z f B < y z; x b Q; y f Q < x y
all i M L; merged f M; all_beams c M N; ended b M; y f R, order i R < y; at i R L; new i R L < at; at i R
new_scores f R < at; at i R N; new_beams c R N < at; at i R
new_ended b R < at just own full all merged all_beams ended order
sequences = new; scores = new_scores; beams = new_beams; finished = new_ended; was =
"""
_ENDED: Final = """
best f B; least f B, at i B < at; one f; worst f R < least one; x b R; any b B < x; new b B < best worst any; open = new
x b; y b; z b < y; y b < z; z b; w b < z; z b; u b < x y w z u
"""
"""Allocations, statement by statement: a name, its role and sizes; ``<``: what is freed then, beside what had the
name before; ``=``: another name. Sizes are B sequences, R rows, Q candidates and M of both; K beams and T candidates of
a sequence, V of the vocabulary, L tokens at most, N of them new, E so far and F with the next one."""


class _Locals:
    """The tensors of a call, by name."""

    def __init__(self, t: Trace, sizes: dict[str, Number]) -> None:
        self.t, self.sizes, self.there = t, sizes, dict[str, Tensor]()
        self.last: tuple[list[Tensor], list[Tensor]] = [], []  # what an operation makes, and what is freed after it

    def run(self, program: str, *, past: bool = False) -> None:
        """Run statements, or say what they had made ``past`` ones."""
        for name, old, made, freed in words.statements(program):
            if name:
                self.free(name)
                self.there |= {name: self.there.pop(old)} if old in self.there else {}
                continue
            self.done(past=past)
            for label, role, *sizes in made:
                self.free(label)
                x = self.t.tensor(*(self.sizes[each] for each in sizes), role=_ROLES[role], label=label, grad=False)
                self.there[label] = x
                self.last[0].append(x)
            self.free(*freed)

    def free(self, *names: str) -> None:
        """Free these after the last operation, those that are there."""
        gone = [self.there.pop(name) for name in names if name in self.there]
        self.last[1].extend(x for x in gone if x not in self.last[0])

    def done(self, *, past: bool = False) -> None:
        """Record the last operation."""
        made, freed = self.last
        if made:
            self.t.op(made[0].label, "past" if past else "elementwise", reads=tuple(freed), writes=tuple(made))
            self.last = [], []


def search(t: Trace, forward: Callable[[], Outputs]) -> Outputs:
    """A pass, ``forward``, and the step of beam search that follows it; what that keeps is cached."""
    w, (beams, prompt, new) = t.workload, t.workload.search
    rows, so_far = w.rows, w.past + w.seq
    first, placed, masked = so_far == prompt, t.model.encoder is None, w.padded
    own = _Locals(t, {
        "B": w.batch, "K": beams, "R": rows, "T": 2 * beams, "Q": 2 * rows, "M": 3 * rows, "L": prompt + new, "N": new,
        "P": prompt, "D": so_far - 1, "E": so_far, "F": so_far + 1, "H": rows if first else 2 * rows,
        "V": t.model.vocab})
    with t.scope("beams"):
        if first:
            own.run(f"{_ON_CPU if w.kernels == 'cpu' else _MASK}; {_STATE}; ids i R P")
        else:
            own.run(f"{_MASK}; {_STATE}; {_PAST}" + "; positions i R E" * placed + "; mask i R E" * masked, past=True)
            if so_far > prompt + 1:
                own.run(_LATER + "; places i R" * placed + "; old_mask i R D" * masked, past=True)
            own.free("flat")
            own.done(past=True)
            own.run(_PLACED if placed else _STEP)
            own.free("old_mask")
        own.done()
    with t.frame(*((own.there.pop("ids"),) if first else ()), name="pass"):
        made = forward()
    t.results, (own.there["output"],) = (), made.scores.logits
    caches = tuple(t.body)
    with t.scope("beams"):
        own.run(f"{_MASKED if masked else _PLACES if placed else ''}; {_SCORES}")
        own.free(*["flat", "was"] * first)
        own.run(_FINISHED)
        own.done()
        for layer in ("attention", "cross_attention"):
            _reordered(t, caches, layer)
        own.run(_ENDED)
        own.done()
        t.op("state", "cache", reads=tuple(own.there.values()))
    return made._replace(scores=type(made.scores)())


def _reordered(t: Trace, nodes: Iterable[Node], layer: str) -> None:
    """A copy of every tensor that such layers cache, in place of what it is of."""
    for node in nodes:
        if isinstance(node, Op):
            for x in node.reads if node.kind.name == "cache" and node.layer == layer else ():
                if x.role is not Role.INDEX:
                    t.op("cache", "elementwise", writes=(t.tensor(*x.shape, role=x.role, label=x.label),))
        elif any(op.kind.name == "cache" for op, _ in operations([node])):
            turns = isinstance(node, Repeat) and t.scope(node.path, calls=node.times, absolute=True, repeat=True)
            with turns or nullcontext():
                _reordered(t, node.body, layer)
