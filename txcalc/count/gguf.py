"""GGUF: a model's tensors, each of the type that ``llama-quantize`` gives it.

The rules are those of llama.cpp's src/llama-quant.cpp (``tensor_allows_quantization``, ``llama_tensor_get_type``,
``tensor_type_fallback``) at ``txcalc.spec.ggml.READ_AT``; what stays fp32 is what ``convert_hf_to_gguf.py`` writes so.
Checked against llama.cpp's own tests/snapshots, and files whose sizes are published. The file's header is left out.
An importance matrix is taken for mixes that are made only with one. A tower stands in a file of its own, in F16 unless
its maker chose otherwise: an estimate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from txcalc.count.stored import Sizes, in_layers
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import layer_order, located_blocks
from txcalc.spec.ggml import MIXES, NAMED
from txcalc.trace.record import Op, Part, Trace

if TYPE_CHECKING:
    from txcalc.spec.model import Model, Sublayers

_FALLBACK: Final = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "TQ1_0": "Q4_0", "TQ2_0": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
}
_WHEN: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "all": lambda at, among: True,
    "first 2": lambda at, among: at < 2,
    "first 4": lambda at, among: at < 4,
    "first 8th": lambda at, among: at < among // 8,
    "first 16th": lambda at, among: at < among // 16,
    # The first and last eighth of the layers, and every third between.
    "more": lambda at, among: at < among // 8 or at >= 7 * among // 8 or (at - among // 8) % 3 == 2,
}
_LEAST: Final = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs")
_LOW: Final = (*_LEAST, "iq2_s", "iq2_m")
"""Mixes with rules of their own."""

Rules = Mapping[str, tuple[tuple[str, str], ...]]


def _same(kind: str, *mixes: str, when: str = "all") -> Rules:
    return dict.fromkeys(mixes, ((when, kind),))


_DOWN: Final[Rules] = {
    **_same("Q5_K", "iq4_nl", "iq4_xs", when="first 8th"), **_same("Q4_K", "q2_k_s", "iq3_m", when="first 8th"),
    **_same("Q2_K", *_LEAST, when="first 8th"), **_same("IQ3_S", "iq2_s", "iq2_m", when="first 8th"),
    **_same("Q3_K", "q2_k"), "q3_k_m": (("first 16th", "Q5_K"), ("all", "Q4_K")), **_same("Q5_K", "q3_k_l"),
    **_same("Q5_K", "q4_k_s", when="first 8th"), **_same("Q6_K", "q4_k_m", "q5_k_m", when="more"),
}
_RULES: Final[Mapping[str, Rules]] = {
    "tokens": {**_same("Q2_K", *_LEAST), **_same("IQ3_S", "iq2_s", "iq2_m", "iq3_xxs"),
               **_same("Q4_K", "tq1_0", "tq2_0")},
    "q": _same("IQ2_S", "iq3_xxs"),
    "k": _same("IQ2_S", "iq3_xxs"),
    "v": {
        **_same("Q3_K", "q2_k"), "q3_k_m": (("first 2", "Q5_K"), ("all", "Q4_K")), **_same("Q5_K", "q3_k_l"),
        **_same("Q5_K", "q4_k_s", when="first 4"), **_same("Q6_K", "q4_k_m", "q5_k_m", when="more"),
        **_same("Q4_K", "iq3_m"), **_same("Q2_K", *_LEAST), **_same("IQ3_S", "iq2_s", "iq2_m"),
    },
    "v of few": {**_same("Q4_K", "q2_k", "q2_k_s", "iq3_xxs", "iq3_s", *_LOW), **_same("Q5_K", "iq4_nl", "iq4_xs")},
    "attention output": {
        **_same("Q3_K", "q2_k"), **_same("Q4_K", "q3_k_m", "iq3_m"), **_same("Q5_K", "q3_k_l"),
        **_same("IQ3_S", "iq3_xxs", "iq2_s", "iq2_m"), **_same("IQ2_XXS", "iq1_s", "iq1_m"),
    },
    "attention output of eight experts": _same(
        "Q5_K", "q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m", "iq3_xxs", "iq3_s", "iq3_m", "iq4_nl", "iq4_xs", *_LOW),
    "attention output of falcon": _same("Q4_K", "q3_k_l"),
    "down": _DOWN,
    "down of eight experts": {**_DOWN, "iq3_m": (("first 8th", "Q4_K"), ("more", "Q4_K"))},
    "down of falcon": {
        **_DOWN, "q3_k_m": (("first 16th", "Q5_K"), ("more", "Q4_K"), ("all", "Q3_K")), **_same("Q4_K", "q3_k_l"),
        "q4_k_m": (("first 16th", "Q6_K"), ("more", "Q5_K"), ("all", "Q4_K")), "q4_k_s": (),
    },
}
"""By part and mix: which of its tensors have which type, the first that fits; all others have the mix's own.

``of few``: where four or more queries share a key.
"""


class Place(NamedTuple):
    """The place of a tensor among those of its part: ``at`` of ``among``, counted as the rules count."""

    at: int = 0
    among: int = 1
    nth: int = 0  # of all of its part, where a layer may have several


class Tensor(NamedTuple):
    """A tensor of the file: ``copies`` matrices of one shape (experts). ``part``: as the rules see it."""

    op: Op
    part: Part
    place: Place
    layer: int | None
    rows: int
    columns: int
    copies: int


def sizes(trace: Trace, mix: str) -> Sizes:
    """Bytes of each operation's weights in each layer. Raises ``SpecError`` for a model whose tensors are not known."""
    found: Counter[tuple[str, int | None]] = Counter()
    for tensor in tensors(trace):
        size = tensor.copies * tensor.rows * row_bytes(tensor_type(trace.model, tensor, mix), tensor.columns)
        found[tensor.op.path, tensor.layer] += size
    packed = {path for path, _ in found}
    for op, layer, copies in in_layers(trace):
        codes = prod(op.matrix) if op.matrix and (op.path in packed or op.within.tower) else 0
        found[op.path, layer] += copies * (4 * (op.params - codes) + 2 * codes * bool(op.within.tower))
    return found


def padding(trace: Trace, mix: str) -> Sizes:
    """Bytes that a CUDA card's buffers have beyond the file: the last row of every packed tensor is filled up to a
    multiple of 512 (ggml-cuda.cu: ``MATRIX_ROW_PADDING``)."""
    found: Counter[tuple[str, int | None]] = Counter()
    for tensor in tensors(trace):
        kind, over = tensor_type(trace.model, tensor, mix), tensor.columns % 512
        if over and NAMED[kind].block > 1:
            found[tensor.op.path, tensor.layer] += row_bytes(kind, 512 - over)
    return found


def tensors(trace: Trace) -> Iterator[Tensor]:
    """Every tensor that the rules give a type, layer by layer. Raises ``SpecError`` for other parts of models."""
    model = trace.model
    _check(model)
    layers: dict[str, list[tuple[Op, int]]] = {path: [] for path, _ in layer_order(model)}
    for op, often in trace.placed:
        if op.matrix and op.part in ("tokens", "output"):
            rows, columns = op.matrix
            yield Tensor(op, op.part, Place(), None, rows, columns, 1)
        elif op.matrix and op.kind.group == "linear" and op.matrix[0] != 1 and op.within.layer in layers:
            layers[op.within.layer].append((op, often.copies))
    order = list(layer_order(model))
    runs = Counter(path for path, _ in order)
    fused = any({"q", "k", "v"} <= set(group) for group in model.fused)
    parts = {path: {op.part for op, _ in each} for path, each in layers.items()}
    mixed = _experts(model) > 1
    values = sum("v" in parts[path] for path, _ in order)
    seen: Counter[str] = Counter()
    for index, (path, block) in enumerate(order):
        for op, copies in layers[path]:
            part: Part = "v" if fused and op.part in ("q", "k") else op.part
            place = Place(seen["v"], values) if part == "v" else Place(
                index if mixed else seen["down"], len(order), seen["downs"])
            seen["downs"] += part == "down"
            yield from (Tensor(op, part, place, index, *shape, copies // runs[path]) for shape in _shapes(block, op))
        seen.update(parts[path])


def tensor_type(model: Model, tensor: Tensor, mix: str) -> str:
    """The type of one tensor, or what it falls back to where its rows are not whole blocks. Raises ``SpecError``."""
    tied = model.head.kind == "lm" and model.head.tied
    wanted = _wanted(model, tensor, mix, output=tensor.part == "output" or (tied and tensor.part == "tokens"))
    if tensor.columns % NAMED[wanted].block == 0:
        return wanted
    if wanted not in _FALLBACK:
        raise SpecError(f"{wanted} packs blocks of {NAMED[wanted].block}, and {tensor.op.path} has {tensor.columns:,} "
                        "inputs, for which llama.cpp has no other type", field="weights")
    found = _FALLBACK[wanted]
    return "F16" if tensor.columns % NAMED[found].block else found


def row_bytes(name: str, columns: int) -> int:
    """Bytes of a row of a type whose blocks fill it."""
    return columns // NAMED[name].block * NAMED[name].bytes


def _wanted(model: Model, tensor: Tensor, mix: str, *, output: bool) -> str:
    base, low, experts = MIXES[mix].type, mix in _LOW, _experts(model)
    falcon, eight = model.gguf == "falcon" and not low, experts == 8
    if output:
        whole = tensor.columns % NAMED[base].block == 0 and model.gguf != "falcon"
        wide = "Q5_K" if low or mix == "iq3_xxs" else "Q6_K"
        return wide if whole and base not in ("Q8_0", "MXFP4") else "Q8_0"
    if base == "MXFP4":  # of three dimensions are experts, and what raises keys and values from a latent
        return base if tensor.copies > 1 or tensor.part == "latents" else "Q8_0"
    if eight and tensor.part in ("v", "k"):
        return "Q4_K" if low else "Q8_0"
    of = " of falcon" if falcon else " of eight experts" if eight else ""
    rules = _RULES.get(f"{tensor.part}{of}", _RULES.get(tensor.part, {}))
    if tensor.part == "v" and (_queries_per_key(model) >= 4 or (low and experts >= 4)):
        rules = {**rules, **_RULES["v of few"]}
    at = tensor.place.nth if low else tensor.place.at
    found = next((kind for when, kind in rules.get(mix, ()) if _WHEN[when](at, tensor.place.among)), base)
    # Of Llama 2's 70B, and of what has its 80 layers, values are small beside queries.
    grouped = tensor.part == "v" and model.layers == 80 and _queries_per_key(model) > 1 and _is_gated(model)
    return "Q5_K" if grouped and not low and found in ("Q3_K", "Q4_K") else found


def _shapes(block: Sublayers, op: Op) -> Iterator[tuple[int, int]]:
    """The matrices that an operation's weight is in the file: what raises keys and values from a latent is two."""
    rows, columns = op.matrix
    latent = block.attention
    if op.part != "latents" or latent is None or latent.kind != "mla":
        yield rows, columns
        return
    yield latent.heads * columns, latent.nope_dim
    yield latent.heads * latent.value_dim, columns


def _experts(model: Model) -> int:
    blocks = (block.feed_forward for _, block in located_blocks(model))
    return max((each.experts for each in blocks if each is not None and each.kind == "moe"), default=0)


def _queries_per_key(model: Model) -> int:
    first: Any = next((block.attention for _, block in layer_order(model) if block.attention is not None), None)
    return 1 if first is None else first.heads // (1 if first.kind == "mla" else first.kv_heads)


def _is_gated(model: Model) -> bool:
    return any(block.feed_forward is not None and block.feed_forward.gated for _, block in located_blocks(model))


def _check(model: Model) -> None:
    """Raise ``SpecError`` for a model whose tensors in GGUF are not known."""
    blocks = [block for _, block in located_blocks(model)]
    strange = {
        "an encoder": model.encoder is not None or model.architecture == "encoder-only",
        "no language model's head": model.head.kind != "lm",
        "embeddings of every layer": model.per_layer_embedding is not None,
        "factorised embeddings": model.embedding_dim is not None, "shared layers": model.share_layers,
        "recurrent layers": any(block.recurrent is not None for block in blocks),
        "keys that are sums of others": any(getattr(block.attention, "kind", "") == "compressed" for block in blocks),
        "an indexer": any(getattr(block.attention, "indexer", None) is not None for block in blocks),
        "cross-attention": any(block.cross_attention is not None for block in blocks),
        f"{model.position.kind} positions": model.position.kind not in ("none", "rope", "learned", "alibi"),
    }
    if found := [what for what, present in strange.items() if present]:
        raise SpecError(f"the tensors of a GGUF file are not known for a model with {found[0]}; formats of matrices "
                        "are int8, nf4, fp8 and others", field="weights")
