"""Comparisons in several processes give what one gives, in order, and fail as it does."""

import json

import pytest
from typer.testing import CliRunner

from txcalc.check.processes import in_processes
from txcalc.cli.app import app
from txcalc.spec.errors import SpecError

pytest.importorskip("torch")


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_item_comes_back_under_its_number(jobs: int) -> None:
    groups = [{3: "a", 0: "b"}, {1: "c"}, {2: "d"}]
    assert dict(in_processes(str.upper, groups, jobs)) == {0: "B", 1: "C", 2: "D", 3: "A"}


def refuse(field: str) -> None:
    raise SpecError("is wrong", source="x.yaml", at=(3, 5), field=field)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_is_the_same_line(jobs: int) -> None:
    with pytest.raises(SpecError) as caught:
        list(in_processes(refuse, [{0: "layers"}, {1: "layers"}], jobs))
    assert str(caught.value) == "x.yaml:3:5: layers: is wrong"


def test_the_answer_is_the_same_in_any_number_of_processes() -> None:
    models = ["bert-base", "llama3-8b", "bert-base"]
    one, two = (CliRunner().invoke(app, ["validate", *models, "--against", "transformers", "--json", "--jobs", jobs])
                for jobs in "12")
    assert one.exit_code == two.exit_code == 0, one.output
    assert one.stdout == two.stdout
    assert [model["model"] for model in json.loads(one.stdout)["models"]] == models
