"""``explain``: every formula of every preset comes to the count, and reads like the literature's."""

import json
import math
import re
import subprocess
import sys
from fractions import Fraction
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from showing import render

from txcalc.answer.fit import fill as workload
from txcalc.answer.fit import fit
from txcalc.answer.report import totals
from txcalc.answer.rerun import QUANTITIES as TOTAL_OF
from txcalc.count import params
from txcalc.count.lifetimes import live_bytes
from txcalc.count.unproved import unproved
from txcalc.explain.explain import DerivationError, Explainer, explain
from txcalc.explain.explanation import QUANTITIES, Explanation, Formula
from txcalc.explain.naming import LETTERS, SPECIAL
from txcalc.explain.quantities import DEFINITIONS, fit_phase
from txcalc.explain.symbols import UNUSED, symbols
from txcalc.models import load as presets
from txcalc.show.terminal import Screen
from txcalc.spec import inputs, layers
from txcalc.spec import model as models
from txcalc.spec.base import Spec
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import is_causal
from txcalc.spec.model import Model
from txcalc.trace.kinds import KINDS, Name
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

PRESETS = [info.name for info in presets.names()]
PEAKS = ("gpt2", "gpt-oss-20b", "albert-base", "modernbert-base", "t5-small", "lstm-ptb-medium", "vit-b16")
NONE_HAS = {"kv-cache", "kv-cache-per-token"}
"""Quantities that some models do not have."""


def preset(name: str) -> Model:
    return presets.load(name).model


def made(name: str, quantity: Any, **given: Any) -> Explanation:
    spec = preset(name)
    filled, _ = workload([spec], given)
    return explain(spec, filled, quantity)


def value(formula: Formula, found: Explanation) -> Fraction:
    """The printed Python expression at the printed values, in exact fractions."""
    sizes = {symbol.name: Fraction(symbol.value) for symbol in found.symbols}
    return Fraction(eval(formula.python, {"__builtins__": {}, "floor": math.floor}, sizes))


def check(found: Explanation, total: int) -> None:
    """Every figure and formula of an explanation agrees with the count."""
    assert found.total == total
    assert math.floor(value(found.closed, found)) == total
    exact = found.quantity != "flops-per-token"
    for row in found.rows:
        assert value(row.times, found) == row.count
        assert not exact or value(row.each, found) * row.count == row.value
    for kept in found.kept:
        assert value(kept.each, found) * kept.count == kept.value
        assert value(kept.times, found) == kept.count
    if exact:
        assert sum(row.value for row in found.rows) == total
        assert sum(term.value for term in found.terms) == total
        assert value(found.substituted, found) == total or total > 2**53  # Python divides plain numbers as floats
    if found.quantity == "activations":
        assert sum(kept.value for kept in found.kept) == total
        for row in found.rows:
            assert sum(kept.value for kept in found.kept if kept.row == row.name) == row.value
    for layer in found.layers:
        assert value(layer.formula, found) == sum(value(part.formula, found) for part in layer.parts)
    assert len({row.name for row in found.rows}) == len(found.rows)


def check_all(spec: Model, run: Workload, *, peaks: bool = True) -> set[str]:
    """Explain every quantity; those that there are not."""
    explainer, counted, absent = Explainer(spec, run), {}, set()
    for quantity in DEFINITIONS:
        try:
            fitted = fit_phase(quantity, fit(spec, run))
        except SpecError:
            continue
        if fitted.phase not in counted:
            counted[fitted.phase] = totals(trace(spec, fitted)).shown(fitted.masked)
        if quantity == "peak":
            if peaks:
                check_peak(explainer, trace(spec, fitted))
            continue
        counts = counted[fitted.phase]
        total = counts.named(TOTAL_OF[quantity])
        if total is None or (quantity == "kv-cache-per-token" and total.value == 0):
            absent |= {quantity} if total is None else set()
            with pytest.raises(SpecError):
                explainer.explain(quantity)
        else:
            check(explainer.explain(quantity), total.value)
    return absent


def check_peak(explainer: Explainer, run: Trace) -> None:
    """The peak is the most that is live after any operation, and every tensor then; or it is refused."""
    if unproved(run):
        with pytest.raises(SpecError, match="no peak"):
            explainer.explain("peak")
        return
    found = explainer.explain("peak")
    check(found, max(event.live for event in live_bytes(run)))
    assert found.moment is not None
    assert sum(each.value for each in found.alive) == found.total
    for row in found.rows:
        assert sum(each.value for each in found.alive if each.row == row.name) == row.value
    for each in found.alive:
        assert value(each.each, found) * value(each.times, found) == each.value


def test_the_quantities_are_all_defined() -> None:
    assert set(DEFINITIONS) == set(QUANTITIES)


@pytest.mark.grid(17)
@pytest.mark.parametrize("name", PRESETS)
def test_every_quantity_of_every_preset_comes_to_the_count(name: str) -> None:
    spec = preset(name)
    run, _ = workload([spec], {"attention": "eager", "dropout": 0.1})
    absent = check_all(spec, run, peaks=name in PEAKS)
    assert absent <= NONE_HAS
    assert not absent or not is_causal(spec) or spec.recurrent is not None, absent


@pytest.mark.grid(4)
@pytest.mark.parametrize("name", [
    "gpt2", "llama3.2-1b", "qwen3-0.6b", "gemma2-2b", "phi3-mini", "mixtral-8x7b", "deepseek-v3", "t5-small",
    "whisper-tiny"])
def test_every_quantity_of_transformers_code_comes_to_the_count(name: str) -> None:
    spec = preset(name)
    run, _ = workload([spec], {"implementation": "transformers"})
    check_all(spec, run)


MIXED = Model.from_data({
    "name": "mixed", "vocab": 101, "d_model": 30, "context": 64, "position": "none",
    "attention": {"heads": 6, "kv_heads": 3, "head_dim": 7}, "norm": {"kind": "rmsnorm"},
    "feed_forward": {"kind": "moe", "d_ff": 11, "experts": 5, "active_experts": 2, "shared_experts": 1},
    "groups": [
        {"repeat": 3, "blocks": [{"repeat": 2, "attention": {"window": 5}}, {}]},
        {"blocks": [{"feed_forward": {"kind": "dense", "d_ff": 13}}, {"repeat": 2, "attention": {"chunk": 4}}]},
    ],
})


@pytest.mark.grid(11)
@pytest.mark.parametrize(("attention", "masked"), [("eager", "counted"), ("flash", "skipped")])
@pytest.mark.parametrize("phase", ["forward", "training", "prefill", "decode"])
@pytest.mark.parametrize("name", ["mixed", "gpt2", "transformer-base", "deepseek-v3", "qwen3-next-80b-a3b"])
def test_every_workload(name: str, phase: Any, attention: Any, masked: Any) -> None:
    spec = MIXED if name == "mixed" else preset(name)
    past = 23 if phase in ("prefill", "decode") else 0
    run = Workload(phase=phase, batch=3, seq=1 if phase == "decode" else 17, past=past, attention=attention,
                   masked=masked, kernels="cpu" if masked == "skipped" else "cuda")
    check_all(spec, run)


def test_a_block_that_layers_share_runs_as_often_as_they_say() -> None:
    mixing = {"attention": None, "feed_forward": None, "recurrent": {
        "kind": "mamba", "inner": 24, "state": 5, "rank": 2, "heads": 3}}
    shared = {"attention": {"heads": 4, "kv_heads": 2, "head_dim": 6}, "feed_forward": {"d_ff": 31, "gated": True}}
    check_all(Model.from_data({
        "name": "shared", "vocab": 101, "d_model": 24, "context": 64, "position": {"kind": "rope"},
        "attention": None, "groups": [{"repeat": 2, "blocks": [
            mixing | {"shared_block": shared}, mixing, mixing | {"shared_block": shared | {"rank": 3}}]}],
    }), Workload(phase="prefill", batch=3, seq=17))


@pytest.mark.parametrize("layout", [
    {"bits": 4, "group": 16, "word_bits": 32, "zero_points": True}, {"bits": 3, "group": 7, "flat": True},
    {"bits": 5, "group": 15, "offsets": True, "weights": "all"},
    {"bits": 2, "group": 6, "word_bits": 32, "offsets": True, "weights": "all", "left": {"layers.0.1.attention.o": 2},
     "mixed": [{"bits": 8, "group": 10, "scale_bytes": 1,
                "matrices": {"layers.0.1.attention.q": 3, "token_embedding": 1}}]},
])
def test_quantized_weights(layout: dict[str, Any]) -> None:
    spec = Model.from_data({**MIXED.to_data(), "quantization": {"method": "custom", **layout}})
    check_all(spec, Workload(seq=9))


def test_a_wrong_derivation_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = DEFINITIONS["params"]._replace(own=lambda t: list(params.entries(t))[1:])
    monkeypatch.setitem(DEFINITIONS, "params", broken)
    with pytest.raises(DerivationError):
        made("gpt2", "params")


# ---------------------------------------------------------------- closed forms of the literature


@pytest.mark.parametrize(("name", "quantity", "given", "closed"), [
    ("gpt2", "params", {}, "L(12d² + 13d) + Vd + nd + 2d"),
    ("transformer-base", "params", {}, "L_e·(12d² + 13d) + L_d·(16d² + 19d) + Vd"),
    ("llama3-8b", "params", {}, "L(2d² + 2dgk + 3df + 2d) + 2Vd + d"),
    ("mixtral-8x7b", "params", {}, "L(E(3df + d) + 2d² + 2dgk + 2d) + 2Vd + d"),
    ("mixtral-8x7b", "active-params", {}, "L(2d² + 2dgk + 3Adf + Ed + 2d) + 2Vd + d"),
    ("gpt3", "flops", {}, "2bs(L(12d² + 2sd) + Vd)"),
    ("gpt3", "flops-training", {"attention": "eager"}, "6bs(L(12d² + 2sd) + Vd)"),
    ("gpt3", "flops-per-token", {}, "2(L(12d² + 2sd) + Vd)"),
    ("gpt3", "kv-cache", {}, "4bLsd"),
    ("gpt3", "kv-cache", {"phase": "decode", "past": 1000}, "4bLd(p + 1)"),
    ("llama3-8b", "kv-cache-per-token", {}, "4Lgk"),
    ("deepseek-v2", "kv-cache-per-token", {}, "2(L(r + k_r) + r + k_r)"),
    ("mistral-7b", "kv-cache", {"seq": 8192}, "4bLwgk"),
    ("transformer-base", "kv-cache", {}, "4bL_d·d(s + m)"),
    ("gemma3-27b", "kv-cache", {}, "bgk(L₁(20w + 4s) + 4L₂w)"),
    ("gpt3", "weights", {}, "2(L(12d² + 13d) + Vd + nd + 2d)"),
    ("gpt3", "training-state", {}, "16(L(12d² + 13d) + Vd + nd + 2d)"),
    ("gpt3", "activations", {"attention": "eager", "dropout": 0.1}, "bLs(34d + 5hs + 16) + bs(5d + 16) + 8s"),
    ("gpt3", "activations", {"attention": "eager"}, "bLs(32d + 2hs + 16) + bs(4d + 16) + 8s"),
    ("vit-b16", "flops", {}, "2b(Ls(12d² + 2sd) + dCI² + dY)"),
])
def test_closed_forms(name: str, quantity: str, given: dict[str, Any], closed: str) -> None:
    assert made(name, quantity, **given).closed.unicode == closed


@pytest.mark.parametrize(("name", "quantity", "given", "formula", "percent"), [
    ("gpt3", "params", {}, "12Ld²", -0.38),
    ("gpt3", "flops-training", {"attention": "eager"}, "6ND", -2.67),
    ("gpt3", "activations", {"attention": "eager", "dropout": 0.1}, "bLs(34d + 5hs)", -0.05),
    ("gpt3", "activations", {"dropout": 0.1}, "34bLsd", -0.25),
    ("gpt3", "kv-cache", {}, "4bLsd", 0.0),
    ("llama3-8b", "kv-cache-per-token", {}, "4Ld", 300.0),
])
def test_simplifications(name: str, quantity: str, given: dict[str, Any], formula: str, percent: float) -> None:
    found = made(name, quantity, **given)
    row = next(row for row in found.simplifications if row.formula.unicode == formula and row.of == "total")
    assert row.exact == found.total
    assert row.difference == pytest.approx(row.value / row.exact - 1)
    assert 100 * row.difference == pytest.approx(percent, abs=0.005)


@pytest.mark.parametrize("field", [{"value_from": "key"}, {"value_norm": {"kind": "rmsnorm"}}])
def test_megatrons_formulas_are_of_values_of_their_own(field: dict[str, Any]) -> None:
    spec = preset("gpt2")
    assert isinstance(spec.attention, layers.Attention)
    changed = Model.from_data(spec.to_data() | {"attention": spec.attention.to_data() | field})
    workload = Workload.training(seq=1024, attention="eager")
    for quantity in ("activations", "flops-training"):
        of_megatron, without = (
            [row for row in explain(each, workload, quantity).simplifications
             if row.source.startswith(("arXiv 2104.04473", "arXiv 2205.05198"))] for each in (spec, changed)
        )
        assert of_megatron
        assert not without


def test_rows_that_are_looked_up_several_times_have_a_formula() -> None:
    spec = Model.from_data(preset("gpt2").to_data() | {"token_tables": [{"rows": 7, "lookups": 3}]})
    assert explain(spec, Workload(seq=5), "params").total == explain(
        preset("gpt2"), Workload(seq=5), "params").total + 7 * spec.d_model


def test_a_mixture_has_no_34() -> None:
    assert not made("mixtral-8x7b", "activations", attention="eager", dropout=0.1).simplifications


def test_where_34_and_5_come_from() -> None:
    found = made("gpt3", "activations", attention="eager", dropout=0.1)
    rows = {row.name: row.each.unicode for row in found.rows}
    assert rows["attention"] == "bs(11d + 5hs)"
    assert rows["feed-forward"] == "19bsd"
    [layer] = found.layers
    assert {part.row: part.formula.unicode for part in layer.parts} == {
        "attention": "11bsd + 5bhs²", "feed-forward": "19bsd", "layernorm": "4bsd + 16bs",
    }
    five = [(kept.each.unicode, kept.kept_as) for kept in found.kept if "hs²" in kept.each.unicode]
    assert five == [("2bhs²", "output"), ("bhs²", "mask"), ("2bhs²", "factor")]


# ---------------------------------------------------------------- how it reads


def test_windows_say_which_side_was_taken() -> None:
    assert made("mistral-7b", "kv-cache", seq=8192).assumptions[0].unicode == "w ≤ s"
    assert made("mistral-7b", "kv-cache", seq=1024).assumptions[0].unicode == "s ≤ w"


def test_a_missing_quantity_says_why() -> None:
    with pytest.raises(SpecError, match="bert-base is an encoder"):
        made("bert-base", "kv-cache")
    with pytest.raises(SpecError, match="decode has no backward pass"):
        made("gpt2", "activations", phase="decode")
    with pytest.raises(SpecError, match="prefill has no backward pass"):
        made("gpt2", "flops-training", phase="prefill")


def test_published_figures_come_with_their_reason() -> None:
    [row] = made("transformer-base", "params").published
    assert row.printed == "65 M" and row.difference == pytest.approx(-0.0295, abs=1e-4)
    assert row.note is not None and "37000" in row.note


def test_every_formula_has_its_sources() -> None:
    for quantity in QUANTITIES:
        found = made("deepseek-v3", quantity)
        assert found.sources and all(row.source and row.rule for row in found.sources)


def test_every_kind_of_operation_has_rules() -> None:
    assert set(get_args(Name)) == set(KINDS)


@pytest.mark.parametrize("given", [
    {}, {"kernels": "cpu", "dropout": 0.1, "attention": "eager", "dtype": "fp32"}, {"attention": "efficient"},
    {"attention": "math", "dropout": 0.1}, {"phase": "training", "latents": "absorbed"},
], ids=lambda given: " ".join(map(str, given.values())))
def test_what_an_operation_keeps_has_a_reason(given: dict[str, Any]) -> None:
    for name in PRESETS:
        spec = preset(name)
        run = trace(spec, fit(spec, Workload(**given, **({"seq": 7} if spec.input.kind == "tokens" else {}))))
        assert not [op.path for op in run.ops if op.saves and op.kind.keeps is None], name


def test_every_size_has_a_letter() -> None:
    """A new size in the spec or workload needs one."""
    kinds = [kind for module in (layers, inputs, models) for kind in vars(module).values()
             if isinstance(kind, type) and issubclass(kind, Spec) and kind.__name__ not in (
                 "Quantization", "StoredTensors")]
    holders: dict[str, set[str]] = {}
    for kind in kinds:
        for name, hint in get_type_hints(kind).items():
            for word in re.findall(r"\w+", str(hint)):
                holders.setdefault(word, set()).add(name)
    for kind in kinds:
        owners = {*get_args(get_type_hints(kind).get("kind")), *holders.get(kind.__name__, ())}
        for name, hint in get_type_hints(kind).items():
            if re.search(r"\bint\b", str(hint)) and name not in UNUSED:
                assert name in LETTERS or {(owner, name) for owner in owners} & SPECIAL.keys(), f"{kind}.{name}"
    for name in ("batch", "seq", "past", "source_seq", "images"):
        assert name in LETTERS


def test_one_name_is_one_value() -> None:
    spec = preset("deepseek-v3")
    found = symbols(spec, Workload(seq=5))
    assert found.values["f_1"] == 18432 and found.values["f_2"] == 2048
    assert found.values["h"] == 128


def parsed(text: str, names: list[str]) -> str:
    """What is printed for people, as Python."""
    powers = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: f"^{found[0].translate(powers)}", text)
    text = text.translate(str.maketrans("₀₁₂₃₄₅₆₇₈₉·−", "0123456789*-")).replace("⌊", "floor(").replace("⌋", ")")
    shown = {re.sub(r"_(?=\d)", "", name): name for name in names}
    atoms = "|".join(map(re.escape, sorted(shown, key=len, reverse=True)))
    tokens = re.findall(rf"floor|{atoms}|\d[\d,]*|\S", text)
    assert "".join(tokens) == text.replace(" ", "")
    out = ""
    for before, token in zip(["+", *tokens], tokens, strict=False):
        begins = token in shown or token[0].isdigit() or token in ("(", "floor")
        ends = before in shown or before[-1].isdigit() or before == ")"
        out += "*" if begins and ends else ""
        out += {"^": "**"}.get(token) or shown.get(token) or token.replace(",", "")
    return out


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("name", ["gpt3", "transformer-base", "mixtral-8x7b", "deepseek-v3", "qwen3-next-80b-a3b",
                                  "gemma4-e2b"])
def test_what_is_printed_is_what_was_checked(name: str, quantity: str) -> None:
    """Superscripts, brackets and factors side by side, read back, come to the total as well."""
    if quantity == "peak" and unproved(trace(preset(name), workload([preset(name)], {"phase": "training"})[0])):
        with pytest.raises(SpecError, match="no peak"):
            made(name, quantity)
        return
    found = made(name, quantity, attention="eager", dropout=0.1)
    sizes = {symbol.name: Fraction(symbol.value) for symbol in found.symbols}
    for text in (found.closed.unicode, found.closed.ascii):
        assert math.floor(eval(parsed(text, list(sizes)), {"floor": math.floor}, sizes)) == found.total


@pytest.mark.parametrize("name", ["gpt3", "gemma3-27b", "deepseek-v3"])
def test_ascii_is_ascii_and_nothing_is_cut(name: str) -> None:
    for quantity in QUANTITIES:
        found = made(name, quantity, attention="eager", dropout=0.1)
        assert render(found, "table", Screen(notation="ascii")).isascii()
        narrow = " ".join(render(found, "table", Screen(60)).split())
        for row in found.rows:
            assert row.each.unicode in narrow and f"{row.value:,}" in narrow
        assert f"{found.total:,}" in narrow and "…" not in narrow


@pytest.mark.parametrize("quantity", ["params", "activations", "kv-cache"])
def test_sixty_columns_are_enough(quantity: str) -> None:
    text = render(made("gpt3", quantity, attention="eager", dropout=0.1), "table", Screen(60))
    assert max(map(len, text.splitlines())) <= 60


def test_machines_read_it_back() -> None:
    found = made("transformer-base", "params")
    assert Explanation.from_data(json.loads(render(found, "json", Screen()))) == found
    assert Explanation.from_data(yaml.safe_load(render(found, "yaml", Screen()))) == found


def test_markdown_and_latex() -> None:
    found = made("transformer-base", "params")
    assert r"| cross-attention | 4(d² + d) | 6 | 6,303,744 | 10.0 |" in render(found, "md", Screen())
    assert "| cross-attention | $4(d^{2} + d)$ | 6 |" in render(found, "md", Screen(notation="latex"))
    text = render(found, "latex")
    assert r"& L_{e}(12d^{2} + 13d) + L_{d}(16d^{2} + 19d) + Vd \\" in text
    assert text.count("{") == text.count("}") and "&  = 63{,}082{,}496" not in text


def test_nothing_heavy_is_loaded_to_explain() -> None:
    code = ("import sys, txcalc; print(txcalc.explain('gpt2', 'activations', seq=7).total);"
            "sys.exit(' '.join({'sympy', 'numpy', 'torch'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert int(done.stdout) and done.stderr == "\n"


TRANSFORMER_BASE = """\
transformer-base: parameters · encoder-decoder · 6 + 6 layers · d_model 512 · 8 heads · vocab 37,000 · tied

Parameters  63.08 M  63,082,496  =

V    37,000  vocabulary             h      8  attention heads
L_e       6  layers of the encoder  k     64  width of a head
L_d       6  layers of the decoder  f  2,048  feed-forward width
d       512  model width
with hk = d

component                formula      count       value      %
token embedding          Vd               1  18,944,000   30.0
self-attention, encoder  4(d² + d)        6   6,303,744   10.0
self-attention, decoder  4(d² + d)        6   6,303,744   10.0
cross-attention          4(d² + d)        6   6,303,744   10.0
feed-forward             2df + f + d     12  25,196,544   39.9
layernorm                2d              30      30,720    0.0
total                                        63,082,496  100.0

closed form   with f = 4d
  L_e·(12d² + 13d) + L_d·(16d² + 19d) + Vd
= 6(12·512² + 13·512) + 6(16·512² + 19·512) + 37,000·512
= 18,914,304 + 25,224,192 + 18,944,000
= 63,082,496   63.08 M

one layer of the encoder
  self-attention, encoder  4d² + 4d
  feed-forward             8d² + 5d
  2 × layernorm            4d
  L_e = 6 of them, each    12d² + 13d

one layer of the decoder
  self-attention, decoder  4d² + 4d
  cross-attention          4d² + 4d
  feed-forward             8d² + 5d
  3 × layernorm            6d
  L_d = 6 of them, each    16d² + 19d
"""

GPT3_ACTIVATIONS = """\
gpt3: activations kept for backward · decoder-only · 96 layers · d_model 12,288 · 96 heads · vocab 50,257 · tied
batch 1 · seq 2,048 · bf16 · forward pass · dropout 0.1 · eager attention · plain PyTorch's CUDA kernels

Activations kept for backward  256.6 GiB  275,543,801,856 B  =

L      96  layers           f  49,152  feed-forward width
d  12,288  model width      b       1  batch, sequences
h      96  attention heads  s   2,048  new tokens of a sequence
k     128  width of a head
with hk = d

component           formula        count            value      %
token embedding     8bs                1           16,384    0.0
position embedding  8s                 1           16,384    0.0
embedding dropout   bsd                1       25,165,824    0.0
attention           bs(11d + 5hs)     96  219,848,638,464   79.8
feed-forward        19bsd             96   45,902,462,976   16.7
layernorm           bs(2d + 8)       193    9,717,170,176    3.5
lm head             2bsd               1       50,331,648    0.0
total                                     275,543,801,856  100.0

closed form   with f = 4d
  bLs(34d + 5hs + 16) + bs(5d + 16) + 8s
= 1·96·2,048(34·12,288 + 5·96·2,048 + 16) + 1·2,048(5·12,288 + 16) + 8·2,048
= 275,417,923,584 + 125,861,888 + 16,384
= 275,543,801,856 B   256.6 GiB

one layer
  attention             11bsd + 5bhs²
  feed-forward          19bsd
  2 × layernorm         4bsd + 16bs
  L = 96 of them, each  bs(34d + 5hs + 16)

kept tensor              shape          B  bytes          count  kept by (as its)
token embedding                            8bs                1
  token ids              b × s          8  8bs                1  token embedding (indices)
position embedding                         8s                 1
  positions              s              8  8s                 1  position embedding (indices)
embedding dropout                          bsd                1
  dropout mask           b × s × d      1  bsd                1  embedding dropout (mask)
attention                                  bs(11d + 5hs)     96
  norm output            b × s × d      2  2bsd              96  q, k, v (input)
  q                      b × s × d      2  2bsd              96  scores (factor)
  k                      b × s × d      2  2bsd              96  scores (factor)
  softmax output         b × h × s × s  2  2bhs²             96  softmax (output)
  dropout mask           b × h × s × s  1  bhs²              96  dropout (mask)
  softmax after dropout  b × h × s × s  2  2bhs²             96  context (factor)
  v                      b × s × d      2  2bsd              96  context (factor)
  weighted values        b × s × d      2  2bsd              96  o (input)
  dropout mask           b × s × d      1  bsd               96  dropout (mask)
feed-forward                               19bsd             96
  norm output            b × s × d      2  2bsd              96  up (input)
  up projection          b × s × 4d     2  8bsd              96  activation (input)
  gelu                   b × s × 4d     2  8bsd              96  down (input)
  dropout mask           b × s × d      1  bsd               96  dropout (mask)
layernorm                                  bs(2d + 8)       193
  mean                   b × s × 1      4  4bs              193  norm (statistics)
  1 / deviation          b × s × 1      4  4bs              193  norm (statistics)
  residual stream        b × s × d      2  2bsd             193  norm (input)
lm head                                    2bsd               1
  norm output            b × s × d      2  2bsd               1  head (input)
"""


@pytest.mark.parametrize(("name", "quantity", "given", "text"), [
    ("transformer-base", "params", {}, TRANSFORMER_BASE),
    ("gpt3", "activations", {"attention": "eager", "dropout": 0.1}, GPT3_ACTIVATIONS),
])
def test_it_reads_like_the_literature(name: str, quantity: str, given: dict[str, Any], text: str) -> None:
    shown = render(made(name, quantity, **given), "table", Screen())
    assert shown.startswith(text)


def run(*args: str) -> subprocess.CompletedProcess[str]:
    code = "from txcalc.__main__ import main; main()"
    return subprocess.run([sys.executable, "-c", code, "explain", *args], capture_output=True, text=True, check=False,
                          encoding="utf-8", env={"PYTHONIOENCODING": "utf-8", "PATH": ""})


def test_the_command() -> None:
    piped = run("gpt2", "params")
    assert piped.returncode == 0 and piped.stdout.isascii() and "L(12d^2 + 13d) + Vd + nd + 2d" in piped.stdout
    assert "L(12d² + 13d)" in run("gpt2", "params", "--notation", "unicode").stdout
    assert "L(12d^{2} + 13d)" in run("gpt2", "params", "--latex").stdout
    assert json.loads(run("gpt2", "kv_cache", "--json").stdout)["total"] == 37748736
    assert run("gpt2", "params", "-q").stdout.splitlines()[0].startswith("closed form")


@pytest.mark.parametrize(("args", "message"), [
    (("gpt2", "kv-cach"), "did you mean kv-cache?"),
    (("bert-base", "kv-cache"), "encoder"), (("gpt2", "params", "--notation", "roman"), "unicode, ascii, latex"),
])
def test_what_the_command_refuses(args: tuple[str, ...], message: str) -> None:
    refused = run(*args)
    assert refused.returncode == 2 and message in refused.stderr and not refused.stdout
    assert len(refused.stderr.splitlines()) == 1
