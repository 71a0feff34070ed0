"""Letters for sizes: every size of a model and its workload becomes a symbol, named as the literature names it.

The same field with the same value is one symbol, wherever it stands; further values of a field get an index. Keys
and values of as many heads as there are queries are of ``h`` heads, without a ``g``. In an encoder-decoder the
layers are always ``L_e`` and ``L_d``, also where there are as many of each: so the formula shows both kinds of
layer; a single layer, or a head of its own, is no symbol. Sizes of a tower for images are marked ``_v``. Where the
only pattern of layers repeats and its layers differ just in what they see, it repeats ``L`` over its length times, so
that weights collect under ``L``; other patterns are counted as such.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from txcalc.explain.naming import LETTERS, SPECIAL, Letter
from txcalc.explain.polynomial import Relation, atomic, monomial
from txcalc.spec.errors import is_size
from txcalc.spec.facts import STORAGE, located_blocks, patches, positions
from txcalc.spec.model import Block, Group, Model, Stack
from txcalc.spec.replace import replace
from txcalc.spec.rnn import ImageConvolution
from txcalc.trace.workload import Workload

UNUSED: Final = frozenset({
    "context", "depth", "feature_layers", "counted", "expert_groups", "active_groups", "levels", "attention_levels",
    "index", "shape", "times",
    *STORAGE})
"""Fields whose numbers are no sizes with a letter: what no program reads, which layers stand side by side, counts
beside published figures, groups that experts are chosen from, resolutions of an autoencoder, what is
idle, and the layout of stored weights."""

_BLOCK: Final = ("shared_block", "attention", "recurrent", "cross_attention", "feed_forward", "convolution")


@dataclass(frozen=True)
class Place:
    """A size in the spec or workload."""

    path: str
    letter: Letter
    value: int


@dataclass(frozen=True)
class Symbols:
    """A spec and a workload on symbols, with what they stand for."""

    spec: Model
    workload: Workload
    values: dict[str, int]
    meanings: dict[str, str]
    always: tuple[Relation, ...]  # relations that every formula uses: ``h k = d``
    closed: tuple[Relation, ...]  # those of the closed form: ``f = 4 d``


def symbols(spec: Model, workload: Workload, *, lengths: bool = True) -> Symbols:
    """Put a symbol in place of every size.

    ``lengths``: an image's positions are one size, as in FLOPs and activations; otherwise its class tokens are, as in
    parameters. One new token in decoding stays the number 1.
    """
    places = [*_model(spec), *_workload(spec, workload)]
    if lengths:
        places = [place for place in places if not place.path.endswith(".class_tokens")]
    named = _named(places)
    values = {name: place.value for name, place in named}
    meanings: dict[str, dict[str, None]] = {}
    for name, place in named:
        meanings.setdefault(name, {})[place.letter.meaning] = None
    inside = {place.path: atomic(name) for name, place in named if not place.path.startswith("/")}
    inside |= _patterns(spec, inside)
    outside = {place.path[1:]: atomic(name) for name, place in named if place.path.startswith("/")}
    symbolic = replace(spec, inside)
    if lengths:
        symbolic, found = _lengths(spec, symbolic, values)
        meanings |= found
    return Symbols(
        symbolic, workload.replaced(**outside), values,
        {name: "; ".join(found) for name, found in meanings.items()},
        _head_relations(spec, inside), _width_relations(named),
    )


# ---------------------------------------------------------------- walking


def _model(spec: Model) -> Iterator[Place]:
    """The encoder's sizes before the decoder's, a tower's last."""
    pair = spec.encoder is not None
    own = list(_walk(spec, "", "_d" if pair else "", ("encoder", "tower")))
    if spec.encoder is not None:
        yield from _walk(spec.encoder, "encoder", "_e", ())
    yield from own
    if spec.tower is not None:
        read = "sounds" if spec.tower.input.kind == "frames" else "images"
        for place in _walk(spec.tower, "tower", "", ()):
            letter = Letter(f"{place.letter.letter}_v", f"{place.letter.meaning} ({read})")
            yield Place(place.path, letter, place.value)


def _workload(spec: Model, workload: Workload) -> Iterator[Place]:
    for name in workload.names():
        value = getattr(workload, name)
        if name == "seq" and value == 1 and workload.phase == "decode":
            continue
        if is_size(value):
            heard = name == "images" and spec.tower is not None and spec.tower.input.kind == "frames"
            yield Place(f"/{name}", Letter("x", "sounds") if heard else _letter(name), value)


def _walk(node: Any, path: str, mark: str, skip: tuple[str, ...]) -> Iterator[Place]:
    kind = getattr(node, "kind", None)
    grouped = isinstance(getattr(node, "groups", None), tuple)
    if kind == "sinusoidal" and not node.stored:
        return
    for name, value in vars(node).items():
        if name in skip or name in UNUSED or (grouped and name in (*_BLOCK, "layers")) or (
                isinstance(node, ImageConvolution) and name != "channels") or (  # sides of images are numbers
                kind == "mamba" and name == "heads"):  # several run other operations than one
            continue
        below = f"{path}.{name}" if path else name
        if is_size(value):
            if name != "repeat" and (name not in ("layers", "copies") or value > 1):
                holder = next((part for part in reversed(path.split(".")) if not part.isdigit()), "")
                yield Place(below, _field(node, name, mark, kind, holder), value)
        elif grouped and name == "groups":
            yield from _groups(value, below, mark)
        else:
            yield from _children(value, below, mark)


def _children(value: Any, path: str, mark: str) -> Iterator[Place]:
    if hasattr(value, "replaced"):
        yield from _walk(value, path, mark, ())
    elif isinstance(value, tuple):
        for i, each in enumerate(value):
            yield from _children(each, f"{path}.{i}", mark)


def _groups(groups: tuple[Group, ...], path: str, mark: str) -> Iterator[Place]:
    """A group's repetitions are a size where it is repeated, else those of its blocks."""
    first = 1
    for i, group in enumerate(groups):
        length = sum(block.repeat for block in group.blocks)
        if group.repeat > 1:
            yield _repetition(f"{path}.{i}.repeat", group, length, first, mark, alone=len(groups) == 1)
        for j, block in enumerate(group.blocks):
            below = f"{path}.{i}.blocks.{j}"
            if group.repeat == 1 and block.repeat > 1:
                yield Place(f"{below}.repeat", _layers(mark, first, block.repeat), block.repeat)
            if group.repeat == 1:
                first += block.repeat
            yield from _walk(block, below, mark, ())
        if group.repeat > 1:
            first += group.repeat * length


def _repetition(path: str, group: Group, length: int, first: int, mark: str, *, alone: bool) -> Place:
    """The number of times that a pattern of layers recurs; all layers, where it is the only one and all weigh alike."""
    if alone and _alike(group):
        return Place(path, _layers(mark), length * group.repeat)
    if length == 1:
        return Place(path, _layers(mark, first, group.repeat), group.repeat)
    return Place(path, Letter(f"L{mark}", f"patterns of {length} layers"), group.repeat)


def _alike(group: Group) -> bool:
    """Tell whether the blocks differ in what their attention sees, and in nothing else."""
    first, *rest = map(_weighs, group.blocks)
    return all(each == first for each in rest)


def _weighs(block: Block) -> dict[str, Any]:
    attention = block.attention
    if attention is not None and attention.kind == "standard":
        attention = attention.replaced(window=None, chunk=None, rope=True, scale=None)
    return block.replaced(repeat=1, attention=attention).to_data()


def _patterns(spec: Model, inside: dict[str, Any]) -> dict[str, Any]:
    """The repetitions of the only pattern, where its layers weigh the same: all layers over the pattern's length."""
    found: dict[str, Any] = {}
    for path, stack, _ in _stacks(spec):
        groups = stack.groups if stack is not None else None
        key = f"{path}groups.0.repeat"
        if groups is not None and len(groups) == 1 and key in inside and _alike(groups[0]):
            found[key] = inside[key] / sum(block.repeat for block in groups[0].blocks)
    return found


def _standard(node: Any) -> bool:
    return getattr(node, "kind", None) == "standard"


def _field(node: Any, name: str, mark: str, *owners: str | None) -> Letter:
    if name == "kv_heads" and _standard(node) and node.kv_heads == node.heads:
        return LETTERS["heads"]
    return _layers(mark) if name == "layers" else _letter(name, *owners)


def _layers(mark: str, first: int | None = None, count: int = 1) -> Letter:
    of = {"_e": " of the encoder", "_d": " of the decoder"}.get(mark, "")
    return Letter(f"L{mark}", "layers" + (f" {first}–{first + count - 1}" if first is not None else "") + of)


def _letter(name: str, *owners: str | None) -> Letter:
    special = (SPECIAL[owner, name] for owner in owners if owner is not None and (owner, name) in SPECIAL)
    return next(special, None) or LETTERS.get(name) or Letter(name, name.replace("_", " "))


def _named(places: list[Place]) -> list[tuple[str, Place]]:
    """Names with an index where a letter has several values."""
    values: dict[str, dict[int, None]] = {}
    for place in places:
        values.setdefault(place.letter.letter, {})[place.value] = None

    def name(place: Place) -> str:
        letter = place.letter.letter
        several = list(values[letter])
        if len(several) == 1:
            return letter
        return f"{letter}{'' if '_' in letter else '_'}{several.index(place.value) + 1}"

    return [(name(place), place) for place in places]


# ---------------------------------------------------------------- relations


def _stacks(spec: Model) -> Iterator[tuple[str, Stack, str]]:
    """Every stack of a model: the path before its fields, and that of its width."""
    reader = None if spec.tower is None else spec.tower.resampler
    wide = "encoder." if getattr(spec.encoder, "d_model", None) else ""
    own = (("", spec, ""), ("encoder.", spec.encoder, wide), ("tower.", spec.tower, "tower."),
           ("tower.resampler.", reader, "tower.resampler."))
    yield from ((path, stack, f"{width}d_model") for path, stack, width in own if stack is not None)


def _head_relations(spec: Model, inside: dict[str, Any]) -> tuple[Relation, ...]:
    """``h k = d`` for every attention whose heads are together as wide as its stack."""
    found: dict[Relation, None] = {}
    for prefix, stack, width in _stacks(spec):
        for path, block in located_blocks(stack):
            at = prefix + "".join(f"{part}." for part in path)
            for name in ("attention", "cross_attention"):
                each = getattr(block, name)
                d = getattr(stack, "d_model", None) or spec.d_model
                if _standard(each) and each.heads * each.head_dim == d:
                    h, k = (str(inside[f"{at}{name}.{key}"]) for key in ("heads", "head_dim"))
                    relation = Relation(monomial({h: 1, k: 1}), 1, ((str(inside[width]), 1),))
                    found[relation] = None
    return tuple(found)


def _width_relations(named: list[tuple[str, Place]]) -> tuple[Relation, ...]:
    """``f = 4 d`` for every feed-forward width that is four times a model width."""
    widths = {place.value: name for name, place in named if place.letter.letter.split("_")[0] == "d"}
    wide = {name: place.value for name, place in named if place.letter.letter.split("_")[0] == "f"}
    return tuple(
        Relation(((name, 1),), 4, ((widths[value // 4], 1),))
        for name, value in wide.items() if value % 4 == 0 and value // 4 in widths
    )


def _lengths(
    spec: Model, symbolic: Model, values: dict[str, int]
) -> tuple[Model, dict[str, dict[str, None]]]:
    """Let an image's class tokens be what its positions have beyond its patches, so that the positions are one size."""
    meanings: dict[str, dict[str, None]] = {}
    stacks = (("input", spec, ""), ("encoder.input", spec.encoder, "_e"), ("tower.input", spec.tower, "_v"))
    for path, stack, mark in stacks:
        if stack is None or stack.input.kind != "patches":
            continue
        length = positions(stack.input)
        name = "s" if not mark and values.get("s") == length else f"s{mark}" if mark else "s_i"
        values[name] = length
        meanings.setdefault(name, {"positions of an image": None})
        image: Any = symbolic
        for key in path.split("."):
            image = getattr(image, key)
        symbolic = replace(symbolic, {f"{path}.class_tokens": atomic(name) - patches(image) - image.registers})
    return symbolic, meanings
