"""What is shown adds up to what was counted, is named as people name it, and is never cut off."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest
from showing import render

from txcalc import units
from txcalc.answer.fit import fill as workload
from txcalc.answer.report import Report
from txcalc.answer.view import View, view
from txcalc.show.blocks import printable
from txcalc.show.figures import figures
from txcalc.show.terminal import Screen, Span, chunks, grid, total_width, widths, wrap
from txcalc.show.where import operations, shares, whole
from txcalc.show.writers import FORMATS
from txcalc.spec.model import Model
from txcalc.spec.yaml import read_yaml

PIPE = Screen()
BASE: dict[str, Any] = {
    "name": "tiny", "vocab": 97, "d_model": 24, "layers": 5, "context": 64, "position": {"kind": "learned"},
    "attention": {"heads": 6, "kv_heads": 2, "head_dim": 7}, "feed_forward": {"d_ff": 41},
}
MOE = {"kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 13, "shared_experts": 1}
SPECS: dict[str, dict[str, Any]] = {
    "dense": {},
    "untied": {"head": {"tied": False}},
    "moe": {"feed_forward": MOE, "norm": {"kind": "rmsnorm"}},
    "first dense": {"layers": 4, "feed_forward": {"d_ff": 41}, "groups": [
        {"blocks": [{"repeat": 1}]}, {"blocks": [{"repeat": 3, "feed_forward": MOE}]}]},
    "windows": {"layers": 6, "groups": [
        {"repeat": 3, "blocks": [{"attention": {"window": 11}}, {}]}]},
    "shared": {"share_layers": True},
    "encoder": {"architecture": "encoder-only"},
    "translator": {"architecture": "encoder-decoder"},
    "latent": {"position": {"kind": "rope"}, "attention": {
        "kind": "mla", "heads": 3, "kv_rank": 11, "nope_dim": 5, "rope_dim": 2, "value_dim": 7}},
    "recurrent": {"position": {"kind": "none"}, "layers": 4, "attention": None, "groups": [
        {"repeat": 2, "blocks": [{"recurrent": {"kind": "mamba2", "heads": 2, "head_dim": 3, "state": 5}}]},
        {"repeat": 2, "blocks": [{"attention": BASE["attention"]}]}]},
    "parallel": {"residual": "parallel", "norm": {"shared": True}},
}


def spec(kind: str, **changes: Any) -> Model:
    return Model.from_data({**BASE, **SPECS[kind], **changes})


def shown(name: str, given: dict[str, Any] | None = None, **rest: Any) -> View:
    return view(spec(name), given or {}, **rest)


def titles(found: View) -> list[str]:
    return [share.title for share in shares(found.report)]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("phase", ["forward", "training"])
@pytest.mark.parametrize("breakdown", [shares, operations])
def test_every_breakdown_adds_up(name: str, phase: str, breakdown: Any) -> None:
    report = shown(name, {"phase": phase, "dropout": 0.1}, by_module=breakdown is operations).report
    found, total = breakdown(report), whole(report)
    for field in ("params", "flops", "flops_core", "kept"):
        assert sum(getattr(share, field) for share in found) == getattr(total, field), field
    assert total.params == report.totals.params.value
    t = report.totals
    passes = [q.value for q in (t.flops_forward, t.flops_backward, t.flops_recomputed) if q is not None]
    assert len(passes) == (3 if phase == "training" else 1)
    assert total.flops == sum(passes)
    assert total.passes == tuple(sum(each) for each in zip(*(share.passes for share in found), strict=True))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dense", ["token embedding", "position embedding", "attention × 5", "feed-forward × 5", "layernorm × 11",
                   "lm head, tied"]),
        ("untied", ["token embedding", "position embedding", "attention × 5", "feed-forward × 5", "layernorm × 11",
                    "lm head"]),
        ("moe", ["token embedding", "position embedding", "attention × 5", "MoE feed-forward × 5", "rmsnorm × 11",
                 "lm head, tied"]),
        ("first dense", ["token embedding", "position embedding", "attention × 4", "feed-forward",
                         "MoE feed-forward × 3", "layernorm × 9", "lm head, tied"]),
        ("windows", ["token embedding", "position embedding", "attention (window 11) × 3", "feed-forward × 6",
                     "attention × 3", "layernorm × 13", "lm head, tied"]),
        ("shared", ["token embedding", "position embedding", "attention × 5, shared", "feed-forward × 5, shared",
                    "layernorm × 11", "lm head, tied"]),
        ("translator", ["token embedding", "encoder position embedding", "encoder attention × 5",
                        "encoder feed-forward × 5", "encoder layernorm × 11", "decoder position embedding",
                        "decoder attention × 5", "cross-attention × 5", "decoder feed-forward × 5",
                        "decoder layernorm × 16", "lm head, tied"]),
        ("latent", ["token embedding", "latent attention × 5", "feed-forward × 5", "layernorm × 11",
                    "lm head, tied"]),
        ("recurrent", ["token embedding", "Mamba-2 × 2", "feed-forward × 4", "attention × 2", "layernorm × 9",
                       "lm head, tied"]),
    ],
)
def test_components_have_the_names_people_use(name: str, expected: list[str]) -> None:
    assert titles(shown(name)) == expected


def test_a_training_step_shows_the_loss_and_both_passes() -> None:
    found = shown("dense", {"phase": "training"})
    assert titles(found)[-1] == "loss"
    rows = {figure.label: figure for figure in figures(found)}
    t = found.report.totals
    assert t.flops_backward is not None and t.flops_recomputed is not None
    assert rows["FLOPs"].exact == units.exact(
        t.flops_forward.value + t.flops_backward.value + t.flops_recomputed.value)
    assert rows["recomputed"].exact == units.exact(t.flops_recomputed.value)
    assert rows["forward"].exact == units.exact(t.flops_forward.value)
    assert rows["backward"].exact == units.exact(t.flops_backward.value)


def test_both_attentions_are_shown_and_this_runs_own_comes_first() -> None:
    for own, other in (("eager", "flash"), ("flash", "eager")):
        mine, theirs = (shown("dense", {"attention": kind}) for kind in (own, other))
        rows = {figure.label: figure for figure in figures(mine)}
        assert rows["Activations (train)"].note.startswith(f"{own} attention")
        assert mine.report.totals.activation_bytes is not None and theirs.report.totals.activation_bytes is not None
        assert rows["Activations (train)"].exact == f"{mine.report.totals.activation_bytes.value:,} B"
        assert rows[f"if {other}"].exact == f"{theirs.report.totals.activation_bytes.value:,} B"
        scores = (mine if own == "eager" else theirs).report.totals.attention_score_bytes
        assert scores is not None and scores.value > 0
        eager = rows["Activations (train)" if own == "eager" else "if eager"]
        assert f"{units.memory(scores.value)} S×S" in eager.note


def test_what_does_not_exist_is_not_shown() -> None:
    labels = {figure.label for figure in figures(shown("encoder"))}
    assert "KV cache" not in labels and "Activations (train)" in labels and "Training state" in labels
    labels = {figure.label for figure in figures(shown("dense", {"phase": "decode"}))}
    assert "KV cache" in labels
    assert not labels & {"Activations (train)", "Training state", "backward", "active"}
    assert "active" in {figure.label for figure in figures(shown("moe"))}


def test_marks_are_those_of_the_report() -> None:
    found = shown("translator", {"seq": 7, "source_seq": 11})
    marks = {figure.label: figure.mark for figure in figures(found)}
    kinds = {"per token": found.report.totals.flops_per_token.kind, "Parameters": found.report.totals.params.kind}
    assert marks["Parameters"] == "=" and kinds["Parameters"] == "exact"
    assert marks["per token"] == {"exact": "=", "estimate": "~"}[kinds["per token"]]
    assert ("~  estimate" in render(found, "table", PIPE)) == (kinds["per token"] == "estimate")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "batch 1 · seq 64 (default) · bf16 · forward pass · flash attention · plain PyTorch's CUDA kernels"),
        ({"seq": 64, "batch": 3}, "batch 3 · seq 64 · bf16 · forward pass"
         " · flash attention · plain PyTorch's CUDA kernels"),
        ({"phase": "decode"}, "batch 1 · seq 1 · 63 cached (default) · bf16 · decode"
         " · flash attention · plain PyTorch's CUDA kernels"),
        ({"phase": "decode", "past": 5}, "batch 1 · seq 1 · 5 cached · bf16 · decode"
         " · flash attention · plain PyTorch's CUDA kernels"),
        ({"phase": "prefill", "past": 4}, "batch 1 · seq 60 (default) · 4 cached · bf16 · prefill"
         " · flash attention · plain PyTorch's CUDA kernels"),
        ({"seq": 2, "dtype": "fp16", "kv_dtype": "fp8", "dropout": 0.1, "masked": "skipped", "kernels": "cpu",
          "phase": "training"},
         "batch 1 · seq 2 · fp16, KV cache fp8 · training step · dropout 0.1 · masked pairs skipped · "
         "math attention (flash asked for) · plain PyTorch's CPU kernels"),
    ],
)
def test_the_workload_line_says_what_was_assumed(given: dict[str, Any], line: str) -> None:
    assert render(shown("dense", given), "table", PIPE).splitlines()[1] == line


@pytest.mark.parametrize(
    ("context", "seq", "past"), [(64, 64, 63), (2048, 2048, 2047), (131072, 2048, 2047), (1, 1, 0)]
)
def test_default_lengths(context: int, seq: int, past: int) -> None:
    model = spec("latent", context=context)
    found, filled = workload([model], {})
    assert (found.seq, found.past, filled) == (seq, 0, {"seq"})
    found, filled = workload([model], {"phase": "decode"})
    assert (found.seq, found.past, filled) == (1, past, {"seq", "past"})


def test_the_identity_line() -> None:
    def first(name: str) -> str:
        return render(shown(name), "table", PIPE).splitlines()[0]

    assert first("dense") == "tiny · decoder-only · 5 layers · d_model 24 · 6 heads (2 KV) · vocab 97 · tied"
    assert first("untied").endswith(" · untied")
    assert "5 experts, 2 active + 1 shared" in first("first dense")
    assert "encoder-decoder · 5 + 5 layers" in first("translator")
    assert "3 heads" in first("latent")


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_of_every_kind_of_model(name: str, form: Any) -> None:
    found = shown(name, {"phase": "training"} if name == "encoder" else {}, details=True)
    out = render(found, form, PIPE, 3)
    assert out.endswith("\n") and "\x1b" not in out
    if form in ("table", "md"):
        assert units.exact(found.report.totals.params.value) in out
    if form in ("json", "yaml"):
        data = json.loads(out) if form == "json" else read_yaml(out, "out").data
        assert Report.from_data(data) == found.report


def test_csv_holds_every_component_as_plain_integers() -> None:
    found = shown("moe", {"phase": "decode"})
    rows = list(csv.DictReader(io.StringIO(render(found, "csv", PIPE))))
    assert [row["path"] for row in rows] == [part.path for part in found.report.components]
    assert sum(int(row["params"]) for row in rows) == found.report.totals.params.value
    assert {row["activation_bytes"] for row in rows} == {""}  # nothing is kept in decoding


def test_markdown_tables_are_whole() -> None:
    out = render(shown("translator"), "md", PIPE)
    for block in re.findall(r"(?:^\|.*\n)+", out, re.MULTILINE):
        assert len({line.count("|") - line.count("\\|") for line in block.splitlines()}) == 1
        assert re.fullmatch(r"\|( :?---:? \|)+", block.splitlines()[1].replace("---:", "---").replace(":---", "---"))
    model = spec("dense", name="a|b*c")
    assert "# a\\|b\\*c" in render(view(model, {}), "md", PIPE)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("width", [60, 70, 80, 100, 120])
def test_lines_fit_and_every_total_is_there_in_full(name: str, width: int) -> None:
    found = shown(name, {"phase": "training"})
    out = render(found, "table", Screen(width))
    assert max(map(len, out.splitlines())) <= width
    t = found.report.totals
    for quantity in (t.params, t.weight_bytes, t.activation_bytes, t.flops_forward, t.training_state_bytes):
        assert quantity is not None and units.exact(quantity.value) in out


def test_a_pipe_is_as_wide_as_it_needs_to_be() -> None:
    model = spec("dense", layers=10**30)
    out = render(view(model, {}), "table", PIPE)
    report = view(model, {}).report
    for part in report.components:
        if part.path.startswith("layers.attention"):
            assert units.exact(part.params)
    assert units.exact(report.totals.params.value) in out and units.exact(report.totals.flops_forward.value) in out
    narrow = render(view(model, {}), "table", Screen(80))
    assert units.exact(report.totals.flops_forward.value) in narrow
    assert max(map(len, narrow.splitlines())) <= 80


def test_bars_are_shares_of_the_parameters() -> None:
    found = shown("dense")
    out = render(found, "table", PIPE)
    for share in shares(found.report):
        line = next(line for line in out.splitlines() if line.startswith(share.title + " "))
        expected = round(20 * share.params / found.report.totals.params.value)
        assert abs(line.count("█") - expected) <= 1, line
    assert "█" not in next(line for line in out.splitlines() if line.startswith("total"))


def test_colour_adds_codes_and_nothing_else() -> None:
    found = shown("moe", details=True)
    plain, coloured = (render(found, "table", Screen(90, color=color), 3) for color in (False, True))
    assert plain == re.sub(r"\x1b\[\d+m", "", coloured) != coloured
    assert not re.search(r" $", plain, re.MULTILINE)


def test_published_figures_are_shown_with_their_difference() -> None:
    published = [
        {"quantity": "params", "printed": "20K", "source": "Table 1", "difference": "biases left out"},
    ]
    found = view(spec("dense", published=published), {}, details=True)
    out = render(found, "table", PIPE, 2)
    counted = found.report.totals.params.value
    line = next(line for line in out.splitlines() if "20K" in line)
    assert units.exact(counted) in line and "biases left out" in line
    assert f"{abs(counted / 20_000 - 1):.2%}" in line
    assert "20K" not in render(view(spec("dense", published=published), {}), "table", PIPE)


# ---------------------------------------------------------------- the grid


def test_grid_aligns_and_leaves_empty_columns_out() -> None:
    rows = [[Span("a"), Span(""), Span("1")], [Span("bcd"), Span(""), Span("234")]]
    assert grid(rows, ("<", ">", ">"), PIPE) == ["a      1", "bcd  234"]
    assert total_width(widths(rows)) == 8


def test_chunks_repeat_the_first_column_and_lose_none() -> None:
    rows = [[Span("name"), *(Span(str(i) * 5) for i in range(5))]]
    parts = chunks(rows, Screen(20))
    assert [[span.text for span in part[0]] for part in parts] == [
        ["name", "00000", "11111"], ["name", "22222", "33333"], ["name", "44444"]]
    assert len(chunks(rows, PIPE)) == 1
    assert len(chunks(rows, Screen(3))) == 5


def test_wrap_breaks_between_parts_only() -> None:
    assert wrap(["one two", "", "three", "four"], Screen(16)) == ["one two · three", "  four"]
    assert wrap(["a part that is longer than all"], Screen(5)) == ["a part that is longer than all"]


def test_printable_leaves_nothing_that_moves_the_cursor() -> None:
    assert printable("a\x1b[2J\r\n\tb\u202e×é") == "a?[2J???b?×é"
