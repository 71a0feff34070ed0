"""Published tables and measured rows, recomputed: ours beside theirs, with the errors of every family.

A family is a file of ``published/``: where it was read, and rows. A row says which model ran how, what is compared, and
the figure as it was printed. ``gate`` bounds the error: ``digits``, to which the count must round, ``pool``, the same
for the rounding of the bytes that it is counted from, a part (``1.5%``), a band above the count (``12% above``), or a
size (``2KiB``); a row without one is an estimate, and ``missing`` says what its configuration leaves open.
"""

from __future__ import annotations

import importlib.resources
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final, Literal

from txcalc import units
from txcalc.answer.devices import read_table
from txcalc.answer.printed import published_value
from txcalc.answer.reproduced import MEASURES
from txcalc.document import Part
from txcalc.models.load import load
from txcalc.spec.errors import SpecError, meant

Verdict = Literal["rounds to it", "within", "estimate", "MOVED"]


class Reproduced(Part):
    """A figure and its count. ``error``: counted over printed, less 1. ``gate``: the bound of a hard one.

    ``model`` and ``run``: what was counted, as they are given to txcalc. ``missing``: what the source leaves open.
    """

    id: str
    what: str
    model: str
    run: dict[str, Any]
    printed: str
    counted: float
    error: float
    gate: str | None
    verdict: Verdict
    missing: str | None


class Family(Part):
    """The rows of a source, and their errors: signed mean, mean absolute, and the worst.

    ``command``: the run of the first row on the command line.
    """

    name: str
    title: str
    source: str
    command: str
    mean: float
    mean_absolute: float
    worst: float
    rows: tuple[Reproduced, ...]


class Reproduction(Part):
    """The document of ``txcalc reproduce``. ``holds``: no hard gate moved."""

    schema: Literal["txcalc/reproduction/v1"] = "txcalc/reproduction/v1"
    holds: bool
    families: tuple[Family, ...]


def reproduce(names: Sequence[str] = ()) -> Reproduction:
    """Recompute every family of rows, or those of these names. Raises ``SpecError`` for one that there is not."""
    folder = importlib.resources.files("txcalc.answer").joinpath("published")
    known = sorted(each.name.removesuffix(".yaml") for each in folder.iterdir() if each.name.endswith(".yaml"))
    for name in names:
        if name not in known:
            raise SpecError(f"no family {name!r}; {meant(name, known)}")
    families = tuple(_family(name, read_table(f"published/{name}.yaml")) for name in (names or known))
    return Reproduction(families=families, holds=all(row.verdict != "MOVED" for each in families for row in each.rows))


def _family(name: str, data: Mapping[str, Any]) -> Family:
    shared = {key: data[key] for key in ("what", "model", "run", "given", "gate", "missing") if key in data}
    given = [{**shared, **row, "run": {**shared.get("run", {}), **row.get("run", {})}} for row in data["rows"]]
    rows = tuple(map(_row, given))
    errors = [row.error for row in rows]
    return Family(
        name=name, title=data["title"], source=data["source"], rows=rows, command=_command(given[0]),
        mean=sum(errors) / len(errors), mean_absolute=sum(map(abs, errors)) / len(errors),
        worst=max(errors, key=abs),
    )


def _command(row: Mapping[str, Any]) -> str:
    """The command that counts the run of a row: all that it holds, where it is trained or on a device."""
    run = {**row["run"], **{key: value for key, value in row.get("given", {}).items() if key == "device"}}
    name = "memory" if run.keys() & {"device", "engine"} or run.get("phase") == "training" else "count"
    options = (word for key, value in run.items()
               for word in (f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])))
    return shlex.join(["txcalc", name, row["model"], *options])


def _row(row: Mapping[str, Any]) -> Reproduced:
    measure: Callable[..., Any] = MEASURES[row["what"]]
    model, run, gate = load(row["model"]).model, row["run"], row.get("gate")
    counted = Fraction(measure(model, run, **row.get("given", {})))
    value, unit = published_value(row["printed"])
    if gate == "pool":
        least, most = (Fraction(measure(model, {**run, "pool": pool})) for pool in _ends(run["pool"]))
    exact = counted.denominator == 1 and counted < _EXACT
    return Reproduced(
        id=row["id"], what=row["what"], model=row["model"], run=row["run"], printed=row["printed"],
        counted=int(counted) if exact else float(counted), error=float(counted / value - 1), gate=gate,
        verdict=_verdict(gate, counted, value, unit) if gate != "pool" else (
            "rounds to it" if least <= value <= most else "MOVED"), missing=row.get("missing"),
    )


def _ends(pool: str) -> tuple[int, int]:
    """The least and the most bytes that round to a printed size."""
    value, unit = published_value(pool)
    return int(value - unit / 2), int(value + unit / 2)


_EXACT: Final = 2**53
"""Integers up to here are floats as well."""
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)%( above)?")


def _verdict(gate: str | None, counted: Fraction, value: Fraction, unit: Fraction) -> Verdict:
    if gate is None:
        return "estimate"
    part = _PART.fullmatch(gate)
    if gate == "digits":
        bound, good = unit / 2, "rounds to it"
    else:
        bound, good = Fraction(part[1]) / 100 * value if part else Fraction(units.parse_bytes(gate)), "within"
    if part and part[2]:
        return good if counted <= value <= counted * (1 + Fraction(part[1]) / 100) else "MOVED"  # type: ignore[return-value]
    return good if abs(counted - value) <= bound else "MOVED"  # type: ignore[return-value]
