"""A configuration as a document of a spec, and what is wrong with it in the configuration's own words."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from txcalc.huggingface.config import UNKNOWN, UNREAD
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.errors import FieldError, SpecError, joined, shown
from txcalc.spec.files import Document
from txcalc.spec.invalid import InvalidSpec
from txcalc.spec.model import Model
from txcalc.spec.words import WORDS

MAX_LAYERS: Final = 10_000
_REPOSITORY: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_LAYERS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
                  "num_decoder_layers", "num_hidden_groups", "inner_group_num")
_CLASHES: Final = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)

# What a configuration may call a field of the spec, by the end of its path.
_NAMES: Final[Mapping[str, Sequence[str]]] = {
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "num_attention_heads", "n_head"),
    "head_dim": ("head_dim", "d_kv", "hidden_size", "n_embd", "d_model"),
    "d_model": ("hidden_size", "n_embd", "d_model", "dim"),
    "d_ff": ("moe_intermediate_size", "intermediate_size", "n_inner", "d_ff", "ffn_dim", "decoder_ffn_dim"),
    "layers": _LAYERS,
    "vocab": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
    "window": ("sliding_window", "window_size", "local_attention"),
    "chunk": ("attention_chunk_size",),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "active_experts": ("num_experts_per_tok", "moe_top_k", "num_experts", "num_local_experts"),
    "shared_experts": ("n_shared_experts",),
    "dim": ("rotary_dim", "partial_rotary_factor", "rotary_pct"),
    "q_rank": ("q_lora_rank",),
    "kv_rank": ("kv_lora_rank",),
    "patch": ("patch_size",),
    "image": ("image_size",),
    "labels": ("num_labels", "id2label"),
    "key_heads": ("linear_num_key_heads",),
    "value_heads": ("linear_num_value_heads",),
}


@dataclass(frozen=True)
class Imported:
    """A configuration read. ``document`` holds a spec's fields and no places; ``notes`` are for the reader.

    ``dtype`` is what the configuration says its weights are in, if it says so.
    """

    document: Document
    notes: tuple[str, ...]
    dtype: str | None


def import_config(document: Document, place: str, name: str | None, *, strict: bool = False) -> Imported:
    """Read a configuration; ``place`` is what errors call it, ``name`` what its folder does.

    ``strict`` refuses fields that no class reads.
    Raises ``SpecError``, with line and column, naming what is not understood.
    """
    data = document.data
    _check_layers(document, place)
    notes: list[str] = []
    called = _name(data) or name or str(data.get("model_type"))
    try:
        fields = spec_from_config(data, place, called, strict=strict, notes=notes)
    except InvalidSpec as error:
        raise in_config_terms(error.placed(Document({}), place), document) from None
    except SpecError as error:
        every = joined([error, *_further(data, place, error, strict=strict)])
        raise every.each(lambda each: _placed(each, document)) from None
    except FieldError as error:
        raise SpecError(error.message, source=place, field=str(error.loc[-1]) if error.loc else None) from None
    except _CLASHES as error:
        raise _placed(_clash(data, place, error), document) from None
    return Imported(Document(fields), (*_notes(data, place), *(f"{place}: {note}" for note in notes)), _dtype(data))


def _further(data: Mapping[str, Any], place: str, error: SpecError, *, strict: bool) -> Iterator[SpecError]:
    """Further problems of a file, once the fields that were named are left out.

    Where one of those was understood, what is said of several fields together may come of leaving it out.
    """
    found, sound = error.every, True
    named: set[str | None] = set()
    while found:
        sound = sound and all(UNKNOWN in each.message or UNREAD in each.message for each in found)
        named |= {each.field for each in found}
        rest = _without(data, named)
        try:
            Model.from_data(spec_from_config(rest, place, "x", strict=strict))
            return
        except InvalidSpec as other:
            every = in_config_terms(other.placed(Document({}), place), Document(dict(rest)))
        except SpecError as other:
            every = other
        except _CLASHES:
            return
        found = tuple(each for each in every.every if each.field not in named and (sound or each.single))
        yield from found


def _without(data: Mapping[str, Any], fields: Collection[str | None], path: str = "") -> dict[str, Any]:
    return {name: _without(value, fields, f"{path}{name}.") if isinstance(value, Mapping) else value
            for name, value in data.items() if f"{path}{name}" not in fields}


def in_config_terms(error: SpecError, document: Document) -> SpecError:
    """Errors on fields of the spec as ones on the fields of the configuration that they were read from."""
    return error.each(lambda each: _in_config_terms(each, document))


def _in_config_terms(error: SpecError, document: Document) -> SpecError:
    tail = re.sub(r"\[\d+\]", "", error.field or "").rpartition(".")[2]
    field = next((name for name in _NAMES.get(tail, ()) if name in document.data), error.field)
    return _placed(SpecError(error.message, source=error.source, field=field), document)


def _clash(data: Mapping[str, Any], place: str, error: Exception) -> SpecError:
    """An importer stumbled over a value of a kind that it does not expect: name the field without which it does not."""
    needed = None
    for name in data:
        try:
            spec_from_config({key: value for key, value in data.items() if key != name}, place, "x")
        except SpecError as other:
            # A field that is needed: whole numbers are looked at where they are read, so it is not one of those.
            if other.field == name != "model_type" and not isinstance(data[name], int):
                needed = needed or name
        except _CLASHES:
            pass
        else:
            return _impossible(data, name, place)
    if needed is not None:
        return _impossible(data, needed, place)
    reason = " ".join(str(error).split())
    return SpecError(f"a field has a value that a {data.get('model_type')} model cannot have ({reason})", source=place)


def _impossible(data: Mapping[str, Any], name: str, place: str) -> SpecError:
    message = f"a {data.get('model_type')} model cannot have {shown(data[name])}"
    return SpecError(message, source=place, field=name)


def _placed(error: SpecError, document: Document) -> SpecError:
    """The error with the line and column of its field."""
    place = document.where(tuple((error.field or "").split("."))) if error.field and error.at is None else None
    return SpecError(error.message, source=error.source, at=place or error.at, field=error.field)


def _check_layers(document: Document, place: str) -> None:
    """Refuse what would make lists of a length that no model has."""
    sections = {"": document.data} | {f"{k}.": v for k, v in document.data.items() if isinstance(v, Mapping)}
    for prefix, section in sections.items():
        for name in _LAYERS:
            value = section.get(name)
            if isinstance(value, int) and value > MAX_LAYERS:
                message = f"must be a whole number of at most {MAX_LAYERS:,}, got {shown(value)}"
                raise _placed(SpecError(message, source=place, field=prefix + name), document)
    for repeat in _repeats(document.data.get("attention_types")):
        if repeat > MAX_LAYERS:
            message = f"repeats more than {MAX_LAYERS:,} times"
            raise _placed(SpecError(message, source=place, field="attention_types"), document)


def _repeats(value: Any) -> list[int]:
    """GPT-Neo's ``[[["global", "local"], 12]]``."""
    pairs = value if isinstance(value, list) else []
    return [pair[1] for pair in pairs if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], int)]


def _name(data: Mapping[str, Any]) -> str | None:
    name = data.get("_name_or_path")
    return name if isinstance(name, str) and _REPOSITORY.fullmatch(name) else None


def _notes(data: Mapping[str, Any], place: str) -> tuple[str, ...]:
    if "auto_map" not in data:
        return ()
    return (f"{place}: auto_map names code, which is never run; read as model_type {data['model_type']}",)


def _dtype(data: Mapping[str, Any]) -> str | None:
    value = data.get("dtype", data.get("torch_dtype"))
    return WORDS["dtype"].get(value.removeprefix("torch.")) if isinstance(value, str) else None
