"""Ways of processing a sequence, one layer each, side by side: what each costs and how it grows with the length.

Every number is a fold over the layer's traced program; the growth exponents are fitted to those numbers and stand
beside what the literature says (arXiv 1706.03762, Table 1, and the papers that came after).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from txcalc.answer.conventions import Convention
from txcalc.answer.report import Kind, Provenance
from txcalc.answer.rerun import CONVOLVES, EMPTY_STATE, exact
from txcalc.count import activations, flops, kv_cache, params, sequence
from txcalc.document import Part
from txcalc.models.sources import read_source
from txcalc.spec import older
from txcalc.spec.errors import SpecError
from txcalc.spec.layers import Attention, Mamba2, Mixer
from txcalc.spec.rnn import GRU, LSTM, RNN, Convolution1D, LinearAttention
from txcalc.trace.mixer import trace_mixer
from txcalc.trace.workload import Workload

SCHEMA: Final = "txcalc/mixers/v1"
LENGTHS: Final = tuple(1024 << i for i in range(7))
"""1,024 to 65,536, where no lengths are asked for."""

FITTED: Final = 4
"""An exponent is fitted to the last so many lengths, where the leading term has taken over."""

Quantity = Literal["flops_forward", "activation_bytes", "state_bytes", "sequential_steps", "longest_path"]
QUANTITIES: Final[tuple[Quantity, ...]] = (
    "flops_forward", "activation_bytes", "state_bytes", "sequential_steps", "longest_path",
)


class MixerPoint(Part):
    """One layer at one length, for the whole batch.

    ``activation_bytes``: kept for backward, the layer's input included. ``state_bytes``: held after ``seq`` tokens
    to generate the next. ``sequential_steps``: operations that wait for one another. ``longest_path``: steps, or
    layers, that a signal passes from the first position to the last; null where it never gets there.
    """

    seq: int
    flops_forward: int
    activation_bytes: int
    state_bytes: int
    sequential_steps: int
    longest_path: int | None


class Growth(Part):
    """Growth of a quantity: the fitted exponent of N (null with fewer than two lengths), and the theory."""

    quantity: Quantity
    fitted: float | None
    theory: str


class MixerRow(Part):
    """One layer. ``kind``: whether FLOPs and kept bytes are exact or depend on a kernel's own choice."""

    id: str
    title: str
    source: str
    params: int
    kind: Kind
    points: tuple[MixerPoint, ...]
    growth: tuple[Growth, ...]


class Sizes(NamedTuple):
    """The layers' sizes. ``heads`` None: 8 where that divides ``d``, else 1."""

    d: int = 512
    heads: int | None = None
    kernel: int = 3
    window: int = 512
    state: int = 128


class MixerTable(Part):
    """The answer of ``txcalc mixers``: all layers at all lengths."""

    schema: Literal["txcalc/mixers/v1"] = SCHEMA
    d_model: int
    heads: int
    kernel: int
    window: int
    state: int
    workload: Workload
    mixers: tuple[MixerRow, ...]
    conventions: tuple[Convention, ...]
    provenance: Provenance


class _Entry(NamedTuple):
    """A layer, its policy, and the order in N of each of ``QUANTITIES``."""

    id: str
    title: str
    spec: Mixer
    theory: tuple[str, str, str, str, str]
    source: str
    policy: Mapping[str, str] = MappingProxyType({})
    kind: Kind = "exact"


def mixers(
    sizes: Sizes | None = None, workload: Workload | None = None, lengths: Sequence[int] = LENGTHS, *,
    command: Sequence[str] = (), progress: Callable[[int, int], None] | None = None,
) -> MixerTable:
    """Trace every layer at every length; ``workload`` gives batch, dtypes and what masked pairs count.

    Raises ``SpecError`` where the heads do not divide the width.
    """
    sizes, workload = sizes or Sizes(), workload or Workload(seq=1)
    heads = _heads(sizes)
    lengths = tuple(sorted(set(lengths)))
    rows = []
    entries = _entries(sizes, heads)
    for done, entry in enumerate(entries):
        if progress is not None:
            progress(done, len(entries))
        rows.append(_row(entry, sizes.d, workload, lengths))
    return MixerTable(
        d_model=sizes.d, heads=heads, kernel=sizes.kernel, window=sizes.window, state=sizes.state,
        workload=workload.replaced(seq=lengths[-1]),
        mixers=tuple(rows),
        conventions=_conventions(workload),
        provenance=Provenance.of(command),
    )


def _heads(sizes: Sizes) -> int:
    heads = sizes.heads if sizes.heads is not None else (1 if sizes.d % 8 else 8)
    if sizes.d % heads:
        raise SpecError(f"{heads} does not divide the width {sizes.d:,}", field="heads")
    return heads


def _entries(sizes: Sizes, heads: int) -> list[_Entry]:
    d, head_dim = sizes.d, sizes.d // heads
    bias = dict.fromkeys("qkvo", True)
    attention = Attention.from_data({"heads": heads, "head_dim": head_dim, "bias": bias})
    window = attention.replaced(window=sizes.window)
    linear = LinearAttention(heads=heads, head_dim=head_dim)
    inner = math.gcd(2 * d, 64)
    mamba = Mamba2(kind="mamba2", heads=2 * d // inner, head_dim=inner, state=sizes.state)
    loop = ("O(N d²)", "O(N d)", "O(d)", "O(N)", "O(N)")
    eager, flash, skipped = {"attention": "eager"}, {"attention": "flash"}, {"masked": "skipped"}
    vaswani, katharopoulos = "arXiv 1706.03762, Table 1", "arXiv 2006.16236, section 3"
    return [
        _Entry("rnn", "RNN", RNN(kind="rnn", hidden=d), loop, vaswani),
        _Entry("lstm", "LSTM", LSTM(kind="lstm", hidden=d), loop, vaswani),
        _Entry("gru", "GRU", GRU(kind="gru", hidden=d), loop, vaswani),
        _Entry("convolution", f"convolution, {sizes.kernel} wide", Convolution1D(width=sizes.kernel),
               ("O(N k d²)", "O(N d)", "O(k d)", "O(1)", "O(N/k)"),
               f"{vaswani} (which has O(log N) for the path, with dilation)"),
        _Entry("attention-eager", "attention, eager", attention,
               ("O(N² d)", "O(N² h)", "O(N d)", "O(1)", "O(1)"), vaswani, eager),
        _Entry("attention-flash", "attention, flash", attention,
               ("O(N² d)", "O(N d)", "O(N d)", "O(1)", "O(1)"), f"{vaswani}; arXiv 2205.14135", flash),
        _Entry("window", f"sliding window {sizes.window:,}", window,
               ("O(N w d)", "O(N d)", "O(w d)", "O(1)", "O(N/w)"), "arXiv 2004.05150, section 3.1", flash | skipped),
        _Entry("linear-attention-steps", "linear att., step by step", linear,
               ("O(N d²/h)", "O(N d²/h)", "O(d²/h)", "O(N)", "O(N)"), katharopoulos, eager),
        _Entry("linear-attention", "linear attention, kernel", linear,
               ("O(N d²/h)", "O(N d)", "O(d²/h)", "O(N)", "O(N)"), f"{katharopoulos}.3.1", flash),
        _Entry("mamba2", "Mamba-2", mamba,
               ("O(N d s)", "O(N d s)", "O(d s)", "O(N)", "O(N)"), "arXiv 2405.21060", {}, "estimate"),
    ]


def _row(entry: _Entry, d: int, workload: Workload, lengths: Sequence[int]) -> MixerRow:
    points = tuple(_point(entry, d, workload, length) for length in lengths)
    t = trace_mixer(entry.spec, d, workload.replaced(seq=1, **entry.policy))
    return MixerRow(
        id=entry.id, title=entry.title, source=entry.source, params=params.params(t), kind=entry.kind, points=points,
        growth=tuple(
            Growth(quantity=name, fitted=exponent([(p.seq, getattr(p, name)) for p in points]), theory=theory)
            for name, theory in zip(QUANTITIES, entry.theory, strict=True)
        ),
    )


def _point(entry: _Entry, d: int, workload: Workload, length: int) -> MixerPoint:
    t = trace_mixer(entry.spec, d, workload.replaced(seq=length, **entry.policy))
    return MixerPoint(
        seq=length,
        flops_forward=flops.forward_flops(t, t.workload.masked),
        activation_bytes=activations.activation_bytes(t),
        state_bytes=kv_cache.kv_cache_bytes(t) or 0,
        sequential_steps=sequence.sequential_steps(t),
        longest_path=sequence.longest_path(t),
    )


def exponent(points: Sequence[tuple[int, int | None]]) -> float | None:
    """The slope of the least-squares line through the last ``FITTED`` points on two logarithmic axes.

    None with fewer than two, or where a value is 0 or unknown. Rounded to three decimals.
    """
    last = [(math.log(x), math.log(y)) for x, y in points[-FITTED:] if y]
    if len(last) < min(max(len(points), 2), FITTED):
        return None
    xs, ys = [x for x, _ in last], [y for _, y in last]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return round(rise / sum((x - mean_x) ** 2 for x in xs), 3) + 0.0


def _conventions(workload: Workload) -> tuple[Convention, ...]:
    masked = ("counted, but for the sliding window, which counts those it keeps" if workload.masked == "counted"
              else "skipped")
    return (
        Convention(id="flops", text="1 multiply-accumulate = 2 FLOPs; matrix products are counted, gates, softmax and "
                                    "activations are not"),
        Convention(id="masked", flag="--masked", text=f"masked (query, key) pairs are {masked}"),
        Convention(id="layer", text="each layer alone, with biases, causal, its projections included, no norm and no "
                                    "residual"),
        Convention(id="kept", text="kept for backward: recurrent layers as a loop of PyTorch operations keeps them"),
        Convention(id="state", text=f"state: what generating the next token needs, in {workload.kv_dtype}; that of "
                                    "linear attention and Mamba-2 in fp32"),
        Convention(id="steps", text="steps: as written; linear attention and Mamba-2 can also run as a scan of log2(N) "
                                    "steps, or in chunks"),
        Convention(id="path", text="path: from the first position to the last, in updates of a state or in layers"),
        Convention(id="growth", text=f"the exponent of N is fitted to the last {FITTED} lengths on logarithmic axes"),
        Convention(id="mamba2", text="Mamba-2 is counted step by step; its chunked kernel chooses otherwise"),
    )


# ---------------------------------------------------------------- a saved answer


_WHY: Final = {"attention-flash": EMPTY_STATE, "window": EMPTY_STATE, "mamba2": CONVOLVES}
"""Note on a layer's cost that version 1 counted otherwise."""

Costs = dict[tuple[str, int, str], int | None]
"""By layer, length and quantity."""


class SavedMixers(NamedTuple):
    """Sizes and workload of the layers, by today's names, and what each cost at each length."""

    source: str
    older: bool
    workload: dict[str, Any]
    sizes: dict[str, int]
    lengths: tuple[int, ...]
    costs: Costs


def read_saved(path: str) -> SavedMixers:
    """Read a file of ``txcalc mixers --json`` or ``--format yaml``. Raises ``SpecError`` for any other."""
    source = read_source(path)
    data = source.document().data
    if data.get("schema") != SCHEMA:
        raise SpecError(f"a saved answer of txcalc mixers has the schema {SCHEMA}", source=source.place, field="schema")
    try:
        names = {"d": "d_model"}
        sizes = {name: _whole(data[names.get(name, name)]) for name in Sizes._fields}
        costs = dict(_costs((row["id"], row["points"]) for row in data["mixers"]))
        workload = older.workload(data, data["workload"])
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(f"is not whole: {error}", source=source.place) from None
    lengths = tuple(sorted({length for _, length, _ in costs}))
    if not lengths:
        raise SpecError("holds no layer at any length", source=source.place, field="mixers")
    return SavedMixers(source.label, older.is_older(data), workload, sizes, lengths, costs)


def changes(saved: SavedMixers, now: MixerTable) -> list[str]:
    """A line for each cost that was another."""
    found = dict(_costs((row.id, [point.to_data() for point in row.points]) for row in now.mixers))
    lines = [
        f"since {saved.source}: {quantity} of {layer} at {length:,} was {exact(then)}, is {exact(found[at])}"
        + (f": {_WHY[layer]}" if saved.older and layer in _WHY else "")
        for at, then in saved.costs.items()
        for layer, length, quantity in [at] if at in found and found[at] != then
    ]
    return lines or [f"unchanged since {saved.source}"]


def _whole(value: object, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{value!r} is no whole number of at least {least}")
    return value


def _costs(rows: Any) -> Iterator[tuple[tuple[str, int, str], int | None]]:
    for layer, points in rows:
        for point in points:
            if not isinstance(point, Mapping):
                raise TypeError("a point of a layer is a mapping")
            for quantity in QUANTITIES:
                value = point[quantity]
                yield (str(layer), _whole(point["seq"]), quantity), None if value is None else _whole(value, least=0)
