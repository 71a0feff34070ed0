"""Why an operation weighs, costs and keeps what it does, and where that was read or measured.

One rule for each kind of operation that the programs record, found by the operation's kind and the last name of its
path. The rules change nothing: they say in words what ``txcalc.trace.ops`` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from txcalc.trace.record import Op, Role, Tensor

_HOOKS: Final = "measured"
MEASURED: Final = "measured: on torch 2.13 with torch.autograd.graph.saved_tensors_hooks"


class Rule(NamedTuple):
    """What a kind of operation keeps: what the tensor is to it in a word, in a sentence, and the source."""

    id: str
    role: str
    keeps: str
    source: str


_LINEAR: Final = Rule("linear", "input", "a linear layer keeps its input", f"F.linear, {_HOOKS}; arXiv 2205.05198, section 4.1")
_PRODUCT: Final = Rule("matmul", "factor", "a product keeps both factors", f"torch.matmul, {_HOOKS}; arXiv 2205.05198, section 4.1")
_SOFTMAX: Final = Rule("softmax", "output", "softmax keeps its output", f"F.softmax, {_HOOKS}; arXiv 2205.05198, section 4.1")
_DROPOUT: Final = Rule("dropout", "mask", "dropout keeps its mask", f"F.dropout, {_HOOKS}; arXiv 2205.05198, section 4.1")
_NORM: Final = Rule("norm", "input", "a norm keeps its input", f"F.layer_norm or F.rms_norm, {_HOOKS}; arXiv 2205.05198, section 4.1")
_STATISTIC: Final = Rule("statistic", "statistics", "a norm keeps its rows' statistics",
                         f"F.layer_norm or F.rms_norm, {_HOOKS}; left out in arXiv 2205.05198")
_SLOPE_IN: Final = Rule("activation", "input", "gelu and silu keep their input", f"F.gelu and F.silu, {_HOOKS}; arXiv 2205.05198, section 4.1")
_SLOPE_OUT: Final = Rule("activation-output", "output", "relu, tanh and sigmoid keep their output",
                         f"F.relu, torch.tanh and torch.sigmoid, {_HOOKS}")
_MULTIPLY: Final = Rule("multiply", "factor", "a product keeps both factors", f"a * b, {_HOOKS}")
_LOOKUP: Final = Rule("embedding", "indices", "a table keeps the rows looked up", f"F.embedding, {_HOOKS}")
_FLASH: Final = Rule("flash", "kernel", "the flash kernel keeps q, k, v, its output and one number per row",
                     "arXiv 2205.14135, algorithm 1; F.scaled_dot_product_attention on CUDA")
_LOSS: Final = Rule("loss", "target", "the loss keeps log-probabilities and targets", f"F.cross_entropy, {_HOOKS}")
_ROUTER: Final = Rule("router", "choice", "routing keeps its choice", f"torch.topk, {_HOOKS}; arXiv 1701.06538, section 2.1")
_RECURRENCE: Final = Rule("recurrence", "states", "the recurrence keeps its states", "arXiv 2405.21060, section 7")
_INDEX: Final = Rule("index", "index", "an indexed copy keeps its index", f"torch.index_select, {_HOOKS}")
_SCALE: Final = Rule("scale", "input", "a learned scale keeps its input", f"x * weight, {_HOOKS}")

_BY_NAME: Final = {
    "softmax": _SOFTMAX, "router_softmax": _SOFTMAX, "dropout": _DROPOUT, "embedding_dropout": _DROPOUT,
    "permute": _INDEX, "unpermute": _INDEX, "flash": _FLASH, "product": _MULTIPLY, "combine": _MULTIPLY,
    "shared_product": _MULTIPLY, "gated": _MULTIPLY, "c2p_gather": _INDEX, "p2c_gather": _INDEX,
    "attention_scale": _SCALE, "feed_forward_scale": _SCALE,
}
_BY_KIND: Final = {
    "linear": _LINEAR, "head": _LINEAR, "embedding": _LOOKUP, "norm": _NORM, "core": _PRODUCT,
    "recurrence": _RECURRENCE, "router": _ROUTER, "loss": _LOSS, "elementwise": _SLOPE_IN,
}


def why_kept(op: Op, tensor: Tensor) -> Rule:
    """The rule by which this operation keeps this tensor."""
    if op.kind == "norm" and tensor.role in (Role.STATISTIC, Role.FLOAT32):
        return _STATISTIC
    name = op.path.rsplit(".", 1)[-1]
    if op.kind == "router" and tensor.role is not Role.INDEX:
        return _LINEAR if name.endswith("router") else _ROUTER
    if op.kind == "elementwise" and tensor.label in ("relu", "tanh", "sigmoid", "tanh of scores"):
        return _SLOPE_OUT
    return _BY_NAME.get(name) or _BY_KIND[op.kind]


class Basis(NamedTuple):
    """How many weights an operation has and what it costs, and where that was read."""

    text: str
    source: str


_WEIGHTS: Final = {
    "linear": Basis("linear layer: inputs × outputs, and one bias per output where it has one", "torch.nn.Linear"),
    "head": Basis("output head: width × vocabulary; nothing where tied to the token table", "arXiv 1608.05859"),
    "embedding": Basis("table: rows × width", "torch.nn.Embedding; arXiv 1706.03762, section 3.4"),
    "norm": Basis("norm: one scale per column, LayerNorm one shift as well", "arXiv 1607.06450, section 3; arXiv 1910.07467, section 3"),
    "router": Basis("router: width × experts", "arXiv 1701.06538, section 2.1"),
    "elementwise": Basis("bare weights: their shape", "the model's own program"),
}
_FLOPS: Final = {
    "linear": Basis("linear layer: 2 × rows × inputs × outputs", "torch.utils.flop_counter, mm; arXiv 2001.08361, table 1"),
    "head": Basis("logits: 2 × rows × width × vocabulary", "torch.utils.flop_counter, mm"),
    "router": Basis("router: 2 × rows × width × experts", "torch.utils.flop_counter, mm"),
    "core": Basis("attention core: 2 × queries × keys × width, once for scores and once for values",
                  "arXiv 1706.03762, equation 1; torch.utils.flop_counter, bmm"),
    "recurrence": Basis("recurrence: 2 × products × state per token", "arXiv 2405.21060, section 7; arXiv 2412.06464, equation 10"),
}
_BACKWARD: Final = {
    "linear": Basis("backward: as much again for the input's gradient and for the weights'", "torch.utils.flop_counter; arXiv 2001.08361, section 2.1"),
    "core": Basis("backward of the core: 2 × forward eager, 2.5 × in the flash kernel, which computes the scores again",
                  "torch.utils.flop_counter, sdpa_backward; arXiv 2205.14135, appendix B"),
}
_CACHE: Final = {
    "self": Basis("keys and values of every layer, for each token", "arXiv 1911.02150, section 3; GQA: arXiv 2305.13245"),
    "latent": Basis("one latent and one rotary key for all heads, for each token", "arXiv 2405.04434, section 2.1"),
    "cross": Basis("keys and values of the source, once for the whole generation", "arXiv 1706.03762, section 3.2.3"),
    "state": Basis("a recurrent state: the same size for any length", "arXiv 2405.21060, section 7; arXiv 2412.06464, equation 10"),
}


_LAYERS: Final = {
    "attention": Basis("attention: projections to queries, keys and values, and of the output; keys and values may have fewer heads",
                       "arXiv 1706.03762, section 3.2.2; arXiv 2305.13245"),
    "cross_attention": Basis("cross-attention: the same, with keys and values of the encoder's output", "arXiv 1706.03762, section 3.2.3"),
    "latent": Basis("latent attention: projections down to latents and up to heads", "arXiv 2405.04434, section 2.1"),
    "feed_forward": Basis("feed-forward: two projections", "arXiv 1706.03762, equation 2"),
    "gated": Basis("gated feed-forward: three projections", "arXiv 2002.05202, equation 6"),
    "recurrent": Basis("recurrence: projections in and out, and a short convolution", "arXiv 2405.21060, section 7; arXiv 2412.06464, section 3"),
}


_SPECIAL: Final = {"kv_down": "latent", "gate": "gated"}
"""Projections that only one kind of a layer has."""


def weights(ops: Iterable[Op]) -> list[Basis]:
    """How the weights of these operations were counted, once each."""
    found = [op for op in ops if op.weights]
    special = {op.component: _SPECIAL[last] for op in found if (last := op.path.rsplit(".", 1)[-1]) in _SPECIAL}
    layers = (special.get(op.component) or op.component.rsplit(".", 1)[-1] for op in found)
    return _each(_WEIGHTS | _LAYERS, [key for op, layer in zip(found, layers, strict=True) for key in (op.kind, layer)])


def costs(ops: Iterable[Op], *, backward: bool) -> list[Basis]:
    """How the FLOPs of these operations were counted, once each."""
    kinds = [op.kind for op in ops if not _zero(op.flops)]
    return _each(_FLOPS, kinds) + (_each(_BACKWARD, kinds) if backward else [])


def caches(ops: Iterable[Op]) -> list[Basis]:
    """How the cache of these operations was counted, once each."""
    found = [op for op in ops if op.cache is not None]
    latent = any(op.path.endswith("attention.kv_up") for op in ops)
    kinds = [op.cache.kind for op in found if op.cache is not None]
    return _each(_CACHE, ["latent" if kind == "self" and latent else kind for kind in kinds])


def _each(rules: dict[str, Basis], keys: Iterable[str]) -> list[Basis]:
    return [rules[key] for key in dict.fromkeys(keys) if key in rules]


def _zero(flops: object) -> bool:
    return isinstance(flops, int) and flops == 0
