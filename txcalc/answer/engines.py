"""Inference engines: their rules by version, and the pool for keys and values that each makes of them.

A pool is of pages that requests take (vLLM), of slots for tokens (SGLang), or of cells for a context that is fixed
at the start (llama.cpp). What a layer caches of a token is the record's, never a second formula.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any, Final, NamedTuple

from txcalc.answer.devices import read_table
from txcalc.count.kv_cache import token_bytes
from txcalc.spec.errors import SpecError, not_one_of, shown
from txcalc.spec.facts import layer_order
from txcalc.spec.layers import MLA
from txcalc.trace.cache import Cache, kv_cache
from txcalc.trace.record import Trace
from txcalc.trace.workload import BYTES, Workload

GIB: Final = 2**30
_KEPT: Final = {
    "inputs": "layers that cache their inputs", "cross": "cross-attention", "state": "recurrent layers",
    "window": "sliding windows", "chunk": "chunked attention", "latent": "latents",
}


class Rule(NamedTuple):
    """One rule of an engine, from the version ``since`` on, with its source."""

    name: str
    value: Any
    since: str
    source: str


class Engine(NamedTuple):
    """An engine at a version: its rules by name, whether it splits weights and heads over ranks, options of its own,
    and notes on kinds of cache."""

    name: str
    title: str
    version: str
    pool: str
    caches: Sequence[str]
    kv_dtypes: Sequence[str]
    fewer_bits: Mapping[str, str]
    splits: bool
    own: Sequence[str]
    notes: Mapping[str, str]
    rules: Mapping[str, Rule]

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a rule, or what holds of an engine that has no such rule."""
        return self.rules[name].value if name in self.rules else default

    @property
    def called(self) -> str:
        """``vLLM 0.11``."""
        return f"{self.title} {self.version}"

    def of_memory(self, name: str, memory: int | None) -> int:
        """The value of a rule that goes by a card's memory; without a card the largest."""
        return int(max(step for step in self.value(name) if memory is None or memory >= step[0] * GIB)[1])

    def chunk(self, asked: int | None, memory: int | None, context: int) -> int:
        """Tokens of one pass: as asked, by the card's memory, or the whole context."""
        return asked or self.of_memory("tokens of a pass", memory) or max(context, 2048)


class Layers(NamedTuple):
    """``number`` layers that cache ``bytes`` of a token on one rank, of ``limit`` tokens at most."""

    kind: str
    limit: int | None
    bytes: int
    number: int


def engine(name: str) -> Engine:
    """The engine that ``name`` says, with ``@`` before a version. Raises ``SpecError`` that names what there is."""
    called, _, version = name.partition("@")
    known = _known()
    if called not in known:
        raise SpecError(not_one_of(names(), called), field="engine")
    data = known[called]
    version = version or data["default"]
    oldest, newest = data["versions"]
    if not re.fullmatch(r"v?\d{1,4}(\.\d{1,4}){0,3}", version):
        raise SpecError(f"{shown(version)} is no version such as {data['default']}", field="engine")
    version = version.removeprefix("v")
    if _number(version) < _number(oldest):
        raise SpecError(f"the rules of {data['title']} are known from {oldest} to {newest}, not of {version}",
                        field="engine")
    rules: dict[str, Rule] = {}
    for rule, rows in data["rules"].items():
        held = [Rule(rule, row["is"], row["since"], row["source"]) for row in rows
                if _number(row["since"]) <= _number(version)]
        rules |= {rule: held[-1]} if held else {}
    same = {key: data[key] for key in ("title", "pool", "caches", "kv_dtypes", "fewer_bits", "splits", "own",
                                      "notes")}
    return Engine(name=called, version=version, rules=rules, **same)


def is_newer(found: Engine) -> bool:
    """Tell whether a version is newer than those whose rules were read."""
    newest = _number(_known()[found.name]["versions"][1])
    return _number(found.version)[:len(newest)] > newest


BUNDLES: Final[Mapping[str, Mapping[str, Any]]] = {"transformers": {"implementation": "transformers", "logits": "last"}}
"""Engines that set nothing aside, and what of a workload each stands for."""


def names() -> tuple[str, ...]:
    """Every engine's name."""
    return (*BUNDLES, *_known())


def owned() -> Mapping[str, str]:
    """Options that one engine alone has, and its title."""
    return {name: data["title"] for data in _known().values() for name in data["own"]}


def of_file(kind: str) -> str | None:
    """The engine whose own files are of a kind."""
    return next((name for name, data in _known().items() if data.get("file") == kind), None)


@functools.cache
def _known() -> Mapping[str, Any]:
    return read_table("engines.yaml")


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


# ---------------------------------------------------------------- what layers cache


def layers(
    t: Trace, of: Engine, tp: int = 1, drafter: int = 0, values: str | None = None, first: int = 0
) -> tuple[Layers, ...]:
    """Caches of a trace's layers on one of ``tp`` ranks, alike ones together, but for the ``first`` layers.

    ``values``: their dtype, where it is not that of keys. ``drafter``: so many layers more, each like the last that
    caches all tokens. Raises ``SpecError`` for a cache that the engine's pool is not counted for, and for heads that
    its ranks do not share evenly.
    """
    found: Counter[tuple[str, int | None, int]] = Counter()
    away = Counter(path for path, _ in islice(layer_order(t.model), first))
    for op, often in t.placed:
        if op.cache is not None:
            cache, a = op.cache, next(block.attention for _, block in layer_order(t.model))
            if isinstance(a, MLA) and t.model.modeling in of.value("latents by heads", ()):
                cache = kv_cache("self", ((a.heads, a.nope_dim + a.rope_dim), (a.heads, a.value_dim)), 1, 1)
            _check(cache, of, t.model.name)
            limit = None if cache.limit is None or cache.layout == "full" else int(cache.limit)
            key = cache.name, limit, _bytes(t.workload, cache, of, tp, values)
            found[key] += int(often.calls) - away[op.within.layer]
    if not found:
        raise SpecError(f"{t.model.name} caches no keys and values, and an engine's pool is of these", field="engine")
    if drafter:
        whole = [key for key in found if key[1] is None]
        found[(whole or list(found))[-1]] += drafter
    return tuple(Layers(*key, number) for key, number in found.items() if number)


def _check(cache: Cache, of: Engine, model: str) -> None:
    later = _known()[of.name]["rules"].get("states") if cache.name == "state" and "states" not in of.rules else None
    if cache.name not in of.caches or later:
        raise SpecError(f"what {of.title} sets aside for {_KEPT.get(cache.name, cache.name)}, as {model} has them, is "
                        f"not known{' before ' + later[0]['since'] if later else ''}", field="engine")
    if len(cache.rows) > {"latent": 1}.get(cache.name, 2):
        raise SpecError(f"what {of.title} sets aside for an indexer's keys, as {model} has them, is not known",
                        field="engine")


def _bytes(workload: Workload, cache: Cache, of: Engine, tp: int, values: str | None = None) -> int:
    """Bytes of one token, or of a state: every rank has its own heads, and at least one, and all of a latent."""
    if cache.kind == "state" and of.splits:  # a convolution's new input is none of its state
        inputs = cache.role == "kv" or int(cache.tokens) > 1
        size = int(cache.per_token) * max(int(cache.tokens) - 1, 1)
        if size % tp:
            raise SpecError(f"{tp} ranks cannot share a state of {size:,} elements evenly", field="tp")
        return size // tp * BYTES[workload.dtype if inputs else of.value("recurrences", workload.dtype)]
    if cache.kind == "state":
        return int(cache.per_token * cache.tokens * BYTES["fp32"])
    if values is not None and len(cache.rows) == 2:
        others = workload.replaced(kv_dtype=values)
        return sum(_bytes(each, cache._replace(rows=(row,), per_token=row[0] * row[1]), of, tp)
                   for each, row in zip((workload, others), cache.rows, strict=True))
    if cache.name != "latent" and tp > 1:
        rows = tuple((on_rank(int(heads), tp), size) for heads, size in cache.rows)
        cache = cache._replace(rows=rows, per_token=sum(heads * size for heads, size in rows))
    size = int(token_bytes(cache, workload))
    return _up(size, int(of.value("latent bytes"))) if cache.name == "latent" and "latent bytes" in of.rules else size


def on_rank(heads: int, tp: int) -> int:
    """Key heads of one rank. Raises ``SpecError`` where the ranks do not share them evenly."""
    if heads % tp and tp % heads:
        raise SpecError(f"{tp} ranks cannot share {heads} key heads evenly", field="tp")
    return max(1, heads // tp)


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


# ---------------------------------------------------------------- pools


class Setup(NamedTuple):
    """Options that an engine is started with."""

    block: int | None  # tokens of a block
    chunk: int  # of a pass
    full: bool = False  # windows are cached as long as the context
    shared: int = 1  # sequences that share the cells of one
    context: int = 0  # the longest request
    users: int | None = None  # at once
    memory: int | None = None  # bytes of the card
    tp: int = 1  # ranks
    loras: int = 0  # slots of adapters
    rank: int = 16  # the most that one of them has
    modeling: str | None = None  # whose code the model is
    architecture: str = "sm_90"  # of the card


def pool(found: Sequence[Layers], of: Engine, setup: Setup) -> Pool:
    """The pool of these layers."""
    if of.pool == "slots" and any(each.kind == "state" for each in found):
        return _Slots(found, of, setup)
    apart = of.value("windows", {"of": ()})["of"]
    if setup.modeling in apart and len({each.limit is None for each in found}) > 1:
        return _Windows(found, of, setup)
    return _POOLS[of.pool](found, of, setup)


class _Pages:
    """Pages of all layers of a group, which draw from one pool: all layers, or a part of those of one kind.

    ``block``: tokens of one layer in its smallest page. A page of one token in all layers is a slot.
    """

    def __init__(self, found: Sequence[Layers], of: Engine, setup: Setup) -> None:
        self.of, self.in_flight = of, setup.chunk * of.value("batches in flight", 1)
        blocks = of.value("latent block", {}) if any(each.kind == "latent" for each in found) else {}
        self.block = setup.block or blocks.get(setup.architecture, of.value("block"))
        found = self._with_states(found, setup.context)
        if of.value("chunks") == "full" and any(each.limit is None for each in found):
            found = [each._replace(limit=None) if each.kind == "chunk" else each for each in found]
        kinds = {(each.kind, each.limit) if each.limit or each.kind == "state" else () for each in found}
        self.groups: list[tuple[Layers, int]] = []  # with the tokens of a block
        if of.value("groups", "none") == "none" or len(kinds) == 1:
            one = max(found, key=lambda each: each.bytes)
            limit = None if len(kinds) > 1 or of.value("groups", "none") == "none" else one.limit
            tokens = 1 if one.kind == "state" else self.block
            self.block_bytes = tokens * sum(each.bytes * each.number for each in found)
            self.groups = [(one._replace(limit=limit), self.block)]
            return
        self._of_kinds(found)

    def _with_states(self, found: Sequence[Layers], context: int) -> Sequence[Layers]:
        """All that a recurrent layer holds as one page, which is no larger than one of attention, and padded to it."""
        states = [each for each in found if each.kind == "state"]
        if not states:
            return found
        others = [each for each in found if each.kind != "state"]
        if len({each.number for each in states}) > 1 or any(each.kind == "latent" for each in others):
            raise SpecError(f"what {self.of.title} sets aside for recurrent layers of several kinds, or beside "
                            "latents, is not known", field="engine")
        size = sum(each.bytes for each in states)
        if not others:
            self.block = context
            return [states[0]._replace(bytes=size)]
        token = max(each.bytes for each in others)
        self.block = max(self.block, 16 * -(-size // (16 * token)))
        return [*others, states[0]._replace(bytes=token)]

    def _of_kinds(self, found: Sequence[Layers]) -> None:
        """Groups of as many layers each, whose pages are equal."""
        page = max(each.bytes for each in found)
        if any(page != each.bytes for each in found) and self.of.value("unequal pages") == "refused":
            raise SpecError(f"{self.of.called} does not start where windows and full layers cache unlike bytes of a "
                            "token; 0.12 does", field="engine")
        if any(page % each.bytes for each in found):
            raise SpecError(f"how {self.of.title} pads pages that are no multiples of each other is not known",
                            field="engine")
        least, most = (choose(each.number for each in found) for choose in (min, max))
        size = most if most < least * Fraction(str(self.of.value("groups"))) else least
        self.block_bytes = page * self.block * size
        self.groups = [(each, self.block * page // each.bytes)
                       for each in found for _ in range(-(-each.number // size))]

    def blocks(self, users: int, context: int) -> int:
        """Pages that so many requests of a length take at most."""
        return users * sum(self._of_group(each, block, context) for each, block in self.groups)

    def _of_group(self, each: Layers, block: int, context: int) -> int:
        """Those of a window hold what a pass adds, and may begin within a block; a chunk begins with one; a state is
        one."""
        if each.kind == "state":
            return 1
        if each.limit is None:
            return -(-context // block)
        window = each.kind == "window"
        return int(-(-min(each.limit - window + self.in_flight, context) // block) + window)

    def tokens(self, blocks: int, context: int) -> int:
        """Tokens that the engine says so many pages hold."""
        if self.of.value("printed tokens") == "of requests":
            return int(blocks / self.blocks(1, context) * context)
        return blocks // len(self.groups) * min(block for _, block in self.groups)


class _Cells:
    """Cells for a context, and fewer for windows: one sequence has them alone, or several share them."""

    block_bytes = 1

    def __init__(self, found: Sequence[Layers], of: Engine, setup: Setup) -> None:
        self.found, self.setup, self.block = found, setup, setup.block or of.value("cells")

    def blocks(self, users: int, context: int) -> int:
        """Bytes of all cells."""
        cells = _up(context, self.block)
        return users * sum(each.bytes * each.number * self._cells(each, cells) for each in self.found)

    def _cells(self, each: Layers, cells: int) -> int:
        """Those of a layer, or the states of as many sequences."""
        if each.kind == "state":
            return self.setup.shared
        if each.limit is None or self.setup.full:
            return cells
        return _up(min(cells, each.limit * self.setup.shared + self.setup.chunk), self.block)

    def tokens(self, blocks: int, context: int) -> int:
        return _up(context, self.block)

    def masked(self) -> int:
        """Cells of the masks of a pass, one for each kind of layers."""
        cells = _up(self.setup.context, self.block)
        return sum({each.limit: self._cells(each, cells) for each in self.found if each.kind != "state"}.values())


class _Slots:
    """Slots of tokens beside slots of recurrent layers' states, which have their part of the memory."""

    block_bytes = 1

    def __init__(self, found: Sequence[Layers], of: Engine, setup: Setup) -> None:
        self.block, self.ratio = setup.block or of.value("block"), Fraction(str(of.value("states")))
        self.state, self.token = (sum(each.bytes * each.number for each in found if (each.kind == "state") == state)
                                  for state in (True, False))
        if not self.token:
            raise SpecError(f"what {of.title} sets aside for recurrent layers alone is not known", field="engine")

    def blocks(self, users: int, context: int) -> int:
        """Bytes in which so many requests of a length have their tokens, and their states."""
        most = max(Fraction(users * _up(context, self.block) * self.token), users * self.state / self.ratio)
        return int(-(-most * (1 + self.ratio) // 1))

    def tokens(self, blocks: int, context: int) -> int:
        """Tokens beside as many states as have room in their part."""
        states = int(blocks * self.ratio / (1 + self.ratio)) // self.state
        return int((blocks - states * self.state) // self.token // self.block * self.block)


class _Windows:
    """Slots of tokens in full layers, and a part as many in windows."""

    block_bytes = 1

    def __init__(self, found: Sequence[Layers], of: Engine, setup: Setup) -> None:
        self.block, self.part = setup.block or of.value("block"), Fraction(str(of.value("windows")["part"]))
        full, windows = (sum(each.bytes * each.number for each in found if (each.limit is None) == whole)
                         for whole in (True, False))
        self.token, self.limit = full + self.part * windows, max(each.limit or 0 for each in found)

    def blocks(self, users: int, context: int) -> int:
        """Bytes in which so many requests of a length have their tokens, in windows those that are seen."""
        own = users * _up(context, self.block)
        within = -(-users * min(_up(context, self.block), self.limit + self.block) // self.part)
        return int(-(-_up(max(own, within), self.block) * self.token // 1))

    def tokens(self, blocks: int, context: int) -> int:
        """Tokens of full layers."""
        return int(blocks // self.token // self.block * self.block)


Pool = _Pages | _Cells | _Slots | _Windows
_POOLS: Final[Mapping[str, type[Pool]]] = {"pages": _Pages, "slots": _Pages, "cells": _Cells}
