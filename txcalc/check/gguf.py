"""The header of a GGUF file: github.com/ggml-org/ggml, docs/gguf.md; versions 2 and 3, little-endian."""

from __future__ import annotations

from math import prod
from typing import Final, NamedTuple

from txcalc.check.stored import Checkpoint, Reader, Stored

MAGIC: Final = b"GGUF"
MAX_TENSORS: Final = 1_000_000
MAX_FIELDS: Final = 100_000
MAX_NAME: Final = 65_535
MAX_DIMS: Final = 8
MAX_NESTING: Final = 4
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_SCALARS: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the metadata's scalar types."""


class _Type(NamedTuple):
    """A tensor type: ``bytes`` for every ``block`` elements of a row."""

    name: str
    block: int
    bytes: int


# ggml.h, enum ggml_type, and the block structs of ggml-common.h.
_TYPES: Final = {
    number: _Type(*row) for number, row in {
        0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66),
        17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18),
        21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2),
        26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
        34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
    }.items()
}


def read_gguf(reader: Reader) -> Checkpoint:
    """A file's tensors, shapes in PyTorch's order. Raises ``SpecError`` for a header that is malformed or cut off."""
    reader.skip(len(MAGIC))
    version = reader.number("I")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in (1, 2, 3)
        what = "a big-endian file" if swapped else f"GGUF version {version}"
        raise reader.fail(f"{what} is not read: only versions 2 and 3, little-endian")
    tensors, fields = reader.number("Q"), reader.number("Q")
    if tensors > MAX_TENSORS or fields > MAX_FIELDS:
        raise reader.fail(f"{tensors:,} tensors and {fields:,} fields are more than any model has")
    alignment = _alignment(reader, fields)
    found = [_tensor(reader) for _ in range(tensors)]
    start = -(-reader.file.tell() // alignment) * alignment
    stored: dict[str, Stored] = {}
    for name, tensor, offset in found:
        if name in stored:
            raise reader.fail(f"tensor {name[:60]!r} stands twice")
        if start + offset + tensor.bytes > reader.size:
            raise reader.fail(f"tensor {name[:60]!r} ends past the end of the file: cut off, or one of several parts")
        stored[name] = tensor
    return Checkpoint("gguf", reader.source, stored, sum(tensor.bytes for tensor in stored.values()))


def _alignment(reader: Reader, fields: int) -> int:
    """Pass over the metadata; of it only ``general.alignment`` matters."""
    alignment = 32
    for _ in range(fields):
        name, kind = _text(reader), reader.number("I")
        if name == "general.alignment" and kind == _UINT32:
            alignment = reader.number("I")
            if not alignment or alignment % 8:
                raise reader.fail(f"an alignment of {alignment:,} is not a multiple of 8")
        else:
            _skip(reader, kind, 0)
    return alignment


def _skip(reader: Reader, kind: int, depth: int) -> None:
    if kind == _STRING:
        reader.skip(reader.number("Q"))
    elif kind == _ARRAY:
        if depth == MAX_NESTING:
            raise reader.fail("metadata nested too deeply")
        inner, count = reader.number("I"), reader.number("Q")
        if inner in _SCALARS:
            reader.skip(_SCALARS[inner] * count)
            return
        if count * 8 > reader.left:
            raise reader.fail(f"a list of {count:,} items is longer than the file")
        for _ in range(count):
            _skip(reader, inner, depth + 1)
    elif kind in _SCALARS:
        reader.skip(_SCALARS[kind])
    else:
        raise reader.fail(f"metadata of the unknown type {kind}")


def _tensor(reader: Reader) -> tuple[str, Stored, int]:
    name, dims = _text(reader), reader.number("I")
    if dims > MAX_DIMS:
        raise reader.fail(f"tensor {name[:60]!r} has {dims:,} dimensions")
    shape = [reader.number("Q") for _ in range(dims)]
    number = reader.number("I")
    kind = _TYPES.get(number)
    if kind is None:
        raise reader.fail(f"tensor {name[:60]!r} has the unknown type {number}")
    row = shape[0] if shape else 1
    if row % kind.block:
        raise reader.fail(f"tensor {name[:60]!r}: rows of {row:,} are not whole blocks of {kind.name}")
    size = prod(shape) // kind.block * kind.bytes
    return name, Stored(tuple(reversed(shape)), kind.name, size), reader.number("Q")


def _text(reader: Reader) -> str:
    length = reader.number("Q")
    if length > MAX_NAME:
        raise reader.fail(f"a name of {length:,} bytes: not GGUF, or damaged")
    return reader.take(length).decode("utf-8", errors="replace")
