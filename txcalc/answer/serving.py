"""A model in an inference engine: what it sets aside on each card, its pool of keys and values, and who fits in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final, NamedTuple

from txcalc.answer.devices import Device, several
from txcalc.answer.engine_held import Amount, loaded, on_rank, part_used, work
from txcalc.answer.engines import Engine, Layers, Pool, Setup, engine, is_newer, layers, owned, pool
from txcalc.answer.fit import fit
from txcalc.answer.limits import Reserve, first_above, reserved
from txcalc.answer.passes import TRAINING
from txcalc.answer.report import Kind
from txcalc.count import weights
from txcalc.count.offload import Offload, offload, placed
from txcalc.document import Part
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import is_causal, layer_order, located_blocks
from txcalc.spec.model import Model
from txcalc.trace import workload_defaults
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload, plain

OPTIONS: Final = ("utilization", "context", "pool", "tp", "chunk", "drafter", "swa_full", "v_dtype", "gpu_layers",
                  "offload", "max_loras", "max_lora_rank")
"""Settings of an engine beside a workload."""
_STORED: Final = ("dtype", "weights", "kv_block", "kernels")


def is_own(name: str, value: object) -> bool:
    """Tell whether an option is an engine's: of what is in the CPU's memory, that which names weights."""
    return name in OPTIONS and (name != "offload" or isinstance(value, str))


_OWN: Final = (*OPTIONS, *_STORED, "kv_dtype", "engine", "batch", "seq", "lengths", "new", "phase")


class Gain(Part):
    """A change of the run, as the command line says it: how many requests and tokens the pool then has room for."""

    option: str
    note: str
    tokens: int
    requests: int


class Rule(Part):
    """A rule that the engine follows from a version on, and where it was read."""

    rule: str
    value: str
    since: str
    source: str


class Served(Part):
    """An engine's pool on each card. ``block``: tokens; ``tokens``: as the engine itself prints them.

    ``requests``: of ``context`` tokens, as many as the pool has room for at once. ``host_bytes``: weights in the CPU's
    memory, ``host_cache_bytes``: keys and values there. ``levers``: what makes room for more.
    ``options``: what was given beside the engine. ``taken_bytes``: of the pool, by the requests that were given.
    ``card_bytes``: on each card, where they share layers.
    """

    name: str
    version: str
    pool_bytes: int
    taken_bytes: int
    block: int
    blocks: int
    tokens: int
    requests: int
    host_bytes: int
    host_cache_bytes: int
    context: int
    cards: int
    card_bytes: tuple[int, ...]
    tp: int
    options: dict[str, Any]
    levers: tuple[Gain, ...]
    rules: tuple[Rule, ...]


class Serving(NamedTuple):
    """A model in an engine: what it holds on each of ``cards`` beside the ``pool``, and bytes that it may use at most.

    ``room``: of a card, none without one. ``given``: the pool's bytes. ``shares``: weights of the first and the
    last card, where cards split layers, and the part of these; ``share``: that of the fullest. ``host``: bytes of
    weights in the CPU's memory, ``away``: layers that cache there. ``asked``: as given.
    """

    of: Engine
    trace: Trace
    found: tuple[Layers, ...]
    setup: Setup
    pool: Pool
    held: tuple[Amount, ...]
    context: int
    users: int
    device: Device | None
    cards: int
    tp: int
    room: int | None
    given: int | None
    asked: Mapping[str, Any]
    reserve: str | None = None
    aside: Reserve | None = None
    host: int = 0
    away: tuple[Layers, ...] = ()
    share: Fraction = Fraction(1)
    shares: tuple[tuple[Fraction, Fraction], ...] = ()
    notes: tuple[str, ...] = ()
    defaults: frozenset[str] = frozenset()

    @property
    def base(self) -> int:
        """Bytes beside the pool."""
        return sum(each.bytes for each in self.held)

    @property
    def available(self) -> int | None:
        """Bytes of the pool, or that it may have. None without a card."""
        return self.given if self.given is not None else None if self.room is None else max(self.room - self.base, 0)

    def at(self, users: int | None = None, context: int | None = None) -> Serving:
        """The same, started for another longest request, and with other users."""
        users, context = users or self.users, context or self.context
        setup = self.setup._replace(
            chunk=self.of.chunk(self.asked.get("chunk"), self.setup.memory, context), context=context)
        made = self._replace(users=users, context=context, setup=setup, pool=pool(self.found, self.of, setup))
        own, share = max(self.shares, key=lambda card: card[0] + card[1] * made.cached)
        return made._replace(share=share, held=(self.held[0]._replace(bytes=_whole(own)), *made.work()))

    def work(self) -> Iterator[Amount]:
        """Working memory, of which nothing is known where the pool is given."""
        return iter(()) if self.given is not None else work(
            self.trace, self.of, self.setup, getattr(self.pool, "masked", int)())

    @property
    def cached(self) -> int:
        """Bytes of the pool that the requests take, of whatever length each is, on all cards that share layers."""
        own = [length + self.asked.get("new", 0) for length in self.asked.get("lengths") or ()]
        blocks = self.pool.blocks(self.users, self.context) if len(own) != self.users else sum(
            self.pool.blocks(1, length) for length in own)
        return blocks * self.pool.block_bytes

    @property
    def taken(self) -> int:
        """Bytes of the pool that the requests take, on the fullest card."""
        return _whole(self.cached * self.share)

    @property
    def host_cache(self) -> int:
        """Bytes of keys and values in the CPU's memory."""
        return pool(self.away, self.of, self.setup).blocks(self.users, self.context) if self.away else 0

    @property
    def needs(self) -> int:
        """Bytes of a card that the requests need."""
        return self.base + self.taken

    @property
    def fits(self) -> bool:
        """Tell whether the requests are there at once."""
        return self.available is None or self.taken <= self.available

    def most(self) -> int:
        """The most requests of the longest length that are there at once."""
        if self.given is not None or self.room is None:
            return (self.available or 0) // self.at(1).taken
        one = self.pool.blocks(1, self.context) * self.pool.block_bytes
        if not one:  # all keys and values are in the CPU's memory
            return self.users if self.needs <= self.room else 0
        left = self.room - sum(each.bytes for each in self.held[1:])
        return max(0, min(int((left - _whole(own)) // (share * one)) for own, share in self.shares if share))

    def longest(self, users: int, last: int) -> int:
        """The longest length, up to ``last``, that so many requests may have; 0 where there is none."""
        def size(context: int) -> int:
            made = self.at(users, context)
            return made.needs if self.given is None else made.taken

        first_not = first_above(size, (self.room if self.given is None else self.given) or 0, last)
        return last if first_not is None else first_not - 1


def _whole(size: Fraction) -> int:
    """Bytes, a part of one counted whole."""
    return -(-size.numerator // size.denominator)


def serving(
    spec: Model, given: Mapping[str, Any], card: str | None = None, reserve: str | None = None, shared: bool = True
) -> Serving:
    """The model in the ``engine`` of the given fields. ``shared``: sequences share cells where none are asked for.
    Raises ``SpecError`` for what the engine does not run or admit."""
    given = plain(given)
    of = engine(given["engine"])
    _check(spec, given, of)
    cards, device = several(card) if card else (1, None)
    tp, cards = _ranks(spec, of, given.get("tp"), cards)
    context, defaults = _context(spec, of, given)
    fields: dict[str, Any] = {name: given[name] for name in _STORED if name in given}
    own = weights.own_format(spec)
    fields |= loaded(of, fields, None if own is None else own.method)
    t = trace(spec, fit(spec, Workload.of({"phase": "decode", "seq": 1, "past": context - 1, "batch": given.get(
        "batch", 1), **fields, "kv_dtype": _kv_dtype(of, given)})))
    least = device is not None and any(name in device.name for name in of.value("cards of the least", ()))
    memory = 0 if least else None if device is None else device.memory_bytes
    chunk = of.chunk(given.get("chunk"), memory, context)
    alone = "sequences" not in of.rules or "batch" in given or not shared
    setup = Setup(given.get("kv_block"), chunk, bool(given.get("swa_full")), 1 if alone else of.value("sequences"),
                  context, given.get("batch"), memory, tp, given.get("max_loras", int("max_lora_rank" in given)),
                  given.get("max_lora_rank", 16), spec.modeling, device.architecture or "" if device else "sm_90")
    values = None if given.get("v_dtype") is None else _kv_dtype(of, given, "v_dtype")
    moved = _moved(spec, of, given.get("offload"), given.get("gpu_layers"))
    every = layers(t, of, tp, given.get("drafter") or 0, values)
    found = layers(t, of, tp, given.get("drafter") or 0, values, moved.layers)
    there = {each[:3]: each.number for each in found}
    away = tuple(left for each in every if (left := each._replace(number=each.number - there.get(each[:3], 0))).number)
    return _on_cards(Serving(
        of=of, trace=t, found=found, setup=setup, pool=pool(found, of, setup), held=(), context=context,
        users=given.get("batch", 1), device=device, cards=cards, tp=tp, room=None, given=given.get("pool"), asked=given,
        away=away, reserve=reserve, notes=tuple(_notes(spec, of, context, found)), defaults=defaults), moved)


def _moved(spec: Model, of: Engine, text: str | None, on_card: int | None) -> Offload:
    """The weights in the CPU's memory, or all but the layers ``on_card``, the head among them. Raises ``SpecError``."""
    if text is not None and on_card is not None:
        raise SpecError("says the same as --offload: give one of them", field="gpu_layers")
    last = "head beside layers on the CPU" in of.rules and of.value("head beside layers on the CPU") == "on the CPU"
    if on_card is None:
        found = Offload() if text is None else offload(text, spec)
        return found._replace(head=last and found.layers > 0)
    layers = sum(1 for _ in layer_order(spec))
    return Offload(layers=max(layers + (not last) - on_card, 0) if on_card else layers,
                   head=on_card <= layers if last else not on_card)


def _on_cards(made: Serving, moved: Offload) -> Serving:
    """With what is held on a card."""
    t, alone = made.trace, made.of.value("without what speaks", ())
    silent = {op.path for op in t.ops if op.layer == "idle" and t.model.modeling in alone}
    rows = [(row.op, int(row.value)) for row in weights.entries(t) if row.op.path not in silent]
    host, shares = 0, [(sum((on_rank(op, t, size, made.tp) for op, size in rows), Fraction(0)), Fraction(1))]
    if not made.of.splits:
        parts = [part for part in placed(t, moved, cuda=made.device is None or made.device.is_nvidia)
                 if part.path not in silent]
        host = sum(part.bytes for part in parts if not part.on_card)
        stack = sum(part.bytes for part in parts if part.on_card and part.layer is not None)
        head = sum(part.bytes for part in parts if part.on_card) - stack
        shares = _split(stack, head, sum(1 for _ in layer_order(t.model)) - moved.layers, made.cards)
    kind: Kind = "exact" if made.cards == 1 and weights.certainty(t) == "exact" else "estimate"
    room, aside = (None, None) if made.device is None else _room(made)
    own = Amount("weights", 0, "", kind)
    return made._replace(held=(own,), room=room, aside=aside, host=host, shares=tuple(shares)).at()


def _split(stack: int, head: int, count: int, cards: int) -> list[tuple[Fraction, Fraction]]:
    """Bytes of weights, and the part of the layers, on the first and the last of cards that share ``count`` layers and
    the head behind them evenly."""
    if not count:
        return [(Fraction(head), Fraction(0))]
    first = min(-(-(count + 1) // cards), count)
    last = max(count - first * (cards - 1), 0)
    parts = [(count, head)] if cards == 1 else [(first, 0), (last, head)]
    return [(Fraction(stack * part, count) + more, Fraction(part, count)) for part, more in parts]


def _check(spec: Model, given: Mapping[str, Any], of: Engine) -> None:
    trained = next((name for name in TRAINING if name in given and not is_own(name, given[name])), None)
    if trained or given.get("phase") == "training":
        raise SpecError(f"{of.title} serves and does not train: leave out the engine, or {trained or 'the phase'}",
                        field="engine")
    if spec.input.kind != "tokens" or not is_causal(spec) or spec.encoder is not None:
        raise SpecError(f"what {of.title} sets aside for {spec.name}, which is {spec.architecture}, is not known: its "
                        "pool is of keys and values of a decoder", field="engine")
    for name in given.keys() - {*_OWN}:
        raise SpecError(f"is of a run in plain PyTorch; {of.title} takes {', '.join(OPTIONS)}", field=name)
    if given.get("lengths") and (of.pool == "cells" or any(b.recurrent for _, b in located_blocks(spec))):
        raise SpecError(f"what {of.title} sets aside for {spec.name} goes by the longest: give --batch and --context",
                        field="lengths")
    for name, others in owned().items():
        if given.get(name) and name not in of.own:
            raise SpecError(f"is {others}'s: {of.title} has no such choice", field=name)
    if given.get("gpu_layers", 0) > (most := spec.layers + 1):
        raise SpecError(f"{spec.name} has {spec.layers:,} layers and a head, which are {most:,}", field="gpu_layers")
    if given.get("pool") is not None and of.pool == "cells":
        raise SpecError(f"{of.title} has no pool of so many bytes: it allocates for --context", field="pool")
    if (part := given.get("utilization")) is not None and (of.pool == "cells" or not 0 < part <= 1):
        raise SpecError(f"{of.title} uses what it needs, and no part of a card" if of.pool == "cells" else
                        "must be a part of the card, above 0 and up to 1", field="utilization")


def _ranks(spec: Model, of: Engine, tp: int | None, cards: int) -> tuple[int, int]:
    """Ranks that share heads, and cards. Raises ``SpecError`` where they cannot."""
    if not of.splits:
        if tp not in (None, 1):
            raise SpecError(f"{of.title} splits layers over cards, and no heads{of.value('cards')}: give --device 2x "
                            "and a card", field="tp")
        return 1, cards
    tp = tp or cards
    if cards not in (1, tp):
        raise SpecError(f"{tp} ranks are not {cards} cards", field="tp")
    for each in {block.attention.heads for _, block in located_blocks(spec) if block.attention is not None}:
        if each % tp:
            raise SpecError(f"{tp} ranks cannot share {each} heads evenly", field="tp")
    return tp, tp


def _context(spec: Model, of: Engine, given: Mapping[str, Any]) -> tuple[int, frozenset[str]]:
    """The longest request that is admitted. Raises ``SpecError`` for one that the engine does not admit."""
    asked = given.get("context")
    if asked is None and ("seq" in given or "new" in given):
        asked = given.get("seq", 1) + given.get("new", 0)
    if asked is None:
        return spec.context, frozenset({"context"})
    least = max(given.get("lengths", (1,))) + given.get("new", 0)
    if asked < least:
        raise SpecError(f"must be at least {least:,}", field="context")
    if asked > spec.context and of.pool != "cells":
        raise SpecError(f"{of.title} admits {spec.context:,} tokens of {spec.name}, which was made for them, not "
                        f"{asked:,}", field="context")
    return asked, frozenset()


def _kv_dtype(of: Engine, given: Mapping[str, Any], field: str = "kv_dtype") -> str:
    """The cache's dtype, or that of its values. Raises ``SpecError`` for one that the engine does not cache in."""
    dtype, asked = given.get("dtype", workload_defaults.DTYPE), given.get(field)
    if asked is None:
        return str(dtype if of.splits else "fp16")
    taken = (dtype, *of.kv_dtypes)
    if asked not in taken:
        raise SpecError(f"{of.title} caches in {', '.join(dict.fromkeys(taken))}, not in {asked}", field=field)
    return str(asked)


def _notes(spec: Model, of: Engine, context: int, found: Sequence[Layers]) -> Iterator[str]:
    if is_newer(of):
        yield f"{of.called} is newer than the versions whose rules were read: those of the last of them are taken"
    if context > spec.context:
        yield f"{context:,} positions are beyond the {spec.context:,} that {spec.name} was made for: {of.title} warns"
    yield from (note for kind, note in of.notes.items() if any(each.kind == kind for each in found))
    if spec.tower is not None:
        unread = spec.tower.projector is not None and spec.tower.projector.unused_layers
        yield "images are left out: an engine's profiling run with them needs more" + (
            "; and layers of its tower that nothing reads are counted, which it may not build" * bool(unread))


def _room(made: Serving) -> tuple[int, Reserve]:
    """Bytes of a card that the engine uses at most, and what leaves the rest."""
    of, device = made.of, made.device
    assert device is not None
    offered = device.visible_bytes or device.memory_bytes
    if of.pool == "cells":
        aside = reserved(made.reserve, device)
        return offered - aside.bytes, aside
    if made.reserve is not None:
        raise SpecError(f"{of.title} leaves of a card what --utilization leaves", field="reserve")
    if made.given is not None:
        return offered, Reserve(bytes=0, source="the pool's bytes are given")
    part = made.asked.get("utilization")
    source = "--utilization" if part is not None else f"{of.called}'s default"
    if part is None:
        part = of.value("utilization") if "utilization" in of.rules else part_used(
            of, made.setup, device.memory_bytes)
    room = int(Fraction(str(part)) * offered)
    return room, Reserve(bytes=offered - room, source=f"{source}: {part:g} of the card is used")


# ---------------------------------------------------------------- what the document says


def served(made: Serving, gains: Sequence[Gain] = ()) -> Served:
    """The pool in numbers."""
    cells = made.of.pool == "cells"
    work, (*first, last) = sum(each.bytes for each in made.held[1:]), made.shares
    split = [*first * (made.cards - 1), last] if made.cards > 1 and not made.of.splits else []
    tokens = tokens_of(made, made.users)
    size, unit = made.taken if cells else made.available or 0, made.pool.block_bytes
    return Served(
        name=made.of.name, version=made.of.version, pool_bytes=size, taken_bytes=made.taken, block=made.pool.block,
        blocks=tokens // made.pool.block if unit == 1 else size // unit, tokens=tokens,
        requests=made.users if cells else made.most(), host_bytes=made.host, host_cache_bytes=made.host_cache,
        context=made.context, cards=made.cards, tp=made.tp,
        card_bytes=tuple(_whole(own) + work + _whole(made.cached * share) for own, share in split),
        options={name: value for name, value in made.asked.items() if name != "engine"}, levers=tuple(gains),
        rules=tuple(Rule(rule=each.name, value=str(each.value), since=each.since, source=each.source)
                    for each in made.of.rules.values()),
    )


def tokens_of(made: Serving, users: int) -> int:
    """Tokens of the pool as the engine counts them, or of so many requests' cells."""
    if made.of.pool == "cells":
        return users * made.pool.tokens(0, made.context)
    return made.pool.tokens((made.available or 0) // made.pool.block_bytes, made.context)
