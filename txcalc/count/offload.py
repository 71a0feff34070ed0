"""Weights in two memories: a card's, and the CPU's for some layers or experts, as llama.cpp places them.

Its src/llama-model.cpp: the input layer (``token_embd`` and what is added to it) is always in the CPU's memory, and a
tied head is a copy of it; of the layers the first ones go to the CPU, and the head behind them stays on the card
(``i_gpu_start = n_layer + 1 - n_gpu_layers``); before, it went with any of them. ``--cpu-moe`` and ``--n-cpu-moe``
(common/arg.cpp) put routed experts there, of all layers or of the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from txcalc.count import gguf
from txcalc.count.weights import by_layer, stored
from txcalc.spec.errors import SpecError, shown
from txcalc.spec.facts import layer_order
from txcalc.spec.ggml import MIXES

if TYPE_CHECKING:
    from txcalc.spec.model import Model
    from txcalc.trace.record import Trace


class Offload(NamedTuple):
    """Weights in the CPU's memory: the first ``layers``, the routed experts of the first ``experts`` layers, and the
    ``head``.
    """

    layers: int = 0
    experts: int = 0
    head: bool = False


class Part(NamedTuple):
    """Weights of one operation in one layer, or outside of layers. ``on_card``: in which memory."""

    path: str
    layer: int | None
    bytes: int
    on_card: bool


def offload(text: str, model: Model) -> Offload:
    """``layers:N``, ``experts`` or ``experts:N``: N layers from the first on. Raises ``SpecError`` for anything else,
    for more layers than there are, and for experts that there are none of."""
    found = re.fullmatch(r"(layers|experts)(?::(\d{1,9}))?", text)
    if found is None or (found[1] == "layers" and found[2] is None):
        raise SpecError(f"must be layers:N, experts or experts:N, got {shown(text)}", field="offload")
    blocks = [block for _, block in layer_order(model)]
    number = len(blocks) if found[2] is None else int(found[2])
    if number > len(blocks):
        raise SpecError(f"{model.name} has {len(blocks)} layers, and {number:,} of them cannot go to the CPU",
                        field="offload")
    routed = any(block.feed_forward is not None and block.feed_forward.kind == "moe" for block in blocks)
    if found[1] == "experts" and not routed:
        raise SpecError(f"{model.name} has no routed experts; layers:N puts layers into the CPU's memory",
                        field="offload")
    return Offload(layers=number) if found[1] == "layers" else Offload(experts=number)


def placed(trace: Trace, given: Offload, *, cuda: bool = False) -> Iterator[Part]:
    """All weights, each where it is; a tied token table in both memories. ``cuda``: in the buffers of such a card."""
    own = stored(trace).packing
    pads = gguf.padding(trace, own.method) if cuda and own is not None and own.method in MIXES else {}
    for part in _placed(trace, given):
        yield part._replace(bytes=part.bytes + part.on_card * pads.get((part.path, part.layer), 0))


def _placed(trace: Trace, given: Offload) -> Iterator[Part]:
    ops = {op.path: op for op in trace.ops}
    head = trace.model.head
    for (path, layer), size in by_layer(trace).items():
        op = ops[path]
        if layer is not None:
            away = layer < given.layers or (bool(op.within.experts) and layer < given.experts)
            yield Part(path, layer, size, not away)
            continue
        before = op.kind.group == "embedding" or path == "embedding_norm"
        yield Part(path, None, size, not before and not given.head)
        if op.part == "tokens" and head.kind == "lm" and head.tied and not given.head:
            yield Part(path, None, size, on_card=True)
