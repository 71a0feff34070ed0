"""A workload made to fit models: what was left out or follows is filled in, what contradicts them is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

from txcalc.spec.errors import SpecError
from txcalc.spec.facts import has_latents, image_positions, is_causal, outputs, positions, shares_keys
from txcalc.spec.inputs import eighth
from txcalc.spec.model import Model, Stack
from txcalc.trace import workload_defaults
from txcalc.trace.embeddings import images
from txcalc.trace.workload import Latents, Workload, plain


def fill(models: Sequence[Model], given: dict[str, Any]) -> tuple[Workload, frozenset[str]]:
    """The workload of the ``given`` fields, and the names of those that were filled in.

    Without ``seq`` it is the shortest of the models' contexts, or 2,048 where that is shorter; in decoding it is
    one new token, after as many cached ones as leave room for it. Images that become positions of the text make room
    for themselves. Where all models read images alone, there is nothing to fill in: their positions follow from the
    model. Raises ``SpecError`` for a bad field, and for a prompt's length in decoding without that of its cache.
    """
    given = plain(heard(models, given))
    contexts = [model.context for model in models if model.input.kind == "tokens"]
    if not contexts:
        return Workload.of(given), frozenset()
    length = min(workload_defaults.SEQ, *contexts)
    taken = max(image_positions(model, _size(given, "images"), _size(given, "batch") or 1) for model in models)
    reading = {} if "seq" in given else {"seq": max(1, length - _size(given, "past"), taken)}
    filled = _decoding(given, length, taken) if given.get("phase") == "decode" else reading
    return Workload.of({**filled, **given}), frozenset(filled)


FRAMES: Final = 100
"""Spectrogram frames of a second: Whisper's extractor, and those made after it, take one in 160 of 16,000 samples."""


def heard(models: Sequence[Model], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields with ``audio`` seconds as whole sounds of each model's tower; an encoder hears one. Raises
    ``SpecError`` for a model that does not hear, and for a length that is not what the model pads or cuts it to."""
    if "audio" not in given:
        return given
    seconds, rest, counts = given["audio"], {k: v for k, v in given.items() if k != "audio"}, set()
    if "images" in rest:
        raise SpecError("a tower hears or sees: give --audio or --images", field="audio")
    for model in models:
        heard = next((stack.input for stack in (model.tower, model.encoder) if stack is not None), model.input)
        if heard.kind != "frames":
            raise SpecError(f"{model.name} has neither tower nor encoder that hears", field="audio")
        grid = heard.grid
        each = Fraction(2 * heard.length if grid is None else heard.length // eighth(grid.frames) * grid.frames, FRAMES)
        if not seconds or seconds % each or (model.tower is None and seconds != each):
            number = "one" if model.tower is None else "so many whole ones"
            raise SpecError(f"{model.name} hears sounds of {float(each):g} s: must be {number}, to which its extractor "
                            "pads or cuts", field="audio")
        counts.add(int(seconds / each) if model.tower is not None else None)
    if len(counts) > 1:
        raise SpecError("the models cut it into different numbers of sounds: give --images", field="audio")
    (count,) = counts
    return rest if count is None else {**rest, "images": count}


def _decoding(given: dict[str, Any], length: int, taken: int) -> dict[str, int]:
    """``seq`` tokens at once is what speculative decoding checks; as the length of a prompt it would be a mistake."""
    filled = {} if "seq" in given else {"seq": 1}
    if "past" not in given:
        new = _size({**filled, **given}, "seq")
        if new > 1:
            message = (f"decodes {new:,} tokens at once; for one token that ends a sequence of {new:,} give "
                       f"--past {new - 1} in its place, or --past beside it")
            raise SpecError(message, field="seq")
        filled["past"] = max(0, length - new, taken)
    return filled


def _size(given: dict[str, Any], name: str) -> int:
    """A field that has not been validated yet."""
    value = given.get(name)
    return value if isinstance(value, int) else 0


def fit(spec: Model, workload: Workload) -> Workload:
    """The workload with the model's needs filled in and checked.

    Images and sounds have as many positions as the model cuts them into, so that ``seq`` (or ``source_seq``) follows.
    Raises ``SpecError`` when the workload does not fit: more positions than a learned table holds, a source length
    for a model without an encoder, another length than that of the model's images, a text too short for its images.
    """
    seq = _length(spec.name, "seq", spec, workload.seq)
    if seq is None:
        raise SpecError(f"{spec.name} reads tokens, so it needs a length", field="seq")
    updates: dict[str, Any] = {"seq": seq, "images": _images(spec, workload), "latents": _latents(spec, workload)}
    if spec.encoder is None:
        _check_encoder_only(spec, workload)
    else:
        source = _length(spec.name, "source_seq", spec.encoder, workload.source_seq)
        updates["source_seq"] = workload.past + seq if source is None else source
    layout = workload.layout
    if workload.past and layout is not None and layout.cp > 1:
        raise SpecError("tokens in the cache are not split over ranks yet; leave it out, or take a prompt alone, in "
                        "memory and fit with --new 0", field="cp")
    for length in (seq, updates.get("source_seq")) if layout is not None else ():
        if length and layout and length % (parts := layout.by_position * layout.chunks):
            ranks = f"{layout.by_position * layout.cp} ranks"
            raise SpecError(f"{length:,} positions are no equal parts for {ranks}; leave it out, or give a "
                            f"multiple of {parts}", field="sp" if layout.cp == 1 else "cp")
    if workload.recompute and (why := _not_recomputed(spec, workload)):
        raise SpecError(why, field="recompute")
    if spec.head.kind != "lm" and workload.loss not in (None, "plain", "fp32"):
        raise SpecError(f"{spec.name} predicts no tokens, of whose logits there would be chunks; use plain or fp32",
                        field="loss")
    fitted = workload.replaced(**updates)
    _check_images(spec, fitted)
    _check_positions(spec, "seq", spec, fitted.past + fitted.seq)
    if spec.encoder is not None:
        _check_positions(spec, "source_seq", spec.encoder, fitted.source_seq or 0)
    return fitted


def _not_recomputed(spec: Model, workload: Workload) -> str:
    """The reason why the parts asked for cannot be recomputed in this model's backward pass, or nothing."""
    if shares_keys(spec):
        return f"layers of {spec.name} read keys that others make, which a layer run once more would make anew"
    if workload.recompute == "selective" and spec.position.kind in ("transformer-xl", "disentangled"):
        return f"{spec.name} scores queries with distances as well, which is not proved to be run once more"
    together, projector = workload.together, None if spec.tower is None else spec.tower.projector
    if together is None:
        return ""
    if workload.adapter is not None or workload.freeze:
        return "layers that are frozen, or have adapters, are run once more one by one; use full"
    if projector is not None and (projector.unused_layers or projector.feature_layers):
        return f"layers of {spec.name}'s tower within its last ones are read, so they run one by one; use full"
    for stack in filter(None, (spec, spec.encoder, spec.tower)):
        for g, group in enumerate(stack.groups or ()):
            turn = sum(block.repeat for block in group.blocks)
            if together % turn or (g + 1 < len(stack.groups or ()) and group.repeat * turn % together):
                return (f"{together} layers together are no whole number of turns of the {turn} layers that "
                        f"{spec.name} repeats {group.repeat} times; use full")
    return ""


def _length(name: str, field: str, stack: Stack, asked: int | None) -> int | None:
    """Positions of one input: as asked for, or as the model cuts an image or a sound."""
    if stack.input.kind == "tokens":
        return asked
    length = positions(stack.input) if field == "seq" else outputs(stack)
    if asked not in (None, length):
        raise SpecError(f"{name} makes {length:,} positions of every input, not {asked:,}; leave it out", field=field)
    return length


def _latents(spec: Model, workload: Workload) -> Latents | None:
    """The way latents are read, where there are any."""
    if not has_latents(spec):
        return None
    return "absorbed" if workload.absorbs else "expanded"


def _images(spec: Model, workload: Workload) -> int | None:
    if spec.tower is None and workload.images is not None:
        raise SpecError(f"{spec.name} has no second stack that reads images or sounds", field="images")
    count: int | None = images(spec, workload)
    return count


def _check_images(spec: Model, workload: Workload) -> None:
    """Images stand in the text: in what is read, or in decoding in what has been read."""
    field = "past" if workload.phase == "decode" else "seq"
    room = workload.past + (0 if field == "past" else workload.seq)
    needed = image_positions(spec, workload.images or 0, workload.batch)
    if needed > room:
        least = needed - (0 if field == "past" else workload.past)
        each = f" in each of {workload.batch:,} sequences" if workload.batch > 1 else ""
        read = "sounds" if spec.tower is not None and spec.tower.input.kind == "frames" else "images"
        message = f"{workload.images:,} {read} are {needed:,} positions{each}; give --{field} {least} or more"
        raise SpecError(message, field=field)


def _check_encoder_only(spec: Model, workload: Workload) -> None:
    if workload.source_seq is not None:
        raise SpecError(f"{spec.name} has no encoder, so it takes no source sequence", field="source_seq")
    if not is_causal(spec) and workload.phase in ("prefill", "decode"):
        raise SpecError(f"{spec.name} is an encoder and does not generate; use forward or training", field="phase")
    if not is_causal(spec) and workload.past:
        raise SpecError(f"{spec.name} is an encoder and has no cache", field="past")


def most_positions(spec: Model) -> int | None:
    """Positions of the model's tables, the shorter of two stacks'; None where no table ends."""
    sizes = [size for stack in (spec, spec.encoder) if stack is not None for size, _ in _table(spec, stack)]
    return min(sizes, default=None)


def _check_positions(spec: Model, field: str, stack: Stack, tokens: int) -> None:
    for size, kind in _table(spec, stack):
        if tokens > size:
            raise SpecError(f"{tokens:,} tokens, but {spec.name} has {size:,} {kind} positions", field=field)


def _table(spec: Model, stack: Stack) -> Iterator[tuple[int, str]]:
    """A table of positions ends somewhere; RoBERTa's and BART's have rows that none uses, so the context counts."""
    position = stack.position
    if stack.input.kind != "tokens":
        return
    if position.kind == "learned":
        yield min(position.size, spec.context), "learned"
    elif (position.kind == "relative" or position.kind == "disentangled") and position.absolute is not None:
        yield min(position.absolute, spec.context), "learned"
    elif position.kind == "sinusoidal" and position.stored:
        yield position.size, "stored"
