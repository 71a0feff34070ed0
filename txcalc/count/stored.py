"""Bytes of the weights as the tensors of a model's own file have them: the header's sum, to the last byte."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from txcalc.spec.errors import SpecError
from txcalc.spec.facts import embedding_width, layer_order
from txcalc.trace.record import Op, Trace

if TYPE_CHECKING:
    from txcalc.spec.quantization import StoredTensors

Sizes = Mapping[tuple[str, int | None], int]
"""Bytes by an operation's path and the number of its layer, None outside of layers."""


def sizes(trace: Trace, file: StoredTensors) -> Sizes:
    """Bytes of every operation's weights in each layer.

    Tensors that are of no operation by their names count with those of their layer that have none, by size.
    """
    params = _params(trace)
    order = [path for path, _ in layer_order(trace.model)]
    found: Counter[tuple[str, int | None]] = Counter()
    rest: Counter[int | None] = Counter()
    named = [((f"{order[i]}.{path}", i), each[i if len(each) > 1 else 0])
             for path, each in file.layers.items() for i in range(len(order))]
    for (path, layer), size in (*named, *(((path, None), size) for path, size in file.outside.items())):
        if (path, layer) in params:
            found[path, layer] += size
        else:
            rest[layer] += size
    for layer, size in rest.items():
        inside = [key for key in params if key[1] == layer or not file.layers]
        _spread(size, [key for key in inside if key not in found] or inside[:1] or [*params][:1], params, found)
    return found


def _spread(
    size: int, keys: list[tuple[str, int | None]], params: Mapping[tuple[str, int | None], int],
    found: Counter[tuple[str, int | None]],
) -> None:
    whole = sum(params[key] for key in keys)
    shares = {key: size * params[key] // whole for key in keys}
    found.update(shares)
    found[keys[0]] += size - sum(shares.values())


def _params(trace: Trace) -> dict[tuple[str, int | None], int]:
    """Weights of every operation, adapters aside, in each layer."""
    found: Counter[tuple[str, int | None]] = Counter()
    for op, layer, copies in in_layers(trace):
        if op.kind.name != "adapter":
            found[op.path, layer] += op.params * copies
    return found


def in_layers(trace: Trace) -> Iterator[tuple[Op, int | None, int]]:
    """Every operation with weights, in each layer of the main stack or outside of it, and its copies there."""
    layers: dict[str, list[int | None]] = {}
    for i, (path, _) in enumerate(layer_order(trace.model)):
        layers.setdefault(path, []).append(i)
    found: dict[str, tuple[Op, int]] = {}
    for op, often in trace.placed:
        if op.weights:
            first, copies = found.get(op.path, (op, 0))
            found[op.path] = first, copies + often.copies
    for op, copies in found.values():
        among = layers.get(op.within.layer, [None])
        for i, layer in enumerate(among):
            yield op, layer, (copies + i) // len(among)  # of shared weights the last layer has the one copy


def check(trace: Trace, file: StoredTensors) -> None:
    """Raise ``SpecError`` for other weights than the model has; a tied token table may stand there twice."""
    model = trace.model
    own = sum(op.params * often.copies for op, often in trace.placed if op.kind.name != "adapter")
    if not isinstance(own, int):  # on symbols
        return
    tied = model.head.kind == "lm" and model.head.tied and model.vocab is not None
    twice = own + (model.vocab or 0) * embedding_width(model) if tied else own
    if file.elements not in (None, own, twice):
        raise SpecError(f"{model.name}: its file holds {file.elements:,} weights, and the model that it describes has "
                        f"{own:,}: not understood; stored=null leaves its tensors out")
