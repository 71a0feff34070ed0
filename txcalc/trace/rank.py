"""The model of one rank: a smaller spec, which the same programs run.

Tensor parallelism (arXiv 1909.08053) splits heads, feed-forward widths and rows of the token table; where it has more
ranks than there are key heads, each has a copy of one. Norms, latents, routers and the width of hidden states stay
whole. Pipelines split layers, an encoder's before its decoder's, on stages of their own (Megatron-LM's split rank). A
tower is split as the stack is, as Megatron-LM does it, if its sizes allow it, else every rank has all of it; it stands
on the first stage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from txcalc.spec.errors import SpecError
from txcalc.spec.facts import (
    ahead,
    embedding_width,
    global_tokens,
    layer_order,
    located_blocks,
    projects_by_experts,
    shares_keys,
)
from txcalc.spec.inputs import NoHead
from txcalc.trace.layout import Layout, divides, either, nearest, shares

if TYPE_CHECKING:
    from txcalc.spec.layers import AnyAttention
    from txcalc.spec.model import Group, Model, Stack, Sublayers
    from txcalc.trace.record import Trace
    from txcalc.trace.tensors import Number
    from txcalc.trace.workload import Workload


RECEIVED: Final = "hidden states of the stage before"


class Sizes(NamedTuple):
    """A size of a block that ranks split, and by which axis. ``copies``: parts may be on several ranks each."""

    what: str
    size: int
    axis: str = "tp"
    copies: bool = False


def sizes(block: Sublayers) -> Iterator[Sizes]:
    """The sizes of a block that ranks split."""
    attentions: tuple[AnyAttention | None, ...] = block.attention, block.cross_attention
    for each in attentions:
        if each is None:
            continue
        yield Sizes("heads", each.heads)
        if each.kind == "standard":
            yield Sizes("key heads", each.kv_heads, copies=True)
    if (r := block.recurrent) is not None:
        for what, name in RECURRENT.get(r.kind, {}).items():
            yield Sizes(what, getattr(r, name), copies=name == "groups")
    if (f := block.feed_forward) is not None and f.kind == "dense":
        yield Sizes("columns of d_ff", f.d_ff)
    elif f is not None and f.kind == "moe":
        yield Sizes("experts", f.experts, "ep")
        yield Sizes("columns of an expert's d_ff", f.d_ff, "experts_tp")
        if f.shared_d_ff is not None:
            yield Sizes("columns of the shared experts' d_ff", f.shared_d_ff)


RECURRENT: Final[dict[str, dict[str, str]]] = {
    "mamba2": {"recurrent heads": "heads", "groups": "groups"}, "mamba": {"channels": "inner"},
    "gated-delta": {"recurrent key heads": "key_heads", "recurrent value heads": "value_heads"},
    "lightning": {"recurrent heads": "heads"}, "kimi-delta": {"recurrent heads": "heads"}, "short-convolution": {},
}
"""Sizes of recurrent layers that ranks split, in words, and their fields."""

WHOLE: Final[tuple[tuple[str, Callable[[Any], bool]], ...]] = (
    ("a norm over all queries or keys", lambda b: getattr(getattr(b.attention, "qk_norm", None), "over", "") == "full"),
    ("a norm before an output projection", lambda b: any(
        getattr(each, "inner_norm", None) is not None for each in (b.attention, b.feed_forward))),
    ("a cell, convolution or merging of patches",
     lambda b: b.recurrent is not None and b.recurrent.kind not in RECURRENT),
    ("a block that layers share", lambda b: b.shared_block is not None),
    ("gated norms", lambda b: b.norm.gate_rank is not None),
    ("a gate of query latents", lambda b: getattr(b.attention, "joint", False)),
    ("differential attention", lambda b: getattr(b.attention, "differential", False)),
    ("scores of values", lambda b: getattr(b.attention, "kept_keys", None) is not None),
    ("chosen blocks of keys", lambda b: getattr(b.attention, "kind", "") == "standard"
     and b.attention.indexer is not None),
    ("a gate of all columns", lambda b: getattr(b.feed_forward, "channel_mix", False)),
    ("experts with norms of their own", lambda b: getattr(b.feed_forward, "separate_norms", False)),
    ("experts that read a latent", lambda b: getattr(b.feed_forward, "latent", None) is not None),
)
"""Parts that read columns of all ranks, so that tensor parallelism is refused, and the blocks that have them."""


_STAGES: Final = {"pp": "stages"}
_PARTS: Final = {"cp": "ranks that split each sequence"}
TOGETHER: Final[tuple[tuple[str, Callable[[Any], bool], dict[str, str]], ...]] = (
    ("an encoder beside its decoder", lambda m: m.encoder is not None, _PARTS),
    ("an encoder or a decoder with a cell", lambda m: m.encoder is not None and any(
        b.recurrent for s in (m, m.encoder) for _, b in located_blocks(s)), _STAGES),
    ("layers that read the keys of others", shares_keys, _STAGES | _PARTS),
    ("embeddings that every layer reads", lambda m: m.per_layer_embedding is not None, _STAGES | _PARTS),
    ("images that are compared with texts", lambda m: m.head.kind == "contrastive", _STAGES),
    ("layers that share their weights", lambda m: m.share_layers or any(
        b.shared_block for _, b in located_blocks(m)), _STAGES),
    ("images or sound", lambda m: m.tower is not None or m.input.kind != "tokens", _PARTS),
    ("a vector of the whole sequence", lambda m: m.pooler is not None or m.head.kind not in ("lm", "none"), _PARTS),
    ("such positions", lambda m: m.position.kind not in ("none", "learned", "sinusoidal", "rope"), _PARTS),
    ("experts of queries", lambda m: any(projects_by_experts(b) for _, b in located_blocks(m)),
     {"tp": "ranks", "ep": "ranks", **_PARTS}),
    ("recurrent layers or convolutions", lambda m: any(
        b.recurrent or b.convolution or getattr(b.feed_forward, "channel_mix", False)
        for _, b in located_blocks(m)), _PARTS),
    ("attention by neighbours, angles or values", lambda m: any(
        getattr(b.attention, name, None) not in (None, "softmax") for _, b in located_blocks(m)
        for name in ("blocks", "span_convolution", "similarity", "kept_keys")), _PARTS),
    ("streams that predict ahead", lambda m: bool(ahead(m)), {"tp": "ranks", **_STAGES, **_PARTS}),
    ("global tokens", lambda m: any(s is not None and global_tokens(s) for s in (m, m.encoder)), _STAGES),
    ("differential attention", lambda m: any(
        getattr(b.attention, "differential", False) for _, b in located_blocks(m)), _PARTS),
    ("residual streams", lambda m: m.streams is not None or m.altup is not None, {"tp": "ranks", **_STAGES, **_PARTS}),
    ("bottlenecks", lambda m: any(b.bottleneck is not None for _, b in located_blocks(m)), {"tp": "ranks", **_PARTS}),
    ("a head beside the token table", lambda m: getattr(m.head, "widened", False), {"tp": "ranks"}),
    ("sinks", lambda m: any(getattr(b.attention, "sinks", False) for _, b in located_blocks(m)), _PARTS),
    ("keys that are sums of others", lambda m: any(
        getattr(b.attention, "kind", "") == "compressed" for _, b in located_blocks(m)), {"tp": "ranks", **_PARTS}),
    ("an indexer", lambda m: any(
        getattr(b.attention, "indexer", None) is not None for _, b in located_blocks(m)), _PARTS),
)
"""Parts of models that read more than a rank has, so that an axis is refused, and the models that have them."""


def local(spec: Model, layout: Layout, stages: Sequence[int] = (0,), share: int = 0) -> Model:
    """The model of a rank that has these ``stages`` of a pipeline, and of rows that do not divide this ``share``, of
    which the first is the largest.

    Raises ``SpecError`` for sizes that do not divide.
    """
    if layout.world == 1:
        return spec
    check(spec, layout)
    if layout.pp > 1:
        spec = staged(spec, layout, stages)
    if layout.tp == layout.experts_tp == 1:
        return spec
    parts: dict[str, Any] = {"encoder": spec.encoder and _stack(spec.encoder, layout)}
    for name in ("vocab", "source_vocab"):
        parts[name] = getattr(spec, name) and [*shares(getattr(spec, name), layout.tp)][share]
    if spec.tower is not None and _divides(spec.tower, layout):
        parts["tower"] = _stack(spec.tower, layout)
    found: Model = _stack(spec.replaced(**parts), layout)
    return found


def check(spec: Model, layout: Layout) -> None:
    """Raise ``SpecError`` where a layout does not split this model, with the nearest one that does."""
    stacks: list[Stack] = [stack for stack in (spec, spec.encoder) if stack is not None]
    blocks = [block for stack in stacks for _, block in located_blocks(stack)]
    for name, axis in (("tp", "tp"), ("etp", "experts_tp"), ("ep", "ep")):
        ranks, found = getattr(layout, axis), [each for b in blocks for each in sizes(b) if each.axis == axis]
        _check_sizes(spec.name, "tp" if name == "etp" and layout.etp is None else name, ranks, found)
    routed = any(getattr(b.feed_forward, "kind", "") == "moe" for b in blocks)
    if not routed and (layout.ep > 1 or layout.etp is not None):
        raise SpecError(f"{spec.name} has no experts", field="ep" if layout.ep > 1 else "etp")
    convolves = any(b.recurrent is not None and b.recurrent.kind == "short-convolution" for b in blocks)
    if convolves and spec.d_model % layout.tp:
        _check_sizes(spec.name, "tp", layout.tp, [Sizes("channels", spec.d_model)])
    for name, there, what in (
        ("sp", layout.sp and any(stack.input.kind != "tokens" for stack in stacks), "images and sound by position"),
        ("sp", layout.sp and spec.per_layer_embedding is not None, "embeddings of every layer by position"),
        ("tp", layout.tp > 1 and spec.extra_tokens > 0, "a token table with rows beside the vocabulary"),
    ):
        if there:
            raise SpecError(f"{what}: not built yet", field=name)
    for what, has in WHOLE if layout.tp > 1 else ():
        if any(map(has, blocks)):
            raise SpecError(f"{spec.name} has {what}, which is not built over several ranks", field="tp")
    if layout.pp > 1 and layout.stages > (most := layers(spec)):
        raise SpecError(f"{layout.stages} stages of {most} layers: at most {most} would do", field="pp")
    if layout.per_rank > 1 and spec.encoder is not None:
        raise SpecError(f"{spec.name} has an encoder beside its decoder, whose ranks have one stage each; 1f1b, gpipe "
                        "or zb would do", field="schedule")
    for what, has, axes in TOGETHER:
        for axis, over in axes.items():
            if getattr(layout, axis) > 1 and has(spec):
                raise SpecError(f"{spec.name} has {what}, which is not built over several {over}", field=axis)
    _check_sizes(spec.name, "cp", layout.by_head, [
        Sizes(each.what + " of a tp rank" * (layout.tp > 1), max(1, each.size // layout.tp))
        for b in blocks for each in sizes(b) if "heads" in each.what])


def _check_sizes(name: str, field: str, ranks: int, found: Sequence[Sizes]) -> None:
    def works(n: int) -> bool:
        return all(divides(n, each.size) if each.copies else each.size % n == 0 for each in found)

    for each in found:
        if not (divides(ranks, each.size) if each.copies else each.size % ranks == 0):
            raise SpecError(f"{ranks} ranks cannot share the {each.size:,} {each.what} of {name} evenly; "
                            f"{either(nearest(ranks, works))}", field=field)


def _divides(stack: Stack, layout: Layout) -> bool:
    return all(divides(getattr(layout, each.axis), each.size) if each.copies else
               each.size % getattr(layout, each.axis) == 0
               for _, block in located_blocks(stack) for each in sizes(block))


def _stack(stack: Any, layout: Layout) -> Any:
    """A stack, or a whole model, with each rank's part of all its blocks."""
    if stack.groups is None:
        return _block(stack, layout)
    return stack.replaced(groups=tuple(
        group.replaced(blocks=tuple(_block(block, layout) for block in group.blocks)) for group in stack.groups))


def _block(block: Any, layout: Layout) -> Any:
    tp, parts = layout.tp, dict[str, Any]()
    for name in ("attention", "cross_attention"):
        if (a := getattr(block, name)) is not None:
            kv = {"kv_heads": max(1, a.kv_heads // tp)} if a.kind == "standard" else {}
            parts[name] = a.replaced(heads=a.heads // tp, **kv)
    if (r := block.recurrent) is not None:
        parts["recurrent"] = r.replaced(**{
            name: max(1, getattr(r, name) // tp) for name in RECURRENT.get(r.kind, {}).values()})
    if (f := block.feed_forward) is not None and f.kind == "dense":
        parts["feed_forward"] = f.replaced(d_ff=f.d_ff // tp)
    elif f is not None:
        shared = {} if f.shared_d_ff is None else {"shared_d_ff": f.shared_d_ff // tp}
        parts["feed_forward"] = f.replaced(d_ff=f.d_ff // layout.experts_tp, **shared)
    return block.replaced(**parts)


# ---------------------------------------------------------------- stages


def stage_bounds(layers: int, stages: int) -> list[tuple[int, int]]:
    """The first layer of every stage and the one after its last: as many in each, one more in the first ones."""
    each, more = divmod(layers, stages)
    starts = [stage * each + min(stage, more) for stage in range(stages + 1)]
    return list(pairwise(starts))


def layers(spec: Model) -> int:
    """All layers that stages share: an encoder's, and those of the stack."""
    return spec.layers + (0 if spec.encoder is None else spec.encoder.layers)


def encoder_stages(spec: Model, stages: int) -> int:
    """The first of these ``stages``, which have an encoder's layers and no others: their part of all layers, half a
    stage rounded down, with a layer or more on every stage. None of a single stage, which has all."""
    if spec.encoder is None or stages == 1:
        return 0
    own, every = spec.encoder.layers, layers(spec)
    return max(1, stages - spec.layers, min(own, stages - 1, (2 * stages * own + every - 1) // (2 * every)))


def heaviest(spec: Model, workload: Workload, layout: Layout, made: Callable[..., Trace]) -> Trace:
    """The run of the rank of a pipeline with the most weights, of equal ones the last. ``made``: traces a rank."""
    if spec.encoder is not None or spec.position.kind in ("transformer-xl", "relative"):  # each has some of these
        forward = workload.replaced(layout=layout, phase="forward")
        each = [(_weights(made(spec, forward, rank=rank)), rank) for rank in range(layout.pp)]
        return made(spec, workload, rank=max(each)[1])
    whole = workload.replaced(layout=layout.replaced(pp=1), phase="forward")
    if spec.groups is not None or spec.tower is not None or layout.per_rank > 1 or spec.layers % layout.pp:
        return made(spec, workload, rank=_heaviest(made(spec, whole), layout))
    bare = spec.replaced(layers=0)  # all ranks have as many like layers, so the rest decides
    t, first = made(bare, whole), _weights(made(bare.replaced(**_WITHOUT_END), whole))
    ends = _weights(t) + _table(t)
    return made(spec, workload, rank=0 if 2 * first > ends else layout.pp - 1)


def _table(t: Trace) -> Number:
    """Weights of a table that the last stage has as well, for its head."""
    return t.model.vocab * embedding_width(t.model) if t.model.head.kind == "lm" and t.model.head.tied else 0


def _weights(t: Trace) -> Number:
    return sum(op.params * often.copies for op, often in t.placed)


def _heaviest(t: Trace, layout: Layout) -> int:
    """That rank; ``t``: all layers on one rank."""
    paths = [path for path, _ in layer_order(t.model)]
    often_there = Counter(paths)
    own, ends, seen = dict.fromkeys(often_there, 0), [0, 0], False
    for op, often in t.placed:
        if op.within.layer in own:
            own[op.within.layer] += op.params * often.copies
            seen = True
        else:
            ends[seen] += op.params * often.copies
    ends[1] += _table(t)
    each = {path: weights // often_there[path] for path, weights in own.items()}
    sums = [sum(each[path] for path in paths[start:end]) for start, end in stage_bounds(len(paths), layout.stages)]
    sums[0], sums[-1] = sums[0] + ends[0], sums[-1] + ends[1]
    return max(range(layout.pp), key=lambda rank: (sum(sums[stage] for stage in layout.stages_of(rank)), rank))


def staged(spec: Model, layout: Layout, stages: Sequence[int]) -> Model:
    """The layers of stages: what reads inputs is on the first, norm and head are on the last, whose table is its own.

    Raises ``SpecError`` for a stage that there is not.
    """
    if not all(0 <= stage < layout.stages for stage in stages):
        raise SpecError(f"there are {layout.stages} stages, from 0 on, and not {stages}", field="pp")
    first = encoder_stages(spec, layout.stages)
    parts = _layers(spec, stage_bounds(spec.layers, layout.stages - first), [s - first for s in stages if s >= first])
    if spec.encoder is not None:
        own: dict[str, Any] = _layers(spec.encoder, stage_bounds(spec.encoder.layers, first), [
            s for s in stages if s < first])
        if first - 1 not in stages:
            own |= {"final_norm": False, "pooler": None}
        parts["encoder"] = spec.encoder.replaced(**own)
    if 0 not in stages:
        parts["tower"] = None
    if spec.head.kind == "lm" and first < layout.stages - 1:
        parts["head"] = spec.head.replaced(tied=False)
    if layout.stages - 1 not in stages:
        parts |= _WITHOUT_END
    return spec.replaced(**parts)


_WITHOUT_END: Final[dict[str, Any]] = {
    "final_norm": False, "pooler": None, "contact_head": False, "head": NoHead.checked({"kind": "none"}), "idle": (),
    "autoencoder": None, "entities": None}
"""Fields of a model whose last stage is another rank's."""


def _layers(stack: Stack, bounds: Sequence[tuple[int, int]], stages: Sequence[int]) -> dict[str, Any]:
    """The fields that say which layers of a stack are on its ``stages``."""
    own = [bounds[stage] for stage in stages]
    groups = stack.groups and tuple(group for start, end in own for group in _cut(stack.groups, start, end))
    return {"layers": sum(end - start for start, end in own), "groups": groups}


def _cut(groups: Sequence[Group], start: int, end: int) -> Iterator[Group]:
    """The groups that the layers from ``start`` to ``end`` stand in, with so many turns as are whole; turns of which
    only a part is here are groups of their own."""
    at = 0
    for group in groups:
        turn = sum(block.repeat for block in group.blocks)
        first, last = max(start - at, 0), min(end - at, group.repeat * turn)
        at += group.repeat * turn
        if first >= last:
            continue
        whole = -(-first // turn), last // turn
        if whole[0] > whole[1]:
            yield _part(group, first, last, turn)
            continue
        if first % turn:
            yield _part(group, first, whole[0] * turn, turn)
        if whole[1] > whole[0]:
            yield group.replaced(repeat=whole[1] - whole[0])
        if last % turn:
            yield _part(group, whole[1] * turn, last, turn)


def _part(group: Group, first: int, last: int, turn: int) -> Group:
    """One turn's layers from ``first`` to ``last``."""
    start, end, at, blocks = first % turn, (last - 1) % turn + 1, 0, []
    for block in group.blocks:
        left, right = max(start, at), min(end, at + block.repeat)
        at += block.repeat
        if left < right:
            blocks.append(block.replaced(repeat=right - left))
    return group.replaced(repeat=1, blocks=tuple(blocks))
