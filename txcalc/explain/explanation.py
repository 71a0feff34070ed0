"""Data of an explanation: symbols, rows, the closed form and its total, and every source.

Written as JSON and YAML it is a contract with machines: every formula is there in Unicode, ASCII, LaTeX and as a
Python expression that evaluates, exactly, at the symbols' values.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from txcalc.answer.report import Kind, ModelInfo, Provenance
from txcalc.document import Part
from txcalc.spec.errors import SpecError, meant
from txcalc.trace.workload import Workload

QuantityName = Literal[
    "params", "active-params", "flops", "flops-backward", "flops-training", "flops-per-token", "activations",
    "kv-cache", "kv-cache-per-token", "weights", "training-state", "peak",
]
QUANTITIES: Final[tuple[QuantityName, ...]] = get_args(QuantityName)


def known(quantity: str) -> QuantityName:
    """The quantity of this name. Raises ``SpecError`` that names the nearest one."""
    for name in QUANTITIES:
        if name == quantity.casefold().replace("_", "-"):
            return name
    raise SpecError(f"no quantity {quantity!r}; {meant(quantity, QUANTITIES)}")


class Formula(Part):
    """One formula in four notations. ``python`` uses names, ``+ - * / **`` and ``floor``."""

    unicode: str
    ascii: str
    latex: str
    python: str


class Symbol(Part):
    """A size and what it stands for; ``name`` is its name in Python expressions."""

    name: str
    text: Formula
    meaning: str
    value: int


class Row(Part):
    """Components that are alike: ``each`` once, ``count`` times, ``value`` in all. ``paths``: their modules."""

    name: str
    paths: tuple[str, ...]
    each: Formula
    count: int
    times: Formula
    value: int


class KeptRow(Part):
    """Tensors that are alike, of the row ``row``: ``bytes`` per element, ``each`` all bytes of one of them."""

    row: str
    tensor: str
    shape: tuple[Formula, ...]
    bytes: int
    each: Formula
    count: int
    times: Formula
    value: int
    kept_by: tuple[str, ...]
    kept_as: str
    why: str


class AliveRow(Part):
    """Tensors that are alike and alive at a peak, of the row ``row``; ``made_by``: the operation that allocated them,
    forward or in its backward pass."""

    row: str
    tensor: str
    each: Formula
    count: int
    times: Formula
    value: int
    made_by: str


class Term(Part):
    """A term of the closed form with its value."""

    formula: Formula
    value: int


class LayerPart(Part):
    """The part of one row in a layer: ``formula`` is of the ``count`` that one layer has together."""

    row: str
    count: str
    formula: Formula


class Layer(Part):
    """One layer of a kind, taken apart: the bracket behind ``symbol`` in the closed form."""

    symbol: Formula
    meaning: str
    count: int
    parts: tuple[LayerPart, ...]
    formula: Formula


class Simplification(Part):
    """A textbook's term in place of ``exact``, which is the ``of``. ``difference``: value over exact, less 1."""

    formula: Formula
    where: str
    value: int
    of: str
    exact: int
    difference: float
    leaves_out: str
    source: str


class PublishedFigure(Part):
    """A printed figure and the count beside it; ``note`` explains a difference."""

    quantity: str
    printed: str
    counted: int | None
    difference: float | None
    rounds_equal: bool
    note: str | None
    source: str


class Source(Part):
    """A rule that was used, and where it was read or measured."""

    rule: str
    source: str


class Moment(Part):
    """The moment when most bytes are live: the operation at ``path`` has just allocated in this pass."""

    phase: Literal["forward", "backward"]
    path: str


class Range(Part):
    """A formula is the count at this size, halved and doubled again and again, from ``least`` to ``most``."""

    size: Literal["batch", "seq", "past"]
    least: int
    most: int


class Explanation(Part):
    """The derivation of one number.

    ``relations`` hold in every formula here, ``substitutions`` (``f = 4d``) in the closed form only; ``assumptions``
    are the sides taken of minima. ``terms`` are those of the closed form, each with its value.
    ``kernel``: the attention kernel, where it changes the quantity. ``moment``: when a peak is;
    ``holds``: for how far its formula was tried and is the peak, one size at a time.
    """

    schema: Literal["txcalc/explain/v1"] = "txcalc/explain/v1"
    model: ModelInfo
    workload: Workload
    quantity: QuantityName
    title: str
    unit: str
    kind: Kind
    kernel: str | None = None
    moment: Moment | None = None
    holds: tuple[Range, ...] = ()
    total: int
    symbols: tuple[Symbol, ...]
    relations: tuple[Formula, ...]
    substitutions: tuple[Formula, ...]
    assumptions: tuple[Formula, ...]
    rows: tuple[Row, ...]
    kept: tuple[KeptRow, ...]
    alive: tuple[AliveRow, ...] = ()
    layers: tuple[Layer, ...]
    closed: Formula
    substituted: Formula
    terms: tuple[Term, ...]
    simplifications: tuple[Simplification, ...]
    published: tuple[PublishedFigure, ...]
    notes: tuple[str, ...]
    sources: tuple[Source, ...]
    provenance: Provenance
