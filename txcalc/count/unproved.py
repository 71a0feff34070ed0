"""Runs whose live bytes no measurement has followed yet: they are refused."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final, get_args

from txcalc.count.optimizers import order
from txcalc.spec.base import Gelu
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import is_causal, located_blocks, projects_by_experts, unpatched, unread
from txcalc.spec.projections import AttentionGroups, DenseGroups, UnusedProjections
from txcalc.spec.words import form
from txcalc.trace.implementations import TRANSFORMERS, features
from txcalc.trace.layout import FOLDED, WHOLE
from txcalc.trace.rank import RECEIVED
from txcalc.trace.record import Trace, joined
from txcalc.trace.tensors import Role

if TYPE_CHECKING:
    from txcalc.spec.model import Model

INPUTS: Final = frozenset({"token ids", "pixels", "frames", "targets", "given positions", RECEIVED})
"""Labels of tensors that are there before a step."""
_UNRECORDED: Final = "txcalc count knows its weights, cache and FLOPs, but the tensors that"
_CELLS: Final = ("rnn", "lstm", "gru")
Rows = tuple[tuple[str, Callable[[Any], bool]], ...]

MODELS: Final[Rows] = (
    ("several projectors", lambda spec: spec.tower is not None and bool(spec.tower.deepstack or spec.tower.unused)),
    ("attention to an encoder that is not there", lambda spec: spec.unread_memory is not None),
    ("a pooler whose vector nothing reads", lambda spec: spec.pooler is not None and unread(spec.head)),
    ("newlines between an image's positions", lambda spec: bool(
        _projector(spec, "separators") or _projector(spec, "newlines"))),
    ("layers behind a resampler", lambda spec: bool(_projector(spec, "behind"))),
    ("a tower without layers, or patches that are normed", lambda spec: spec.tower is not None and (
        not spec.tower.layers or getattr(spec.tower.input, "normed", False))),
    ("a second tower", lambda spec: spec.tower is not None and spec.tower.second is not None),
    ("layers of patches before they are merged", lambda spec: bool(_projector(spec, "patchwise"))),
    ("a softmax in a projector", lambda spec: any(layer.softmax or layer.padding for layer in _projector(
        spec, "hidden") or ())),
    ("a norm after a projector", lambda spec: bool(_projector(spec, "final_norm"))),
    ("a projector that hands on class tokens", lambda spec: bool(_projector(spec, "unpatched"))),
    ("an encoder of images", lambda spec: spec.encoder is not None and spec.encoder.input.kind == "patches"),
    ("queries that read a tower", lambda spec: spec.tower is not None and spec.tower.resampler is not None),
    ("a tower of sounds", lambda spec: spec.tower is not None and spec.tower.input.kind == "frames"),
    ("rows of neighbours side by side", lambda spec: spec.embedding_span > 1),
    ("rows of a head beside a table's", lambda spec: getattr(spec.head, "widened", False)),
    ("distances of every sequence", lambda spec: getattr(spec.position, "of_sequences", False)),
    ("vectors of segments or masked tokens", lambda spec: getattr(spec.position, "segments", False) or (
        spec.input.kind == "tokens" and spec.input.mask_token)),
    ("patches that overlap", lambda spec: any(
        s is not None and getattr(s.input, "kernel", None) for s in (spec, spec.encoder, spec.tower))),
    ("positions of distances along the sides of images", lambda spec: any(
        s is not None and s.position.kind in ("decomposed", "continuous") for s in (spec, spec.encoder, spec.tower))),
    ("a norm of embeddings without weights", lambda spec: spec.embedding_norm and not spec.embedding_norm_scale),
    ("an autoencoder of images", lambda spec: spec.autoencoder is not None),
    ("alternating updates", lambda spec: spec.altup is not None),
    ("weights that no run has work for", lambda spec: bool(spec.idle)),
    ("entities that are not there", lambda spec: spec.entities is not None),
    ("residual streams, or scaled", lambda spec: any(s is not None and (s.streams is not None or s.residual_scale)
                                                     for s in (spec, spec.encoder, spec.tower))),
    ("several heads", lambda spec: getattr(spec.head, "copies", 1) > 1),
    ("keys that layers share where several layers make their own", lambda spec: _any(spec, _shares) and sum(
        b.attention is not None and not _shares(b) for b in _blocks(spec)) > 1),
)
LAYERS: Final[Rows] = (
    ("experts of queries", projects_by_experts),
    ("keys that are sums of others", lambda b: getattr(b.attention, "kind", "") == "compressed"),
    ("one head alone", lambda b: getattr(b.attention, "heads", 0) == 1),
    ("a first state as all that is read of an encoder", lambda b: _is_cell(b) and b.recurrent.initial is not None
     and b.recurrent.attends is None and b.cross_attention is None),
    ("keys projected twice", lambda b: getattr(b.cross_attention, "twice", False)),
    ("a convolution over an image", lambda b: bool(getattr(b.recurrent, "image", False))),
    ("a merging of patches", lambda b: getattr(b.recurrent, "kind", "") == "patch-merging"),
    ("convolutions over an image", lambda b: getattr(b.recurrent, "kind", "") == "image-convolutions"),
    ("windows with a border", lambda b: getattr(b.attention, "window_border", False)),
    ("convolutions before queries, keys and values", lambda b: getattr(
        b.attention, "image_convolution", None) is not None),
    ("keys of fewer positions", lambda b: getattr(b.attention, "image_reduction", None) is not None),
    ("additive attention", lambda b: getattr(b.recurrent, "kind", "") == "additive-attention"),
    ("a Fourier transform", lambda b: getattr(b.recurrent, "kind", "") == "fourier"),
    ("an adapter of languages", lambda b: b.adapter is not None),
    ("projections for what is not there", lambda b: getattr(b.attention, "unused", None) not in (
        None, UnusedProjections())),
    ("projections in groups of columns", lambda b: getattr(b.attention, "column_groups", None) not in (
        None, AttentionGroups()) or getattr(b.feed_forward, "column_groups", None) not in (None, DenseGroups())),
    ("gates of sublayers", lambda b: b.tanh_gates),
    ("a block that layers share", lambda b: b.shared_block is not None),
    ("a bottleneck", lambda b: b.bottleneck is not None),
    ("a norm that only scales and shifts", lambda b: b.norm.kind == "affine"),
    ("a convolution of spans", lambda b: getattr(b.attention, "span_convolution", None) is not None),
    ("attention block by block", lambda b: getattr(b.attention, "blocks", None) is not None),
    ("attention by angles", lambda b: getattr(b.attention, "similarity", "softmax") != "softmax"),
    ("a convolution of values", lambda b: getattr(b.attention, "value_convolution", None) is not None),
    ("gated norms", lambda b: b.norm.gate_rank is not None),
    ("a gate of query latents", lambda b: getattr(b.attention, "joint", False)),
    ("differential attention", lambda b: getattr(b.attention, "differential", False)),
    ("streams that predict ahead", lambda b: getattr(b.attention, "ahead", None) is not None),
    ("scores of values", lambda b: getattr(b.attention, "kept_keys", None) is not None),
    ("chosen blocks of keys", lambda b: getattr(b.attention, "kind", "") == "standard"
     and b.attention.indexer is not None),
    ("a mix with the token before", lambda b: getattr(b.feed_forward, "channel_mix", False)),
    ("a cell and attention of one input", lambda b: b.residual == "mixers"),
)
_EIGHT: Final = frozenset().union(*(TRANSFORMERS[name].has for name in ("qwen3", "olmo2", "gpt2")), {
    "attention.window", "position.dim", "norm.placement sandwich", "norm.placement post", "residual parallel",
    "embedding_norm"}) - {f"gelu {each}" for each in get_args(Gelu)}
FLOAT8: Final[tuple[tuple[str, Callable[[Trace], bool]], ...]] = (
    ("frozen weights", lambda t: t.frozen is not None),
    ("weights that ranks share", lambda t: t.layout != WHOLE),
    ("layers recomputed in part", lambda t: t.workload.recompute not in (None, "none", "full")),
    ("a loss in chunks, compiled or fused", lambda t: t.workload.loss not in (None, "plain", "fp32")),
    ("attention of single operations in plain PyTorch", lambda t: t.workload.implementation == "torch" and (
        t.workload.attention != "flash" or any(kernel != "flash" for kernel, _ in t.kernels))),
    ("joined matrices", lambda t: t.code.qkv != "apart" and t.code.linear != "columns"),
    ("such a model", lambda t: not features(t.model) <= _EIGHT | (
        TRANSFORMERS["mixtral"].has if t.workload.implementation == "transformers" else frozenset())),
)
AUTOCAST: Final[Rows] = (
    ("a cell", lambda b: _is_cell(b)),
)
GENERATION: Final[Rows] = (
    ("a cell", lambda b: _is_cell(b)),
    ("shared keys", lambda b: _shares(b)),
    ("latents of a window", lambda b: getattr(b.attention, "kind", "") == "mla" and b.attention.window is not None),
)
IMAGES: Final[tuple[tuple[str, Callable[[Model, int], bool]], ...]] = (
    ("a pooler before a projector", lambda spec, _: spec.tower is not None and spec.tower.pooler is not None),
    ("class tokens that a first layer with a gate, a bias or a norm leaves out", lambda spec, images: (
        images > 1 and spec.tower is not None and spec.tower.input.kind == "patches"
        and unpatched(spec.tower.input) > 0 and not _bare(spec))),
)
PADDED: Final[Rows] = (
    ("a recurrence or a convolution", lambda b: bool(b.recurrent or b.convolution)),
    ("keys that an indexer chooses", lambda b: getattr(b.attention, "indexer", None) is not None),
)
BEAMS: Final[tuple[tuple[str, Callable[[Trace], bool]], ...]] = (
    ("windows that are full", lambda t: _any(t.model, lambda b: (getattr(b.attention, "window", None) or inf) <= (
        t.workload.past + t.workload.seq))),
    ("a static cache", lambda t: t.workload.room is not None),
    ("several new tokens of a step", lambda t: t.workload.phase == "decode" and t.workload.seq > 1),
)
OTHERS: Final[Rows] = (
    ("a gate of attention's output", lambda b: getattr(b.attention, "output_gate", False)),
    ("values narrower or wider than keys",
     lambda b: getattr(b.attention, "kind", "") == "standard" and b.attention.value_dim not in (
         None, b.attention.head_dim)),
)
"""Parts of models, of their layers, of layers under autocast, of layers that generate, of prompts, and of layers that
generate in other code than plain PyTorch's, whose records are complete, but that no test has followed yet."""


UNSPLIT: Final[tuple[tuple[str, Callable[[Trace], bool]], ...]] = (
    ("transformers' code", lambda t: t.workload.implementation == "transformers"),
    ("a loss in chunks, compiled or fused", lambda t: t.workload.loss not in (None, "plain", "fp32")),
)
SPLIT: Final[tuple[tuple[str, Callable[[Trace], bool]], ...]] = (
    ("a pass that generates", lambda t: not t.workload.keeps),
    ("autocast", lambda t: t.workload.precision == "amp"),
    ("frozen weights", lambda t: t.frozen is not None),
    ("an encoder or a tower beside the decoder", lambda t: bool(t.model.encoder or t.model.tower)),
    ("an encoder", lambda t: not is_causal(t.model) or bool(t.model.token_types)),
    ("no head over the vocabulary", lambda t: t.model.head.kind != "lm" or bool(
        t.model.pooler or t.model.head.transform or t.model.head.maxout or t.model.head.pair_labels)),
    ("further embeddings", lambda t: bool(t.model.embedding_dim or t.model.per_layer_embedding)),
    ("such positions", lambda t: t.model.position.kind not in ("none", "learned", "rope")),
    ("such layers", lambda t: any(b.recurrent or getattr(b.attention, "kind", "") != "standard" or b.convolution
                                  or getattr(b.feed_forward, "kind", "") != "dense" for b in _blocks(t.model))),
    ("sinks, gates or keys that layers share", lambda t: _any(t.model, lambda b: any(
        getattr(b.attention, name, False) for name in ("sinks", "output_gate", "kv_shared")))),
    ("key heads with copies", lambda t: _any(
        t.whole, lambda b: getattr(b.attention, "kv_heads", t.layout.tp) < t.layout.tp)),
    ("layers recomputed by a policy", lambda t: form(t.workload.recompute or "") == "ops"),
    ("stages of a pipeline", lambda t: t.layout.pp > 1),
    ("weights that ZeRO shares", lambda t: t.layout.alike > 1 and t.layout.zero > 0),
    ("several micro-batches of one step", lambda t: (t.workload.accumulate or 1) > 1),
)
"""Parts not split yet of a rank that has a part of a model's tensors, and what is, but no test has followed."""


def unmeasured(trace: Trace) -> str:
    """Parts of a rank's live bytes that no test has followed, though all of them are proved singly, or nothing."""
    found = [f"{name} parallelism of {what}" for axis, name in (("tp", "tensor"), ("cp", "context"))
             for what, has in SPLIT if getattr(trace.layout, axis) > 1 and has(trace)]
    ring = trace.layout.cp > trace.layout.by_head
    found += ["a table of positions that a ring looks up"] * (ring and trace.model.position.kind == "learned")
    found += [f"{trace.workload.implementation}'s code but for its totals"] * trace.code.totals_only
    in_turn = trace.workload.phase == "training" and order(trace.workload) != "any"
    found += ["weights updated one after another in the order of transformers' classes"] * (
        in_turn and trace.workload.implementation == "transformers")
    found += ["expert parallelism"] * (trace.layout.ep > 1)
    found += ["ALiBi in an encoder and its decoder"] * (
        trace.whole.encoder is not None and trace.whole.encoder.position.kind == "alibi")
    found += ["a pipeline whose gradients are shared"] * (
        trace.layout.pp > 1 and trace.layout.alike > 1 and trace.layout.zero > 1)
    found += ["a pipeline that generates"] * (trace.layout.pp > 1 and not trace.workload.keeps)
    found += ["a pipeline of transformers' code, an encoder or a tower"] * (trace.layout.pp > 1 and (
        trace.workload.implementation == "transformers" or not is_causal(trace.whole) or bool(trace.whole.tower)))
    halves = trace.layout.pp > 1 and trace.layout.order in ("zb", *FOLDED)
    source = trace.whole.encoder if trace.layout.pp > 1 else None
    found += ["a pipeline of such an encoder and its decoder, or that shards weights, or runs layers once more under "
              "autocast"] * (source is not None and (
                  source.input.kind != "tokens" or bool(source.projection) or trace.layout.shards > 0 or (
                      trace.workload.precision == "amp" and trace.workload.recompute not in (None, "selective"))))
    found += ["backward passes in halves"] * halves
    return next(iter(found), "")


def check(trace: Trace) -> None:
    """Raise ``SpecError`` where the live bytes of a run are not proved."""
    if why := unproved(trace):
        raise SpecError(f"no peak and no live bytes: {why}")


def unproved(trace: Trace) -> str:
    """The reason why the live bytes of a run are not proved, or nothing; of one on symbols that on ints tells."""
    if trace.model is None or trace.sizes:
        return ""
    spec, generates = trace.model, not trace.workload.keeps
    found = [f"{name} parallelism of {what}" for axis, name in (("tp", "tensor"), ("cp", "context"))
             for what, has in UNSPLIT if getattr(trace.layout, axis) > 1 and has(trace)]
    found += [f"sharding of {trace.workload.weights} weights"] * bool(trace.workload.weights and trace.layout.shards)
    piped = trace.layout.pp > 1 and trace.layout.shards > 0
    fsdp = trace.layout.fsdp if piped else None
    found += ["a pipeline whose weights are gathered for each micro-batch"
              + " (--fsdp reshard=no would do)" * (not fsdp.offload)] * (fsdp.reshard is not False) if fsdp else []
    found += ["a pipeline of sharded weights that goes back in halves (--schedule 1f1b would do)"] * (
        piped and trace.layout.order in ("zb", *FOLDED))
    found += [what for what, has in MODELS if has(spec)] + [what for what, has in LAYERS if _any(spec, has)]
    if trace.workload.precision == "float8":
        found += [f"float8 with {what}" for what, has in FLOAT8 if has(trace)]
    if trace.workload.precision == "amp":
        found += [f"autocast over {what}" for what, has in AUTOCAST if _any(spec, has)]
        own = trace.workload.implementation == "transformers" and trace.frozen is not None
        found += ["autocast over frozen latents, or norms in fp32, in transformers' code"] * (own and (
            (trace.code.rms_norm == "wide" and trace.workload.adapter is None)
            or _any(spec, lambda b: getattr(b.attention, "kind", "") == "mla")))
        found += ["autocast over a bias and a fused loss"] * (
            trace.workload.loss == "fused" and getattr(spec.head, "bias", False))
    if generates:
        found += [f"generation with {what}" for what, has in GENERATION if _any(spec, has)]
        found += [f"generation with {what} in the code of {trace.workload.implementation}" for what, has in OTHERS
                  if trace.workload.implementation != "torch" and _any(spec, has)]
        found += ["prompts of unequal lengths of an encoder"] * bool(trace.workload.padded and spec.encoder and (
            trace.workload.implementation != "torch"))
        found += [f"prompts of unequal lengths of {what}" for what, has in PADDED
                  if trace.workload.padded and trace.workload.implementation == "torch" and _any(spec, has)]
        found += [f"beam search over {what}" for what, has in BEAMS if trace.workload.beams and has(trace)]
        found += [f"a prompt with images and {what}" for what, has in IMAGES
                  if trace.workload.images and spec.tower is not None and has(spec, trace.workload.images)]
        found += ["a pass of transformers' classes with one head, without a loss,"] * (
            trace.workload.implementation == "transformers" and spec.head.kind == "classifier"
            and spec.input.kind == "tokens")
        found += ["generation with cached inputs"] * (getattr(spec.position, "cached", "") == "inputs")
    if trace.workload.absorbs and _any(spec, lambda b: getattr(b.attention, "kind", "") == "mla"):
        found += ["a backward pass of absorbed latents"] * (not generates)
        found += [f"absorbed latents in the code of {trace.workload.implementation}"] * (
            trace.workload.implementation != "torch")
    if trace.workload.recompute and _any(spec, _is_cell):
        found.append("a cell that is recomputed")
    if trace.workload.recompute not in (None, "full", "ops") and trace.workload.implementation == "transformers":
        found.append(f"--recompute {trace.workload.recompute} in the code of {trace.workload.implementation}")
    if trace.workload.offload and any(op.kind.name == "recomputation" and len(op.saves) > 1 for op in trace.ops):
        found.append("offloading what several layers are given")
    return f"{found[0]} is not proved yet" if found else _incomplete(trace)


def _incomplete(trace: Trace) -> str:
    written = {x.storage.id for op in trace.ops for x in op.writes} | set(joined(trace.body))
    for op in trace.ops:
        given = {x.storage.id for x in (*op.reads, *op.saves)} - written
        if given and not given <= {x.storage.id for x in (*op.reads, *op.saves)
                                   if x.label in INPUTS or x.role is Role.PARAMETER}:
            return f"{_UNRECORDED} {op.path} reads are not recorded"
        idle = op.writes or op.kind.cached or op.kind.name == "recomputation"
        if not idle and (op.reads or op.saves or (op.weights and op.products)):
            return f"{_UNRECORDED} {op.path} writes are not recorded"
    return ""


def _projector(spec: Model, name: str) -> Any:
    return getattr(spec.tower and spec.tower.projector, name, None)


def _bare(spec: Model) -> bool:
    """True where the first layer of a projector is one product and no more."""
    hidden = _projector(spec, "hidden")
    first = hidden[0] if hidden else spec.tower and spec.tower.projector
    return _projector(spec, "norm") is None and not getattr(first, "bias", False) and not (
        getattr(first, "gated", False) or getattr(first, "norm", None))


def _blocks(spec: Model) -> list[Any]:
    return [block for stack in (spec, spec.encoder) if stack is not None for _, block in located_blocks(stack)]


def _any(spec: Model, has: Callable[[Any], bool]) -> bool:
    return any(map(has, _blocks(spec)))


def _is_cell(block: Any) -> bool:
    return getattr(block.recurrent, "kind", "") in _CELLS


def _shares(block: Any) -> bool:
    return bool(getattr(block.attention, "kv_shared", False))
