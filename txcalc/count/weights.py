"""Bytes of the stored weights: every weight in the workload's dtype, or as the checkpoint's quantization packs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from txcalc.count.params import params
from txcalc.spec.errors import SpecError
from txcalc.trace.record import Number, Op, Trace
from txcalc.trace.workload import BYTES

if TYPE_CHECKING:
    from txcalc.spec.quantization import Mixed, Quantization


def weight_bytes(trace: Trace) -> Number:
    """Bytes of all weights, scales and zero points included; a tied weight once."""
    width = BYTES[trace.workload.dtype]
    whole = params(trace) * width
    quantization = trace.quantization
    if quantization is None:
        return whole
    return whole + sum(
        count * (stored_bytes(rows, columns, quantization, width, sizes) - rows * columns * width)
        for count, rows, columns, sizes in _matrices(trace, quantization)
    )


def certainty(trace: Trace) -> Literal["exact", "estimate"]:
    """Whether the bytes are those of the file to the last one."""
    return "exact" if trace.quantization is None or trace.quantization.exact else "estimate"


def quantized_params(trace: Trace) -> Number:
    """Weights that are stored as codes of a few bits."""
    if trace.quantization is None:
        return 0
    return sum(count * rows * columns for count, rows, columns, _ in _matrices(trace, trace.quantization))


def stored_bytes(
    rows: Number, columns: Number, spec: Quantization, dtype_bytes: int, sizes: Quantization | Mixed | None = None
) -> Number:
    """Bytes of one (rows, columns) matrix with all that belongs to it. ``sizes``: those of its own, if it has any."""
    sizes = sizes or spec
    if spec.flat:
        rows, columns = 1, rows * columns
    blocks = _blocks(rows, spec.rows) * (groups := _blocks(columns, sizes.group))
    scale = dtype_bytes if sizes.scale_bytes is None else sizes.scale_bytes
    total = rows * _packed(columns, sizes.bits, spec.word_bits) + columns * spec.input_bytes + spec.matrix_bytes
    total += blocks * scale * (2 if sizes.offsets else 1)
    if spec.scale_group is not None:
        total += 4 * _blocks(blocks, spec.scale_group)
    if spec.zero_points:
        total += groups * _packed(_blocks(rows, spec.rows), sizes.bits, spec.word_bits)
    return total


def _packed(codes: Number, bits: int, word_bits: int) -> Number:
    return _ceil(codes * bits, word_bits) * word_bits // 8


def _blocks(length: Number, size: Number | None) -> Number:
    return 1 if size is None else _ceil(length, size)


def _ceil(a: Number, b: Number) -> Number:
    return -(-a // b)


def _matrices(trace: Trace, spec: Quantization) -> Iterator[tuple[Number, Number, Number, Quantization | Mixed]]:
    """``(how many, outputs, inputs, what has its sizes)`` of every matrix stored quantized, fused ones joined."""
    found = {op.path: op for op in trace.ops if _taken(op, spec)}
    _check_named(found, spec)
    for path, op in found.items():
        if path != _first(path, found, spec):
            continue
        present = [found[other].weights[0][1] for other in _together(path, spec) if other in found]
        rows, columns = sum(rows for rows, _ in present), present[0][1]
        mixed = [(group.matrices[path], group) for group in spec.mixed if path in group.matrices]
        yield from ((count, rows, columns, group) for count, group in mixed)
        rest = op.copies - spec.left.get(path, 0) - sum(count for count, _ in mixed)
        yield rest * _fills(columns, spec), rows, columns, spec


def _check_named(found: dict[str, Op], spec: Quantization) -> None:
    """Raise ``SpecError`` where the spec names more matrices than there are, or gives them groups that do not fit."""
    named = Counter(spec.left)
    for group in spec.mixed:
        named.update(group.matrices)
        for path in group.matrices.keys() & found.keys():
            columns = found[path].weights[0][1][1]
            if spec.weights == "all" and group.group and isinstance(columns, int) and columns % group.group:
                raise SpecError(f"{path} has {columns:,} inputs, which are no whole groups of {group.group:,}",
                                field="quantization.mixed")
    for path, count in named.items():
        first = _first(path, found, spec)
        if first != path:
            raise SpecError(f"names {path}, which is stored with {first}: name that one",
                            field="quantization.left" if path in spec.left else "quantization.mixed")
        there = found[path].copies if path in found else 0
        if isinstance(there, int) and count > there:
            raise SpecError(f"names {count:,} matrices {path}, and the model has {there:,} that could be packed",
                            field="quantization.left" if path in spec.left else "quantization.mixed")


def _fills(columns: Number, spec: Quantization) -> Number:
    """1 or 0: whether a row is packed, which for ``weights: all`` takes whole groups."""
    if spec.weights != "all" or spec.group is None:
        return 1
    return 1 + columns // spec.group - _ceil(columns, spec.group)


def _together(path: str, spec: Quantization) -> list[str]:
    """The paths of the matrices that are stored as one with this one, in their order."""
    prefix, dot, name = path.rpartition(".")
    group = next((group for group in spec.fused if name in group), (name,)) if prefix else (name,)
    return [f"{prefix}{dot}{other}" for other in group]


def _first(path: str, found: dict[str, Op], spec: Quantization) -> str:
    """The one of them under whose path they are counted."""
    return next((other for other in _together(path, spec) if other in found), path)


def _taken(op: Op, spec: Quantization) -> bool:
    """Whether an operation's weight is a matrix of the kind that is quantized."""
    if not op.weights or op.weights[0][0] != "weight" or len(op.weights[0][1]) != 2:
        return False
    if spec.weights == "all":
        return op.kind in ("linear", "head", "router", "embedding")
    if op.kind == "head":
        return spec.head
    if op.kind != "linear":
        return False
    parts = op.path.split(".")
    return {"experts": "experts" in parts, "layers": "layers" in parts, "linear": True}[spec.weights]
