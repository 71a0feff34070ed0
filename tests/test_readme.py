import re

import pytest
from readme import README, TREE, blocks, output, tree

from txcalc.spec.model import Model
from txcalc.spec.yaml import read_yaml

TEXT = README.read_text("utf-8")


@pytest.mark.parametrize(("command", "shown"), blocks(TEXT), ids=[command for command, _ in blocks(TEXT)])
def test_the_output_shown_is_what_the_command_prints(command: str, shown: str) -> None:
    assert output(command) == shown, "run: python tests/readme.py"


def test_the_file_table_is_that_of_the_source() -> None:
    found = TREE.search(TEXT)
    assert found is not None
    assert found[0] == tree(), "run: python tests/readme.py"


def test_every_command_is_mentioned() -> None:
    from txcalc.cli.app import COMMANDS

    for command in COMMANDS:
        assert re.search(rf"txcalc {command}\b|`{command}`", TEXT), command


@pytest.mark.parametrize("text", re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))
def test_a_spec_shown_is_one_that_can_be_copied(text: str) -> None:
    """Whole models as they stand, fields of one (a list of groups) beside those of the first."""
    first = re.search(r"^```yaml\n(name: .*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert first is not None
    fields = read_yaml(text, "README.md").data
    whole = fields if "name" in fields else {**read_yaml(first[1], "README.md").data, **fields}
    if "groups" in fields:
        whole.pop("layers")
    assert Model.model_validate(whole).name == whole["name"]
