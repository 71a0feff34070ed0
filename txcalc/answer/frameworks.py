"""Frameworks for training: options that each stands for, unless they are given, and those that it does not have."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from txcalc.answer.devices import read_table
from txcalc.answer.passes import laid_out, options
from txcalc.spec import words
from txcalc.spec.errors import SpecError, not_one_of
from txcalc.trace.workload import plain


@functools.cache
def frameworks() -> Mapping[str, Any]:
    """Every framework's row by its name."""
    return read_table("frameworks.yaml")


def framed(given: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The fields of a run, beside them what its ``framework`` sets of those that are not given, and notes on both.

    Of so many ``gpus`` it is set of each layout that is searched, by another call.
    Raises ``SpecError`` for a framework that there is not, for inference, and for what the framework does not have.
    """
    given = dict(given)
    if (name := given.pop("framework", None)) is None:
        return given, ()
    given, row = plain(given), _row(name)
    if "engine" in given or "new" in given or given.setdefault("phase", "training") != "training":
        raise SpecError("is for training; --engine is for inference", field="framework")
    layout = laid_out(given)
    there = {**given, **layout.to_data()}
    searches = given.get("gpus", 1) > 1

    def splits(groups: Iterable[Iterable[str]]) -> bool:
        return all(any(getattr(layout, axis) > 1 for axis in group) for group in groups)

    for field, only in row["only"].items():
        value = words.form(value) if isinstance(value := there.get(field), str) else value
        if value not in (None, *only["of"]) and splits(only.get("with", ())):
            raise SpecError(f"not with {row['title']}: {only['why']}", field=field)
    sets: dict[str, Any] = {}
    for each in row["sets"]:
        said = any(value in ("any", there.get(name)) for name, value in each.get("unless", {}).items() if name in there)
        alone = not any(getattr(layout, axis) > 1 for axis in each.get("without", ()))
        if not said and alone and each["field"] not in there and splits(each.get("with", ())):
            sets.setdefault(each["field"], each["is"])
    stands = f"{row['title']} ({row['read']}) stands for {options(sets) or 'no option here'}"
    stands += ", and in each layout for what its axes ask for" if searches else ""
    lacks = f"; not counted of it: {'; '.join(row['notes'])}" if row.get("notes") else ""
    return {**given, **({"framework": name} if searches else sets)}, (stands + lacks,)


def _row(name: object) -> Mapping[str, Any]:
    known = frameworks()
    called = words.word("framework", name, known)
    if called not in known:
        raise SpecError(not_one_of([*known], name), field="framework")
    found: Mapping[str, Any] = known[called]
    return found
