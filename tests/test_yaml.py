"""The YAML reader, its errors and their places, and the writer that it reads back."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from steps import steps

from txcalc.spec import yaml as module
from txcalc.spec.base import Flag, Least, Positive, Size, Spec, Usual
from txcalc.spec.errors import FieldError, SpecError, nearest
from txcalc.spec.files import MAX_DEPTH, Document, read_text
from txcalc.spec.invalid import InvalidSpec
from txcalc.spec.yaml import dump_yaml, read_yaml


@pytest.fixture(params=["libyaml", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of PyYAML's parsers: wheels have the C one, some builds do not."""
    if request.param == "python":
        monkeypatch.setattr(module, "_PARSER", yaml.SafeLoader)


def refused(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        read_yaml(text, "tiny.yaml")
    assert "\n" not in str(caught.value)
    return caught.value


# ---------------------------------------------------------------- scalars of YAML 1.2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E+5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5", -1.5),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("True", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("", None),
        ("~", None),
        ("Null", None),
        ("12:30", "12:30"),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("-12", -12),
        ("+12", 12),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("''", ""),
        ("=", "="),
        ("9" * 100, int("9" * 100)),
        ("|\n  1\n  2\n", "1\n2\n"),
    ],
)
@pytest.mark.usefixtures("parser")
def test_core_scalars(text: str, value: object) -> None:
    read = read_yaml(f"a: {text}", "t").data["a"]
    assert read == value and type(read) is type(value)


def test_nan() -> None:
    assert math.isnan(read_yaml("a: .nan", "t").data["a"])


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "1:1: is empty"),
        ("# nothing\n", "1:1: is empty"),
        ("3", "1:1: the top level must be a mapping of fields, got 3"),
        ("---\n", "the top level must be a mapping of fields, got null"),
        ("\n- a\n", "2:1: the top level must be a mapping of fields, got a list"),
        ("a:1", "1:1: the top level must be a mapping of fields, got 'a:1': put a space after the colon"),
        ("a: 1\nb:\n  c: 2\n  c: 3\n", "4:3: b.c: duplicate key, first on line 3"),
        ("a: 1\n'a': 2\n", "2:1: a: duplicate key, first on line 1"),
        ("a: 1\n1: 2\n", "2:1: a key must be text, got 1: put it in quotes"),
        ("b: {true: 2}\n", "1:5: b: a key must be text, got true: put it in quotes"),
        ("? [a]\n: 2\n", "1:3: a key must be plain text, not an alias, a list or a mapping"),
        ("a: &x b\n*x : 2\n", "2:1: a key must be plain text, not an alias, a list or a mapping"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "3:3: c: merge keys ('<<') are not read: write the fields out"),
        ("a: !!python/name:os.system x", "1:4: a: tags ('!') are not read: write the plain value"),
        ("a: !!int 3", "1:4: a: tags ('!') are not read: write the plain value"),
        ("a: *x", "1:4: a: unknown alias *x: no complete &x before it"),
        ("a: &x [*x]", "1:8: a[0]: unknown alias *x: no complete &x before it"),
        ("a: 1\n---\nb: 2\n", "2:1: only one document is read: remove the second '---' and what follows"),
        ("é: " + "9" * 101, "1:4: é: a whole number of more than 100 digits"),
        ("a: 0x" + "f" * 5000, "1:4: a: a whole number of more than 100 digits"),
        ("a: 1e999", "1:4: a: the number '1e999' is too large"),
        ("a: 1\nb: x\0y", "2:5: a NUL character is not allowed in YAML"),
        ("a: \x07", "1:4: the unprintable character U+0007 is not allowed in YAML"),
        ("a: \ud800", "1:4: the unprintable character U+D800 is not allowed in YAML"),
        ("a:\n\tb: 1", "2:1: a tab cannot indent YAML: use spaces"),
        ("a: 1\n\tb: 2", "2:1: a tab cannot indent YAML: use spaces"),
        ("a: b: c", "1:5: not valid YAML: mapping values are not allowed"),
        ("a: @x", "1:4: not valid YAML: found character"),
        ("a: [1", "not valid YAML: "),
        ("a: 'x", "not valid YAML: found unexpected end of stream"),
        ("%YAML 3.0\n---\na: 1", "1:1: not valid YAML: found incompatible YAML document"),
    ],
)
@pytest.mark.usefixtures("parser")
def test_refused_with_a_place(text: str, error: str) -> None:
    caught = refused(text)
    assert error in str(caught)
    assert caught.at is not None


def _bomb() -> str:
    lines = ["l0: &l0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 30)]
    return "\n".join(lines)


def _deep_aliases() -> str:
    nested = "a0: &a0 [1]\n"
    return nested + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 100))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (_bomb(), "aliases repeat more than 10,000 values"),
        (_deep_aliases(), "nested more than 32 levels deep"),
        ("a: " + "[" * 200_000, "nested more than 32 levels deep"),
        ("a: " + "{a: " * 100_000, "nested more than 32 levels deep"),
        ("".join(" " * i + "a:\n" for i in range(1_000)), "nested more than 32 levels deep"),
        ("- " * 100_000, "nested more than 32 levels deep"),
        ("? " * 100_000, "a key must be plain text"),
        ("-\n" + "".join(" " * i + "-\n" for i in range(1_001)), "nested more than 32 levels deep"),
        # First too deep for us, then for the C parser, then what no parser reads.
        ("a: 1\nb: é\nc: " + "[" * 1_100 + "]" * 1_000 + " @", "3:36: nested more than 32 levels deep"),
        ("a: " + "[" * 40 + "@", "nested more than 32 levels deep"),
        ("a: " + "9" * 100_000, "a whole number of more than 100 digits"),
        ("a: 0x" + "f" * 100_000, "a whole number of more than 100 digits"),
        ("a: 1e" + "9" * 100_000, "is too large"),
        ("a" * 100_000 + ": 1", "the top level must be a mapping of fields"),
        ("? " + "a" * 100_000 + "\n: 1\n? " + "a" * 100_000 + "\n: 2", "3:3: "),
        ("a: " + "b" * 100_000 + ": c", "not valid YAML: mapping values are not allowed"),
        ("a: *" + "b" * 100_000, "unknown alias"),
        ("&" + "b" * 100_000 + " a", "the top level must be a mapping"),
    ],
)
@pytest.mark.usefixtures("parser")
def test_hostile_files_are_refused_at_once(text: str, says: str) -> None:
    with steps() as taken:
        error = str(refused(text))
    assert says in error and len(error) < 500
    assert taken() < 50_000 + 20 * len(text)


def test_too_many_values() -> None:
    assert "more than 100,000 values" in str(refused("a: [" + "1," * 200_000 + "]"))


def test_an_alias_is_a_copy() -> None:
    data = read_yaml("a: &x {b: [1]}\nc: *x\n", "t").data
    assert data == {"a": {"b": [1]}, "c": {"b": [1]}}
    data["a"]["b"].append(2)
    assert data["c"] == {"b": [1]}


# ---------------------------------------------------------------- places


def test_where() -> None:
    text = "\ufeff# é\nname: tiny\nattention:\n  heads: 3\nblocks:\n- {a: 1, b: 2}\n-   c: [7,  8]\n"
    document = read_yaml(text, "t")
    assert document.where(()) == (2, 1)
    assert document.where(["name"]) == (2, 1)
    assert document.where(("attention", "heads")) == (4, 3)
    assert document.where(("attention", "heads", "deeper", 3)) == (4, 3)
    assert document.where(("attention", "missing")) == (3, 1)
    assert document.where(("blocks", 0)) == (6, 3)
    assert document.where(("blocks", 0, "b")) == (6, 10)
    assert document.where(("blocks", 1, "c", 1)) == (7, 13)
    assert document.where(("nothing",)) == (2, 1)
    assert Document({"a": 1}).where(("a",)) is None


# ---------------------------------------------------------------- files


def test_read_text(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: \xc3\xa9\r\n")
    assert read_text(path) == "name: é\r\n"
    assert read_text(str(path)) == "name: é\r\n"
    path.write_text("a: \ufffd", encoding="utf-8")  # the replacement character itself is text
    assert read_text(path) == "a: \ufffd"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"a: 1\nb: \xff\xfe", ":2:4: is not UTF-8 text"),
        (b"a: 1\nb\0\xff", ":2:2: is a binary file, not text"),
        ("a: 1".encode("utf-16"), ":1:1: is UTF-16: save it as UTF-8"),
        (b"a" * 101, "is larger than 100 bytes"),
    ],
)
def test_read_text_refuses(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_text(path, limit=100)
    assert str(caught.value).startswith(str(path)) and says in str(caught.value)


def test_read_text_of_what_is_no_file(tmp_path: Path) -> None:
    paths = {"is a directory": tmp_path, "no such file": tmp_path / "x", "cannot be read": Path("a\0b")}
    for says, path in paths.items():
        with pytest.raises(SpecError, match=says):
            read_text(path)


def test_read_text_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x").touch()
    monkeypatch.setattr("txcalc.spec.files.open", denied, raising=False)
    with pytest.raises(SpecError, match="cannot be read: permission denied"):
        read_text(tmp_path / "x")


# ---------------------------------------------------------------- errors


def test_spec_error_is_one_line_and_leaves_out_what_is_none() -> None:
    message = "unknown field; did you mean kv_heads?"
    error = SpecError(message, source="tiny.yaml", at=(7, 3), field="attention.kv_head")
    assert str(error) == f"tiny.yaml:7:3: attention.kv_head: {message}"
    assert str(SpecError("no such file", source="x.yaml")) == "x.yaml: no such file"
    assert str(SpecError("bad", field="a")) == "a: bad"
    assert str(SpecError("two\nlines")) == "two lines"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_nearest() -> None:
    assert nearest("kv_head", ["heads", "kv_heads"]) == "kv_heads"
    assert nearest("GPT2_XL", ["gpt2", "gpt2-xl"]) == "gpt2-xl"
    assert nearest("zzz", ["heads"]) is None
    assert nearest("heads", []) is None
    assert nearest("a" * 10**6, ["a" * 10**6]) is None


class Heads(Spec):
    kind: Literal["mha"] = "mha"
    heads: Size
    kv_heads: Size = 1
    norm: Literal["moe", "layernorm"] = "layernorm"


class Latent(Spec):
    kind: Literal["moe"] = "moe"
    rank: Size


class Tiny(Spec):
    name: Annotated[str, Least(1)]
    named: Heads | None = None
    called: Annotated[Heads | Latent, Usual("mha")] | None = None
    blocks: tuple[Annotated[Heads | Latent, Usual("mha")], ...] = ()
    table: dict[str, int] = {}  # noqa: RUF012
    some: Annotated[tuple[str, ...], Least(1)] = ("a",)
    rate: Positive | None = None
    flag: Flag = False
    odd: int = 1
    located: dict[str, int] = {}  # noqa: RUF012

    def _check(self) -> None:
        if self.odd % 2 == 0:
            raise FieldError(("odd",), "an odd number is needed")
        if "b" in self.located:
            raise FieldError(("located", "b"), "not this one")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("named: {kind: mha, heads: 0}", "2:20: named.heads: must be a whole number of at least 1, got 0"),
        ("named: {kind: mha, heads: true}", "2:20: named.heads: must be a whole number, got true"),
        ("named: {kind: mha, heads: '8'}", "2:20: named.heads: must be a whole number, got '8'"),
        ("named: {kind: mha, heads: 1.5}", "2:20: named.heads: must be a whole number, got 1.5"),
        ("called: {kind: moe, rank: 0}", "2:21: called.rank: must be a whole number of at least 1, got 0"),
        ("named: {kind: mha}", "2:1: named.heads: required field is missing"),
        (
            "named: {kind: mha, heads: 2, kv_head: 1}",
            "2:30: named.kv_head: unknown field; did you mean kv_heads?",
        ),
        ("named: {kind: mha, haeds: 2}", "2:20: named.haeds: unknown field; did you mean heads?"),
        ("called: {kind: moe, rank: 2, x: 1}", "2:30: called.x: unknown field; the fields here are kind, rank"),
        ("named: {kind: moe, heads: 1}", "2:9: named.kind: must be mha, got 'moe'"),
        ("named: {knd: mha, heads: 2}", "2:9: named.knd: unknown field; did you mean kind?"),
        ("named: 3", "2:1: named: must be a mapping, got 3"),
        ("called: {heads: 0}", "2:10: called.heads: must be a whole number of at least 1, got 0"),
        ("called: {kind: moe, rank: no}", "2:21: called.rank: must be a whole number, got 'no'"),
        ("called: {kind: mo}", "2:10: called.kind: must be one of mha, moe, got 'mo'; did you mean moe?"),
        ("called: {kind: []}", "2:10: called.kind: must be one of mha, moe, got an empty list"),
        ("called: {kind: null}", "2:10: called.kind: must be one of mha, moe, got null"),
        ("called: {kind: true}", "2:10: called.kind: must be one of mha, moe, got true"),
        ("called: x", "2:1: called: must be a mapping, got 'x'"),
        (
            "blocks:\n- {kind: moe, rank: 1}\n- {kind: moe, rank: -1}",
            "4:15: blocks[1].rank: must be a whole number of at least 1, got -1",
        ),
        ("blocks: {}", "2:1: blocks: must be a list, got an empty mapping"),
        ("table: {a: 1, moe: x}", "2:15: table.moe: must be a whole number, got 'x'"),
        ("table: [a]", "2:1: table: must be a mapping, got a list"),
        ("some: []", "2:1: some: must be a list of at least 1, got an empty list"),
        ("some: [1]", "2:8: some[0]: must be text, got 1"),
        ("rate: 0", "2:1: rate: must be a number above 0, got 0"),
        ("rate: .inf", "2:1: rate: must be a finite number, got inf"),
        ("rate: 1" + "0" * 99 + "\nflag: 0", "3:1: flag: must be true or false, got 0"),
        ("rate: true", "2:1: rate: must be a number, got true"),
        ("flag: 1", "2:1: flag: must be true or false, got 1"),
        ("odd: 2", "2:1: odd: an odd number is needed"),
        ("located: {a: 1, b: 2}", "2:17: located.b: not this one"),
        ("nmae: x\nflag: 1\nrate: x", "2:1: nmae: unknown field; did you mean name?\n"
             "tiny.yaml:3:1: flag: must be true or false, got 1\n"
             "tiny.yaml:4:1: rate: must be a number, got 'x'"),
        ("rate: x\nflag: 1", "2:1: rate: must be a number, got 'x'\n"
             "tiny.yaml:3:1: flag: must be true or false, got 1"),
    ],
)
def test_what_is_wrong_with_a_spec(text: str, error: str) -> None:
    document = read_yaml(f"name: tiny\n{text}\n", "tiny.yaml")
    with pytest.raises(InvalidSpec) as caught:
        Tiny.from_data(document.data)
    bare = caught.value
    assert str(bare.placed(document, "tiny.yaml")) == f"tiny.yaml:{error}"
    assert bare.at is None and bare.field is not None
    placed = f"tiny.yaml:{error}".splitlines()
    assert sorted(str(bare).splitlines()) == sorted(line.partition(" ")[2] for line in placed)


def test_a_missing_field_of_the_top_level() -> None:
    document = read_yaml("# c\nrate: 1\n", "t")
    with pytest.raises(InvalidSpec) as caught:
        Tiny.from_data(document.data)
    assert str(caught.value.placed(document, "t")) == "t:2:1: name: required field is missing"
    with pytest.raises(InvalidSpec, match="name: must be text, got ''"):
        Tiny(name="")


def test_a_spec_is_made_of_fields_and_of_data_and_is_not_changed() -> None:
    made = Tiny(name="x", called={"rank": 3, "kind": "moe"}, blocks=[Heads(heads=2)], rate=10**30)
    assert made == Tiny.from_data(made.to_data()) == Tiny.from_data(made) and hash(made.called) == hash(Latent(rank=3))
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == copy.copy(made) == made
    assert made != made.replaced(flag=True) and made.to_data()["blocks"] == [Heads(heads=2).to_data()]
    assert made.called == Latent(rank=3) != Heads(heads=3) and made.rate == 1e30
    assert repr(made.called) == "Latent(kind='moe', rank=3)"
    with pytest.raises(AttributeError):
        made.flag = True  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del made.flag
    with pytest.raises(KeyError):
        made.replaced(flags=True)
    other = Tiny(name="y")
    other.table["a"] = 1
    assert Tiny(name="y").table == {} == Tiny.default("table")


# ---------------------------------------------------------------- writing


def test_dump_looks_like_a_file_written_by_hand() -> None:
    data = {
        "name": "tiny",
        "url": "https://arxiv.org/abs/1706.03762",
        "note": "biases assumed on; 65 M, as printed",
        "eps": 1e-05,
        "tied": True,
        "window": None,
        "layers": [1, 2, 3],
        "empty": {},
        "none": [],
        "blocks": [{"repeat": 2, "attention": {"heads": 3}}, [[1, 2], [3]], []],
        "odd": ["a, b", "no", "1e-5", "12:30", "", " x", "a: b", "a #b", "- a", "é"],
    }
    assert dump_yaml(data) == (
        "name: tiny\n"
        "url: https://arxiv.org/abs/1706.03762\n"
        "note: biases assumed on; 65 M, as printed\n"
        "eps: 1.0e-05\n"
        "tied: true\n"
        "window: null\n"
        "layers: [1, 2, 3]\n"
        "empty: {}\n"
        "none: []\n"
        "blocks:\n"
        "- repeat: 2\n"
        "  attention:\n"
        "    heads: 3\n"
        "- - [1, 2]\n"
        "  - [3]\n"
        "- []\n"
        "odd: ['a, b', 'no', \"1e-5\", '12:30', \"\", ' x', 'a: b', 'a #b', '- a', é]\n"
    )
    assert read_yaml(dump_yaml(data), "t").data == data


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**99), 10**99)
    | st.floats(allow_nan=False)
    | st.text()
    | st.from_regex(r"[-+.~=<>!&*?|%@#:,0-9eExob_ nyNYtrufalsinTZ'\"\[\]{}\n\t]{0,8}", fullmatch=True)
)
KEYS = st.text(max_size=12) | st.sampled_from(["no", "1", "<<", "=", "a b", "null"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


def _same(a: object, b: object) -> bool:
    """Equality that tells 1, 1.0, True and -0.0 apart."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_dump_reads_back(data: dict[str, Any]) -> None:
    text = dump_yaml(data)
    assert text == dump_yaml(data)
    assert "&" not in dump_yaml({"a": [[1]] * 2})
    assert _same(read_yaml(text, "t").data, data)
    # A YAML 1.1 reader agrees, except on "y" and the like, where quotes make them agree as well.
    assert _same(yaml.safe_load(text), data)


def test_dump_refuses_what_would_not_read_back() -> None:
    deep: object = 1
    for _ in range(MAX_DEPTH):
        deep = {"a": deep}
    assert isinstance(deep, dict)
    assert read_yaml(dump_yaml(deep), "t").data == deep
    bad: list[tuple[Any, type[Exception]]] = [
        ({"a": deep}, ValueError),
        ({1: 2}, TypeError),
        ({"a": object()}, TypeError),
        ({"a": 10**100}, ValueError),
        ({"a": "\ud800"}, ValueError),
        ({"a" * 2_000: 1}, ValueError),
    ]
    for data, error in bad:
        with pytest.raises(error):
            dump_yaml(data)
    assert read_yaml(dump_yaml({"k" * 999: (1, 2)}), "t").data == {"k" * 999: [1, 2]}


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        data = read_yaml(text, "t").data
    except SpecError as caught:
        error = caught
    else:
        assert isinstance(data, dict)
        return
    assert error.at is not None and "\n" not in str(error)
