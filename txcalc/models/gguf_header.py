"""The header of a GGUF file: github.com/ggml-org/ggml, docs/gguf.md; versions 2 and 3, little-endian."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import replace
from math import prod
from typing import Any, Final

from txcalc.models.header import Checkpoint, Length, Reader, Stored
from txcalc.spec.errors import SpecError, shown
from txcalc.spec.files import open_file
from txcalc.spec.ggml import TYPES

MAGIC: Final = b"GGUF"
MAX_TENSORS: Final = 100_000
MAX_FIELDS: Final = 100_000
MAX_ITEMS: Final = 4_000_000
"""Of all lists of texts and of lists, which are passed over one by one."""
MAX_NAME: Final = 65_535
MAX_DIMS: Final = 8
MAX_NESTING: Final = 4
MAX_LIST: Final = 10_000
"""The longest list of numbers that is read: one for each layer, at most."""
MAX_PARTS: Final = 1_000
_STRING, _ARRAY = 8, 9
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The metadata's scalar types."""
_PART: Final = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def read_gguf(path: str) -> Checkpoint:
    """A file's metadata and tensors, shapes in PyTorch's order; of a file in parts, those of all of them.

    Raises ``SpecError`` for a header that is malformed or cut off, and for a part that is missing, ``OSError`` for
    what cannot be opened.
    """
    found = _PART.search(path)
    if found is None:
        return _read_part(path)
    count = int(found[2])
    if count > MAX_PARTS:
        raise SpecError(f"{count:,} parts are more than any model has", source=path)
    whole = None
    for number in range(1, count + 1):
        place = f"{path[:found.start()]}-{number:05}-of-{found[2]}.gguf"
        if not os.path.isfile(place):  # noqa: PTH113
            raise SpecError(f"is one of {count} parts, and {os.path.basename(place)} is missing", source=path)  # noqa: PTH119
        part = _read_part(place)
        whole = part if whole is None else replace(
            whole, stored={**whole.stored, **part.stored}, bytes=whole.bytes + part.bytes)
    if whole is None:
        raise SpecError("is one of 0 parts", source=path)
    return whole


def _read_part(path: str) -> Checkpoint:
    with open_file(path) as file:
        return _header(Reader(file, path))


def _header(reader: Reader) -> Checkpoint:
    reader.skip(len(MAGIC))
    version = reader.number("I")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in (1, 2, 3)
        what = "a big-endian file" if swapped else f"GGUF version {version}"
        raise reader.fail(f"{what} is not read: only versions 2 and 3, little-endian")
    tensors, fields = reader.number("Q"), reader.number("Q")
    if tensors > MAX_TENSORS or fields > MAX_FIELDS:
        raise reader.fail(f"{tensors:,} tensors and {fields:,} fields are more than any model has")
    budget = [MAX_ITEMS]
    metadata = {_text(reader): _value(reader, reader.number("I"), 0, budget) for _ in range(fields)}
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
        raise reader.fail(f"an alignment of {shown(alignment)} is not a multiple of 8")
    found = [_tensor(reader) for _ in range(tensors)]
    start = -(-reader.at // alignment) * alignment
    stored: dict[str, Stored] = {}
    for name, tensor, offset in found:
        if name in stored:
            raise reader.fail(f"tensor {name[:60]!r} stands twice")
        if start + offset + tensor.bytes > reader.size:
            raise reader.fail(f"tensor {name[:60]!r} ends past the end of the file, which is cut off")
        stored[name] = tensor
    return Checkpoint("gguf", reader.source, stored, sum(tensor.bytes for tensor in stored.values()), metadata=metadata)


def _value(reader: Reader, kind: int, depth: int, budget: list[int]) -> Any:
    """One value of the metadata; of a list of texts, and of one that is too long to be of a model, its length."""
    if kind in _SCALARS:
        return reader.number(_SCALARS[kind])
    if kind == _STRING:
        length = reader.number("Q")
        if length <= MAX_NAME:
            return reader.take(length).decode("utf-8", errors="replace")
        reader.skip(length)
        return None
    if kind != _ARRAY:
        raise reader.fail(f"metadata of the unknown type {kind}")
    if depth == MAX_NESTING:
        raise reader.fail("metadata nested too deeply")
    inner, count = reader.number("I"), reader.number("Q")
    if inner in _SCALARS:
        form = _SCALARS[inner]
        raw = struct.calcsize(form) * count
        if count > MAX_LIST:
            reader.skip(raw)
            return Length(count)
        return list(struct.unpack(f"<{count}{form}", reader.take(raw)))
    budget[0] -= count
    if count * 8 > reader.left:
        raise reader.fail(f"a list of {count:,} items is longer than the file")
    if budget[0] < 0:
        raise reader.fail(f"lists of more than {MAX_ITEMS:,} items are more than any model has")
    for _ in range(count):
        if inner == _STRING:
            reader.skip(reader.number("Q"))
        else:
            _value(reader, inner, depth + 1, budget)
    return Length(count)


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
