"""Shares of a total: the components of a report, like ones added up and named as people name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from txcalc import units
from txcalc.answer.report import Component, Report
from txcalc.explain.naming import Fields, component

_PREFIXES: Final = {("decoder", "cross_attention"): ""}  # only a decoder has it
_INPUTS, _LAYERS, _NORMS, _TOP = range(4)


class Share(NamedTuple):
    """One line of the breakdown."""

    name: str
    note: str
    times: int  # runs in one pass that it adds up
    params: int
    passes: tuple[int, ...]  # FLOPs forward and, of a training step, backward and recomputed
    flops_core: int  # the forward part that grows with queries x keys
    kept: int | None

    @property
    def flops(self) -> int:
        """Those of all passes."""
        return sum(self.passes)

    @property
    def title(self) -> str:
        """``attention × 12``; ``lm head, tied``."""
        shown = units.exact(self.times) if self.times < 10**9 else units.params(self.times)
        times = f" × {shown}" if self.times > 1 else ""
        return f"{self.name}{times}{f', {self.note}' if self.note else ''}"


def shares(report: Report) -> list[Share]:
    """The breakdown in the order of the forward pass, norms after the layers they stand in.

    Like components of a stack are one line; lines with neither weights nor FLOPs nor anything kept are left out.
    """
    spec = report.model.spec
    found: dict[tuple[str, str], list[Component]] = {}
    order: dict[tuple[str, str], tuple[int, int]] = {}
    passed: set[str] = set()  # the stacks whose layers have begun
    for part in report.components:
        at = component(spec, part.path)
        stack, rest = at.stack, at.where
        passed |= {stack} if rest[0] == "layers" else set()
        above = stack in passed or (not stack and bool(passed - {"tower"}))
        name = f"{at.called} ({at.reach})" if rest[-1] == "attention" and at.reach else at.called
        key = (f"{_PREFIXES.get((stack, rest[-1]), stack)} {name}".strip(), _note(rest, spec, part))
        found.setdefault(key, []).append(part)
        # a model of one stack is all in one
        stage = {"tower": -1, "encoder": 1, "decoder": 2}.get(stack, 3 if above else 0)
        order.setdefault(key, (stage, _rank(rest, above)))
    made = (_share(report, *key, found[key]) for key in sorted(found, key=order.__getitem__))
    return [share for share in made if share.params or share.flops or share.kept]


def operations(report: Report) -> list[Share]:
    """The components one by one under their own paths."""
    return [_share(report, part.path, "", [part]) for part in report.components]


def whole(report: Report) -> Share:
    """The last line, from the totals."""
    t = report.totals.shown(report.workload.masked)
    passes = tuple(q.value for q in (t.flops_forward, t.flops_backward, t.flops_recomputed) if q is not None)
    kept = None if t.activation_bytes is None else t.activation_bytes.value
    core = sum(_core(report, part) for part in report.components)
    return Share("total", "", 1, t.params.value, passes, core, kept)


def _share(report: Report, name: str, note: str, parts: Sequence[Component]) -> Share:
    shown = [part.shown(report.workload.masked) for part in parts]
    passes = zip(*((part.flops_forward, part.flops_backward, part.flops_recomputed) for part in shown), strict=True)
    kept = [part.activation_bytes for part in parts]
    return Share(
        name, note, sum(part.calls for part in parts), sum(part.params for part in parts),
        tuple(sum(each) for each in passes if None not in each), sum(_core(report, part) for part in parts),
        None if None in kept else sum(kept))  # type: ignore[arg-type]


def _core(report: Report, part: Component) -> int:
    """Masks go over the core alone."""
    masked = part.flops_forward - part.flops_skipped
    return part.flops_core - (masked if report.workload.masked == "skipped" else 0)


def _rank(rest: list[str], above: bool) -> int:
    if rest[-1].endswith("_norm"):
        return _NORMS
    if rest[0] == "layers":
        return _LAYERS
    return _TOP if above else _INPUTS


def _note(where: Sequence[str], spec: Fields, part: Component) -> str:
    """A remark on what is special about a component: nothing about norms."""
    if where[-1] == "head":
        return "tied" if spec["head"].get("tied") else ""
    shared = part.copies < part.calls and part.params and where[0] == "layers"
    return "shared" if shared and not where[-1].endswith("_norm") else ""
