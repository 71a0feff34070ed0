"""The counters agree with the PyTorch reference, exactly, on random specs; and a broken counter is caught."""

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from showing import render
from specs import specs

from txcalc.spec.facts import is_causal
from txcalc.spec.model import Model, Published

torch = pytest.importorskip("torch")

from txcalc.answer.validation import Validations  # noqa: E402
from txcalc.check.third_party import against_published  # noqa: E402
from txcalc.check.validate import CASES, Case, cache, flops_rows, kept, parameters, validate  # noqa: E402
from txcalc.models.load import load  # noqa: E402
from txcalc.show.terminal import Screen  # noqa: E402

torch.set_num_threads(1)
EXAMPLES, PARTS = 240, 8
"""Random specs, and the tests that they are shared out to: one alone would keep one worker busy at the end."""


@pytest.mark.parametrize("part", [part if not part else pytest.param(part, marks=pytest.mark.slow)
                                  for part in range(PARTS)])
def test_random_specs_agree(part: int) -> None:
    @seed(part)
    @settings(max_examples=EXAMPLES // PARTS, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(spec=specs(), cases=st.lists(st.sampled_from(CASES), min_size=2, max_size=2, unique=True))
    def agree(spec: Model, cases: list[Case]) -> None:
        rows = [parameters(spec), *(kept(spec, case, "cpu", "") for case in cases)]
        for eager in (True, False):
            rows += flops_rows(spec, eager=eager, how="", device="cpu")
        if is_causal(spec):
            rows.append(cache(spec))
        for row in rows:
            assert row.verdict == "equal", f"{row.quantity}: {row.differences}"

    agree()


@pytest.mark.slow  # as txcalc validate --all does
@pytest.mark.parametrize("name", ["gpt2", "transformer-base", "gpt1"])
def test_presets_agree(name: str) -> None:
    result = validate(load(name).model)
    assert result.agrees, [row for row in result.rows if row.verdict != "equal"]


def test_a_count_rounds_to_printed_digits() -> None:
    """Equal is what is printed to the last digit; a figure with fewer digits is one that the count rounds to."""
    model = load("llama3-8b").model
    figures = [Published(quantity="params", printed=printed, source="a paper", difference=note, counted=counted)
               for printed, note, counted in (("8B", None, None), ("8,030,261,248", None, None),
                                              ("9B", "why", 8_030_261_248), ("9B", "why", 8_030_261_249),
                                              ("9B", "why", None), ("9B", None, None))]
    found = against_published(model.replaced(published=tuple(figures)))
    assert [(row.counted, row.printed, row.verdict) for row in found.rows] == [
        (8_030_261_248, "8B", "rounds to it"), (8_030_261_248, "8,030,261,248", "equal"),
        (8_030_261_248, "9B", "explained"), *[(8_030_261_248, "9B", "DIFFERS")] * 3]
    answer = against_published(model)
    shown = render(Validations(agrees=answer.agrees, models=(answer,)), "table", Screen(80))
    assert "8,030,261,248    8.03B  rounds to it" in shown and "last digit" not in shown
