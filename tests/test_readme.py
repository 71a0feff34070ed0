import re

import pytest
from readme import README, TREE, blocks, output, tree

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
