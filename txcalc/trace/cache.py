"""Caches that one call keeps for the tokens to come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from txcalc.trace.sizes import least
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.trace.cores import Core
    from txcalc.trace.record import Trace


class Cache(NamedTuple):
    """Keys and values, or a state of constant size (one "token" of it), that one call keeps for later tokens."""

    kind: Literal["self", "cross", "state"]
    per_token: Number  # elements per sequence and token
    tokens: Number  # held per sequence after this run
    batch: Number
    role: Literal["kv", "float32"] = "kv"  # in the workload's kv_dtype, or always fp32
    # Of self-attention: which tokens, and what of them.
    layout: Literal["full", "window", "chunk", "latent", "inputs", "source", "compressed"] = "full"
    end: Number | None = None  # position after the last token held, where earlier ones have been dropped
    limit: Number | None = None  # tokens held at most
    every: Number = 1  # tokens seen for one that is held
    # (how many, elements of each): the vectors of one token, each of which a format of a few bits packs by itself.
    rows: tuple[tuple[Number, Number], ...] = ()

    @property
    def name(self) -> str:
        """``full``, ``window``, ``chunk``, ``latent``, ``inputs``, ``compressed``, ``cross`` or ``state``."""
        return self.layout if self.kind == "self" else self.kind

    def blocks(self, size: Number) -> Number:
        """Blocks of ``size`` tokens that the tokens of one sequence touch: a window may straddle one more."""
        end = self.tokens if self.end is None else self.end
        return -(-end // size) - (end - self.tokens) // size

    @property
    def elements(self) -> Number:
        """All elements of this cache after the run."""
        return self.batch * self.tokens * self.per_token


def kv_cache(
    kind: Literal["self", "cross"], rows: tuple[tuple[Number, Number], ...], tokens: Number, batch: Number, **more: Any
) -> Cache:
    """A cache of vectors: how many of each size one token has."""
    return Cache(kind, sum(count * size for count, size in rows), tokens, batch, rows=rows, **more)


def extend(t: Trace, k: Tensor, v: Tensor, before: Number, held: Number) -> tuple[Tensor, Tensor]:
    """Keys and values (b, n, width) after those of the ``before`` tokens that are cached, and the cache's own copies.

    ``torch.cat`` copies all of them; of that the last ``held`` tokens are copied once more, and replace what was there.
    """
    seen = []
    with t.frame():
        for label, x in (("keys", k), ("values", v)):
            b, n, width = x.shape
            if t.size(before) != 0:
                old, new = t.hold(t.tensor(b, before, width, label=f"cached {label}")), x
                t.op("cache", "past", writes=(old,))
                x = t.tensor(b, before + n, width, label=label)
                t.op("cache", "elementwise", reads=(old, new), writes=(x,))
            seen.append(x)
        for x in seen:
            b, _, width = x.shape
            t.op("cache", "cache", reads=(x,), writes=(t.tensor(b, held, width, label=f"cached {x.label}"),))
    return seen[0], seen[1]


def grow(t: Trace, xs: tuple[Tensor, ...], before: Number) -> tuple[Tensor, ...]:
    """Tensors (b, n, ...) after those of the ``before`` tokens that are cached: what ``torch.cat`` makes is cached."""
    with t.frame(*xs):
        if t.size(before) != 0:
            held = [t.hold(t.tensor(x.shape[0], before, *x.shape[2:], label=f"cached {x.label}")) for x in xs]
            t.op("cache", "past", writes=tuple(held))
            xs = tuple(t.hold(t.op("cache", "elementwise", reads=(old, x), writes=(
                t.tensor(x.shape[0], before + x.shape[1], *x.shape[2:], label=x.label),)))
                       for old, x in zip(held, xs, strict=True))
        t.op("cache", "cache", reads=xs)
    return xs


def keep(t: Trace, k: Tensor, v: Tensor, before: Number, held: Number) -> tuple[Tensor, Tensor]:
    """Keys and values (b, n, width) of a source, cached as they are, or the ``held`` ones that are cached already."""
    if t.size(before) != 0:
        k, v = (t.tensor(x.shape[0], held, x.shape[-1], label=label) for label, x in (("keys", k), ("values", v)))
        t.op("cache", "past", writes=(k, v))
    t.op("cache", "cache", reads=(k, v))
    return k, v


def hides(t: Trace, cache: Cache | None) -> bool:
    """Tell whether some keys of plain PyTorch are padding, so that their mask is made in this run."""
    return t.workload.padded and t.workload.implementation == "torch" and cache is not None and cache.kind == "self"


def padded(t: Trace, core: Core, b: Number) -> Core:
    """A core whose mask (b, 1 or heads, queries, keys) is a buffer and what hides padding, or as it was."""
    if not hides(t, core.cache):
        return core
    shape = (b, core.masked, core.span.queries, core.span.keys)
    mask = t.tensor(*shape, role=Role.ACTIVATION, label="mask", scores=True, grad=False)
    return core._replace(mask=t.hold(t.op("padding", "elementwise", writes=(mask,))))


# ---------------------------------------------------------------- those of transformers (``cache_utils.py``)


def seen(t: Trace, n: Number, window: Number | None) -> Number:
    """Keys that ``n`` queries meet (``get_mask_sizes``): of a static cache also the places that are still empty."""
    past, room = t.workload.past, _room(t, window)
    if room is None:
        return n + (past if window is None else least(past, window - 1))
    return room if window is None or _fits(t, past + n, room) else n + least(past, room - 1)


def update(t: Trace, k: Tensor, v: Tensor, window: Number | None) -> tuple[Tensor, Tensor]:
    """Keys and values (b, n, width) with those that are cached, as a layer of the workload's cache hands them on."""
    return (_dynamic if t.workload.room is None else _static)(t, k, v, window)


def once(t: Trace, k: Tensor, v: Tensor, tokens: Number) -> tuple[Tensor, Tensor]:
    """Keys and values (b, n, width) of a source, which the first pass caches, or ``tokens`` that are cached."""
    filled, static, found = t.workload.phase == "decode", t.workload.room is not None, list[Tensor]()
    with t.frame():
        for label, x in (("keys", k), ("values", v)):
            y = t.tensor(x.shape[0], tokens, x.shape[-1], label=label, grad=False)
            found.append(t.op("cache", "past" if filled else "elementwise", reads=() if static or filled else (x,),
                              writes=(y,)))
        if static:
            _number(t, filled=filled)
        t.op("cache", "cache", reads=tuple(found))
        if static and not filled:
            _places(t, tokens)
    return found[0], found[1]


def _room(t: Trace, window: Number | None) -> Number | None:
    room = t.workload.room
    return room if room is None or window is None else least(window, room)


def _fits(t: Trace, tokens: Number, room: Number) -> bool:
    held, most = t.size(tokens), t.size(room)
    return isinstance(held, int) and isinstance(most, int) and held <= most


def _dynamic(t: Trace, k: Tensor, v: Tensor, window: Number | None) -> tuple[Tensor, Tensor]:
    """``DynamicLayer``: joined to copies of what was cached.

    That of a window, ``DynamicSlidingWindowLayer``, caches a part of what it returns, so that all of it lives; what
    was cached before came from a pass of as many tokens.
    """
    (b, n, _), past, found = k.shape, t.workload.past, list[Tensor]()
    before = least(past - n, window - 1) + n if window is not None and _fits(t, n, past) else past
    with t.frame():
        if window is not None:
            _number(t)
        for label, x in (("keys", k), ("values", v)):
            old: tuple[Tensor, ...] = ()
            if t.size(past) != 0:
                old = (_cached(t, label, b, before, x.shape[-1]),)
            y = t.tensor(b, seen(t, n, window), x.shape[-1], label=label)
            found.append(t.op("cache", "elementwise", reads=(*old, x), writes=(y,)))
            if window is not None:
                for each in old:
                    t.hold(each)
        for y in found:
            t.op("cache", "cache", reads=(y,))
    return found[0], found[1]


def _static(t: Trace, k: Tensor, v: Tensor, window: Number | None) -> tuple[Tensor, Tensor]:
    """``StaticLayer``: written into memory for all that will come, which attention reads.

    Where a window is full, ``StaticSlidingWindowLayer`` hands on what that does not hold any more as well.
    """
    (b, n, _), past, room = k.shape, t.workload.past, _room(t, window)
    new = (("keys", k), ("values", v))
    with t.frame():
        held = [_cached(t, label, b, room, x.shape[-1]) for label, x in new]
        _number(t)
        t.op("cache", "cache", reads=tuple(held))
        if window is None or _fits(t, past + n, room):
            _places(t, n)
            return held[0], held[1]
        if t.size(past) == 0:
            return k, v
        if t.size(n) == 1 and not _fits(t, past + 1, room):
            for each in held:
                t.hold(t.op("cache", "elementwise", reads=(each,), writes=(t.tensor(*each.shape, label="moved"),)))
            if t.workload.kernels == "cuda":
                t.hold(t.op("cache", "elementwise", writes=(t.tensor(1, role=Role.INDEX, label="place"),)))
            return held[0], held[1]
        found = [t.op("cache", "elementwise", reads=(x, old), writes=(
            t.tensor(b, seen(t, n, window), x.shape[-1], label=label),)) for (label, x), old in zip(
                new, held, strict=True)]
    return found[0], found[1]


def _places(t: Trace, n: Number) -> None:
    """The places of new tokens."""
    place = t.op("cache", "elementwise", writes=(t.tensor(n, role=Role.INDEX, label="places", grad=False),))
    t.hold(t.op("cache", "elementwise", reads=(place,), writes=(t.tensor(n, role=Role.INDEX, label="places"),)))


def _cached(t: Trace, label: str, *shape: Number, filled: bool | None = None, **of: Any) -> Tensor:
    """Tensors that are cached before this pass, or made in the first one for those that follow."""
    filled = t.size(t.workload.past) != 0 if filled is None else filled
    kind: Literal["past", "cache"] = "past" if filled else "cache"
    return t.op("cache", kind, writes=(t.tensor(*shape, label=f"cached {label}", grad=False, **of),))


def _number(t: Trace, *, filled: bool | None = None) -> None:
    """A number that a layer of the cache moves to a card: its window, or how much it holds."""
    if t.workload.kernels == "cuda":
        t.op("cache", "cache", reads=(_cached(t, "number", filled=filled, role=Role.INDEX),))
