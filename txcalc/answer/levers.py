"""Levers: changes of a run that need less memory, each counted anew, with the FLOPs that they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final, NamedTuple

from txcalc.answer.passes import Passes, options, passes
from txcalc.count import flops, step, weights
from txcalc.count.activations import activation_bytes
from txcalc.count.entries import total
from txcalc.count.params import params
from txcalc.document import Part
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.layout import WHOLE
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

Changes = Mapping[str, Any]


class Lever(Part):
    """A change of the run, as the command line says it. ``fits``: null without a device.

    ``flops_per_token``: of all passes, and of what the backward pass computes again.
    """

    option: str
    note: str
    peak_bytes: int
    saved_bytes: int
    flops_per_token: int
    fits: bool | None


Choices = Callable[[Workload], Iterable[Changes]]


class _Row(NamedTuple):
    """A lever: the fields that it changes, by less first.

    ``same``: what is computed stays the same. ``smaller``: there is less of it, a last resort.
    """

    changes: Choices
    note: str
    same: bool = False
    smaller: bool = False


def _to(field: str, value: str, *instead_of: str | None) -> Choices:
    """Another value of a field that has one of those it would stand in place of."""
    return lambda w: [{field: value}] if field in Workload.names() and getattr(w, field) in instead_of else []


def _halved(field: str) -> Choices:
    """A half of a size, a quarter, and down to a sixteenth."""
    return lambda w: [{field: half} for i in range(1, 5) if (half := (getattr(w, field) or 0) >> i)]


def _micro_batch(w: Workload) -> Iterator[Changes]:
    """The same batch of an optimizer's step in more and smaller parts."""
    for parts in range(2, min(w.batch, _PARTS) + 1):
        if w.batch % parts == 0:
            yield {"batch": w.batch // parts, "accumulate": parts * (w.accumulate or 1)}


_WORTH: Final = 100
"""A lever that saves less than this part of the peak is left out."""
_PARTS: Final = 4096
"""Into more parts no micro-batch is divided."""
TOGETHER: Final = "together"
"""The note of the levers that fit together."""
_SAME_WEIGHTS: Final = frozenset(("attention", "loss", "recompute", "seq", "batch", "accumulate"))
"""Fields that leave weights, and which of them are trained, as they are."""
_LORA: Final = {"lora": "r=16,targets=all"}
_QLORA: Final = {"weights": "nf4", "precision": None}
"""Weights in 4 bits, which are in place of a precision."""

_TRAINING: Final = (
    _Row(_to("attention", "flash", "eager", "math"), "no score matrix", same=True),
    _Row(_to("loss", "chunked:8", None, "plain", "fp32"), "logits in parts", same=True),
    _Row(_to("loss", "fused", None, "plain", "fp32"), "no logits", same=True),
    _Row(_to("recompute", "selective", None, "none"), "attention once more in the backward pass", same=True),
    _Row(_to("recompute", "full", None, "none", "selective", "ops"), "every layer once more in the backward pass",
         same=True),
    _Row(_micro_batch, "as many sequences a step", same=True),
    _Row(_to("optimizer", "adamw-8bit", None, "adamw"), "states in 8 bits"),
    _Row(_to("precision", "mixed", "amp"), "16-bit weights, fp32 master"),
    _Row(_to("precision", "bf16", "amp", "mixed", "fp32"), "everything in 16 bits"),
    _Row(lambda w: [] if w.freezes else [_LORA], "adapters alone are trained"),
    _Row(lambda w: [] if w.weights == "nf4" else [_QLORA if w.freezes else _LORA | _QLORA],
         "adapters over 4-bit weights"),
    _Row(_halved("seq"), "shorter sequences", smaller=True),
)
_INFERENCE: Final = (
    _Row(_to("attention", "flash", "eager", "math"), "no score matrix", same=True),
    _Row(_to("weights", "int8", None, "fp32", "fp16", "bf16"), "weights in 8 bits"),
    _Row(_to("weights", "nf4", None, "fp32", "fp16", "bf16", "fp8", "int8"), "weights in 4 bits"),
    _Row(_halved("batch"), "fewer sequences at a time", same=True, smaller=True),
    _Row(_halved("past"), "less in the cache", smaller=True),
    _Row(_halved("seq"), "a shorter prompt", smaller=True),
)
"""The more a row changes of what is computed, the later it stands."""


def levers(
    spec: Model, given: Changes, now: Passes, peak: Callable[[Passes], int], before: int, room: int | None,
    rounded: Callable[[int], int], asked: Changes,
) -> tuple[Lever, ...]:
    """Levers that take less than the passes ``now``, the cheapest first: of those that compute the same, by FLOPs.

    ``peak``: bytes of passes, ``before`` of these; ``rounded``: of a storage in them. ``asked``: fields that are given,
    of which a change leaves some out (``none``). Where no lever alone comes down to ``room`` bytes, the last one is as
    many as do together.
    """
    tried = _Tried(spec, given, now, peak, before, room, rounded, asked, {frozenset(): now})
    rows = _TRAINING if now.workload.phase == "training" else _INFERENCE
    found = [(row, lever) for row in rows if (lever := tried.least(row))]
    found.sort(key=lambda each: (not each[0].same, each[0].same and each[1].flops_per_token))
    alone = tuple(lever for _, lever in found)
    if tried.fits or any(lever.fits for lever in alone):
        return alone
    return (*alone, *tried.together(rows))


class _Tried(NamedTuple):
    """A run that is counted again under changes."""

    spec: Model
    given: Changes
    now: Passes
    peak: Callable[[Passes], int]
    before: int
    room: int | None
    rounded: Callable[[int], int]
    asked: Changes
    known: dict[frozenset[Any], Passes]  # by what is changed, but the optimizer

    @property
    def fits(self) -> bool:
        """Tell whether it does so as it is."""
        return self.room is None or self.before <= self.room

    def least(self, row: _Row) -> Lever | None:
        """The least change of a row that helps: so much that it fits, if that can be, and all of it if not."""
        some = list(row.changes(self.now.workload))
        most = self.lever(some[-1], row.note) if some else None
        if self.fits or (most and most.fits):
            tried = (self.lever(changes, row.note) for changes in some)
            return next((lever for lever in tried if lever and (self.fits or lever.fits)), None)
        return most

    def _run(self, changes: Changes) -> Passes:
        """The run under changes. Raises ``SpecError`` where it cannot be."""
        now, key = self.now.workload, frozenset((name, value) for name, value in changes.items() if name != "optimizer")
        if key in self.known and self.now.traces[0].layout.pp == 1:  # another optimizer, another fullest stage
            return _updated(self.known[key], changes.get("optimizer", now.optimizer))
        given = {**self.given, "phase": now.phase, "batch": now.batch, "seq": now.seq, **changes}
        if now.phase == "decode":
            given["past"] = changes.get("past", now.past)
        if self.now.new is not None:
            given["new"] = self.now.new
        self.known[key] = passes(self.spec, given, self.rounded)
        return self.known[key]

    def _may_help(self, then: Passes, changes: Changes) -> bool:
        """False where weights, gradients and the optimizer alone take too much for a lever that leaves the weights."""
        if not changes.keys() <= _SAME_WEIGHTS:
            return True
        least = step.least(then.traces[0], self.now.traces[0], self.rounded)
        return (self.before - least) * _WORTH >= self.before

    def _may_fit(self, then: Passes) -> bool:
        """False where weights and what is kept for the backward pass alone take too much."""
        return self.room is None or max(map(_held, then.traces)) <= self.room

    def lever(self, changes: Changes, note: str, *, fits: bool = False) -> Lever | None:
        """The lever of these changes, where they can be, and are worth a line. ``fits``: if they may fit."""
        try:
            then = self._run(changes)
            if (fits and not self._may_fit(then)) or not self._may_help(then, changes):
                return None
            bytes_then = self.peak(then)
        except SpecError:
            return None
        saved = self.before - bytes_then
        if saved * _WORTH < self.before:
            return None
        left_out = {name: "none" for name, value in changes.items() if value is None and self.asked.get(name)}
        return Lever(option=options({**changes, **left_out}), note=note, peak_bytes=bytes_then, saved_bytes=saved,
                     flops_per_token=flops_per_token(then), fits=None if self.room is None else bytes_then <= self.room)

    def together(self, rows: Iterable[_Row]) -> Iterator[Lever]:
        """As few as fit together, if all of them do: what is cheap stays, and there is less of it only if need be."""
        known: dict[frozenset[Any], Lever | None] = {}
        every = [(row, some[-1]) for row in rows if (some := list(row.changes(self.now.workload)))]
        for those in ([changes for row, changes in every if not row.smaller], [changes for _, changes in every]):
            if self._too_much(those):
                continue
            wanted = [each for each in those if self._too_much([other for other in those if other is not each])]
            if (found := self._merged(wanted, known)) and found.fits:
                yield found
                return
            found = self._merged(those, known)
            if not found or not found.fits:
                continue
            for changes in reversed(those):
                fewer = [each for each in those if each is not changes]
                if (lever := self._merged(fewer, known)) and lever.fits:
                    those, found = fewer, lever
            yield found
            return

    def _too_much(self, those: Iterable[Changes]) -> bool:
        """True for changes that cannot fit together."""
        try:
            return not self._may_fit(self._run({name: value for each in those for name, value in each.items()}))
        except SpecError:
            return True

    def _merged(self, those: Iterable[Changes], known: dict[frozenset[Any], Lever | None]) -> Lever | None:
        """The lever of several changes, the later ones over the earlier. ``known``: those that were counted."""
        changes = {name: value for each in those for name, value in each.items()}
        key = frozenset(changes.items())
        if key not in known:
            known[key] = self.lever(changes, TOGETHER, fits=True)
        return known[key]


def _updated(of: Passes, optimizer: str | None) -> Passes:
    """The same passes under another optimizer, which changes nothing of what is computed before its step."""
    return of._replace(traces=tuple(
        replace(t, workload=Workload.of({**vars(t.workload), "optimizer": optimizer})) for t in of.traces))


def _held(t: Trace) -> int:
    """Bytes of weights where no ranks share them, and of one device's kept activations, which no peak is below."""
    w = t.workload
    if t.layout.shards or t.layout.zero:
        return 0
    kept = int(activation_bytes(t)) if t.layout == WHOLE and not w.offload else 0
    return kept + (weights.weight_bytes(t) if w.held is None else int(params(t) * w.held.weights))


def flops_per_token(of: Passes) -> int:
    """FLOPs of all passes over a prompt, a step's tokens or the token that is decoded, for each; of all stages of a
    pipeline, whichever of them holds most."""
    first = of.traces[0]
    if first.layout.pp > 1:
        first = trace(first.whole, first.workload.replaced(layout=first.layout.replaced(pp=1, schedule=None)))
    kinds: tuple[flops.Pass, ...] = ("forward", "backward", "recomputed")
    names = kinds if first.workload.phase == "training" else kinds[:1]
    return int(Fraction(total(flops.entries(first, *names)), first.workload.batch * first.workload.seq))
