"""The header of a GGUF file: github.com/ggml-org/ggml, docs/gguf.md; versions 2 and 3, little-endian."""

from __future__ import annotations

from math import prod
from typing import Final

from txcalc.check.stored import Checkpoint, Reader, Stored
from txcalc.spec.ggml import TYPES

MAGIC: Final = b"GGUF"
MAX_TENSORS: Final = 1_000_000
MAX_FIELDS: Final = 100_000
MAX_NAME: Final = 65_535
MAX_DIMS: Final = 8
MAX_NESTING: Final = 4
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_SCALARS: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the metadata's scalar types."""


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
    kind = TYPES.get(number)
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
