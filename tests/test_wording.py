"""What is said about a model holds for it: labels, marks and rules, of recurrent models and hybrids above all."""

from __future__ import annotations

from typing import Any

import pytest
from showing import render

import txcalc
from txcalc.answer import comparison as side_by_side
from txcalc.answer.curve import attention_curve
from txcalc.answer.fit import fill as workload
from txcalc.answer.report import Named
from txcalc.answer.view import view
from txcalc.explain.explain import explain
from txcalc.explain.explanation import QuantityName
from txcalc.show.blocks import Fact, plain
from txcalc.show.comparison import lines
from txcalc.show.figures import cache_label, figures
from txcalc.show.headings import short

SCAN = ["jamba", "mamba2", "minimax-01", "nemotron-h", "qwen3-next"]


def shown(name: str, **given: Any) -> dict[str, Fact]:
    return {figure.label: figure for figure in figures(view(txcalc.load(name), given))}


def rules(name: str, **given: Any) -> dict[str, str]:
    return {rule.id: rule.text for rule in txcalc.count(txcalc.load(name), **given).conventions}


@pytest.mark.parametrize("name", SCAN)
@pytest.mark.parametrize("attention", ["eager", "flash"])
def test_what_rests_on_an_estimate_is_marked_as_one(name: str, attention: str) -> None:
    """A sum of estimates, and the same run under the other attention, are no surer than their parts."""
    found = shown(name, phase="training", attention=attention)
    uncertain = {label for label in found if label in ("FLOPs", "forward", "backward", "model, per token", "per token",
                                                       "hardware, per token", "recomputed", "without masked pairs",
                                                       "Activations")
                 or label.startswith("if ")}
    assert {label for label, figure in found.items() if figure.mark == "~"} == uncertain
    assert "recurrence" in rules(name)


@pytest.mark.parametrize(("name", "label", "note"), [
    ("jamba", "KV cache", "16.00 KiB/token + 15.75 MiB states"),
    ("rnnsearch", "KV cache", "293.0 KiB of the source + 1.953 KiB states"),
    ("t5-small", "KV cache", "12.00 KiB/token + 6.000 MiB of the source"),
    ("mamba2", "Recurrent state", ""),
    ("transformer-xl-enwik8-12l", "Cached layer inputs", "12.00 KiB/token"),
    ("gopher", "KV cache", "5.000 MiB/token"),
])
def test_a_cache_is_called_what_it_holds(name: str, label: str, note: str) -> None:
    found = shown(name)
    assert found[label].note == note
    assert cache_label(txcalc.count(txcalc.load(name)).caches) == label


@pytest.mark.parametrize(("name", "absent", "present"), [
    ("lstm-ptb-medium", {"masked", "attention", "kv-cache", "recurrence"}, {"states"}),
    ("mamba2", {"masked", "attention", "kv-cache"}, {"states", "recurrence"}),
    ("rnnsearch", {"recurrence"}, {"masked", "attention", "kv-cache", "states"}),
    ("transformer-xl-enwik8-12l", {"kv-cache", "states"}, {"attention", "inputs", "masked"}),
    ("gemma2-2b", {"states"}, {"attention", "kv-cache"}),
    ("bert", {"kv-cache", "states"}, {"attention"}),
    ("t5-small", {"states", "latents"}, {"attention", "kv-cache"}),
    ("jamba", {"latents"}, {"attention", "recurrence", "masked", "kv-cache", "states"}),
])
def test_a_rule_stands_only_where_it_holds(name: str, absent: set[str], present: set[str]) -> None:
    found = set(rules(name))
    assert not found & absent
    assert present <= found


@pytest.mark.parametrize(("name", "rule"), [("deepseek-v3", "latents"), ("gopher", "distances")])
def test_what_multiplies_a_decoded_token_is_said_below_it(name: str, rule: str) -> None:
    found = txcalc.count(txcalc.load(name), phase="decode", past=2000).conventions
    assert {each.id: each.text for each in found}[rule] in short(found)
    assert ("latents" in rules(name)) == (rule == "latents")


@pytest.mark.parametrize(("name", "kernels"), [
    ("gpt2", ["flash"]), ("t5-small", ["eager", "flash"]), ("rnnsearch", ["eager"]), ("deepseek-v3", ["efficient"]),
])
def test_every_kernel_that_runs_is_a_rule_with_why(name: str, kernels: list[str]) -> None:
    found = [rule.text for rule in txcalc.count(name).conventions if rule.id == "attention"]
    words = {"flash": "a flash kernel", "eager": "eager", "efficient": "CUDA's memory-efficient kernel"}
    assert [text.partition(":")[0] for text in found] == [f"attention is {words[kernel]}" for kernel in kernels]
    assert [("; not flash: " in text) for text in found] == [kernel != "flash" for kernel in kernels]


def test_every_model_of_a_comparison_brings_its_own_rules() -> None:
    models = [Named(txcalc.load(name)) for name in ("rnnsearch", "transformer-base")]
    found = {rule.id for rule in side_by_side.compare(models, {"seq": 50}).conventions}
    assert {"attention", "kv-cache", "states"} <= found


def test_a_comparison_marks_estimates_and_names_states() -> None:
    models = [Named(txcalc.load(name)) for name in ("mamba2", "gpt2")]
    compared = side_by_side.compare(models, {"seq": 64})
    cells = {label: tuple(map(plain, cells)) for label, *cells in (row.cells for row in lines(compared.entries))}
    assert cells["FLOPs per token"] == ("~ 5.571 GFLOP", "249.4 MFLOP")
    assert cells["Activations (train)"][0].startswith("~ ")
    assert cells["Cache or state at max context"] == ("162.6 MiB", "36.00 MiB")
    assert "~ 5.571 GFLOP" in render(compared, "html")


def test_a_curve_without_a_flash_kernel_does_not_describe_one() -> None:
    def text(name: str) -> str:
        spec = txcalc.load(name)
        curve = attention_curve(spec, workload([spec], {})[0], [64])
        return next(rule.text for rule in curve.conventions if rule.id == "score-matrix")

    assert "log-sum-exp" not in text("gopher")
    assert "log-sum-exp" in text("jamba")


def explained(name: str, quantity: QuantityName, **given: Any) -> str:
    spec = txcalc.load(name)
    return render(explain(spec, workload([spec], given)[0], quantity))


@pytest.mark.parametrize(("name", "quantity", "said", "unsaid"), [
    ("lstm-ptb-medium", "flops", (), ("attention",)),
    ("lstm-ptb-medium", "params", ("leaves out: tables and biases",), ("norms",)),
    ("lstm-ptb-medium", "activations", (), ("flash",)),
    ("lstm-ptb-medium", "kv-cache", ("Recurrent state",), ("KV cache", "attention")),
    ("mamba2", "flops", ("the recurrence's own products", "~ estimate", "fused kernels"), ("attention",)),
    ("mamba2", "kv-cache", ("2 bytes per element in bf16", "4 bytes per element of a linear"), ("KV cache",)),
    ("minimax-01", "params", ("leaves out: tables, routers and norms",), ("biases and norms",)),
    ("minimax-01", "flops", ("attention's own products and the recurrence's",), ("flash attention",)),
    ("gpt2", "params", ("leaves out: tables, biases and norms",), ()),
    ("gpt2", "activations", ("flash attention",), ("eager attention", "estimate")),
    ("transformer-xl-enwik8-12l", "flops", ("scores of queries and distances",), ("2ND + 4LsdD", "4L·sdD")),
    ("transformer-xl-enwik8-12l", "activations", ("eager attention", "scored with every distance"), ("log-sum-exp",)),
    ("transformer-xl-enwik8-12l", "kv-cache", ("Cached layer inputs",), ()),
    ("rnnsearch", "activations", ("eager attention", "additive scores"), ("flash attention",)),
])
def test_an_explanation_speaks_of_what_the_model_has(
    name: str, quantity: QuantityName, said: tuple[str, ...], unsaid: tuple[str, ...]
) -> None:
    text = " ".join(explained(name, quantity).split())
    assert [part for part in said if part not in text] == []
    assert [part for part in unsaid if part in text] == []
