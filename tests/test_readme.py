import re

import pytest
from readme import PAGES, ROOMS, ROOT, blocks, output, rooms

from txcalc.spec.model import Model
from txcalc.spec.yaml import read_yaml

TEXTS = {page.name: page.read_text("utf-8") for page in PAGES}
TEXT = TEXTS["README.md"]
SHOWN = [block for text in TEXTS.values() for block in blocks(text)]
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COPIED = [text for page in TEXTS.values() for text in YAML.findall(page)]


@pytest.mark.parametrize(("command", "shown"), SHOWN, ids=[command for command, _ in SHOWN])
def test_the_output_shown_is_what_the_command_prints(command: str, shown: str) -> None:
    assert output(command) == shown, "run: python tests/readme.py"


def test_the_table_of_rooms_is_that_of_the_source() -> None:
    found = ROOMS.search(TEXTS["architecture.md"])
    assert found is not None
    assert found[0] == rooms(), "run: python tests/readme.py"
    assert "| |" not in found[0], "a package says in its docstring what lives there"


def test_the_readme_is_short() -> None:
    assert len(TEXT.encode()) < 8000


def test_links_lead_to_pages() -> None:
    for name, text in TEXTS.items():
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert ((ROOT if name == "README.md" else ROOT / "docs") / link).is_file(), (name, link)


def test_every_command_is_mentioned() -> None:
    from txcalc.cli.app import COMMANDS

    for command in COMMANDS:
        assert re.search(rf"txcalc {command}\b|`{command}`", TEXT), command


@pytest.mark.parametrize("text", COPIED)
def test_a_spec_shown_is_one_that_can_be_copied(text: str) -> None:
    """Whole models as they stand, fields of one (a list of groups) beside those of the first."""
    first = next(each for each in COPIED if each.startswith("name: "))
    fields = read_yaml(text, "specs.md").data
    whole = fields if "name" in fields else {**read_yaml(first, "specs.md").data, **fields}
    if "groups" in fields:
        whole.pop("layers")
    assert Model.from_data(whole).name == whole["name"]
