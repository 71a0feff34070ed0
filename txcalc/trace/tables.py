"""Positions, masks and rotary tables as transformers' modelling files make them before the layers of a stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from txcalc.spec.facts import first_attention, located_blocks
from txcalc.trace import cache, ops, parts
from txcalc.trace.cores import Core, added_mask
from txcalc.trace.ops import made
from txcalc.trace.record import Trace
from txcalc.trace.sizes import same, several
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec.model import Stack


class Tables(NamedTuple):
    """Tensors that all layers of a stack read, by their window: masks, cosines and sines of the positions."""

    masks: Mapping[Number | None, Tensor | None]
    rotary: Mapping[Number | None, tuple[Tensor, Tensor]]
    bias: Callable[..., Core] | None = None  # adds to the scores of a core, of attention to others if ``cross``


# ---------------------------------------------------------------- what a run makes before its layers


def positions(t: Trace, n: Number) -> Tensor:
    """The indices of positions, with those before them added; of sequences of unequal lengths they are given."""
    if t.workload.padded or t.workload.beams:
        return parts.given(t, "given positions", n)
    return made(t, "positions", n, of=made(t, "positions", n))


def tables(
    t: Trace, stack: Stack, x: Tensor, places: Tensor, rotated: Number | None, *, cached: bool
) -> tuple[Tensor, Tables]:
    """Hidden states (b, n, d) after dropout; masks, and the rotary tables of ``rotated`` columns, which the caller's
    frame holds. ``cached``: the stack has a cache where it generates."""
    b, n, _ = x.shape
    caches = cached and not t.workload.keeps
    windows = list(dict.fromkeys(getattr(block.attention, "window", None) for _, block in located_blocks(stack)))
    masks = {}
    for window in dict.fromkeys([None, *windows] if t.code.masks == "full first" else windows):
        if not caches:
            packed(t, places, b, n)
        masks[window] = found = mask(t, b, n, cache.seen(t, n, window) if caches else n, window, x.made)
        if found is not None:
            t.hold(found)
    if t.code.drops in ("inside", "outside"):
        x = ops.dropout(t, "embedding_dropout", x)
    rotary: dict[Number | None, tuple[Tensor, Tensor]] = {}
    for window in windows if rotated is not None else ():
        if rotary and not t.code.rotary_of_windows:
            rotary[window] = rotary[windows[0]]
            continue
        rotary[window] = cos, sin = _rotary_tables(t, places, n, rotated, x.made)
        t.hold(cos)
        t.hold(sin)
    return x, Tables(masks, rotary)


def packed(t: Trace, positions: Tensor, b: Number, n: Number) -> None:
    """``find_packed_sequence_indices``: whether all tokens of a row are of one sequence."""
    name = "packed"
    with t.frame():
        first = t.hold(made(t, name, b, 1, of=positions))
        joined = made(t, name, b, n + 1, of=(positions, first))
        steps = t.hold(made(t, name, b, n, of=joined))
        jumps = made(t, name, b, n, role=Role.BOOL, of=steps)
        sums = t.hold(made(t, name, b, n, of=jumps))
        with t.frame():
            equal = t.hold(made(t, name, b, role=Role.BOOL, of=sums))
            t.hold(made(t, name, role=Role.BOOL, of=equal))


def mask(t: Trace, b: Number, n: Number, keys: Number, window: Number | None, role: Role) -> Tensor | None:
    """``sdpa_mask``, whether a query sees a key, unless the kernel knows; of ``eager_mask`` what is added, in the
    ``role`` of hidden states."""
    if t.workload.padded:
        return padded(t, b, n, keys, window, role)
    if not scored(t):
        past, static = t.size(t.workload.past), t.workload.room is not None
        if static and window is None and past != 0 and several(t, n):
            made(t, "causal", role=Role.BOOL)  # whether there are no keys yet
        known = past == 0 or not several(t, n) if not static else past == 0 and several(t, n)
        return None if known and not _reaches(t, keys, window) else _seen(t, b, n, keys, window)
    with t.frame():
        return added_mask(t, t.hold(_seen(t, b, n, keys, window)), b, role)


def padded(
    t: Trace, b: Number, n: Number, keys: Number, window: Number | None, role: Role, *, whole: bool = False
) -> Tensor | None:
    """The same of sequences of unequal lengths, or of a mask that says that nothing is padding (``whole``): padding is
    given as integers, and found in every mask."""
    name, total = "padding", n if t.workload.keeps else t.workload.past + n
    with t.frame():
        there = t.hold(made(t, name, b, total, role=Role.BOOL))
        with t.frame():
            if t.workload.room is not None and (t.size(keys) or 0) > (t.size(total) or 0):
                there = t.hold(made(t, name, b, keys, role=Role.BOOL, of=there))
            skips = not scored(t) and (t.workload.room is None or several(t, n))
            if skips and _asked(t, n, keys, window, there, whole=whole):
                return None
            seen = _seen(t, b, n, keys, window, there)
        return seen if not scored(t) else added_mask(t, t.hold(seen), b, role)


def _asked(t: Trace, n: Number, keys: Number, window: Number | None, there: Tensor, *, whole: bool) -> bool:
    """``_ignore_causal_mask_sdpa``, which looks for padding: true where no mask is needed."""
    name, b = "padding", there.shape[0]

    def asked(found: Tensor) -> bool:
        """``fast_all``."""
        with t.frame(found):
            made(t, name, role=Role.BOOL, of=made(t, name, of=found))
        return whole

    with t.frame():
        if t.size(keys) != t.size(there.shape[-1]):
            places = t.hold(made(t, name, keys, of=made(t, name, keys)))
            there = t.hold(made(t, name, b, keys, role=Role.BOOL, of=(there, places)))
        if _reaches(t, keys, window):
            return False
        if (not several(t, n) or same(n, keys)) and asked(there):
            return True
        if t.size(t.workload.past) == 0:
            if asked(there):
                asked(made(t, name, b, keys - n, role=Role.BOOL))
                return True
        elif t.workload.room is not None and window is None:
            made(t, name, role=Role.BOOL)
    return False


def _reaches(t: Trace, keys: Number, window: Number | None) -> bool:
    """True where keys lie beyond a window."""
    size, bound = t.size(keys), t.size(window)
    return window is not None and (size is None or bound is None or size >= bound)


def scored(t: Trace) -> bool:
    """Tell whether attention is composed, because it was asked for or because a class has nothing else."""
    return t.workload.attention == "eager" or not t.code.sdpa


def _seen(t: Trace, b: Number, n: Number, keys: Number, window: Number | None, there: Tensor | None = None) -> Tensor:
    """The mask of keys that a query sees, in one matrix for all sequences, or of what is ``there`` in each of them."""
    name = "causal"
    with t.frame():
        for length in (b, 1):
            t.hold(made(t, name, length))
        rows, columns = (t.hold(made(t, name, size, of=made(t, name, size))) for size in (n, keys))
        all_of = () if there is None else (made(t, name, role=Role.BOOL),)
        if window is None:
            seen = pairs(t, n, keys, rows, columns)
        else:
            ones = made(t, name, role=Role.BOOL)
            near = pairs(t, n, keys, made(t, name, n, of=rows), columns)
            both = pairs(t, n, keys, ones, near)
            seen = pairs(t, n, keys, both, pairs(t, n, keys, rows, columns))
        if there is None:
            return seen
        seen = pairs(t, n, keys, *all_of, seen)
        return pairs(t, n, keys, seen, pairs(t, 1, keys, there, columns, b=b), b=b)


def pairs(t: Trace, n: Number, keys: Number, *of: Tensor, b: Number = 1) -> Tensor:
    """A truth value for every pair of query and key."""
    return made(t, "causal", b, 1, n, keys, role=Role.BOOL, of=of, label="causal mask", scores=True)


def _rotary_tables(
    t: Trace, positions: Tensor, n: Number, columns: Number, role: Role
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (1 or b, n, columns), made in fp32, and then in the ``role`` of hidden states."""
    name, wide, b = "rotary", Role.FLOAT32, positions.shape[0] if positions.shape[1:] else 1
    with t.frame():
        angles = t.hold(made(t, name, b, n, columns // 2, role=wide, of=made(t, name, b, n, 1, role=wide,
                                                                               of=positions)))
        both = t.hold(made(t, name, b, n, columns, role=wide, of=angles))
        cos, sin = (t.hold(made(t, name, b, n, columns, role=wide, of=made(t, name, b, n, columns, role=wide,
                                                                            of=both))) for _ in range(2))
        if t.code.rotary == "fp32":
            return cos, sin
        return ops.cast(t, name, cos, role), ops.cast(t, name, sin, role)


def rebound(t: Trace) -> list[Tensor]:
    """Weights that a call held by a name that is given to something else now, for who does so to hold."""
    return [t.calls["weights"].pop() for _ in t.calls["weights"][:]]


def rotated(stack: Stack) -> Number | None:
    """Columns of a head that are rotated, or None where none is."""
    position, first = stack.position, first_attention(stack)
    if position.kind != "rope":
        return None
    if first.kind == "mla":
        return first.rope_dim
    return first.head_dim if position.dim is None else position.dim
