"""The memory of a run and the most that fits, in plain PyTorch or in the engine that is named.

Of an engine in the same documents: what it holds on a card, its pool, and what makes room for more requests.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any, Final

from txcalc.answer import capacity as fitting
from txcalc.answer import memory as plain_torch
from txcalc.answer.capacity import ROWS, SHORTEST, At, Capacity, Corner, Make, Most, answer
from txcalc.answer.conventions import Convention
from txcalc.answer.engines import BUNDLES, names, of_file
from txcalc.answer.frameworks import framed
from txcalc.answer.memory import Alive, Held, Memory, Outside, Peak, Phase
from txcalc.answer.report import PYTHON, Answer, Kind, ModelInfo, Origin, Provenance
from txcalc.answer.serving import OPTIONS, Gain, Serving, is_own, served, serving, tokens_of
from txcalc.count.entries import total
from txcalc.count.flops import entries as flops
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import is_causal
from txcalc.spec.model import Model
from txcalc.trace.workload import plain


def memory(
    spec: Model, given: Mapping[str, Any], card: str | None = None, *, origin: Origin = PYTHON, **more: Any
) -> Answer[Memory]:
    """The memory of a run with these fields. Raises ``SpecError``."""
    given, notes = framed(_unbundled(spec, _of_file(spec, given)))
    origin = origin._replace(notes=(*origin.notes, *notes))
    return (_memory if _served(given) else plain_torch.memory)(spec, given, card, origin=origin, **more)


def capacity(
    spec: Model, given: Mapping[str, Any], card: str | None, *, make: Make | None = None, origin: Origin = PYTHON,
    **more: Any,
) -> Answer[Capacity]:
    """The most that fits into a card of a run with these fields. Raises ``SpecError``, also without a card."""
    given, notes = framed(_unbundled(spec, _of_file(spec, given, fits=True)))
    more["origin"] = origin._replace(notes=(*origin.notes, *notes))
    served = _served(given)
    if card is None:
        raise SpecError("needs a card or a size, such as h100-80gb or 24GB; txcalc devices lists them", field="device")
    return _capacity(spec, given, card, **more) if served else fitting.capacity(spec, given, card, make=make, **more)


def _of_file(spec: Model, given: Mapping[str, Any], *, fits: bool = False) -> Mapping[str, Any]:
    """With the engine whose own file the model was read from, where a longest request is given and no engine, or where
    it is asked for what ``fits`` and no pass is described."""
    found = of_file(spec.stored.method) if spec.stored is not None else None
    served = "context" in given or (fits and given.keys() <= {*OPTIONS, "kv_dtype"})
    return given if found is None or "engine" in given or not served else {**given, "engine": found}


def _unbundled(spec: Model, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """With what an engine that sets nothing aside stands for, where that is named."""
    called, _, version = str(given.get("engine")).partition("@")
    if called not in BUNDLES:
        return given
    if version not in ("", "5.23"):
        raise SpecError(f"the classes of {called} are followed in version 5.23, not in {version}", field="engine")
    if plain(given).get("phase") == "training":
        raise SpecError(f"is for inference; give --implementation {called}", field="engine")
    stands = {name: value for name, value in BUNDLES[called].items() if name != "logits" or is_causal(spec)}
    return {**stands, **{name: value for name, value in given.items() if name != "engine"}}


def _served(given: Mapping[str, Any]) -> bool:
    """Say if an engine is named. Raises ``SpecError`` for options that need one."""
    if given.get("engine") is not None:
        return True
    for name, value in given.items():
        if name != "tp" and (is_own(name, value) or name == "kv_block"):
            raise SpecError(f"is of an engine: give --engine {', '.join(names())}", field=name)
    return False


# ---------------------------------------------------------------- its memory


POOL: Final = "KV pool"
START: Final = Phase(phase="serving", peak_bytes=0, at="the start")


def _memory(
    spec: Model, given: Mapping[str, Any], card: str | None, *, reserve: str | None = None, origin: Origin = PYTHON,
    ranks: bool = False,
) -> Answer[Memory]:
    """The memory of a model in the ``engine`` of the given fields, on each card.

    Raises ``SpecError`` for what the engine does not run, or does not admit.
    """
    if ranks:
        raise SpecError("figures of an engine are of its fullest card; leave it out", field="ranks")
    made = serving(spec, given, card, reserve)
    rows = list(_alive(made))
    peak = sum(row.bytes for row in rows)
    device, room = made.device, made.room
    return Answer(Memory(
        model=ModelInfo.of(spec, origin),
        workload=made.trace.workload,
        new=None,
        attention=None,
        peak=Peak(bytes=peak, phase=START.phase, at=START.at, kind=_certainty(made)),
        phases=(START.replaced(peak_bytes=peak),),
        kept_bytes=None,
        resident=tuple(Held(what=what, bytes=sum(row.bytes for row in rows if row.why == what))
                       for what in ("weights", POOL)),
        at_peak=tuple(sorted(rows, key=lambda row: -row.bytes)),
        timeline=(),
        workspace_bytes=None,
        outside=tuple(_outside(made)),
        device=device,
        reserve=made.aside,
        fits=None if made.available is None else made.fits,
        free_bytes=None if room is None else room - peak,
        flops_per_token=int(total(flops(made.trace, "forward"))),
        levers=(),
        engine=served(made, tuple(_gains(spec, card, made)) if made.available is not None else ()),
        notes=(*origin.notes, *made.notes),
        conventions=tuple(Convention(id=rule.name, text=f"{made.of.title} from {rule.since} on, {rule.name}: "
                                     f"{rule.value} ({rule.source})") for rule in made.of.rules.values()),
        provenance=Provenance.of(origin.command),
    ), made.defaults)


def _certainty(made: Serving) -> Kind:
    """Certainty of the bytes."""
    return "estimate" if any(each.kind == "estimate" for each in made.held) else "exact"


def _alive(made: Serving, *, whole: bool = True) -> Iterator[Alive]:
    """Memory of a card by use: weights, buffers, and the KV pool, ``whole`` or the part that requests take."""
    for each in made.held:
        if each.bytes:
            yield _row(each.what, each.bytes, "weights" if each.what == "weights" else _WHY[each.kind])
    whole = whole and made.of.pool != "cells" and made.available is not None and made.fits
    size = (made.available or 0) if whole else made.taken
    if size:
        kinds = ", ".join(dict.fromkeys(each.kind for each in made.found))
        yield _row(f"keys and values of {kinds} layers", size, POOL)


_WHY: Final = {"exact": "set up once", "estimate": "estimate"}


def _row(what: str, size: int, why: str) -> Alive:
    return Alive(path="", what=what, shape=None, dtype=None, times=1, bytes=size, why=why)


def _outside(made: Serving) -> Iterator[Outside]:
    """Memory that no figure includes."""
    if "bytes of a sampled logit" in made.of.rules:
        yield Outside(what="CUDA graphs", bytes=None, source="captured beside what --utilization gives up to 0.19, and "
                      "estimated within it from 0.20 on; logs of 0.7 to 0.11 have 0.1 to 1.6 GiB")
    elif made.of.splits:
        yield Outside(what="activations and CUDA graphs", bytes=None,
                      source="in the part of the card that mem_fraction_static leaves")
    for what, size in (("weights", made.host), ("keys and values", made.host_cache)):
        if size:
            yield Outside(what=f"{what} in the CPU's memory", bytes=size, source="src/llama-model.cpp: load_tensors; "
                          "the input layer stays there")


# ---------------------------------------------------------------- the most that fits


CARDS: Final = 16
"""More cards are not searched."""


def _capacity(
    spec: Model, given: Mapping[str, Any], card: str, *, reserve: str | None = None, over: str | None = None,
    origin: Origin = PYTHON,
) -> Answer[Capacity]:
    """The most that fits into the ``engine`` of the given fields on ``card``, a device's name or bytes, or several.

    Raises ``SpecError`` for what the engine does not run or admit.
    """
    for name, value in (("over", over), ("pool", given.get("pool")), ("lengths", given.get("lengths"))):
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
    rows, needs = list(_alive(fullest, whole=False)), made.needs
    return Answer(Capacity(
        model=ModelInfo.of(spec, origin),
        workload=made.trace.workload,
        new=None,
        attention=None,
        device=made.device,
        reserve=made.aside,
        room_bytes=made.room,
        peak=Peak(bytes=needs, phase=START.phase, at=START.at, kind=_certainty(made)),
        fits=needs <= made.room,
        short_bytes=None if top else made.at(1, 1).needs - made.room,
        most=most,
        frontier=tuple(_frontier(spec, made)),
        held=tuple(Held(what=row.what, bytes=row.bytes) for row in rows),
        flops_per_token=int(total(flops(made.trace, "forward"))),
        levers=(),
        engine=served(made, tuple(_gains(spec, card, made))),
        notes=(*origin.notes, *made.notes),
        conventions=tuple(Convention(id=rule.name, text=f"{rule.name}: {rule.value} ({rule.source})")
                          for rule in made.of.rules.values()),
        provenance=Provenance.of(origin.command),
    ), made.defaults)


def _most(spec: Model, made: Serving, reserve: str | None) -> tuple[Most, Most, Most]:
    """Users of the context, the longest context of the users, and the fewest cards for both."""
    def at(sizes: Mapping[str, int]) -> At:
        return At((made.at(**sizes).needs,), START.phase, _binds(made))

    sizes, last = {"users": made.users, "context": made.context}, spec.context
    users, longest = made.most(), made.longest(made.users, last)
    ends = f"{spec.name} was made for no more" if longest == last else None
    return (answer("users", sizes, lambda users: at({**sizes, "users": users}), users + 1, users, None),
            answer("context", sizes, lambda context: at({**sizes, "context": context}),
                   None if ends else longest + 1, last, ends),
            _fewest(spec, made, reserve))


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
        phase=START.phase, at="" if of is None else _binds(before or of), ends=ends,
        room_first_not=None if before is None or before.room == made.room else before.room)


def _frontier(spec: Model, made: Serving) -> Iterator[Corner]:
    """The longest context of every number of users that is a power of two, down to short ones."""
    for row in range(ROWS):
        length = made.longest(1 << row, spec.context)
        if length < min(SHORTEST, spec.context):
            return
        yield Corner(batch=1 << row, length=length, bytes=made.at(1 << row, length).needs)


# ---------------------------------------------------------------- what makes room


def _gains(spec: Model, card: str | None, made: Serving) -> Iterator[Gain]:
    """Changes that make room for more requests of the same length, each counted anew."""
    cards = made.cards * 2 if made.of.splits else made.cards + 1
    rows: list[tuple[dict[str, Any], str | None, str, str]] = [
        ({field: value}, card, f"--{field.replace('_', '-')} {value}", _FEWER_BITS[field])
        for field, value in made.of.fewer_bits.items() if getattr(made.trace.workload, field) != value]
    if made.device is not None and made.given is None:
        more = f"{cards}x{made.device.name}"
        rows.append(({"tp": None}, more, f"--device {more}", "more cards"))
    before = made if made.setup.shared == 1 else serving(spec, made.asked, card, made.reserve, shared=False)
    if made.of.pool == "cells" and not before.fits and not made.asked.keys() & {"offload", "gpu_layers"}:
        most = _on_card(spec, card, made)
        if most:
            rows.append(({"gpu_layers": most}, card, f"--gpu-layers {most}", "other layers in the CPU's memory"))
    if made.of.pool == "cells" and not made.asked.keys() & {"offload", "gpu_layers"}:
        rows.append(({"offload": "experts"}, card, "--offload experts", "routed experts in the CPU's memory"))
    for changes, on, option, why in rows:
        fields = {key: value for key, value in {**made.asked, **changes}.items() if value is not None}
        try:
            then = serving(spec, fields, on, made.reserve, shared=False)
        except SpecError:
            continue
        if then.most() > before.most():
            yield Gain(option=option, note=why, tokens=tokens_of(then, then.most()), requests=then.most())


def _on_card(spec: Model, card: str | None, made: Serving) -> int:
    """The most of the last layers, and the head, that fit with the requests."""
    def too_many(count: int) -> bool:
        return not serving(spec, {**made.asked, "gpu_layers": count}, card, made.reserve, shared=False).fits

    return bisect_left(range(1, spec.layers + 2), True, key=too_many)


_FEWER_BITS: Final = {"kv_dtype": "a cache of fewer bits", "weights": "weights in 4 bits"}
