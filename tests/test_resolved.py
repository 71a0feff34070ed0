"""Resolved presets: the same answers as the validated ones, only sooner, and never stale."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_origin, get_type_hints

import pytest
from showing import render

from txcalc.answer.defaults import workload
from txcalc.answer.view import view
from txcalc.derivation.explain import Explainer
from txcalc.models import folders, library, resolved
from txcalc.models import load as presets
from txcalc.spec import base
from txcalc.spec.model import Model
from txcalc.spec.replace import replace

NAMES = sorted({name for info in presets.names() for name in (info.name, *info.aliases)})


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the presets are kept for these tests: an absolute path, which no folder comes before."""
    path = str(tmp_path_factory.mktemp("resolved") / resolved.FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolved, "FILE", path)
        assert str(resolved.write()) == path
    return path


@pytest.fixture(autouse=True)
def use(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolved, "FILE", kept)
    monkeypatch.setenv(folders.DIRECTORY_VARIABLE, "")


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_preset_gives_the_same_answer(name: str) -> None:
    quick, whole = resolved.load(name), presets.load(name)
    assert quick is not None
    assert not isinstance(quick.model, Model)
    shown = [view(found.model, {}, source=found.source, details=True) for found in (quick, whole)]
    assert shown[0] == shown[1]
    assert render(shown[0], detail=3) == render(shown[1], detail=3)


def test_only_the_very_name_is_found() -> None:
    assert resolved.load("GPT3") is None
    assert resolved.load("gpt4") is None
    assert resolved.load("") is None


def test_a_changed_preset_or_reader_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (seen.append(path), real(path))[1])
    assert resolved.load("gpt2") is not None
    read = list(seen)
    assert {"gpt2.yaml", "model.py", "layers.py", "resolve.py", "yaml.py"} <= {path.name for path in read}
    for changed in read:
        monkeypatch.setattr(Path, "read_bytes", lambda path, changed=changed: real(path) + b"#" * (path == changed))
        assert resolved.load("gpt2") is None, changed


def test_the_users_own_presets_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(folders.DIRECTORY_VARIABLE, str(tmp_path))
    assert resolved.load("gpt2") is None


@pytest.mark.parametrize("content", [None, b"", b"gpt2\n", b"gpt2\tgpt2/gpt2.yaml\t0\tx\t{", b"\xff\xfe"])
def test_what_cannot_be_read_is_as_if_it_were_not_there(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resolved.tsv"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(resolved, "FILE", str(path))
    assert resolved.load("gpt2") is None


def test_nothing_can_be_changed() -> None:
    found = resolved.load("gpt2")
    assert found is not None
    with pytest.raises(AttributeError):
        found.model.layers = 3  # type: ignore[misc]


def test_every_mapping_is_known_as_one() -> None:
    def specs(kind: type[base.Spec]) -> set[type[base.Spec]]:
        return {kind}.union(*(specs(each) for each in kind.__subclasses__()))

    found = {
        name for kind in specs(base.Spec) for name, hint in get_type_hints(kind).items() if get_origin(hint) is dict
        and kind.__module__.startswith("txcalc.")
    }
    assert found - {"model_config"} == set(resolved.MAPPINGS)


@pytest.mark.parametrize(("command", "total"), [
    (["count", "gpt3"], "174,604,259,328"), (["explain", "gpt3", "params"], "174,604,259,328"),
    (["explain", "deepseek-v3", "activations"], "total"), (["explain", "gemma3-27b", "kv-cache"], "total"),
    (["explain", "vit-b16", "flops"], "total"),
])
def test_a_preset_is_counted_and_explained_without_what_that_can_do_without(
    command: list[str], total: str, kept: str
) -> None:
    program = (
        "import sys\nfrom txcalc.models import resolved\n"
        f"resolved.FILE = {kept!r}\n"
        f"from txcalc.cli.app import main\nsys.argv = ['txcalc', *{command!r}]\n"
        "try:\n    main()\nfinally:\n"
        "    print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert total in done.stdout
    assert not {"pydantic", "yaml", "numpy", "sympy", "torch", "matplotlib"} & set(done.stderr.split())


@pytest.mark.parametrize("name", ["gpt2", "deepseek-v3", "gemma3-27b", "transformer-base", "llava-1.5-7b", "rnnsearch",
                                  "whisper-tiny", "nemotron-h-8b", "vit-b16", "gemma4-e2b"])
def test_explanations_are_those_of_the_validated_model(name: str) -> None:
    found = resolved.load(name)
    assert found is not None
    model = presets.load(str(next(file.entry for file in library.built_in() if file.name == name))).model
    run, _ = workload([model], {"attention": "eager", "dropout": 0.1})
    of_validated, of_kept = Explainer(model, run), Explainer(found.model, run)
    for quantity in ("params", "flops-training", "activations", "weights"):
        assert of_kept.explain(quantity) == of_validated.explain(quantity)


def test_fields_can_be_replaced_and_found() -> None:
    found = resolved.load("gemma3-27b")
    assert found is not None
    changed = replace(found.model, {"groups.0.repeat": 3, "d_model": 7})
    assert (changed.groups[0].repeat, changed.d_model) == (3, 7) != (found.model.groups[0].repeat, found.model.d_model)
    assert changed.to_data() == {**found.model.to_data(), "d_model": 7, "groups": [
        {**changed.groups[0].to_data(), "repeat": 3}, *(
            group.to_data() for group in found.model.groups[1:])
    ]}
    with pytest.raises(KeyError, match=r"attention\.head"):
        replace(found.model, {"groups.0.blocks.0.attention.head": 3})
