"""Bytes of the stored weights: every weight in the workload's dtype, or packed as a format or the checkpoint has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from txcalc.count import gguf
from txcalc.count.entries import Entry, grouped, total
from txcalc.count.stored import Sizes as LayerSizes
from txcalc.count.stored import check as check_file
from txcalc.count.stored import in_layers
from txcalc.count.stored import sizes as sizes_in_file
from txcalc.spec.errors import SpecError
from txcalc.spec.ggml import MIXES
from txcalc.spec.quantization import StoredTensors
from txcalc.spec.weight_formats import FORMATS, RELEASED, WHOLE, Format, Layout
from txcalc.trace.record import Op, Trace
from txcalc.trace.tensors import Number
from txcalc.trace.workload import BYTES

if TYPE_CHECKING:
    from txcalc.spec.model import Model
    from txcalc.spec.quantization import Mixed, Quantization

    Packing = Quantization | Layout
    Sizes = Packing | Mixed
    Fused = tuple[tuple[str, ...], ...]
    Found = dict[str, tuple[Op, Number]]


class Stored(NamedTuple):
    """A storage format of weights: ``width`` bytes each, but for what ``packing`` packs."""

    width: int
    packing: Packing | StoredTensors | None = None


def weight_bytes(trace: Trace) -> Number:
    """Bytes of all weights, scales and zero points included; a tied weight once.

    Raises ``SpecError`` where the format cannot store one of the model's matrices, and where it is not known.
    """
    return total(entries(trace))


def is_known(trace: Trace, name: str | None = None) -> bool:
    """Tell whether it is known how the weights are stored; ``name``: in another format than the run's."""
    known = trace.model.unknown_quantization is None or trace.model.stored is not None
    return known or (name or trace.workload.weights) not in (None, RELEASED)


def own_format(model: Model) -> Quantization | None:
    """The weight format of the model's own checkpoint. None: in 16 bits."""
    return model.quantization or model.released


def stored(trace: Trace, name: str | None = None) -> Stored:
    """The weight format: as ``name`` or the workload says, else as the checkpoint does, else the dtype.

    Raises ``SpecError`` where that is not known.
    """
    if not is_known(trace, name):
        raise SpecError(f"{trace.model.name} is stored in a way that is not understood: "
                        f"{trace.model.unknown_quantization}; choose a format", field="weights")
    name, width, own = name or trace.workload.weights, BYTES[trace.workload.weight_dtype], trace.model.quantization
    file = trace.model.stored
    if file is not None:
        check_file(trace, file)
    if file is not None and (file.layers or file.outside) and name in (None, RELEASED) and file.width in (None, width):
        return Stored(width, file)
    if name == RELEASED:
        own, width = own_format(trace.model), 2
    elif name is not None:
        own = FORMATS[name].layout
    if own is not None and own.method in WHOLE:
        return Stored(WHOLE[own.method])
    return Stored(BYTES["fp32"] if own is not None and own.method in MIXES else width, own)


def certainty(trace: Trace, name: str | None = None) -> Literal["exact", "estimate"]:
    """Certainty of the bytes. ``name``: of another format than the run's."""
    name = name or trace.workload.weights
    packing = stored(trace, name).packing
    if isinstance(packing, StoredTensors):
        return "exact"
    if packing is None:  # a spec that says nothing of its release leaves open which files there are
        return "estimate" if name == RELEASED and own_format(trace.model) is None else "exact"
    loose = packing.method in FORMATS and FORMATS[packing.method].loose and packing.method == name
    routed = loose and any(op.kind.group == "router" for op in trace.ops)
    split = packing.method in MIXES and trace.model.tower is not None
    return "exact" if packing.exact and not routed and not split else "estimate"


def differs_by_layer(trace: Trace) -> bool:
    """Tell whether alike layers may take unlike bytes."""
    packing = stored(trace).packing if is_known(trace) else None
    return isinstance(packing, StoredTensors) or (packing is not None and packing.method in MIXES)


def is_packed(trace: Trace) -> bool:
    """Tell whether some weights are codes of a few bits, which nothing trains."""
    packing = stored(trace).packing if is_known(trace) else None
    return not is_known(trace) or (packing.width is None if isinstance(packing, StoredTensors) else packing is not None)


def entries(trace: Trace, name: str | None = None) -> Iterator[Entry]:
    """Bytes that each operation's weights take. Projections stored as one count with the first.

    ``name``: in another format than the run's, such as ``RELEASED``, which is 16 bits where the spec does not say.
    """
    width, packing = stored(trace, name)
    if (known := _by_layer(trace, packing)) is not None:
        totals: dict[str, int] = {}
        for (path, _), size in known.items():
            totals[path] = totals.get(path, 0) + size
        first: dict[str, Op] = {}
        for op in trace.ops:
            first.setdefault(op.path, op)
        yield from (Entry(op, "weights", totals[path], 1) for path, op in first.items() if path in totals)
        return
    assert not isinstance(packing, StoredTensors)
    packed = {} if packing is None else {op.path: (own, size) for op, own, size in packed_matrices(trace, packing)}
    copies = _copies(trace) if packed else {}
    if not packed and packing is not None and packing.weights == "experts":
        raise SpecError(f"{packing.method} packs routed experts, and {trace.model.name} has none", field="weights")
    for op, often in trace.placed:
        if op.weights and op.path not in packed:
            each = _of_adapters(trace) if op.kind.name == "adapter" else width
            yield Entry(op, "weights", op.params * each, often.copies)
        elif op.weights:
            own, size = packed[op.path]
            if not often.continued:
                yield Entry(op, "weights", (copies[op.path] * op.params - own) * width + size, 1)


def _of_adapters(trace: Trace) -> int:
    """Bytes of an adapter's element."""
    adapter = trace.workload.adapter
    return BYTES[(adapter and adapter.dtype) or "fp32"]  # type: ignore[index]


def by_layer(trace: Trace) -> LayerSizes:
    """Bytes of every operation's weights in each layer; of formats that pack some of alike layers, an even share."""
    if (known := _by_layer(trace, stored(trace).packing)) is not None:
        return known
    copies: dict[str, dict[int | None, int]] = {}
    for op, layer, count in in_layers(trace):
        own = copies.setdefault(op.path, {})
        own[layer] = own.get(layer, 0) + count
    found: dict[tuple[str, int | None], int] = {}
    for path, size in grouped(entries(trace), lambda op: op.path).items():
        left, many = int(size), sum(copies[path].values())
        for layer, count in copies[path].items():
            share = left * count // many
            found[path, layer] = share
            left, many = left - share, many - count
    return found


def _by_layer(trace: Trace, packing: Packing | StoredTensors | None) -> LayerSizes | None:
    """Bytes in each layer where alike layers may take unlike ones; None where they are alike."""
    if isinstance(packing, StoredTensors):
        width = _of_adapters(trace)
        adapters = {(op.path, layer): width * op.params * copies for op, layer, copies in in_layers(trace)
                    if op.kind.name == "adapter"}
        return {**sizes_in_file(trace, packing), **adapters}
    return gguf.sizes(trace, packing.method) if packing is not None and packing.method in MIXES else None


def stored_bytes(
    rows: Number, columns: Number, spec: Packing, dtype_bytes: int, sizes: Sizes | None = None
) -> Number:
    """Bytes of one (rows, columns) matrix with all that belongs to it. ``sizes``: those of its own, if it has any."""
    return sum(storages(rows, columns, spec, dtype_bytes, sizes))


def storages(
    rows: Number, columns: Number, spec: Packing, dtype_bytes: int, sizes: Sizes | None = None
) -> Iterator[Number]:
    """Bytes of each tensor that a (rows, columns) matrix is stored in, codes first."""
    sizes = sizes or spec
    if spec.flat:
        rows, columns = 1, rows * columns
    blocks = _blocks(rows, spec.rows) * (groups := _blocks(columns, sizes.group))
    scale = dtype_bytes if sizes.scale_bytes is None else sizes.scale_bytes
    yield rows * _words(columns, sizes.bits, spec.word_bits)
    yield columns * spec.input_bytes
    yield spec.matrix_bytes
    yield from (blocks * scale,) * (2 if sizes.offsets else 1)
    if spec.scale_group is not None:
        yield 4 * _blocks(blocks, spec.scale_group)
    if spec.zero_points:
        yield groups * _words(_blocks(rows, spec.rows), sizes.bits, spec.word_bits)


def _words(codes: Number, bits: int, word_bits: int) -> Number:
    return _blocks(codes * bits, word_bits) * word_bits // 8


def _blocks(length: Number, size: Number | None) -> Number:
    return 1 if size is None else -(-length // size)


def packed_matrices(trace: Trace, spec: Packing) -> Iterator[tuple[Op, Number, Number]]:
    """Every operation with a matrix that is packed, how many of its weights are, and the bytes that count with it.

    Projections that are stored as one count with their first.
    """
    copies = _copies(trace)
    found = {op.path: (op, copies[op.path]) for op in trace.ops if _taken(op, spec)}
    # Where rows are packed one by one, a matrix of several projections takes what they would.
    fused = () if spec.weights == "all" else trace.model.fused
    _check_named(found, spec, fused)
    for path, (op, copies) in found.items():
        first = _first(path, found, fused)
        rows, columns = op.matrix
        mixed: list[tuple[Number, Sizes]] = [
            (group.matrices[first], group) for group in spec.mixed if first in group.matrices]
        special = sum(count for count, _ in mixed)
        rest = (copies - spec.left.get(first, 0) - special) * _fills(columns, spec)
        own, size = (rest + special) * rows * columns, 0
        if path == first:
            together = [found[other][0].matrix for other in _together(path, fused) if other in found]
            rows, columns = sum(rows for rows, _ in together), together[0][1]
            _check_whole(path, rows, columns, spec)
            size = sum(count * stored_bytes(rows, columns, spec, BYTES[trace.workload.dtype], sizes)
                       for count, sizes in (*mixed, (rest, spec)))
        yield op, own, size


def _copies(trace: Trace) -> dict[str, Number]:
    """The number of matrices of every path: runs of a layer that are told apart have some of them each."""
    found: dict[str, Number] = {}
    for op, often in trace.placed:
        if op.matrix:
            found[op.path] = found.get(op.path, 0) + often.copies
    return found


def _check_whole(path: str, rows: Number, columns: Number, spec: Packing) -> None:
    """Raise ``SpecError`` for a matrix whose sizes the format's own tool refuses."""
    known: Format | None = FORMATS.get(spec.method)
    if known is None or not (isinstance(rows, int) and isinstance(columns, int)):
        return
    outputs, inputs = known.whole
    for what, length, unit in (("outputs", rows, outputs), ("inputs", columns, inputs or spec.group)):
        if unit and length % unit:
            raise SpecError(f"{spec.method} needs {what} in multiples of {unit:,}, and {path} has {length:,}",
                            field="weights")


def _check_named(found: Found, spec: Packing, fused: Fused) -> None:
    """Raise ``SpecError`` where the spec names more matrices than there are, or gives them groups that do not fit."""
    named = Counter(spec.left)
    for group in spec.mixed:
        named.update(group.matrices)
        for path in group.matrices.keys() & found.keys():
            columns = found[path][0].matrix[1]
            if spec.weights == "all" and group.group and isinstance(columns, int) and columns % group.group:
                raise SpecError(f"{path} has {columns:,} inputs, which are no whole groups of {group.group:,}",
                                field="quantization.mixed")
    for path, count in named.items():
        first = _first(path, found, fused)
        if first != path:
            raise SpecError(f"names {path}, which is stored with {first}: name that one",
                            field="quantization.left" if path in spec.left else "quantization.mixed")
        there = found[path][1] if path in found else 0
        if isinstance(there, int) and count > there:
            raise SpecError(f"names {count:,} matrices {path}, and the model has {there:,} that could be packed",
                            field="quantization.left" if path in spec.left else "quantization.mixed")


def _fills(columns: Number, spec: Packing) -> Number:
    """1 or 0: whether a row is packed, which for ``weights: all`` takes whole groups."""
    if spec.weights != "all" or spec.group is None:
        return 1
    return 1 + columns // spec.group - _blocks(columns, spec.group)


def _together(path: str, fused: Fused) -> list[str]:
    """The paths of the matrices that are stored as one with this one, in their order."""
    prefix, dot, name = path.rpartition(".")
    group = next((group for group in fused if name in group), (name,)) if prefix else (name,)
    return [f"{prefix}{dot}{other}" for other in group]


def _first(path: str, found: Found, fused: Fused) -> str:
    """The one of them under whose path they are counted."""
    return next((other for other in _together(path, fused) if other in found), path)


def _taken(op: Op, spec: Packing) -> bool:
    """Decide whether an operation's weight is a matrix of the kind that is quantized."""
    group, within = op.kind.group, op.within
    if not op.matrix or op.kind.name == "adapter":
        return False
    if spec.weights == "all":
        return group in ("linear", "head", "router", "embedding")
    if group != "linear":
        return group == "head" and spec.head
    if spec.weights == "experts":
        return bool(within.experts)
    if spec.weights == "linear":
        return spec.tower or not within.tower
    # Of a tower's layers nothing is packed into words, nor is a gate of a single output.
    return bool(within.layer) and not within.tower and op.matrix[0] != 1
