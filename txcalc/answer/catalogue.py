"""The presets by family, with what each weighs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

from txcalc.document import Part
from txcalc.models import store
from txcalc.models.library import PresetFile, find, names, state, unknown
from txcalc.models.load import load
from txcalc.spec.compression import Compressed
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import located_blocks
from txcalc.spec.layers import MLA, AnyAttention, Attention
from txcalc.spec.model import Model, Stack

_FIELDS: Final = {"window": ("window", "sliding"), "chunk": ("chunk",), "softcap": ("softcap",), "sinks": ("sinks",)}
"""Words for what an attention has where its field is set."""


class Listed(Part):
    """A preset, its weights, or the reason why it cannot be counted.

    What it takes to serve one sequence: ``released_weight_bytes`` as its own files store the weights, 16 bits where its
    spec does not say; ``kv_cache_fixed_bytes`` + ``kv_cache_bytes_per_token`` x tokens, windows full; null without one.
    """

    name: str
    family: str | None
    aliases: tuple[str, ...]
    summary: str | None = None
    params: int | None = None
    params_active: int | None = None
    released_weight_bytes: int | None = None
    kv_cache_fixed_bytes: int | None = None
    kv_cache_bytes_per_token: int | None = None
    path: str
    origin: str
    shadows: str | None
    error: str | None = None


class Listing(Part):
    """Presets by family, in the order of the library. ``serving``: asked what it takes to serve them."""

    schema: Literal["txcalc/presets/v1"] = "txcalc/presets/v1"
    serving: bool = False
    presets: tuple[Listed, ...]


def listing(search: str | None = None, *, serving: bool = False) -> Listing:
    """Every preset whose name, alias, family or summary mentions the words of ``search``, or whose structure they name.

    A word of structure is ``moe``, ``gqa``, ``mla``, ``window``, ``encoder-decoder``, ``mamba2`` and so on, see
    ``structure``; a number such as ``2302.13971`` is looked for in the sources.

    Raises ``SpecError`` where nothing does.
    """
    wanted = (search or "").casefold().split()
    found = tuple(each.listed for each in _described() if each.mentions(wanted))
    if search is not None and not found:
        raise SpecError(f"no preset mentions {search!r}", field="search")
    return Listing(serving=serving, presets=tuple(
        sorted(found, key=lambda preset: (preset.family or "", preset.params or 0))))


class _Described(NamedTuple):
    """A preset, the words for what it is made of, and where its sizes were read."""

    listed: Listed
    made_of: frozenset[str] = frozenset()
    read_in: str = ""

    def mentions(self, words: Sequence[str]) -> bool:
        """True where its names, its summary, its structure or its papers have every word."""
        own = self.listed
        texts = " ".join(filter(None, (own.name, *own.aliases, own.family, own.summary))).casefold()
        return all(word in texts or word in self.made_of or _in_paper(word, self.read_in) for word in words)


def _described() -> list[_Described]:
    """Every preset, from what is kept of the last time where no file of presets or of ours is another."""
    key = ("presets", [*map(list, state())], store.code(("trace", "count", "answer")))
    if (kept := store.recall(key)) is not None:
        return [_Described(Listed(**{**row, "aliases": tuple(row["aliases"])}), frozenset(words), read_in)
                for row, words, read_in in kept]
    found = [_describe(info) for info in names()]
    store.keep(key, [(each.listed.to_data(), sorted(each.made_of), each.read_in) for each in found])
    return found


def shown(name: str) -> str:
    """A preset's YAML under a comment with its path. Raises ``SpecError`` for a name that there is not."""
    file = find(name)
    if file is None:
        raise unknown(name)
    return f"# {file.path}\n{file.text}"


def structure(spec: Model) -> frozenset[str]:
    """The words for what a model is made of: its architecture, attention, experts, recurrence, positions and inputs."""
    stacks = [stack for stack in (spec, spec.encoder, spec.tower) if stack is not None]
    found = {spec.architecture, *(word for stack in stacks for word in _of_stack(stack))}
    if spec.tower is not None or spec.input.kind == "patches":
        found |= {"vision", "image"}
    return frozenset(word for word in found if word != "none")


def _of_stack(stack: Stack) -> Iterator[str]:
    yield from (stack.position.kind, stack.norm.kind, stack.input.kind)
    if stack.input.kind == "frames":
        yield from ("audio", "speech")
    for _, block in located_blocks(stack):
        if block.attention is not None:
            yield from _of_attention(block.attention)
        if block.recurrent is not None:
            yield from ("recurrent", block.recurrent.kind)
        if block.feed_forward is not None and block.feed_forward.kind == "moe":
            yield from ("moe", "experts")


def _of_attention(attention: AnyAttention) -> Iterator[str]:
    if isinstance(attention, MLA):
        yield from ("mla", "latent", *(["sparse"] if attention.indexer is not None else []))
    if isinstance(attention, Compressed):
        yield from ("mqa", "compressed", "sparse")
    if not isinstance(attention, Attention):
        return
    yield "mha" if attention.kv_heads == attention.heads else "mqa" if attention.kv_heads == 1 else "gqa"
    for field, words in _FIELDS.items():
        if getattr(attention, field):
            yield from words


def _describe(info: PresetFile) -> _Described:
    # Not needed where all presets are as they were.
    from txcalc.answer.report import growth
    from txcalc.count import params, weights
    from txcalc.count.entries import total
    from txcalc.spec.weight_formats import RELEASED
    from txcalc.trace.model import trace
    from txcalc.trace.workload import Workload

    where: dict[str, Any] = {
        "name": info.name, "aliases": info.aliases, "path": info.path, "origin": info.origin, "shadows": info.shadows,
    }
    try:
        spec = load(info.name).model
    except SpecError as error:
        return _Described(Listed(**where, family=info.family, error=str(error)))
    t = trace(spec, Workload(seq=1))
    cache = growth(trace(spec, Workload(seq=spec.context, source_seq=spec.context if spec.encoder else None)))
    listed = Listed(
        **where, family=spec.family or info.family, summary=spec.summary, params=params.params(t),
        params_active=total(params.active(t)),
        released_weight_bytes=total(weights.entries(t, RELEASED)) if weights.is_known(t, RELEASED) else None,
        kv_cache_fixed_bytes=None if cache is None else cache.fixed_bytes,
        kv_cache_bytes_per_token=None if cache is None else cache.bytes_per_token,
    )
    read_in = " ".join((*spec.sources.values(), *(each.source for each in spec.published)))
    return _Described(listed, structure(spec), read_in)


def _in_paper(word: str, sources: str) -> bool:
    """An arXiv number, with or without ``arxiv:`` before it."""
    number = word.removeprefix("arxiv").lstrip(":/. ")
    return re.fullmatch(r"\d{4}\.\d{4,5}", number) is not None and number in sources
