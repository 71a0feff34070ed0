"""The headers of safetensors files and of their index: github.com/huggingface/safetensors, README, "Format"."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from typing import Any, Final, TypeGuard

from txcalc.models.header import Checkpoint, Reader, Stored
from txcalc.spec.errors import SpecError, shown
from txcalc.spec.files import MAX_DIGITS, open_file

MAX_HEADER: Final = 100_000_000
"""The format's own limit, in bytes; also of an index."""
MAX_DIMS: Final = 64

_BITS: Final = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F4", "F4_E2M1"), 4), **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16), **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


def read_safetensors(reader: Reader) -> Checkpoint:
    """One file's header. Raises ``SpecError`` for one that is malformed or does not fit its file."""
    length = reader.number("Q")
    if length > MAX_HEADER:
        why = f"a header of {length:,} bytes is more than the format allows"
        raise reader.fail(f"is neither GGUF nor safetensors: {why}")
    header = _object(reader.take(length), reader.source)
    header.pop("__metadata__", None)
    stored: dict[str, Stored] = {}
    spans: list[tuple[int, int]] = []
    for name, info in header.items():
        stored[name], span = _tensor(name, info, reader)
        spans.append(span)
    if not stored:
        raise reader.fail("has no tensors")
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise reader.fail(f"the tensors overlap or leave a gap at byte {end:,} of the data")
        end = stop
    if end != reader.left:
        raise reader.fail(f"{end:,} bytes of tensors in the header, but {reader.left:,} in the file")
    return Checkpoint("safetensors", reader.source, stored, end)


def read_index(path: str) -> Checkpoint:
    """An index, and the headers of its files where all of them are beside it. Raises ``SpecError``."""
    with open_file(path) as file:
        raw = file.read(MAX_HEADER + 1)
    if len(raw) > MAX_HEADER:
        raise SpecError(f"is larger than {MAX_HEADER:,} bytes", source=path)
    index = _object(raw, path)
    names = index.get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise SpecError("must map the name of every tensor to a file", source=path, field="weight_map")
    metadata = index.get("metadata")
    stated = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(stated, float) and stated.is_integer():  # written by some tools
        stated = int(stated)
    if stated is not None and (not isinstance(stated, int) or isinstance(stated, bool) or stated < 0):
        raise SpecError(f"must be a whole number, got {shown(stated)}", source=path, field="metadata.total_size")
    stored = _shards(path, names)
    if stored is None and stated is None:
        raise SpecError("is missing, and the files are not all there", source=path, field="metadata.total_size")
    found = sum(tensor.bytes for tensor in stored.values()) if stored is not None else stated
    return Checkpoint("safetensors-index", path, stored or {}, int(found or 0), stated)


def _shards(path: str, names: Mapping[str, str]) -> dict[str, Stored] | None:
    """All tensors of the files that an index names; None where one of the files is missing."""
    folder = os.path.dirname(path)  # noqa: PTH120
    files = sorted(set(names.values()))
    for file in files:
        if os.path.basename(file) != file or file in ("", ".", ".."):  # noqa: PTH119  a file's name, not a path
            raise SpecError(f"{shown(file)} is not the name of a file beside it", source=path, field="weight_map")
    places = [os.path.join(folder, file) for file in files]  # noqa: PTH118
    if not all(map(os.path.isfile, places)):
        return None
    stored: dict[str, Stored] = {}
    for place in places:
        with open_file(place) as opened:
            stored |= read_safetensors(Reader(opened, place)).stored
    if missing := names.keys() - stored.keys():
        raise SpecError(f"no file holds {shown(min(missing))}", source=path, field="weight_map")
    return {name: stored[name] for name in names}


def _tensor(name: str, info: Any, reader: Reader) -> tuple[Stored, tuple[int, int]]:
    if not isinstance(info, dict):
        raise reader.fail(f"tensor {shown(name)} must be an object, got {shown(info)}")
    dtype, shape, offsets = info.get("dtype"), info.get("shape"), info.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise reader.fail(f"tensor {shown(name)} has the unknown dtype {shown(dtype)}")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise reader.fail(f"tensor {shown(name)} needs a shape and two data_offsets of whole numbers")
    size = (prod(shape) * _BITS[dtype] + 7) // 8
    if offsets[1] - offsets[0] != size:
        raise reader.fail(f"tensor {shown(name)} of {size:,} bytes is given {offsets[1] - offsets[0]:,}")
    return Stored(tuple(shape), dtype, size), (offsets[0], offsets[1])


def _sizes(value: Any) -> TypeGuard[list[int]]:
    whole = isinstance(value, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
    return whole and len(value) <= MAX_DIMS and all(0 <= n < 2**63 for n in value)


def _object(raw: bytes, source: str) -> dict[str, Any]:
    """A JSON object. Raises ``SpecError`` for anything else, and for a name that stands twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands twice")
        return found

    def whole(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise ValueError(f"a whole number of more than {MAX_DIGITS} digits")
        return int(digits)

    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=once, parse_int=whole)
    except UnicodeDecodeError:
        raise SpecError("the header is not UTF-8 text: not a checkpoint, or damaged", source=source) from None
    except json.JSONDecodeError as error:
        message = f"the header is not JSON: {error.msg.lower()}"
        raise SpecError(message, source=source, at=(error.lineno, error.colno)) from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SpecError(f"the header is not valid: {reason}", source=source) from None
    if not isinstance(data, dict):
        raise SpecError(f"the header must be a JSON object, got {shown(data)}", source=source)
    return data
