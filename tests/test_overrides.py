"""What is laid over a spec: by --set, after a model's name, and over the base that a file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import txcalc
from txcalc.models.load import load
from txcalc.models.sources import split_name
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import architecture_fields, located_blocks
from txcalc.spec.model import Model
from txcalc.spec.yaml import dump_yaml

STACK = {"attention": {"heads": 6, "window": 5}, "feed_forward": {"d_ff": 23}, "norm": {"kind": "rmsnorm"}}
GROUPS: list[dict[str, Any]] = [
    {"repeat": 2, "blocks": [{}, {"attention": {"window": 7}, "feed_forward": {"d_ff": 29}, "norm": {"eps": 1e-3}}]},
    {"blocks": [{"attention": None, "recurrent": {"kind": "mamba2", "heads": 3, "head_dim": 5, "state": 7}},
                {"attention": {"bias": True, "qk_norm": None}}]},
]
IMAGE = {"kind": "patches", "image": 8, "patch": 4}
MIXED: dict[str, Any] = {
    "name": "mixed", "vocab": 31, "d_model": 12, "context": 41, "position": "none", **STACK, "groups": GROUPS,
    "tower": {"d_model": 18, "input": IMAGE, "position": "none", **STACK, "groups": GROUPS, "projector": {}},
}
BOTH = {**{key: value for key, value in MIXED.items() if key not in ("tower", "groups")}, "layers": 2,
        "architecture": "encoder-decoder", "encoder": {"groups": [GROUPS[0]]}}


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    return written(tmp_path, "mixed", MIXED)


def written(folder: Path, name: str, data: dict[str, Any]) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(dump_yaml(data))
    return str(path)


def of_blocks(stack: Any, field: str) -> list[Any]:
    """One field of every block, None where there is no such layer."""
    first, *rest = field.split(".")
    found = [getattr(block, first) for _, block in located_blocks(stack)]
    for name in rest:
        found = [None if each is None else getattr(each, name) for each in found]
    return found


# ---------------------------------------------------------------- fields that blocks have of their own


@pytest.mark.parametrize(("override", "own"), [
    ("attention.window=11", ["0.blocks.1.attention.window"]),
    ("feed_forward.d_ff=11", ["0.blocks.1.feed_forward.d_ff"]),
    ("feed_forward={d_ff: 11, gated: true}", ["0.blocks.1.feed_forward.d_ff"]),
    ("norm.eps=0.5", ["0.blocks.1.norm.eps"]),
    ("feed_forward=none", ["0.blocks.1.feed_forward"]),
    ("attention.bias.q=true", ["1.blocks.1.attention.bias"]),
    ("attention.qk_norm.over=head", ["1.blocks.1.attention.qk_norm"]),
])
@pytest.mark.parametrize("at", ["", "tower."])
def test_a_field_that_blocks_have_is_refused(mixed: str, override: str, own: list[str], at: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(mixed, [at + override])
    message = str(caught.value)
    assert message.startswith(f"--set {at}{override}: {at}{override.partition('=')[0]}: blocks have their own: ")
    for path in own:
        assert f"{at}groups.{path} for one" in message
    assert f"{at}groups.*.{override.partition('=')[0]} for every block" in message


@pytest.mark.parametrize("override", ["attention.kv_heads=3", "attention.window=7", "norm.kind=layernorm",
                                      "feed_forward.gated=true"])
def test_a_field_that_no_block_has_otherwise_is_taken(mixed: str, override: str) -> None:
    field, _, value = override.partition("=")
    model = load(mixed, [override]).model
    assert {str(each).lower() for each in of_blocks(model, field) if each is not None} == {value}


@pytest.mark.parametrize("at", ["", "tower."])
@pytest.mark.parametrize("field", ["attention.window", "feed_forward.d_ff", "attention.kv_heads", "norm.eps"])
@pytest.mark.parametrize("written_as", ["groups.*.", "groups.*.blocks.*."])
def test_every_block_is_changed_by_a_star(mixed: str, at: str, field: str, written_as: str) -> None:
    value = 0.25 if field == "norm.eps" else 3
    before, after = (load(mixed, given).model for given in ([], [f"{at}{written_as}{field}={value}"]))
    stacks = [model.tower if at else model for model in (before, after)]
    assert of_blocks(stacks[0], field) != of_blocks(stacks[1], field)
    assert of_blocks(stacks[1], field) == [None if each is None else value for each in of_blocks(stacks[0], field)]


def test_one_block_is_changed_by_its_number(mixed: str) -> None:
    assert of_blocks(load(mixed, ["groups.0.blocks.1.attention.window=3"]).model, "attention.window") == [5, 3, None, 5]
    both = load(mixed, ["attention.window=11", "groups.0.blocks.1.attention.window=3"]).model
    assert of_blocks(both, "attention.window") == [11, 3, None, 11]


def test_an_encoder_has_blocks_of_its_own(tmp_path: Path) -> None:
    both = written(tmp_path, "both", BOTH)
    with pytest.raises(SpecError, match=r"encoder\.groups\.\*\.attention\.window for every block"):
        load(both, ["encoder.attention.window=3"])
    model = load(both, ["encoder.groups.*.attention.window=3"]).model
    assert of_blocks(model.encoder, "attention.window") == [3, 3]
    assert of_blocks(model, "attention.window") == [5]


def test_layers_that_are_alike_are_every_block() -> None:
    assert load("gpt2", ["groups.*.attention.heads=16"]).model.attention.heads == 16  # type: ignore[union-attr]


@pytest.mark.parametrize(("override", "says"), [
    ("groups.*=1", "name a field of a block"), ("*.attention.heads=2", "a * stands for every block"),
    ("groups.*.cross_attention.heads=2", "no block has cross_attention"),
    ("groups.*.attention.window=x", "groups[0].blocks[0].attention.window: must be a whole number, got 'x'"),
])
def test_a_star_that_means_nothing(mixed: str, override: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(mixed, [override])
    assert str(caught.value).startswith(f"--set {override}: ") and says in str(caught.value)


@pytest.mark.parametrize("name", ["gemma3-27b", "gemma4-31b", "gpt-oss-20b", "llama4-scout"])
def test_windows_of_released_models(name: str) -> None:
    with pytest.raises(SpecError, match="blocks have their own"):
        load(name, ["attention.window=7", "attention.chunk=null"])
    model = load(name, ["groups.*.attention.window=7", "groups.*.attention.chunk=null"]).model
    assert set(of_blocks(model, "attention.window")) == {7}


# ---------------------------------------------------------------- one model's own, after its name


@pytest.mark.parametrize(("model", "name", "overrides"), [
    ("gpt2", "gpt2", ()), ("gpt2@layers=24", "gpt2", ("layers=24",)),
    ("gpt2@layers=24,attention.kv_heads=4", "gpt2", ("layers=24", "attention.kv_heads=4")),
    ("gpt2@attention={heads: 4, kv_heads: 2},layers=3", "gpt2", ("attention={heads: 4, kv_heads: 2}", "layers=3")),
    ("m@a=[1, [2, 3]],b='x, y'", "m", ("a=[1, [2, 3]]", "b='x, y'")),
    ("m@groups[0].repeat=2,groups.*.norm.eps=1", "m", ("groups[0].repeat=2", "groups.*.norm.eps=1")),
    ("hf:org/name@main", "hf:org/name@main", ()), ("hf:org/name@main@layers=2", "hf:org/name@main", ("layers=2",)),
    ("a@b/c.yaml@layers=2", "a@b/c.yaml", ("layers=2",)), ("-@layers=2", "-", ("layers=2",)),
    ("m@name=a@b", "m", ("name=a@b",)),
])
def test_a_name_and_what_follows_it(model: str, name: str, overrides: tuple[str, ...]) -> None:
    assert split_name(model) == (name, overrides)


def test_a_file_of_that_very_name_is_itself(tmp_path: Path, mixed: str) -> None:
    path = tmp_path / "a@layers=2.yaml"
    path.write_text(Path(mixed).read_text())
    assert load(str(path)).overrides == ()
    assert load(f"{path}@d_model=24").model.d_model == 24


@pytest.mark.parametrize(("model", "says"), [
    ("gpt2@layers=x", "gpt2@layers=x: layers: must be a whole number, got 'x'"),
    ("gpt2@layers=2,", "gpt2@: write it as KEY=VALUE"), ("gpt2@layers=2,3", "gpt2@3: write it as KEY=VALUE"),
    ("gtp2@layers=2", "unknown preset 'gtp2'; did you mean gpt2"),
    ("gemma3-27b@attention.window=7", "gemma3-27b@attention.window=7: attention.window: blocks have their own"),
])
def test_what_is_wrong_after_a_name(model: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(model)
    assert str(caught.value).startswith(says)


def test_wherever_a_model_is_named() -> None:
    changed = "gpt2@layers=3"
    params = txcalc.count(txcalc.load("gpt2", ["layers=3"])).totals.params.value
    assert txcalc.count(changed).totals.params.value == txcalc.explain(changed).total == params
    assert [entry.totals.params.value for entry in txcalc.compare("gpt2", changed).entries] == [124_439_808, params]
    assert txcalc.attention(changed, [64]).model.overrides == txcalc.diff("gpt2", changed).b.model.overrides == (
        "layers=3",)
    assert load(changed, ["d_model=24"]).overrides == ("layers=3", "d_model=24")


# ---------------------------------------------------------------- a base


@pytest.mark.parametrize(("fields", "overrides"), [
    ({"layers": 30, "attention": {"kv_heads": 1}}, ["layers=30", "attention.kv_heads=1"]),
    ({"feed_forward": {"kind": "moe", "experts": 4, "active_experts": 2, "d_ff": 7}},
     ["feed_forward={kind: moe, experts: 4, active_experts: 2, d_ff: 7}"]),
])
def test_a_base_is_what_set_makes_of_it(tmp_path: Path, fields: dict[str, Any], overrides: list[str]) -> None:
    found = load(written(tmp_path, "mine", {"base": "llama3-8b", **fields})).model
    expected = load("llama3-8b", overrides).model
    assert found.name == "mine" and found.published == () and found.aliases == ()
    assert {**architecture_fields(found), "name": ""} == {**architecture_fields(expected), "name": ""}


def test_a_base_may_be_changed_and_based(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXCALC_PRESETS", str(tmp_path))
    written(tmp_path, "first", {"base": "gpt2@layers=7", "d_model": 24, "name": "its own name"})
    written(tmp_path, "second", {"base": "first", "attention": {"heads": 6}})
    model = load("second").model
    assert (model.name, model.layers, model.d_model, model.attention.heads) == (  # type: ignore[union-attr]
        "second", 7, 24, 6)
    assert load("first").model.name == "its own name"


@pytest.mark.parametrize(("text", "says"), [
    ("base: llama3-9b\n", ":1:1: base: unknown preset 'llama3-9b'; did you mean llama"),
    ("base: 3\n", ":1:1: base: must be the name of a preset, got 3"),
    ("base: mine\n", ":1:1: base: mine is what it is itself based on"),
    ("base: llama3-8b\nlayers: 30\nattention:\n  kv_heads: 3\n",
     ":4:3: attention.kv_heads: 3 does not divide heads 32"),
    ("base: llama3-8b\nattention:\n  kv_head: 3\n", ":3:3: attention.kv_head: unknown field; did you mean kv_heads?"),
    ("base: gemma3-27b\nattention:\n  window: 3\n", ":2:1: attention: blocks have their own: "
     "groups[0].blocks[0].attention.window (1024), groups[1].blocks[0].attention.window (1024); write the groups out"),
    ("base: gemma3-27b\nlayers: 3\n", ":2:1: layers: the groups hold 62 layers, not 3"),
])
def test_what_is_wrong_with_a_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    monkeypatch.setenv("TXCALC_PRESETS", str(tmp_path))
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load("mine")
    assert str(caught.value).startswith(f"{path}{says}")


def test_groups_of_its_own_take_the_place_of_the_base_s(tmp_path: Path) -> None:
    fields = {"base": "gemma3-1b", "layers": 2, "attention": {"window": 3}, "groups": [{"blocks": [{}, {}]}]}
    assert of_blocks(load(written(tmp_path, "mine", fields)).model, "attention.window") == [3, 3]


# ---------------------------------------------------------------- what must be said


SAID = {"name": "x", "vocab": 31, "d_model": 12, "layers": 2, "context": 41, "attention": {"heads": 2},
        "feed_forward": {"d_ff": 5}, "position": "none"}
HALF: dict[str, Any] = {"input": IMAGE, "d_model": 18, "layers": 1, "attention": {"heads": 3}, "projector": {}}


@pytest.mark.parametrize(("changes", "missing"), [
    ({"feed_forward": ...}, "feed_forward"), ({"position": ...}, "position"),
    ({"feed_forward": ..., "position": ...}, "feed_forward, position"),
    ({"feed_forward": ..., "layers": 3, "groups": [{"blocks": [{"feed_forward": None}, {}, {}]}]},
     "groups[0].blocks[1].feed_forward, groups[0].blocks[2].feed_forward"),
    ({"tower": HALF}, "tower.feed_forward, tower.position"),
    ({"tower": {**HALF, "position": "none", "groups": [{"blocks": [{}]}]}}, "tower.groups[0].blocks[0].feed_forward"),
    ({"feed_forward": ..., "layers": 1, "groups": [{"blocks": [{"feed_forward": None}]}],
      "architecture": "encoder-decoder", "encoder": {"layers": 2}}, "encoder.feed_forward"),
])
def test_feed_forward_and_position_must_be_said(tmp_path: Path, changes: dict[str, Any], missing: str) -> None:
    data = {key: value for key, value in {**SAID, **changes}.items() if value is not ...}
    path = written(tmp_path, "x", data)
    with pytest.raises(SpecError) as caught:
        load(path)
    field, _, message = str(caught.value).partition(": ")[2].partition(": ")
    assert field == missing and message.startswith("required field")
    assert all(f"'{name}: none'" in message for name in ("feed_forward", "position") if name in missing)


def test_none_and_null_leave_out() -> None:
    plain = Model.from_data({**SAID, "feed_forward": None, "position": {"kind": "none"}})
    assert Model.from_data({**SAID, "feed_forward": "none", "position": "none"}) == plain
    assert Model.from_data({**SAID, "feed_forward": None, "position": None}) == plain
    blocks = [{"feed_forward": "none"}, {"attention": "none"}]
    model = Model.from_data({**SAID, "groups": [{"blocks": blocks}]})
    assert of_blocks(model, "feed_forward.d_ff") == [None, 5]
    assert [each is None for each in of_blocks(model, "attention")] == [False, True]


def test_an_older_report_meant_none(tmp_path: Path) -> None:
    spec = {key: value for key, value in SAID.items() if key not in ("feed_forward", "position")}
    path = written(tmp_path, "report", {"schema": "txcalc/report/v1", "model": {"spec": spec}})
    assert load(path).model == Model.from_data({**SAID, "feed_forward": "none"})


def test_an_older_report_s_rotary_base_was_nobody_s(tmp_path: Path) -> None:
    for theta, now in ((10_000.0, None), (500_000.0, 500_000.0)):
        rope = {"kind": "rope", "theta": theta}
        spec = {**SAID, "position": rope, "tower": {**HALF, "feed_forward": None, "position": rope}}
        path = written(tmp_path, "report", {"schema": "txcalc/report/v1", "model": {"spec": spec}})
        model = load(path).model
        assert [stack.position.theta for stack in (model, model.tower)] == [now, now]  # type: ignore[union-attr]
