"""The HTML pages: they say what the YAML says, need nothing else, and open in a real browser without a complaint."""

from __future__ import annotations

import itertools
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from txcalc.cli.app import app
from txcalc.explain.explanation import Formula
from txcalc.show.blocks import Chart, Mark, Series
from txcalc.show.drawing import spread
from txcalc.show.markup import Html, html, join, tag
from txcalc.show.mathml import mathml
from txcalc.show.svg import figure
from txcalc.spec.yaml import dump_yaml, read_yaml

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NASTY = "<img src=x onerror=alert(1)>\"'&</pre></title></script><!--\u202e\x07"
CALLS: dict[str, tuple[str, ...]] = {
    "count": ("count", "gpt2"),
    "training": ("count", "llama3-8b", "--phase", "training", "--kv-block", "16", "--by-module"),
    "encoder": ("count", "bert-base"),
    "compare": ("compare", "gpt2", "gpt3", "llama3-8b", "--seq", "1024"),
    "many": ("compare", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "gpt3", "bert-base"),
    "diff": ("diff", "gpt2", "gpt2-medium"),
    "explain": ("explain", "gpt3", "params"),
    "activations": ("explain", "gpt3", "activations", "--attention", "eager", "--dropout", "0.1"),
    "attention": ("attention", "llama3-8b"),
    "one length": ("attention", "gpt2", "--seq", "1", "--kernels", "cpu"),
    "memory": ("memory", "gpt2", "--phase", "training", "--batch", "8", "--device", "h100"),
    "inference": ("memory", "llama3-8b", "--new", "7"),
    "mixers": ("mixers", "--seq", "1K..4K"),
    "validate": ("validate", "gpt2", "--against", "published"),
    "presets": ("presets", "--search", "mamba"),
}
VOID = {"meta", "link", "br", "wbr"}


class Node(NamedTuple):
    """An element, as a browser would see it."""

    name: str
    attributes: dict[str, str | None]
    children: list[Any]

    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text() for child in self.children)

    def all(self, *names: str) -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                if not names or child.name in names:
                    yield child
                yield from child.all(*names)


class Tree(HTMLParser):
    """Refuses what a browser would have to mend: every element is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Node("", {}, [])
        self.open = [self.root]

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(dict(attributes)) == len(attributes), attributes
        node = Node(name, dict(attributes), [])
        self.open[-1].children.append(node)
        if name not in VOID:
            self.open.append(node)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop().name == name

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


@pytest.fixture(autouse=True)
def no_user_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXCALC_PRESETS", "")


@cache
def rendered(name: str, form: str = "html") -> str:
    result = CliRunner(env={"TXCALC_PRESETS": ""}).invoke(app, [*CALLS[name], "--format", form])
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def parsed(text: str) -> Node:
    tree = Tree()
    tree.feed(text)
    tree.close()
    assert len(tree.open) == 1, [node.name for node in tree.open]
    return tree.root


# ---------------------------------------------------------------- what the page says


@pytest.mark.parametrize("name", CALLS)
def test_the_page_holds_the_document_of_the_yaml(name: str) -> None:
    page = parsed(rendered(name))
    [embedded] = [node for node in page.all() if node.attributes.get("id") == "report"]
    held, written = (read_yaml(text, name).data for text in (embedded.text(), rendered(name, "yaml")))
    for data in (held, written):
        data.get("provenance", {}).pop("command", None)
    assert held == written


# ---------------------------------------------------------------- how it is built


@pytest.mark.parametrize("name", CALLS)
def test_the_page_can_be_read_by_everyone(name: str) -> None:
    page = parsed(rendered(name))
    [root] = page.all("html")
    assert root.attributes["lang"] == "en"
    assert next(node.text() for node in page.all("title") if node.attributes == {}).endswith(" · txcalc")
    levels = [int(node.name[1]) for node in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(node.text() for node in page.all("h1", "h2", "h3", "h4", "caption"))
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for table in page.all("table"):
        assert next(node.name for node in table.children if isinstance(node, Node)) == "caption"
        assert {node.attributes["scope"] for node in table.all("th")} <= {"row", "col"}
        widths = {len([cell for cell in row.children if isinstance(cell, Node)]) for row in table.all("tr")}
        assert len(widths) == 1, table.text()
    for drawing in page.all("svg"):
        names = [node.name for node in drawing.children if isinstance(node, Node)]
        assert drawing.attributes["role"] == "img" and names[:2] == ["title", "desc"]
        assert all(node.text() for node in drawing.all("title", "desc"))
    ids = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    scrolls = [node for node in page.all("div", "pre") if node.name == "pre" or node.attributes["class"] == "scroll"]
    assert all(node.attributes["tabindex"] == "0" and node.attributes["aria-label"] for node in scrolls)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_loaded_from_anywhere(name: str) -> None:
    page = parsed(rendered(name))
    assert not list(page.all("script", "iframe", "object", "embed", "img", "video", "form", "base"))
    for node in page.all():
        assert "src" not in node.attributes and not any(key.startswith("on") for key in node.attributes)
        if node.name != "a":
            assert not str(node.attributes.get("href") or "data:").startswith("http")
    [style] = page.all("style")
    assert "@import" not in style.text() and "url(" not in style.text()
    [policy] = [node for node in page.all("meta") if "http-equiv" in node.attributes]
    assert str(policy.attributes["content"]).startswith("default-src 'none'")


def test_contrast_is_enough_in_light_and_dark() -> None:
    """WCAG 2.1: 4.5 to 1 for text, 3 to 1 for what is drawn."""
    [style] = parsed(rendered("count")).all("style")
    for colours in re.findall(r":root \{([^}]*--ground[^}]*)\}", style.text()):
        found = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]+)", colours))
        for ground in (found["ground"], found["shade"]):
            for name in ("text", "dim", "link"):
                assert contrast(found[name], ground) >= 4.5, name
            for name in (f"c{i}" for i in range(1, 11)):
                assert contrast(found[name], ground) >= 3, name
        assert contrast(found["ink"], found["c1"]) >= 3


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    a, b = sorted((light(one), light(other)))
    return (b + 0.05) / (a + 0.05)


@pytest.fixture
def nasty(tmp_path: Path) -> Path:
    path = tmp_path / "nasty.yaml"
    path.write_text(dump_yaml({
        "name": NASTY, "vocab": 97, "d_model": 24, "layers": 5, "context": 64,
        "attention": {"heads": 6}, "feed_forward": {"d_ff": 41}, "position": "none",
        "sources": {NASTY: f"see https://example.com/a?b=1&c=\"<{NASTY}"},
        "published": [{"quantity": "params", "printed": "1 M", "source": NASTY, "difference": NASTY}],
    }), "utf-8")
    return path


@pytest.mark.parametrize("call", [
    ("count",), ("count", "--by-module"), ("compare", "gpt2"), ("explain", "params"), ("attention",),
])
def test_names_from_files_stay_text(nasty: Path, call: tuple[str, ...]) -> None:
    command, *rest = call
    args = [command, *rest, str(nasty)] if command == "compare" else [command, str(nasty), *rest]
    result = CliRunner().invoke(app, [*args, "-f", "html"])
    assert result.exit_code == 0, result.stderr
    page = parsed(result.stdout)
    assert not list(page.all("img", "script"))
    assert "\u202e" not in page.text().split("schema:")[0] and "\x07" not in page.text()
    [heading] = page.all("h1")
    assert NASTY[:-2] in heading.text()
    [embedded] = [node for node in page.all() if node.attributes.get("id") == "report"]
    data = read_yaml(embedded.text(), "page").data
    models = [entry["model"] for entry in data["entries"]] if command == "compare" else [data["model"]]
    assert NASTY in [model["name"] for model in models]
    for link in page.all("a"):
        assert re.fullmatch(r"https://[^\"<>]+", str(link.attributes["href"]))


def test_a_report_counted_again_says_so_on_its_page(tmp_path: Path) -> None:
    report, page = tmp_path / "r.yaml", tmp_path / "r.html"
    CliRunner().invoke(app, ["count", "gpt2", "-o", str(report)])
    report.write_text(report.read_text().replace("124439808", "124439807"))
    assert CliRunner().invoke(app, ["count", str(report), "-o", str(page)]).exit_code == 0
    assert "124,439,807" in parsed(page.read_text("utf-8")).text()


# ---------------------------------------------------------------- the parts


def test_markup_is_escaped_once() -> None:
    assert html("<&>\x00") == "&lt;&amp;&gt;?"
    assert html(Html("<b>")) == "<b>"
    assert tag("td", "a<b", tag("b", "x"), class_="n", aria_label='"') == \
        '<td class="n" aria-label="&quot;">a&lt;b<b>x</b></td>'
    assert join("<", Html("<i>"), by="&") == "&lt;&amp;<i>"
    assert tag("br") == "<br>" and tag("p", hidden=None) == "<p></p>"


@pytest.mark.parametrize(("python", "shown", "elements"), [
    ("L*(12*d**2 + 13*d) + V*d", "L(12d2+13d)+Vd", {"msup"}),
    ("f_1*k_R", "f1kR", {"msub"}),
    ("12*3072", "12·3,072", set()),
    ("12*3072**2", "12·3,0722", {"msup"}),
    ("-a + b - c", "−a+b−c", set()),
    ("b*s/2", "bs2", {"mfrac"}),
    ("floor(a*(b + 1)/(2*c))", "⌊a(b+1)2c⌋", {"mfrac"}),
    ("h*k == d", "hk=d", set()),
    ("w <= s", "w≤s", set()),
    ("(a + b)*(c - d)", "(a+b)(c−d)", set()),
    ("2**(a + b)", "2a+b", {"msup"}),
    (" + ".join(["a"] * 300), "+".join(["a"] * 300), set()),
])
def test_formulas_are_mathematics(python: str, shown: str, elements: set[str]) -> None:
    found = parsed(mathml(Formula(unicode=python, ascii=python, latex=python, python=python)))
    assert found.text().replace("\u2062", "") == shown
    assert {node.name for node in found.all()} & {"msup", "msub", "mfrac"} == elements


def charts(values: list[int]) -> Iterator[Chart]:
    marks, level = [Mark(f"part {i}", value, value // 2) for i, value in enumerate(values)], Mark("device", 80)
    yield Chart("Title", "bars", "exact", "things", marks, part="half")
    yield Chart("Title", "bars", "exact", "things", marks, level=level)
    yield Chart("Title", "dots", "exact", "things", marks)
    yield Chart("Title", "curves", "exact", "things", lengths=[2**i for i in range(len(values))],
                series=[Series("all", values), Series("none", [None] * len(values))], level=level)


@pytest.mark.parametrize("values", [[1], [0], [1, 10**40], [5] * 40, [7, 7]])
def test_charts_draw_whatever_there_is(values: list[int]) -> None:
    for chart in charts(values):
        drawn = figure(chart)
        if not any(values):
            assert drawn == ""
            continue
        picture = parsed(drawn)
        assert f"{max(values):,}" in picture.text()
        numbers = [float(n) for node in picture.all() for key, value in node.attributes.items()
                   if key in ("x", "y", "x1", "x2", "y1", "y2", "width", "height", "points", "transform")
                   for n in re.findall(r"[-\d.]+", value or "")]
        assert all(-20 <= n <= 2000 for n in numbers) and "none" not in picture.text()


def test_names_at_the_ends_of_lines_do_not_lie_on_one_another() -> None:
    for places in ([5.0, 5.0, 5.0], [0.0, 99.0, 100.0, 100.0], [50.0], [90.0, 10.0]):
        found = spread(places, 14.0, 0.0, 100.0)
        assert all(b - a >= 14 - 1e-9 for a, b in itertools.pairwise(sorted(found)))
        assert all(0 <= place <= 100 for place in found)
        assert sorted(range(len(places)), key=lambda i: places[i]) == sorted(range(len(places)), key=lambda i: found[i])


def test_long_names_are_shortened_beside_their_value_alone() -> None:
    drawn = parsed(figure(Chart("Title", "bars", "exact", "things", [Mark("n" * 200, 5)])))
    assert any(node.text().endswith("…") for node in drawn.all("text"))
    assert "n" * 200 in next(drawn.all("desc")).text()


# ---------------------------------------------------------------- in a browser


class Opened(NamedTuple):
    """What a browser made of a page."""

    dom: Node
    console: list[str]
    requests: set[str]
    screenshot: bytes


def opened(path: Path, folder: Path, *, dark: bool = False, width: int = 1200) -> Opened:
    assert CHROMIUM is not None
    log, shot = folder / "net.json", folder / "shot.png"
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
         f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={log}",
         "--enable-logging=stderr", "--v=0", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
         f"--window-size={width},2000", f"--screenshot={shot}", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=600, check=True,
    )
    tree = parsed(done.stdout)
    urls = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text("utf-8", errors="replace")))
    own = {url for url in urls if not re.match(r"https?://[^/]*\.(google|googleapis|gvt1)\.com[:/]", url)}
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Opened(tree, console, own, shot.read_bytes())


def background(png: bytes) -> tuple[int, ...]:
    """The first pixel: of the first row, no filter of the PNG changes it."""
    data = zlib.decompress(b"".join(png[i + 8 : i + 8 + size] for i, size in chunks(png)))
    return tuple(data[1:4])


def chunks(png: bytes) -> Iterator[tuple[int, int]]:
    i = 8
    while i < len(png):
        size = struct.unpack(">I", png[i : i + 4])[0]
        if png[i + 4 : i + 8] == b"IDAT":
            yield i, size
        i += size + 12


browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@browser
@pytest.mark.parametrize("name", ["count", "compare", "explain", "attention", "memory"])
def test_a_browser_has_nothing_to_complain_about(name: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(rendered(name), "utf-8")
    found = opened(path, tmp_path)
    assert found.console == [] and found.requests == set()
    written = parsed(path.read_text("utf-8"))
    for elements in (("data",), ("td", "th"), ("math",), ("svg",)):
        seen, sent = ([node.text() for node in tree.all(*elements)] for tree in (found.dom, written))
        assert seen == sent
    assert background(found.screenshot) == (255, 255, 255)


@browser
def test_a_browser_shows_it_in_the_dark_and_on_a_telephone(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(rendered("count"), "utf-8")
    found = opened(path, tmp_path, dark=True, width=390)
    assert background(found.screenshot) == (0x0D, 0x11, 0x17)


@browser
def test_a_complaint_and_a_request_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<!doctype html><title>x</title><script>console.error('no')</script>"
                    "<link rel=\"stylesheet\" href=\"http://example.com/x.css\">", "utf-8")
    found = opened(path, tmp_path)
    assert len(found.console) >= 1 and found.requests == {"http://example.com/x.css"}
