"""From the text of a ``config.json`` to a spec, or one line that names what is not understood.

Nothing is executed and nothing is downloaded: ``auto_map``, which points at code, is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from txcalc.huggingface.build import Data, gelu, labels
from txcalc.huggingface.config import FORMER_CLASSES, REQUIRED, Config, Remarks, class_defaults
from txcalc.huggingface.rows import Family
from txcalc.spec.errors import SpecError, nearest, shown
from txcalc.spec.invalid import InvalidSpec
from txcalc.spec.quantization import Quantization


def spec_from_config(
    data: Mapping[str, Any], source: str, name: str, *, strict: bool = False, notes: list[str] | None = None
) -> Data:
    """The fields of a spec named ``name`` for this configuration; ``notes`` collects what its reader should know.

    Raises ``SpecError`` for a ``model_type``, a class or a field that is not understood, and, where it is ``strict``,
    for fields that no class reads.
    """
    from txcalc.huggingface.families import FAMILIES

    carriers = _carriers(data, FAMILIES)
    model_type = data.get("model_type", carriers[0] if len(carriers) == 1 else None)
    if "peft_type" in data:
        base = data.get("base_model_name_or_path")
        raise SpecError(f"an adapter, no model: count {shown(base) if base else 'its base model'} with --lora",
                        source=source, field="peft_type")
    if not isinstance(model_type, str):
        several = f"; its class is that of {' and '.join(carriers)}" if carriers else ""
        raise SpecError(f"required field is missing{several}", source=source, field="model_type")
    if model_type not in FAMILIES:
        code = "; its auto_map is code from the hub, which is never run" if "auto_map" in data else ""
        named = data.get("architectures")
        own, close = named[0] if isinstance(named, list) and named else None, nearest(model_type, FAMILIES)
        hint = f"; did you mean {close}?" if close else ""
        if isinstance(own, str) and not any(own in family.classes for family in FAMILIES.values()):
            hint = f", nor is its class {shown(own)}"  # so the type is no misspelling
        raise SpecError(f"{shown(model_type)} is not known{hint}{code}", source=source, field="model_type")
    family = FAMILIES[model_type]
    c = Config(data, model_type, source=source, remarks=Remarks(strict))
    with c.whole():
        built = family.build(c, family.classes[class_name := _class(data, family, source, c.remarks.choices)])
        spec = {"name": name, "family": model_type, "modeling": model_type, **gelu(c), **built}
        c.finish()
    spec |= _fused(model_type, spec)
    spec |= _packing(c, spec)
    if notes is not None:
        notes += _notes(c, class_name, spec)
    return spec


def _carriers(data: Mapping[str, Any], families: Mapping[str, Family]) -> list[str]:
    """The types that have the class which a file names first: before 2020 files said nothing else."""
    named = data.get("architectures")
    first = str(named[0]) if isinstance(named, list) and named else ""
    own = FORMER_CLASSES.get(first.casefold(), first)
    return [name for name, family in families.items() if own in family.classes]


def _notes(c: Config, class_name: str, spec: Data) -> Iterator[str]:
    """Notes for a reader: the choices that the file leaves open, and the fields that no class reads."""
    from txcalc.huggingface.inert import library_version

    named, passed, ties = c.data.get("architectures"), c.remarks.passed, c.remarks.ties
    if "model_type" not in c.data:
        yield f"model_type is missing: read as {c.model_type}, whose class is {class_name}"
    if not named or len(named) > 1:
        yield f"architectures {'names several classes' if named else 'is missing'}: counted as {class_name}"
    if spec.get("head", {}).get("kind") == "lm" and ties and not any(ties):
        tied = "tied" if spec["head"]["tied"] else "untied"
        version = c.data.get("transformers_version") or library_version()
        yield f"tie_word_embeddings is missing: the head is {tied}, as transformers {version} reads it"
    yield from c.remarks.choices
    if sizes := c.remarks.sizes:
        listed = ", ".join(f"{field} {size}" for field, size in sizes.items())
        yield f"missing, so counted as the class has them by default: {listed}"
    if passed:
        fields = "field" if len(passed) == 1 else "fields"
        code = "; the repository's own code, which auto_map names, may differ" if "auto_map" in c.data else ""
        yield f"passed over {len(passed)} {fields} that {class_name} does not read: {', '.join(passed)}{code}"


def _fused(model_type: str, spec: Data) -> Data:
    """Projections that the class keeps as one matrix, and what llama.cpp makes of them."""
    from txcalc.huggingface import modules

    family = modules.FAMILIES.get(model_type)
    if family is None or not modules.fused(family.names, set(family.names)):
        return {}
    from txcalc.spec.model import Model

    paths = {matrix.path for matrix in modules.matrices(family, Model.from_data(spec))}
    found = modules.fused(family.names, paths)
    return {"fused": found} if found else {}


def _packing(c: Config, spec: Data) -> Data:
    """The packing of the weights, or what is not understood of it, which changes their bytes and nothing else."""
    parts = [c.data, *(part for part in c.data.values() if isinstance(part, Mapping))]
    if not any(part.get(field) for part in parts for field in _PACKINGS):
        return {}
    try:
        with c.whole():
            found = _quantization(c, spec)
        if (packing := found.get("quantization")) is not None:
            Quantization.from_data(packing)
        return found
    except InvalidSpec as error:
        if c.remarks.strict:
            raise SpecError("holds what is no size", field="quantization_config") from None
        return {"unknown_quantization": f"quantization.{error.field}: {error.message}"}
    except (SpecError, TypeError, LookupError, AttributeError) as error:
        if c.remarks.strict:
            raise
        first = error.every[0] if isinstance(error, SpecError) else None
        said = f"{first.field}: {first.message}" if first else f"{c.remarks.asked[0]}: a value of another kind"
        return {"unknown_quantization": said}


_PACKINGS = ("quantization", "quantization_config", "compression_config")


def _quantization(c: Config, spec: Data) -> Data:
    from txcalc.huggingface.mlx import read_mlx
    from txcalc.huggingface.quantized import read_quantization
    from txcalc.spec.model import Model

    model = Model.from_data(spec)
    for name, section in c.data.items():
        if not isinstance(section, Mapping) or name in _PACKINGS:
            continue
        if packing := next((field for field in _PACKINGS if section.get(field)), None):
            if (name, packing) != ("text_config", "quantization_config") or any(map(c.data.get, _PACKINGS)):
                raise c.error(f"{name}.{packing}", "a packed part of a model is not understood")
            return {"quantization": read_quantization(c.part(name, section, c.model_type), model, tower=False)}
    packed = read_mlx(c, model) if c.data.get("quantization") else read_quantization(c, model)
    return {} if packed is None else {"quantization": packed}


def _class(data: Mapping[str, Any], family: Family, source: str, choices: list[str]) -> str:
    """The class that a file names, as the library spells it: the first that is known, where it names several.

    A class that is built of several configurations, in a file that is one of them, stands for that part's own.
    """
    from txcalc.huggingface.families import FAMILIES

    classes = data.get("architectures") or [next(iter(family.classes))]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise SpecError(f"must be a list of classes, got {shown(classes)}", source=source, field="architectures")
    known = {name.casefold(): name for name in family.classes}  # PhiMoE is Phimoe in the library
    names = [FORMER_CLASSES.get(name.casefold(), name) for name in classes]
    found = next((known[name.casefold()] for name in names if name.casefold() in known), None)
    own = next((name for name, kind in family.classes.items() if kind == "lm"), None)
    whole = _whole(names[0])
    if found is None and own and whole is not None and _whole(own) is None:
        apart = any(part in FAMILIES for part in whole.parts) and data["model_type"] not in whole.parts
        said = f"not built of {data['model_type']}" if apart else (
            "built of several configurations, of which this file is one")
        choices.append(f"{names[0]} is {said}: counted as {own}")
        return own
    if found is None:
        hint = nearest(classes[0], family.classes)
        raise SpecError(f"class {classes[0]!r} is not known for model_type {data['model_type']}; "
                        f"known: {', '.join(family.classes)}" + (f"; did you mean {hint}?" if hint else ""),
                        source=source, field="architectures")
    return found


def _whole(class_name: str) -> Family | None:
    """The family of a class with a language model's head that is built of several configurations."""
    from txcalc.huggingface.families import FAMILIES

    return next((family for name, family in FAMILIES.items() if family.classes.get(class_name) == "lm"
                 and "text_config" in class_defaults().get(name, {})), None)


def decoder_classes(prefix: str) -> dict[str, str]:
    """The classes that a decoder family usually has."""
    return {
        **lm_classes(prefix), f"{prefix}ForSequenceClassification": "sequence",
        f"{prefix}ForTokenClassification": "token", f"{prefix}ForQuestionAnswering": "span",
    }


def lm_classes(prefix: str) -> dict[str, str]:
    """The classes of a decoder family without classifiers."""
    return {f"{prefix}ForCausalLM": "lm", f"{prefix}Model": "none"}


def decoder_head(c: Config, kind: str, *, bias: bool = False) -> Data:
    """The head of a decoder: its language model's, or one of the usual classifiers over every position."""
    tied = c.flag("tie_word_embeddings", default=REQUIRED if c.own else False)
    if kind == "lm":
        return {"kind": "lm", "tied": tied, "bias": bias}
    if kind == "none":
        return {"kind": "none"}
    of = {"sequence": "last", "span": "span"}.get(kind, "all")
    padded = c.take("pad_token_id", default=None) is not None and kind == "sequence"
    return {"kind": "classifier", "labels": 2 if kind == "span" else labels(c), "bias": kind != "sequence", "of": of,
            "padded": padded}
