import re

import pytest
from readme import README, ROOT, blocks, output

TEXT = README.read_text("utf-8")


@pytest.mark.parametrize(("command", "shown"), blocks(TEXT), ids=[command for command, _ in blocks(TEXT)])
def test_the_output_shown_is_what_the_command_prints(command: str, shown: str) -> None:
    assert output(command) == shown, "run: python tests/readme.py"


def test_the_file_tree_names_every_source_file() -> None:
    tree = TEXT[TEXT.index("## Where things are") :]
    for path in sorted((ROOT / "txcalc").rglob("*.py")):
        if path.name not in ("__init__.py", "__main__.py"):
            assert re.search(rf"\b{re.escape(path.name)}\b", tree), f"{path.relative_to(ROOT)} is not in the README"
