"""What a class or a paper gives otherwise is explained by one number, and by no other."""

import pytest

from txcalc.check.third_party import QUIRKS, against_published, compared
from txcalc.models.load import load


@pytest.mark.parametrize(("name", "model_type", "quantity"), [
    ("falcon-40b", "falcon", "KV cache"), ("llama4-scout", "llama4_text", "FLOPs forward, eager"),
    ("mt5-small", "mt5", "parameters"), ("flan-t5-xl", "t5", "parameters"),
])
def test_a_quirk_explains_one_number(name: str, model_type: str, quantity: str) -> None:
    spec, counted = load(name).model, 10**12
    expected = QUIRKS[model_type, quantity].expected(spec, counted)
    assert expected != counted
    for measured, verdict in ((expected, "explained"), (counted, "equal"), (expected + 1, "DIFFERS"),
                              (expected - 1, "DIFFERS"), (counted + 1, "DIFFERS")):
        row = compared(spec, model_type, quantity, counted, measured)
        assert (row.verdict, row.measured) == (verdict, measured)
    assert compared(spec, "llama", quantity, counted, expected).verdict == "DIFFERS"


def test_every_quirk_is_tried() -> None:
    (marked,) = (mark for mark in test_a_quirk_explains_one_number.pytestmark if mark.name == "parametrize")
    assert {row[1:] for row in marked.args[1]} == set(QUIRKS)


def test_a_note_explains_one_count() -> None:
    spec = load("llama2-70b").model
    assert [row.verdict for row in against_published(spec).rows] == ["explained"]
    (figure,) = spec.published
    changed = spec.replaced(published=(figure.replaced(counted=figure.counted + 1),))
    assert [row.verdict for row in against_published(changed).rows] == ["DIFFERS"]
