"""The house keeps its shape: imports point back, files stay short, and no model is known by its name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "txcalc"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
STAGES = ["units", "document", "spec", "huggingface", "models", "trace", "count", "answer", "explain", "show", "cli"]
CHECK = ["units", "document", "spec", "huggingface", "models", "trace", "count", "answer", "check"]
CLI = [*STAGES, "check"]
REFERENCE = ["spec", "check.reference", "check.measure"]


def name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Every module of the package that a file imports, anywhere in it, without the package's name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found = [f"{module}.{alias.name}" if module == "txcalc" else module for alias in node.names]
        else:
            continue
        yield from (each.removeprefix("txcalc.") for each in found if each.startswith("txcalc."))


def allowed(module: str) -> list[str]:
    """What a module may import, as prefixes."""
    stage = module.split(".")[0]
    if module.startswith(("check.reference", "check.measure")):
        return REFERENCE
    if stage == "check":
        return CHECK
    return CLI if stage == "cli" else STAGES[: STAGES.index(stage) + 1]


LAYERED = [path for path in FILES if path.parent != PACKAGE or path.stem in STAGES]


@pytest.mark.parametrize("path", LAYERED, ids=name)
def test_imports_point_back_up_the_list(path: Path) -> None:
    may = allowed(name(path))
    for imported in imports(path):
        fine = any(imported == prefix or imported.startswith((f"{prefix}.", f"{prefix}_")) for prefix in may)
        assert fine, f"{name(path)} imports {imported}"


def test_the_reference_stands_on_torch_and_the_spec_alone() -> None:
    """Otherwise the proof is circular."""
    files = [path for path in FILES if name(path).startswith(("check.reference", "check.measure"))]
    assert len(files) > 5
    for path in (*files, *(Path(__file__).parent / "measures").glob("*.py")):
        assert not {each.split(".")[0] for each in imports(path)} & {"trace", "count", "answer", "cli"}, path


def test_a_violation_would_be_found(tmp_path: Path) -> None:
    for text, expected in (
        ("from txcalc.cli import write", "cli"), ("import txcalc.trace.model", "trace.model"),
        ("from txcalc import units", "units"), ("def f():\n    from txcalc.count.flops import x", "count.flops"),
    ):
        path = tmp_path / "some.py"
        path.write_text(text)
        assert list(imports(path)) == [expected]
    assert "cli" not in allowed("show.html") and "count" not in allowed("trace.model")
    assert "trace" not in allowed("check.reference.stack") and "trace" in allowed("check.validate")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 400


MIRRORS = [{"spec", "trace"}, {"trace", "check.reference"}, {"spec", "check.reference"}, {"answer", "show"},
           {"explain", "show"}]
"""Rooms of which one holds what the other builds, or how what the other finds looks."""


def rooms(files: list[Path]) -> dict[str, set[str]]:
    """Of every file's name the rooms that it stands in."""
    found: dict[str, set[str]] = {}
    for path in (path for path in files if path.stem != "__init__"):
        found.setdefault(path.stem, set()).add(name(path).rpartition(".")[0])
    return found


def test_a_file_name_stands_in_two_rooms_only_where_they_mirror_each_other() -> None:
    wrong = {stem for stem, where in rooms(FILES).items() if len(where) > 1 and where not in MIRRORS}
    assert not wrong, "give the file the noun that its room has for it"


def is_name_of_a_model(node: ast.expr) -> bool:
    """``spec.name``, ``self.spec.family``, ``model.name``: but not the ``name`` of anything else."""
    if not (isinstance(node, ast.Attribute) and node.attr in ("name", "family")):
        return False
    owner = node.value
    last = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    return last in ("spec", "model", "_spec", "_model")


def questions(path: Path) -> Iterator[int]:
    """Lines that ask what a model is called: comparisons, ``in``, ``match``, ``startswith`` and their like."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            asked = [node.subject]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = [node.func.value] if node.func.attr in ("startswith", "endswith", "lower", "casefold") else []
        elif isinstance(node, ast.Subscript):
            asked = [node.slice]
        if any(is_name_of_a_model(each) for each in asked):
            yield node.lineno


@pytest.mark.parametrize(
    "path", [path for path in FILES if name(path).split(".")[0] in ("trace", "count", "check")], ids=name
)
def test_nothing_asks_what_a_model_is_called(path: Path) -> None:
    assert list(questions(path)) == [], "never branch on a name; add a field to the spec"


def test_such_a_question_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text('if "Gemma" in self.spec.name or spec.family == "gpt" or model.name.startswith("x"): pass\n'
                    "row = TABLE[spec.name]\nif op.name == 'core' or cache.name: pass\n")
    assert sorted(questions(path)) == [1, 1, 1, 2]


PARTS_OF_TEXT = {"startswith", "endswith", "split", "rsplit", "partition", "rpartition", "removeprefix", "removesuffix"}
READ = {"count.weights": 1, "trace.frozen": 3}
"""How often a file reads a path: a spec names the matrices that are stored as one by their last names, and users name
the layers that have adapters and the parts that are frozen."""


def spellings(path: Path) -> Iterator[int]:
    """Lines that take a text apart, or compare a path with one."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PARTS_OF_TEXT:
            yield node.lineno
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            texts = any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in sides)
            if texts and any(isinstance(side, ast.Attribute) and side.attr in ("path", "component") for side in sides):
                yield node.lineno


@pytest.mark.parametrize("path", [path for path in FILES if name(path).split(".")[0] in ("trace", "count")], ids=name)
def test_nothing_depends_on_how_a_path_is_spelt(path: Path) -> None:
    assert len(list(spellings(path))) == READ.get(name(path), 0), "say it as data: the operation's part, or within"


def test_such_a_spelling_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text("if op.path == 'head' or 'experts' in op.path.split('.'): pass\n"
                    "if path.endswith('.k') or op.part == 'k': pass\n")
    assert sorted(spellings(path)) == [1, 1, 2]
