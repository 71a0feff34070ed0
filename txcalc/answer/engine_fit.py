"""The most that fits into an engine: users of a context, the longest context, fewest cards, users against length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from txcalc.answer.capacity import ROWS, SHORTEST, Capacity, CapacityView, Corner, Most
from txcalc.answer.conventions import Convention
from txcalc.answer.engine_gains import gains
from txcalc.answer.engine_memory import START, alive, certainty
from txcalc.answer.memory import Held, Peak
from txcalc.answer.report import ModelInfo, Provenance
from txcalc.answer.serving import Serving, served, serving
from txcalc.count.entries import total
from txcalc.count.flops import entries as flops
from txcalc.spec.errors import SpecError

if TYPE_CHECKING:
    from txcalc.spec.model import Model

CARDS: Final = 16
"""More cards are not searched."""


def engine_fit(
    spec: Model, given: Mapping[str, Any], card: str | None, *, reserve: str | None = None, over: str | None = None,
    source: str = "python", overrides: Sequence[str] = (), command: Sequence[str] = (), noted: Sequence[str] = (),
) -> CapacityView:
    """The most that fits into the ``engine`` of the given fields on ``card``, a device's name or bytes, or several.

    Raises ``SpecError`` for what the engine does not run or admit, and without a device.
    """
    if card is None:
        raise SpecError("needs a card or a size, such as h100-80gb or 24GB; txcalc devices lists them", field="device")
    for name, value in (("over", over), ("pool", given.get("pool"))):
        if value is not None:
            raise SpecError("is not searched in an engine on a card", field=name)
    made = serving(spec, given, card, reserve, shared=False)
    if not made.found:
        raise SpecError("all keys and values are in the CPU's memory, of which no size is known", field="gpu_layers")
    assert made.device is not None
    assert made.room is not None
    assert made.aside is not None
    users, context, cards = _most(spec, made, reserve)
    most = (context, users, cards) if "batch" in given and "context" not in given else (users, context, cards)
    top = next((each for each in most if each.size != "cards" and each.largest_fits), None)
    fullest = made if top is None else made.at(**{top.size: top.largest_fits})
    rows, needs = list(alive(fullest, whole=False)), made.needs
    return CapacityView(Capacity(
        model=ModelInfo.of(spec, source, overrides),
        workload=made.trace.workload,
        new=None,
        attention=None,
        device=made.device,
        reserve=made.aside,
        room_bytes=made.room,
        peak=Peak(bytes=needs, phase=START.phase, at=START.at, kind=certainty(made)),
        fits=needs <= made.room,
        short_bytes=None if top else made.at(1, 1).needs - made.room,
        most=most,
        frontier=tuple(_frontier(spec, made)),
        held=tuple(Held(what=row.what, bytes=row.bytes) for row in rows),
        flops_per_token=int(total(flops(made.trace, "forward"))),
        levers=(),
        engine=served(made, tuple(gains(spec, card, made))),
        notes=(*noted, *made.notes),
        conventions=tuple(Convention(id=rule.name, text=f"{rule.name}: {rule.value} ({rule.source})")
                          for rule in made.of.rules.values()),
        provenance=Provenance.of(command),
    ), made.defaults)


def _most(spec: Model, made: Serving, reserve: str | None) -> tuple[Most, Most, Most]:
    """Users of the context, the longest context of the users, and the fewest cards for both."""
    users, context, last = made.most(), made.context, spec.context
    more = _needs(made, users + 1, context)
    most = Most(size="users", given={"context": context}, largest_fits=users or None,
               bytes=_needs(made, users, context) if users else None, first_not=users + 1, bytes_first_not=more,
               phase=START.phase, at=_binds(made), ends=None)
    longest = made.longest(made.users, last)
    ends = longest == last
    beyond = Most(size="context", given={"users": made.users}, largest_fits=longest or None,
               bytes=_needs(made, made.users, longest) if longest else None,
               first_not=None if ends else longest + 1,
               bytes_first_not=None if ends else _needs(made, made.users, longest + 1),
               phase=START.phase, at=_binds(made), ends=f"{spec.name} was made for no more" if ends else None)
    return most, beyond, _fewest(spec, made, reserve)


def _needs(made: Serving, users: int, context: int) -> int:
    return made.at(users, context).needs


def _binds(made: Serving) -> str:
    """The part that there is no room for."""
    return "weights" if made.base > (made.room or 0) else "the KV pool"


def _fewest(spec: Model, made: Serving, reserve: str | None) -> Most:
    """The fewest cards that take the users at the context: of engines that split heads, a power of two."""
    assert made.device is not None
    fields = {name: value for name, value in made.asked.items() if name != "tp"}
    before: Serving | None = None
    found: Serving | None = None
    numbers = [1 << i for i in range(CARDS.bit_length())] if made.of.splits else range(1, CARDS + 1)
    for cards in numbers:
        try:
            then = serving(spec, fields, f"{cards}x{made.device.name}", reserve, shared=False)
        except SpecError:
            continue
        if then.fits:
            found = then
            break
        before = then
    ends = f"not searched beyond {CARDS}" if found is None else "one card is the least" if before is None else None
    of = found or before
    return Most(
        size="cards", given={"users": made.users, "context": made.context},
        largest_fits=None if found is None else found.cards,
        bytes=None if found is None else found.needs,
        first_not=None if before is None else before.cards,
        bytes_first_not=None if before is None else before.needs,
        phase=START.phase, at="" if of is None else _binds(before or of), ends=ends)


def _frontier(spec: Model, made: Serving) -> Iterator[Corner]:
    """The longest context of every number of users that is a power of two, down to short ones."""
    for row in range(ROWS):
        length = made.longest(1 << row, spec.context)
        if length < min(SHORTEST, spec.context):
            return
        yield Corner(batch=1 << row, length=length, bytes=_needs(made, 1 << row, length))
