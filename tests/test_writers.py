"""Every figure in every format equals the document's: of every answer, through every writer."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from html import unescape
from typing import Any

import pytest
from showing import blocks, render

import txcalc
from txcalc.answer.catalogue import listing
from txcalc.answer.comparison import compare
from txcalc.answer.curve import attention_curve
from txcalc.answer.devices import device
from txcalc.answer.difference import Run, diff
from txcalc.answer.fit import fill as workload
from txcalc.answer.memory import Memory
from txcalc.answer.mixer_table import mixers
from txcalc.answer.report import Named
from txcalc.answer.validation import Row as Compared
from txcalc.answer.validation import Validation, Validations
from txcalc.answer.view import View, view
from txcalc.explain.explain import explain
from txcalc.show.blocks import Charts, Column, Data, Derivation, Facts, Number, Table, plain
from txcalc.show.terminal import Screen
from txcalc.show.where import shares, whole
from txcalc.show.writers import FORMATS
from txcalc.spec.yaml import read_yaml
from txcalc.trace.workload import Workload

GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,]*\.\d)(?![\d,])")


def seen(name: str, **given: Any) -> View:
    return view(txcalc.load(name), given, details=True)


def explained(name: str, quantity: Any, **given: Any) -> Any:
    spec = txcalc.load(name)
    return explain(spec, workload([spec], given)[0], quantity)


def compared(*names: str) -> Any:
    return compare([Named(txcalc.load(name)) for name in names], {})


def validation(verdict: Any) -> Validation:
    row = Compared(quantity="params", counted=7919, measured=7907, verdict=verdict, how="here", differences=("some",))
    return Validation.of("tiny", "another", [row, row.replaced(quantity="flops", measured=7919, verdict="equal")])


def two() -> Validations:
    return Validations(agrees=False, models=(validation("DIFFERS"), validation("explained")))


ANSWERS: dict[str, Callable[[], Any]] = {
    "count": lambda: seen("gpt2"),
    "training": lambda: seen("qwen3-30b-a3b", phase="training", kv_block=16),
    "states": lambda: seen("jamba", phase="decode"),
    "compare": lambda: compared("gpt2", "gpt3", "jamba"),
    "many": lambda: compared("gpt2", "gpt2-medium", "gpt3", "bert-base", "mamba2"),
    "diff": lambda: diff(Run(txcalc.load("gpt2"), Workload(seq=64)), Run(txcalc.load("gpt2-medium"), Workload(seq=64))),
    "explain": lambda: explained("transformer-base", "params"),
    "activations": lambda: explained("gpt3", "activations", attention="eager", dropout=0.1),
    "attention": lambda: attention_curve(txcalc.load("llama3-8b"), Workload(seq=1), (7, 1024, 65536), device("h100")),
    "mixers": lambda: mixers(lengths=tuple(64 << i for i in range(10))),
    "one": lambda: Validations(agrees=False, models=(validation("DIFFERS"),)),
    "several": two,
    "presets": lambda: listing("llama"),
    "memory": lambda: txcalc.memory("gpt2", phase="training", batch=64, device="t4"),
    "inference": lambda: txcalc.memory("llama3-8b", new=100, batch=3, device="24GB"),
}
every_answer = pytest.mark.parametrize("name", ANSWERS)


@cache
def answer(name: str) -> Any:
    return ANSWERS[name]()


def document(name: str) -> Any:
    found = answer(name)
    return (found.report if isinstance(found, View) else found).to_data()


def cells(name: str, form: str = "") -> Iterator[Any]:
    """Every cell that a reader of this format sees, the parts of compound ones too."""
    for block in blocks(answer(name)):
        if isinstance(block, Table):
            there = [i for i, column in enumerate(block.columns) if shown_in(form, column)]
            for row in (*block.rows, *([block.foot] if block.foot else [])):
                if row.kind != "echo" or form in ("table", "narrow"):
                    yield from (part for i in there for part in parts(row.cells[i]))
        elif isinstance(block, Facts):
            yield from (fact.number for fact in block.facts)
        elif isinstance(block, Derivation):
            yield block.total


def shown_in(form: str, column: Column) -> bool:
    """On a narrow terminal some columns give way."""
    if form in ("table", "narrow"):
        return column.screen and (form == "table" or column.order == 0 or bool(column.fold))
    return column.files


def parts(cell: Any) -> tuple[Any, ...]:
    return cell if type(cell) is tuple else (cell,)


def numbers(name: str, form: str = "") -> list[Number]:
    return [cell for cell in cells(name, form) if isinstance(cell, Number)]


def integers(data: Any) -> set[int]:
    if isinstance(data, dict | list):
        return {n for item in (data.values() if isinstance(data, dict) else data) for n in integers(item)}
    if isinstance(data, str):
        return {int(text.replace(",", "")) for text in GROUPED.findall(data)}
    return {data} if isinstance(data, int) and not isinstance(data, bool) else set()


def sums(name: str) -> set[int]:
    """Like components are one row of a count and passes one step, which tests of the breakdown add up; the other
    attention is a run of its own.
    """
    found = answer(name)
    if isinstance(found, Memory):
        return alike(found)
    if not isinstance(found, View):
        return set()
    other = found.alternative
    known = {other.activation_bytes, other.attention_score_bytes} if other else set()
    known |= {n for row in found.weights for n in (row.copies, *row.shape)}
    known |= {row.counted for row in found.published if row.counted is not None}
    for share in (*shares(found.report), whole(found.report)):
        known |= {share.params, share.flops, share.flops_core, share.kept or 0, *share.passes}
    counted, skipped = found.report.totals, found.report.totals.shown("skipped")
    for t in (counted, skipped):
        known.add(sum(q.value for q in (t.flops_forward, t.flops_backward, t.flops_recomputed) if q))
    return known


def alike(found: Memory) -> set[int]:
    """What is alive by what it is for, by operation, and what is left of the largest of these."""
    known = {abs(found.free_bytes or 0), sum(row.bytes for row in found.at_peak)}
    for key in (lambda row: (row.path or row.what, row.why), lambda row: row.why):
        sums = Counter[Any]()
        for row in found.at_peak:
            sums[key(row)] += row.bytes
        known |= set(sums.values())
    [table] = [block for block in blocks(found) if isinstance(block, Table) and block.title == "At the peak"]
    *most, rest = (row.cells[2].value for row in table.rows)
    assert sum(most) + rest == sum(row.bytes for row in found.at_peak)
    return known | {rest}


@every_answer
def test_every_number_is_one_of_the_document(name: str) -> None:
    known = integers(document(name)) | sums(name)
    assert len(numbers(name)) >= 2
    assert [number for number in numbers(name) if number.value not in known] == []


@every_answer
@pytest.mark.parametrize("form", FORMATS)
def test_every_number_stands_in_every_format(name: str, form: Any) -> None:
    """For people or to the last digit; and no other number of four digits does."""
    out = render(answer(name), form, detail=3)
    if form in ("json", "yaml"):
        assert (json.loads(out) if form == "json" else read_yaml(out, name).data) == document(name)
        return
    if form == "csv":
        rows = list(csv.reader(io.StringIO(out)))
        found = {int(cell) for row in rows[1:] for cell in row if re.fullmatch(r"-?\d+", cell)}
        assert found <= integers(document(name)) and len({len(row) for row in rows}) == 1
        return
    shown = {"md": lambda: out.replace("\\~", "~"), "latex": lambda: plain_latex(out), "html": lambda: unescape(
        re.sub(r"<[^>]+>", " ", out.partition("</style>")[2]))}.get(form, lambda: out)()
    check(name, form, shown)


def plain_latex(out: str) -> str:
    return out.replace("{,}", ",").replace("$", "").replace(r"\textasciitilde{}", "~").replace("-", "−")


def check(name: str, form: str, shown: str) -> None:
    text = " ".join(shown.split())
    missing = [n for n in numbers(name, form) if plain(n) not in text and n.digits.replace(n.mark, "") not in text]
    assert missing == []
    known = integers(document(name)) | sums(name) | {abs(n.value) for n in numbers(name)} | said(name)
    known |= integers([n.human for n in numbers(name)])
    assert {int(each.replace(",", "")) for each in GROUPED.findall(text)} - known == set()


def said(name: str) -> set[int]:
    """Numbers in texts that are no cells: headings, notes, and the axes of charts."""
    found: set[int] = set()
    for block in blocks(answer(name)):
        for chart in block.make() if isinstance(block, Charts) else ():
            found |= {*chart.lengths, *chart.drawn} | {10**power for power in range(3, 40)}
            found |= integers([chart.amount(value) for value in chart.drawn])
        if not isinstance(block, Charts | Data):
            found |= integers(json.loads(json.dumps(block, default=str)))
    return found | {abs(n) for n in found}


@every_answer
@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_number_is_cut_on_a_terminal(name: str, width: int) -> None:
    for detail in (1, 3):
        out = render(answer(name), "table", Screen(width), detail)
        lines = [line for line in out.splitlines() if len(line) > width]
        assert not any(GROUPED.search(line) and " " in line.strip() and "{" not in line for line in lines), lines
        if detail == 3:
            check(name, "narrow", out)
