"""Weights that are not trained, and what a run then does not make and not keep.

Autograd makes a gradient of what something trained was made into, and of nothing else. With adapters, they alone are
trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from txcalc.spec.adapters import GROUPS, Adapter
from txcalc.spec.errors import SpecError, meant, shown
from txcalc.spec.facts import attentions, frozen_parts
from txcalc.spec.weight_formats import HELD
from txcalc.spec.words import form
from txcalc.trace import packed
from txcalc.trace.kinds import Name
from txcalc.trace.record import Op, Trace
from txcalc.trace.tensors import Gradient, Tensor

if TYPE_CHECKING:
    from txcalc.spec.model import Model
    from txcalc.trace.packed import Packing
    from txcalc.trace.workload import Workload


class Frozen:
    """The trained weights of a run, and the values whose gradients are wanted, as far as it has been recorded."""

    def __init__(
        self, spec: Model, workload: Workload, adapted: Callable[..., Tensor], packing: Packing | None = None, *,
        merged: bool = False,
    ) -> None:
        """``adapted``: runs a linear layer that has an adapter. ``packing``: the format of packed matrices.
        ``merged``: all experts are in one tensor."""
        self.adapted, self._merged = adapted, merged
        self._adapter, self._parts = workload.adapter, frozen_parts(spec, workload.freeze or ())
        self.field = next(name for name in ("lora", "dora", "freeze") if getattr(workload, name) is not None)
        self.packing = packing if self._adapter is not None else None  # of linear layers, but adapters
        self.held = packing is not None and packing.method in HELD
        self.linears: dict[str, set[str]] = {}  # names of linear layers, and the targets that mean them
        self.weights: set[str] = set()  # paths of weights that are not trained
        self.leaves: set[str] = set()  # paths of what a run makes to be given a gradient
        self._needs: dict[int, bool] = {}

    def adapter(self, scope: str, name: str, kind: Name, *, experts: bool = False) -> Adapter | None:
        """The adapter of the linear layer of this name in a scope (``layers.attention.``), if it has one.

        Where all ``experts`` are in one tensor, names that they share with other layers mean them alone, as in
        ``convert_peft_config_for_transformers``.
        """
        if self._adapter is None or (self._merged and not experts and name in ("gate", "up", "down")):
            return None
        inside = any(_ends(scope, f"{each}.") for each in ("attention", "cross_attention"))
        groups = {"all": kind == "linear", "attention": inside}
        hit = {each for each in self._adapter.targets if groups.get(each, _ends(scope + name, each))}
        self.linears.setdefault(name, set()).update(hit)
        if hit and self._merged and kind == "router":
            raise SpecError("targets: peft adds a product of adapters to a router's own weight, which is not counted "
                            "yet; name others, such as attention", field=self.field)
        return self._adapter if hit else None

    def over(self, scope: str, joined: Collection[str], *, experts: bool = False) -> Adapter | None:
        """The one adapter of layers joined in one matrix. Raises ``SpecError`` where some of them have none."""
        hits = {name: self.adapter(scope, name, "linear", experts=experts) for name in joined}
        found = [name for name, adapter in hits.items() if adapter]
        if found and not all(hits.values()):
            raise SpecError(f"targets: here {found[0]} is in one matrix of {', '.join(joined)}, over which peft has "
                            "one adapter: name all of them", field=self.field)
        return hits[found[0]] if found else None

    def needs(self, x: Tensor) -> bool:
        """Tell whether the gradient of ``x`` is wanted."""
        return self._needs.get(x.value, x.grad)

    def trains(self, weight: str, kind: Name) -> bool:
        """Tell whether the weight at this path is trained, of an operation of this kind."""
        if self._adapter is not None:
            return kind in ("adapter", "cast") or weight in self.leaves  # what is cast so is trained
        return weight not in self.weights and not any(_starts(weight, each) for each in self._parts)

    def wanted(self, op: Op, *, apart: bool) -> Op:
        """The operation without what is made, and kept, for gradients that nobody wants.

        A kernel with one formula for all of them keeps all that it keeps as long as one is wanted.
        """
        if op.kind.name == "recomputation":  # its arguments are held, whatever their gradients
            return op
        paths = [f"{op.path}.{name}".rstrip(".") for name, _ in op.weights]
        frozen = bool(paths) and not self.trains(paths[0], op.kind.name)
        self.weights.update(paths if frozen else ())
        steps, wanted = list[tuple[Gradient, ...]](), list[Gradient]()
        follows = any(self._wants(g, op.kind.name) for step in op.backward for g in step if g.of is not None)
        for step in reversed(op.backward):  # a temporary is for the gradient that comes next
            own = list[Gradient]()
            for g in step:
                if g.of is not None:
                    follows = self._wants(g, op.kind.name)
                    wanted += [g] if follows else []
                if follows:
                    own.append(g)
                elif op.kind.fused and g.of is not None:
                    own.append(g._replace(of=None))
            steps.insert(0, tuple(own))
        reads = tuple(x._replace(grad=self.needs(x)) for x in op.reads)
        needed = bool(wanted) if op.backward else not reads or any(x.grad for x in reads)
        writes = tuple(x._replace(grad=needed and (x.grad or (bool(wanted) and x is op.writes[0]))) for x in op.writes)
        self._needs.update((x.value, x.grad) for x in writes)
        if not needed:
            products = tuple(each._replace(backward=0, recomputed=0) for each in op.products)
            return op._replace(reads=reads, writes=writes, saves=(), products=products, backward=(), frozen=frozen)
        saves = tuple(x for x in op.saves if not apart or any(
            not (g.first and op.products) and (not isinstance(g.of, Tensor) or g.of.value != x.value) for g in wanted))
        return op._replace(reads=reads, writes=writes, saves=saves, backward=tuple(steps), frozen=frozen)

    def _wants(self, g: Gradient, kind: Name) -> bool:
        if isinstance(g.of, Tensor):
            return self.needs(g.of)
        return g.of is not None and self.trains(g.of, kind)


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _starts(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def check(t: Trace) -> None:
    """Raise ``SpecError`` where adapters or frozen parts are named that there are not, or nothing is left to train."""
    w, frozen = t.workload, t.frozen
    if frozen is None:
        return
    packing = packed.packing(t)
    given = frozen.field
    alone = w.implementation == "transformers" and w.adapter is None
    policy, scaled = form(w.recompute or "") == "ops", any(
        op.kind.name == "adapter" and op.within.experts for op in t.ops)
    unbuilt = {
        "relative positions in an encoder and a decoder of transformers": alone and t.model.encoder is not None and (
            t.model.position.kind == "relative"),
        "tables of positions or types and recomputation": alone and w.recompute is not None and (
            t.model.token_types > 0 or t.model.position.kind == "learned"),
        "DoRA and recomputation by a policy": policy and w.dora is not None,
        "adapters of experts and recomputation by a policy": policy and scaled,
        "adapters beside weights that no run has work for": bool(w.adapter and t.model.idle),
        # peft takes an indexer's q_proj and k_proj for those of attention.
        "adapters beside an indexer of blocks": w.adapter is not None and any(
            each.kind == "standard" and each.indexer is not None for each in attentions(t.model)),
        "a recurrent layer": any(op.layer in ("cell", "recurrent") for op in t.ops),
        "recomputation of such layers": w.adapter is not None and w.implementation == "torch" and (
            w.recompute in ("full", "selective") and _differs(t.model)),
        "DoRA on routed experts": w.dora is not None and scaled,
        # peft makes their transpose a parameter, which is then given a gradient.
        "DoRA with dropout on weights stored by columns": t.code.linear == "columns" and w.dora is not None and (
            w.dora.dropout > 0 and w.weight_dtype == (w.dora.dtype or "fp32")),
        f"{packing and packing.method} weights": packing is not None and (
            w.adapter is None or packing.bits != 4 or not packing.flat),
    }
    for what in (what for what, there in unbuilt.items() if there):
        raise SpecError(f"what is kept with {what} while some weights are frozen is not counted yet", field=given)
    for target in () if w.adapter is None else w.adapter.targets:
        if not any(target in hit for hit in frozen.linears.values()):
            others = _instead(target, [*frozen.linears], [*frozen.linears, *GROUPS])
            raise SpecError(f"targets: nothing is called {others}", field=given)
    weighed = [op for op in t.ops if op.weights]
    for path in w.freeze or ():
        if not any(_starts(op.path, path) for op in weighed):
            names = [op.path.split(".") for op in weighed]
            every = [".".join(each[:i]) for each in names for i in range(1, len(each) + 1)]
            others = _instead(path, every, [each[0] for each in names])
            raise SpecError(f"no weights are under {others}", field="freeze")
    parts = w.freeze or ()
    if "head" in parts and getattr(t.model.head, "tied", False) and "token_embedding" not in parts:
        raise SpecError("the head's matrix is the token table, which is frozen with it: give token_embedding as well",
                        field="freeze")
    if all(op.frozen for op in weighed):
        raise SpecError("nothing is left to train", field="freeze")


def _differs(spec: Model) -> bool:
    """Tell whether layers have weights beside their matrices and norms, which no measurement has followed so."""
    stacks = [each for each in (spec, spec.encoder, spec.tower) if each is not None]
    return spec.per_layer_embedding is not None or any(
        each.layer_scale or each.norm.placement in ("sandwich", "res-post") or each.position.kind == "transformer-xl"
        or getattr(each.feed_forward, "separate_norms", False)
        or getattr(getattr(each, "pooler", None), "kind", "") == "attention" for each in stacks)


def _instead(name: str, names: Sequence[str], some: Sequence[str]) -> str:
    """A name that there is not, and the nearest that there is, or some."""
    return f"{shown(name)}; " + meant(name, names, f"there are {', '.join(dict.fromkeys(some))}")
