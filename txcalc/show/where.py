"""Where it goes: the components of a report, like ones added up and named as people name them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from txcalc import units
from txcalc.answer.report import Component, Report
from txcalc.explain.naming import NAMES, RECURRENT

Fields = dict[str, Any]

_PREFIXES: Final = {("decoder", "cross_attention"): ""}  # only a decoder has it
_INPUTS, _LAYERS, _NORMS, _TOP = range(4)


class Share(NamedTuple):
    """One line of the breakdown. ``times`` counts the runs in one pass that it adds up.

    ``passes``: FLOPs forward and, of a training step, backward and recomputed; ``flops_core``: the forward part that
    grows with queries x keys.
    """

    name: str
    note: str
    times: int
    params: int
    passes: tuple[int, ...]
    flops_core: int
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
        stack, rest = _split(part.path, spec)
        passed |= {stack} if rest[0] == "layers" else set()
        above = stack in passed or (not stack and bool(passed - {"tower"}))
        name, note = _called(rest, spec[stack] if stack in ("encoder", "tower") else spec, spec, part)
        key = (f"{_PREFIXES.get((stack, rest[-1]), stack)} {name}".strip(), note)
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


def stacks(spec: Fields) -> list[Fields]:
    """The towers of a resolved spec: the encoder, if there is one, and the model's own."""
    return [stack for stack in (spec.get("encoder"), spec) if stack]


def blocks(stack: Fields) -> list[Fields]:
    """Every distinct block of a stack; the stack itself when its layers are all alike."""
    groups = stack.get("groups")
    return [block for group in groups for block in group["blocks"]] if groups else [stack]


def _split(path: str, spec: Fields) -> tuple[str, list[str]]:
    first, *rest = path.split(".")
    stacks = [*(("encoder", "decoder") if spec.get("encoder") else ()), *(("tower",) if spec.get("tower") else ())]
    if rest and first in stacks:
        return first, rest
    return "", [first, *rest]


def _rank(rest: list[str], above: bool) -> int:
    if rest[-1].endswith("_norm"):
        return _NORMS
    if rest[0] == "layers":
        return _LAYERS
    return _TOP if above else _INPUTS


def _called(rest: list[str], stack: Fields, spec: Fields, part: Component) -> tuple[str, str]:
    """What people call a component, and what is special about it."""
    last = rest[-1]
    block = _block(rest, stack)
    shared = "shared" if part.copies < part.calls and rest[0] == "layers" and part.params else ""
    if last.endswith("_norm"):
        return NAMES.get(stack["norm"]["kind"], "norm"), ""
    if rest[0] == "deepstack":
        return rest[0], ""
    if last == "head":
        head = spec["head"]
        return NAMES.get(head["kind"], "head"), ("tied" if head.get("tied") else "")
    if last == "attention":
        attention = block["attention"]
        kind = "attention" if attention["kind"] == "standard" else NAMES[attention["kind"]]
        return kind + _reach(attention), shared
    if last == "recurrent":
        return RECURRENT[block["recurrent"]["kind"]], shared
    if last == "feed_forward":
        return NAMES["moe" if block["feed_forward"]["kind"] == "moe" else last], shared
    return NAMES.get(last, last.replace("_", " ")), shared


def _reach(attention: Fields) -> str:
    for limit in ("window", "chunk"):
        if attention.get(limit):
            return f" ({limit} {units.exact(attention[limit])})"
    return ""


def _block(rest: Iterable[str], stack: Fields) -> Fields:
    """The block that a path such as layers.0.1.attention leads to."""
    _, *where = rest
    if stack.get("groups") and len(where) > 2:
        group, block = int(where[0]), int(where[1])
        found: Fields = stack["groups"][group]["blocks"][block]
        return found
    return stack
