"""Rules in words and their sources, one for each kind of operation and layer: weights, products, caches, kept tensors.

The rules change nothing: they say in words what the programs do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from txcalc.trace.kinds import Keeps
from txcalc.trace.record import Op
from txcalc.trace.tensors import Role, Tensor


def why_kept(op: Op, tensor: Tensor) -> Keeps:
    """The rule by which this operation keeps this tensor."""
    kind, beside = op.kind, tensor.role in (Role.STATISTIC, Role.FLOAT32)
    found = kind.statistics if beside and kind.statistics is not None else kind.keeps
    assert found is not None, op.path
    return found


class Basis(NamedTuple):
    """The rule by which a kind of operation is counted, and its source."""

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
    "merging": Basis("merging of patches: columns of a square × columns made", "arXiv 2103.14030, section 3.1"),
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
    "mix": Basis(
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
    """Rules by which the weights of these operations were counted, once each."""
    return _each(_WEIGHTS, (key for op in ops if op.weights for key in (op.layer, op.kind.group)))


def costs(ops: Iterable[Op], *, backward: bool) -> list[Basis]:
    """Rules by which the FLOPs of these operations were counted, once each."""
    found = [op for op in ops if not (isinstance(op.flops, int) and op.flops == 0)]
    kinds = {key for op in found for key in (op.kind.group, op.kind.name, op.layer)}
    return _each(_FLOPS, kinds) + (_each(_BACKWARD, kinds) if backward else [])


def caches(ops: Iterable[Op]) -> list[Basis]:
    """Rules by which the cache of these operations was counted, once each."""
    held = (op.cache for op in ops if op.cache is not None)
    return _each(_CACHE, (cache.layout if cache.layout in _CACHE else cache.kind for cache in held))


def _each(rules: dict[str, Basis], keys: Iterable[str]) -> list[Basis]:
    wanted = set(keys)
    return [rule for key, rule in rules.items() if key in wanted]
