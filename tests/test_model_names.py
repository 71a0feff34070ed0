"""What a model may be called: a repository's name, a family's, another spelling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import txcalc
from txcalc.answer.catalogue import structure
from txcalc.cli.app import app
from txcalc.models import library
from txcalc.spec.facts import located_blocks

BUILT_IN = library.built_in()
REPOSITORIES = [(name, file.name) for file in BUILT_IN for name in file.repositories]


@pytest.fixture(autouse=True)
def no_user_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXCALC_PRESETS", "")


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def refused(*args: object) -> str:
    found = run(*args)
    assert (found.exit_code, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    return found.stderr.removeprefix("error: ").rstrip("\n")


def found(name: str) -> str | None:
    file = library.find_in(name, [BUILT_IN])
    return None if file is None else file.name


def test_most_presets_know_their_repository() -> None:
    assert len({name for _, name in REPOSITORIES}) > 0.8 * len(BUILT_IN)
    assert len({repository.casefold() for repository, _ in REPOSITORIES}) == len(REPOSITORIES)


@pytest.mark.parametrize(("repository", "name"), REPOSITORIES)
def test_a_repository_is_its_preset_with_its_organisation_and_without(repository: str, name: str) -> None:
    organisation, _, rest = repository.partition("/")
    assert found(repository) == found(repository.upper()) == found(rest) == name
    assert found(f"{organisation}/{name}") == name
    assert found(f"somebody-else/{rest}") is None


@pytest.mark.parametrize(("repository", "name"), [
    ("meta-llama/Llama-3.1-8B", "llama3.1-8b"), ("meta-llama/Llama-3.1-8B-Instruct", "llama3.1-8b"),
    ("meta-llama/Meta-Llama-3.1-8B", "llama3.1-8b"), ("meta-llama/Llama-3.3-70B-Instruct", "llama3.1-70b"),
    ("openai-community/gpt2-xl", "gpt2-xl"), ("mistralai/Mistral-7B-Instruct-v0.1", "mistral-7b"),
    ("microsoft/phi-1_5", "phi-1.5"), ("lmsys/vicuna-7b-v1.5", None), ("facebook/opt-66b", "opt-66b"),
    ("facebook/opt-175b", None),
])
def test_repositories(repository: str, name: str | None) -> None:
    assert found(repository) == name


def test_what_is_no_preset_may_be_on_the_hub() -> None:
    assert refused("count", "meta-llama/Llama-9") == (
        "meta-llama/Llama-9: no such file and no such preset; hf:meta-llama/Llama-9 reads its config.json from the hub")
    for path in ("./Llama-9", "some/Llama-9.yaml", "a/b/c", "/a/b"):
        assert refused("count", path) == f"{path}: no such file"


def test_a_file_comes_before_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = library.find("gpt2")
    assert file is not None
    Path("openai-community").mkdir()
    Path("openai-community/gpt2").write_text(file.text.replace("layers: 12", "layers: 3"))
    assert txcalc.load("openai-community/gpt2").layers == 3 != txcalc.load("gpt2").layers


@pytest.mark.parametrize(("family", "some", "without"), [
    ("llama3", {"llama3-8b", "llama3-70b", "llama3.1-8b"}, {"llama-7b", "llama2-7b", "llama4-scout"}),
    ("llama-3", {"llama3-8b", "llama3.2-1b"}, {"llama2-7b"}), ("qwen2.5", {"qwen2.5-0.5b"}, {"qwen3-8b"}),
    ("t5", {"t5-small", "t5-11b", "flan-t5-xl"}, {"whisper-tiny"}), ("Pythia", {"pythia-70m", "pythia-12b"}, set()),
])
def test_a_family_lists_its_members(family: str, some: set[str], without: set[str]) -> None:
    line = refused("count", family)
    listed = set(line.removeprefix(f"'{family}' could be any of ").split(", "))
    assert some <= listed and not without & listed
    assert all(found(name) == name for name in listed)


def test_a_large_family_is_cut_with_where_the_rest_is() -> None:
    line = refused("compare", "gpt2", "llama")
    assert line.endswith("more ('txcalc presets --search llama')") and line.count(", ") == 11


@pytest.mark.parametrize(("part", "name"), [("minicpm3", "minicpm3-4b"), ("jamba", "jamba-v0.1"),
                                            ("llama-3.3", "llama3.1-70b"), ("mimo", "mimo-v2-flash")])
def test_one_meaning_is_taken(part: str, name: str) -> None:
    assert run("count", part).stdout.splitlines()[1] == f"from preset {name}, asked for as {part}"


@pytest.mark.parametrize("name", ["gpt2", "gpt3", "mistral-7b"])
def test_a_name_of_its_own_is_no_family(name: str) -> None:
    assert found(name) == name


@pytest.mark.parametrize("command", [("count",), ("compare", "gpt2"), ("diff", "gpt2"), ("explain",), ("attention",)])
def test_another_name_shows_both(command: tuple[str, ...]) -> None:
    args = (*command, "davinci", *(["params"] if command == ("explain",) else []))
    assert "preset gpt3, asked for as davinci" in run(*args).stdout
    assert "asked for" not in run(*(arg if arg != "davinci" else "gpt3" for arg in args)).stdout
    assert "preset gpt3, asked for as davinci" in json.dumps(json.loads(run(*args, "--json").stdout))


# ---------------------------------------------------------------- what is searched for


SPECS = {file.name: txcalc.load(file.name) for file in BUILT_IN}
MADE_OF = {name: structure(spec) for name, spec in SPECS.items()}


def made_of(word: str) -> set[str]:
    return {name for name, words in MADE_OF.items() if word in words}


def test_structure_is_what_the_fields_say() -> None:
    def blocks(name: str) -> list[Any]:
        stacks = [stack for stack in (SPECS[name], SPECS[name].encoder, SPECS[name].tower) if stack is not None]
        return [block for stack in stacks for _, block in located_blocks(stack)]

    def those(holds: Callable[[Any], bool]) -> set[str]:
        return {name for name in SPECS if any(map(holds, blocks(name)))}

    def standard(block: Any) -> bool:
        return block.attention is not None and block.attention.kind == "standard"

    assert made_of("moe") == those(lambda b: b.feed_forward is not None and b.feed_forward.kind == "moe")
    assert made_of("mla") == those(lambda b: b.attention is not None and b.attention.kind == "mla")
    assert made_of("window") == those(lambda b: standard(b) and b.attention.window)
    assert made_of("gqa") == those(lambda b: standard(b) and 1 < b.attention.kv_heads < b.attention.heads)
    assert made_of("mqa") == those(lambda b: standard(b) and 1 == b.attention.kv_heads < b.attention.heads)
    assert made_of("encoder-decoder") == {name for name, spec in SPECS.items() if spec.encoder is not None}
    assert made_of("vision") >= {"vit-b16", "clip-vit-b32", "llava-1.5-7b"} and "gpt2" not in made_of("vision")
    assert all(len(made_of(word)) > 2 for word in ("moe", "mla", "window", "gqa", "mqa", "encoder-decoder", "vision",
                                                   "rope", "mamba2", "audio", "recurrent"))


@pytest.mark.parametrize(("text", "some", "without"), [
    ("moe gqa", {"mixtral-8x7b"}, {"mistral-7b"}), ("mla", {"deepseek-v3", "kimi-k2"}, {"llama3-8b"}),
    ("2407.21783", {"llama3.1-8b"}, {"llama-7b"}), ("arXiv:1706.03762", {"transformer-base"}, {"gpt2"}),
    ("window llama", set(), {"llama3-8b", "mistral-7b"}), ("Llama3.1", {"llama3.1-8b"}, {"gpt2"}),
])
def test_search(text: str, some: set[str], without: set[str]) -> None:
    found = run("presets", "--search", text, "--json")
    if not some:
        assert found.exit_code == 2
        return
    names = {preset["name"] for preset in json.loads(found.stdout)["presets"]}
    assert some <= names and not without & names


def test_a_number_that_no_source_has_finds_nothing() -> None:
    assert refused("presets", "--search", "9999.99999") == "--search: no preset mentions '9999.99999'"
