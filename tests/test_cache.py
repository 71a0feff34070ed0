"""Models that were read before: the same as read anew, only sooner, never stale, and never needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from txcalc.answer import catalogue
from txcalc.models import library, store
from txcalc.models.load import Loaded, load, names
from txcalc.models.sources import Source
from txcalc.spec.errors import SpecError
from txcalc.spec.replace import replace

FACTS = json.loads((Path(__file__).parent / "data" / "conformance.json").read_text())
TINY = """name: tiny
vocab: 97
d_model: 24
layers: 5
context: 64
attention: {heads: 6}
feed_forward: {d_ff: 41}
position: {kind: learned}
sources: {"": nothing, Model: {}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(library.DIRECTORY_VARIABLE, "")
    monkeypatch.setenv(library.CACHE_VARIABLE, str(tmp_path / "deep" / "cache"))
    return tmp_path / "deep" / "cache"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("{}", "x"))
    return path


def again(*args: Any, **kwargs: Any) -> Loaded | None:
    """The model without reading any document; None where one had to be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(Source, "document")
        try:
            return load(*args, **kwargs)
        except AttributeError:
            return None


@pytest.mark.parametrize("name", [info.name for info in names()])
def test_a_preset_is_the_same_when_it_was_read_before(name: str) -> None:
    assert again(name) is None
    found = load(name)
    assert again(name) == found and hash(found.model.head) == hash(load(name).model.head)
    assert [*vars(load(name).model)] == [*vars(found.model)] == [*type(found.model).names()]


@pytest.mark.parametrize("name", FACTS)
def test_so_is_a_configuration_with_its_notes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(FACTS[name]["config"]))
    found = load(str(path))
    assert again(str(path)) == found


def test_whatever_decides_is_compared(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load(str(tiny))
    assert again(str(tiny)) == found
    for other in (["layers=3"], ["layers=4"], ["layers=4", "d_model=48"]):
        assert again(str(tiny), other) is None
        changed = load(str(tiny), other)
        assert again(str(tiny), other) == changed != found
        assert again(f"{tiny}@{','.join(other)}") is None
    assert again(str(tiny), strict=True) is None
    copy = tmp_path / "copy.yaml"
    copy.write_text(tiny.read_text())
    assert again(str(copy)) is None and load(str(copy)).source == str(copy)
    monkeypatch.setattr(store, "code", lambda: "changed")
    assert again(str(tiny)) is None
    monkeypatch.undo()
    tiny.write_text(tiny.read_text().replace("layers: 5", "layers: 6"))
    assert load(str(tiny)).model.layers == 6


def test_presets_are_listed_from_what_is_kept_until_one_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "presets"
    folder.mkdir()
    monkeypatch.setattr(library, "built_in", lambda: ())
    monkeypatch.setenv(library.DIRECTORY_VARIABLE, str(folder))
    path = folder / "tiny.yaml"
    path.write_text(TINY.replace("{}", "arXiv 2302.13971"))
    first = catalogue.listing()
    with monkeypatch.context() as patch:
        patch.delattr(catalogue, "load")
        assert catalogue.listing() == first == catalogue.listing("2302.13971") == catalogue.listing("mha tin")
        with pytest.raises(SpecError, match="no preset mentions"):
            catalogue.listing("gqa")
    path.write_text(path.read_text().replace("layers: 5", "layers: 60"))
    assert catalogue.listing().presets[0].params != first.presets[0].params
    (folder / "other.yaml").write_text(TINY.replace("tiny", "other"))
    assert [each.name for each in catalogue.listing().presets] == ["other", "tiny"]
    path.write_text("layers: [")
    assert catalogue.listing("tiny").presets[0].error == catalogue.listing("tiny").presets[0].error is not None


def test_every_file_that_decides_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = store.code.__wrapped__()
    for name in ("units.py", "spec/model.py", "spec/yaml.py", "models/load.py", "huggingface/words.json"):
        assert f"{Path(store.__file__).parents[1]}/{name}:" in real.replace("/./", "/")
    monkeypatch.setattr(store, "__file__", str(tmp_path / "txcalc" / "models" / "store.py"))
    files = [tmp_path / "txcalc" / room / "some.py" for room in store._ROOMS]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a")
    seen = {store.code.__wrapped__()}
    for file in files:
        before = file.stat().st_mtime_ns
        file.write_text("ab")
        os.utime(file, ns=(before, before))
        seen.add(store.code.__wrapped__())
        os.utime(file, ns=(before, before + 1))
        seen.add(store.code.__wrapped__())
    assert len(seen) == 1 + 2 * len(files)


def test_what_is_cut_or_changed_is_read_anew_and_mended(tiny: Path, folder: Path) -> None:
    found = load(str(tiny))
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    for at in range(0, len(whole), 97):
        flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        for damaged in (whole[:at], flipped, flipped[:-1]):
            entry.write_bytes(damaged)
            assert again(str(tiny)) is None, at
    for damaged in (b"\n", b"0\n", b"\xff\xfe", b"x\n{}", os.urandom(4096)):
        entry.write_bytes(damaged)
        assert again(str(tiny)) is None
    assert load(str(tiny)) == found and entry.read_bytes() == whole
    entry.unlink()
    entry.mkdir()
    assert load(str(tiny)) == found and again(str(tiny)) is None


@pytest.mark.parametrize("place", ["", "file", "file/in", "/proc/nothing"])
def test_a_cache_that_cannot_be_written_is_none(
    place: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(library.CACHE_VARIABLE, str(tmp_path / place) if place else "")
    assert load(str(tiny)).model.layers == 5
    assert again(str(tiny)) is None


@pytest.mark.skipif(sys.platform != "linux", reason="where other systems keep caches is theirs")
def test_it_is_in_the_users_cache_directory(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    found = load(str(tiny))
    assert again(str(tiny)) == found and (tmp_path / "xdg" / "txcalc" / "models").is_dir()


def test_a_crash_leaves_what_was_there(tiny: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        load(str(tiny))
    monkeypatch.undo()
    monkeypatch.setenv(library.CACHE_VARIABLE, str(folder))
    assert again(str(tiny)) is None
    assert load(str(tiny)) == again(str(tiny))


def test_many_at_once_in_one_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_PLACES", 1)
    wanted = {name: load(name) for name in ("gpt2", "gpt3", "bert-base", "t5-base")}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(load, [*wanted] * 40))
    assert found == [*wanted.values()] * 40
    assert [path.name for path in folder.iterdir()] == ["000"]


def test_there_are_so_many_places(tiny: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_PLACES", 3)
    for layers in range(1, 40):
        load(str(tiny), [f"layers={layers}"])
    assert {path.name for path in folder.iterdir()} == {"000", "001", "002"}


def test_what_other_texts_decide_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "presets"
    own.mkdir()
    monkeypatch.setenv(library.DIRECTORY_VARIABLE, str(own))
    (own / "first.yaml").write_text(TINY.replace("{}", "x"))
    based = tmp_path / "based.yaml"
    based.write_text("base: first\nd_model: 48\n")
    assert load(str(based)).model.layers == 5
    (own / "first.yaml").write_text(TINY.replace("{}", "x").replace("layers: 5", "layers: 7"))
    assert load(str(based)).model.layers == 7


def test_what_is_wrong_is_not_kept(tiny: Path, folder: Path) -> None:
    for _ in range(2):
        with pytest.raises(SpecError, match=r"--set layers=0: layers: must be a whole number of at least 1"):
            load(str(tiny), ["layers=0"])
    assert not folder.exists()


def test_a_long_text_is_not_kept(tiny: Path, folder: Path) -> None:
    tiny.write_text(tiny.read_text() + "#" * store._LONGEST)
    load(str(tiny))
    assert not folder.exists()


@pytest.mark.parametrize(("command", "total"), [
    (["count", "gpt3"], "174,604,259,328"), (["explain", "gpt3", "params"], "174,604,259,328"),
    (["explain", "deepseek-v3", "activations"], "total"), (["explain", "gemma3-27b", "kv-cache"], "total"),
    (["count", "gpt3", "--set", "layers=1"], "2,"), (["compare", "gpt2", "gpt3"], "gpt3"),
])
def test_a_model_read_before_needs_no_yaml_and_no_model_needs_pydantic(command: list[str], total: str) -> None:
    program = (
        f"import sys\nfrom txcalc.cli.app import main\nsys.argv = ['txcalc', *{command!r}]\n"
        "try:\n    main()\nfinally:\n"
        "    print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    for heavy in ({"pydantic"}, {"pydantic", "yaml"}):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert total in done.stdout
        assert not {*heavy, "numpy", "sympy", "torch", "matplotlib"} & set(done.stderr.split())


def test_fields_can_be_replaced_and_found() -> None:
    load("gemma3-27b")
    found = again("gemma3-27b")
    assert found is not None
    changed = replace(found.model, {"groups.0.repeat": 3, "d_model": 7})
    assert changed.groups is not None and found.model.groups is not None
    assert (changed.groups[0].repeat, changed.d_model) == (3, 7) != (found.model.groups[0].repeat, found.model.d_model)
    assert changed.to_data() == {**found.model.to_data(), "d_model": 7, "groups": [
        {**found.model.groups[0].to_data(), "repeat": 3}, *(group.to_data() for group in found.model.groups[1:])
    ]}
    with pytest.raises(KeyError, match=r"attention\.head"):
        replace(found.model, {"groups.0.blocks.0.attention.head": 3})
