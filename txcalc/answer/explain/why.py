"""Why an operation weighs, costs and keeps what it does, and where that was read or measured.

One rule for each kind of operation that the programs record, found by the operation's kind and the last name of its
path. The rules change nothing: they say in words what ``txcalc.trace.ops`` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from txcalc.trace.record import Kind, Op, Role, Tensor

MEASURED: Final = "measured: on torch 2.13 with torch.autograd.graph.saved_tensors_hooks"
_KORTHIKANTI: Final = "measured; arXiv 2205.05198, section 4.1"


class Rule(NamedTuple):
    """What a kind of operation keeps: what the tensor is to it in a word, in a sentence, and the source."""

    role: str
    keeps: str
    source: str


_LINEAR: Final = Rule("input", "a linear layer keeps its input", f"F.linear, {_KORTHIKANTI}")
_PRODUCT: Final = Rule("factor", "a matrix product keeps both factors", f"torch.matmul, {_KORTHIKANTI}")
_MULTIPLY: Final = Rule("factor", "a product keeps both factors", "a * b, measured")
_SCALE: Final = Rule("input", "a learned scale keeps its input", "x * weight, measured")
_SOFTMAX: Final = Rule("output", "softmax keeps its output", f"F.softmax, {_KORTHIKANTI}")
_DROPOUT: Final = Rule("mask", "dropout keeps its mask", f"F.dropout, {_KORTHIKANTI}")
_NORM: Final = Rule("input", "a norm keeps its input", f"F.layer_norm and F.rms_norm, {_KORTHIKANTI}")
_STATISTIC: Final = Rule(
    "statistics", "a norm keeps the statistics of every row",
    "F.layer_norm and F.rms_norm, measured; left out in arXiv 2205.05198",
)
_SLOPE_IN: Final = Rule("input", "gelu and silu keep their input", f"F.gelu and F.silu, {_KORTHIKANTI}")
_SLOPE_OUT: Final = Rule(
    "output", "relu, tanh and sigmoid keep their output", "F.relu, torch.tanh and torch.sigmoid, measured"
)
_XIELU: Final = Rule(
    "parts", "xIELU keeps its input, what its learned slopes multiply, and the slopes",
    "arXiv 2411.13010, section 4, composed of PyTorch's functions, measured",
)
_LOOKUP: Final = Rule("indices", "a table keeps the rows looked up", "F.embedding, measured")
_INDEX: Final = Rule("index", "an indexed copy keeps its index", "x[index], measured")
_FLASH: Final = Rule(
    "kernel", "the flash kernel keeps q, k, v, its output and one number per row",
    "arXiv 2205.14135, algorithm 1; F.scaled_dot_product_attention",
)
_ROUTER: Final = Rule("choice", "routing keeps its choice", "torch.topk, measured; arXiv 1701.06538, section 2.1")
_RECURRENCE: Final = Rule("states", "the recurrence keeps its states", "arXiv 2405.21060, section 7")
_SHIFT: Final = Rule("nothing", "a constant factor or addend keeps nothing", "x * c and x + c, measured")
_LOSS: Final = Rule("target", "the loss keeps log-probabilities and targets", "F.cross_entropy, measured")

_BY_NAME: Final = {
    "softmax": _SOFTMAX, "router_softmax": _SOFTMAX, "dropout": _DROPOUT, "embedding_dropout": _DROPOUT,
    "permute": _INDEX, "unpermute": _INDEX, "c2p_gather": _INDEX, "p2c_gather": _INDEX, "flash": _FLASH,
    "product": _MULTIPLY, "combine": _MULTIPLY, "shared_product": _MULTIPLY, "gated": _MULTIPLY, "gate_in": _MULTIPLY,
    "attention_scale": _SCALE, "feed_forward_scale": _SCALE, "router": _LINEAR,
    "router_scale": _SCALE, "expert_scale": _MULTIPLY,
}
_BY_KIND: Final[dict[Kind, Rule]] = {
    "linear": _LINEAR, "head": _LINEAR, "embedding": _LOOKUP, "norm": _NORM, "core": _PRODUCT,
    "recurrence": _RECURRENCE, "router": _ROUTER, "loss": _LOSS, "elementwise": _SLOPE_IN, "shift": _SHIFT,
}
_OUTPUTS: Final = ("relu", "tanh", "sigmoid", "tanh of scores")


def why_kept(op: Op, tensor: Tensor) -> Rule:
    """The rule by which this operation keeps this tensor."""
    if op.kind == "norm" and tensor.role in (Role.STATISTIC, Role.FLOAT32):
        return _STATISTIC
    if any(name == "alpha_p" for name, _ in op.weights):
        return _XIELU
    if op.kind == "elementwise" and tensor.label in _OUTPUTS:
        return _SLOPE_OUT
    return _BY_NAME.get(op.path.rsplit(".", 1)[-1]) or _BY_KIND[op.kind]


class Basis(NamedTuple):
    """How a kind of operation is counted, and where that was read."""

    text: str
    source: str


_FLOP_COUNTER: Final = "torch.utils.flop_counter"
_WEIGHTS: Final = {
    "embedding": Basis("table: rows × width", "torch.nn.Embedding; arXiv 1706.03762, section 3.4"),
    "linear": Basis("linear layer: inputs × outputs, and one bias per output where it has one", "torch.nn.Linear"),
    "attention": Basis(
        "attention: projections to queries, keys and values, and of the output; keys and values may have fewer heads",
        "arXiv 1706.03762, section 3.2.2; arXiv 2305.13245",
    ),
    "cross_attention": Basis(
        "cross-attention: the same, with keys and values of the encoder's output", "arXiv 1706.03762, section 3.2.3"
    ),
    "latent": Basis("latent attention: projections down to latents and up to heads", "arXiv 2405.04434, section 2.1"),
    "distances": Basis(
        "attention with distances: a projection of their sinusoids, and two vectors added to the queries, besides",
        "arXiv 1901.02860, section 3.3",
    ),
    "recurrent": Basis(
        "recurrence: projections in and out, and a short convolution where it has one",
        "arXiv 2405.21060, section 7; arXiv 2412.06464",
    ),
    "cell": Basis(
        "recurrent cell: gates × hidden × (input + hidden), with 1 gate (RNN), 4 (LSTM) or 3 (GRU)",
        "torch.nn.RNN, torch.nn.LSTM, torch.nn.GRU; arXiv 1406.1078, section 2.3",
    ),
    "core": Basis(
        "additive attention: projections of the state and of the source, and one vector for their scores",
        "arXiv 1409.0473, appendix A.1.2",
    ),
    "convolution": Basis("convolution: channels in × channels out × positions seen", "torch.nn.Conv1d"),
    "feed_forward": Basis("feed-forward: two projections", "arXiv 1706.03762, equation 2"),
    "gated": Basis("gated feed-forward: three projections", "arXiv 2002.05202"),
    "router": Basis("router: width × experts", "arXiv 1701.06538, section 2.1"),
    "norm": Basis(
        "norm: one scale per column, LayerNorm one shift as well", "arXiv 1607.06450, section 3; arXiv 1910.07467"
    ),
    "head": Basis("output head: width × outputs; nothing where tied to the token table", "arXiv 1608.05859"),
    "elementwise": Basis("bare weights: their shape", "the model's own program"),
}
_SPECIAL: Final = {
    ("attention", "kv_down"): "latent", ("attention", "position"): "distances",
    ("attention", "by_distance"): "by_distance", ("attention", "mix"): "index", ("feed_forward", "gate"): "gated",
    ("recurrent", "hidden"): "cell", ("recurrent", "conv"): "convolution", ("recurrent", "out_proj"): "recurrent",
}
"""Projections that only one kind of layer has; the last one found decides."""

_FLOPS: Final = {
    "linear": Basis("linear layer: 2 × rows × inputs × outputs", f"{_FLOP_COUNTER}, mm; arXiv 2001.08361, table 1"),
    "core": Basis(
        "attention core: 2 × queries × keys × width, once for scores and once for values",
        f"arXiv 1706.03762, equation 1; {_FLOP_COUNTER}, bmm",
    ),
    "by_distance": Basis(
        "attention with distances: the same once more, for the scores of queries and distances",
        "arXiv 1901.02860, section 3.3",
    ),
    "index": Basis(
        "indexer: 2 × queries × keys × its width for scores, and 2 × queries × keys × its heads to add them up",
        f"arXiv 2512.02556, equation 1; {_FLOP_COUNTER}, bmm",
    ),
    "router": Basis("router: 2 × rows × width × experts", f"{_FLOP_COUNTER}, mm"),
    "recurrence": Basis(
        "recurrence: 2 × products × state, for each token",
        "arXiv 2405.21060, section 7; arXiv 2412.06464, equation 10",
    ),
    "head": Basis("output head: 2 × rows × width × outputs", f"{_FLOP_COUNTER}, mm"),
}
_BACKWARD: Final = {
    "linear": Basis(
        "backward: as much again for the gradient of the input, and as much for that of the weights",
        f"{_FLOP_COUNTER}; arXiv 2001.08361, section 2.1",
    ),
    "core": Basis(
        "backward of the core: 2 × forward; a flash kernel computes its scores again besides, which is counted apart",
        f"{_FLOP_COUNTER}; arXiv 2205.14135, appendix B",
    ),
    "cell": Basis(
        "backward of a cell: no gradient of a first state that is zeros, nor of a last one that nothing reads",
        f"{_FLOP_COUNTER}, on a loop of steps",
    ),
}
_CACHE: Final = {
    "self": Basis(
        "keys and values of every attention layer, for each token", "arXiv 1911.02150, section 3; arXiv 2305.13245"
    ),
    "latent": Basis("one latent and one rotary key for all heads, for each token, and an indexer's key where there is "
                    "one", "arXiv 2405.04434, section 2.1; arXiv 2512.02556, section 2.1"),
    "inputs": Basis("the input of every layer, for each token", "arXiv 1901.02860, section 3.2"),
    "cross": Basis("keys and values of the source, once for all tokens", "arXiv 1706.03762, section 3.2.3"),
    "source": Basis(
        "the encoder's output and its projection, for each source token", "arXiv 1409.0473, appendix A.1.2"
    ),
    "state": Basis(
        "a recurrent state: of one size, for any length",
        "torch.nn.LSTM, h_n and c_n; arXiv 2405.21060, section 7; arXiv 2412.06464, equation 10",
    ),
}


def weights(ops: Iterable[Op]) -> list[Basis]:
    """How the weights of these operations were counted, once each."""
    found = [op for op in ops if op.weights]
    places = ((op.component, (_last(op.component), _last(op.path))) for op in found)
    special = {component: _SPECIAL[key] for component, key in places if key in _SPECIAL}
    layers = [special.get(op.component, _last(op.component)) for op in found]
    return _each(_WEIGHTS, {*layers, *(op.kind for op in found)})


def costs(ops: Iterable[Op], *, backward: bool) -> list[Basis]:
    """How the FLOPs of these operations were counted, once each."""
    found = [op for op in ops if not (isinstance(op.flops, int) and op.flops == 0)]
    kinds = {op.kind for op in found} | {_SPECIAL.get((_last(op.component), _last(op.path)), "") for op in found}
    return _each(_FLOPS, kinds) + (_each(_BACKWARD, kinds) if backward else [])


def caches(ops: Iterable[Op]) -> list[Basis]:
    """How the cache of these operations was counted, once each."""
    found = [op for op in ops if op.cache is not None]
    return _each(_CACHE, map(_held, found))


def _held(op: Op) -> str:
    assert op.cache is not None
    if op.cache.layout in _CACHE:
        return op.cache.layout
    return "source" if _last(op.path) == "source" else op.cache.kind


def _last(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _each(rules: dict[str, Basis], keys: Iterable[str]) -> list[Basis]:
    wanted = set(keys)
    return [rule for key, rule in rules.items() if key in wanted]
