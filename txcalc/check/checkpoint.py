"""A count against a checkpoint: what the header of a safetensors or GGUF file says there is. No torch, no weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import Final

from txcalc.answer.validation import Row
from txcalc.count.params import params
from txcalc.count.weights import weight_bytes
from txcalc.models.header import Checkpoint
from txcalc.spec.facts import embedding_width
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import BYTES, DType, Workload

_WIDTHS: Final[dict[str, DType]] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_SHOWN: Final = 8


def compare_checkpoint(spec: Model, dtype: DType | None, checkpoint: Checkpoint) -> tuple[Row, ...]:
    """Parameters and bytes of ``spec`` against those that a checkpoint holds.

    ``dtype`` is the one that weights are counted in; None takes the file's own. Buffers are left out, and a tied
    table that the file holds more than once counts once; a row says so. No row for parameters where the header does
    not tell them (packed weights, an index alone), none for bytes of a GGUF file, whose mix of types is its own.
    """
    known = dtype or _own_dtype(spec, checkpoint)
    t = trace(spec, Workload(seq=1, source_seq=None if spec.encoder is None else 1, dtype=known))
    rows = []
    if checkpoint.parameters is not None:
        rows.append(_parameters(spec, t, checkpoint))
    if checkpoint.kind != "gguf":
        rows.append(_bytes(spec, t, checkpoint))
    return tuple(rows)


def _own_dtype(spec: Model, checkpoint: Checkpoint) -> DType:
    """The float type of most elements; of an index alone, the width that comes nearest to its size."""
    elements: Counter[str] = Counter()
    for tensor in checkpoint.stored.values():
        elements[tensor.dtype] += tensor.elements
    for name, _ in elements.most_common():
        if name in _WIDTHS:
            return _WIDTHS[name]
    wide = params(trace(spec, Workload(seq=1, source_seq=None if spec.encoder is None else 1))) * 3
    return "fp32" if spec.quantization is None and checkpoint.bytes > wide else "bf16"


def _parameters(spec: Model, t: Trace, checkpoint: Checkpoint) -> Row:
    counted, measured = params(t), checkpoint.parameters
    assert measured is not None
    extra, notes = _copies(spec, t, checkpoint, measured - counted)
    return _row("parameters", counted, measured - extra, [*notes, *_buffers(checkpoint)], t, checkpoint)


def _bytes(spec: Model, t: Trace, checkpoint: Checkpoint) -> Row:
    counted = weight_bytes(t)
    measured = checkpoint.bytes - sum(tensor.bytes for tensor in checkpoint.buffers.values())
    width = BYTES[t.workload.dtype]
    extra, notes = _copies(spec, t, checkpoint, (measured - counted) // width)
    notes = [t.workload.dtype, *notes, *_buffers(checkpoint)]
    if checkpoint.stated is not None and checkpoint.stated != checkpoint.bytes:
        notes.append(f"the index says {checkpoint.stated:,}")
    return _row("weight bytes", counted, measured - extra * width, notes, t, checkpoint)


def _row(quantity: str, counted: int, measured: int, notes: list[str], t: Trace, checkpoint: Checkpoint) -> Row:
    return Row.of(quantity, counted, measured, "; ".join([checkpoint.kind, *notes]),
                  () if counted == measured else _strangers(t, checkpoint))


def _copies(spec: Model, t: Trace, checkpoint: Checkpoint, excess: int) -> tuple[int, list[str]]:
    """Elements of tables that the file holds more often than the model has them, if they are all of the excess."""
    if spec.vocab is None:
        return 0, []
    shape = (spec.vocab, embedding_width(spec))
    size = shape[0] * shape[1]
    copies = excess // size
    own = sum(often.copies for op, often in t.placed for _, other in op.weights if other == shape)
    there = sum(tensor.shape == shape for tensor in checkpoint.stored.values())
    if excess % size or not 0 < copies <= 3 or (checkpoint.stored and there - own != copies):
        return 0, []
    times = "once more" if copies == 1 else f"{copies} times more"
    return excess, [f"the tied token table of {size:,} is stored {times}"]


def _buffers(checkpoint: Checkpoint) -> list[str]:
    buffers = checkpoint.buffers
    total = sum(tensor.elements for tensor in buffers.values())
    return [f"{len(buffers):,} buffers of {total:,} elements left out"] if buffers else []


def _strangers(t: Trace, checkpoint: Checkpoint) -> Iterator[str]:
    """Tensors of a size that nothing in the model has, a few of them, and which types there are."""
    sizes = {prod(shape) for op in t.ops for _, shape in op.weights}
    strange = [(name, tensor) for name, tensor in checkpoint.stored.items()
               if tensor.elements not in sizes and name not in checkpoint.buffers]
    yield from (f"only in the file: {name} {tensor.shape} {tensor.dtype}" for name, tensor in strange[:_SHOWN])
    if len(strange) > _SHOWN:
        yield f"and {len(strange) - _SHOWN:,} more tensors of sizes that the model does not have"
    types = Counter(tensor.dtype for tensor in checkpoint.stored.values())
    if len(types) > 1:
        yield "types in the file: " + ", ".join(f"{count:,} {name}" for name, count in types.most_common())
