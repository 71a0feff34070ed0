"""Notes beside the numbers: lengths beyond the context, and kernels that do not exist, in every format."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from txcalc.cli.app import app


def run(*args: str) -> Any:
    return CliRunner().invoke(app, args)


def words(*args: str) -> str:
    return " ".join(run(*args).stdout.replace("\\", "").split())


BEYOND = "8,193 positions are hypothetical: llama3-8b was made for 8,192"


@pytest.mark.parametrize("args", [
    ("count", "llama3-8b", "--seq", "8193"), ("compare", "llama3-8b", "llama3.1-8b", "--seq", "8193"),
    ("attention", "llama3-8b", "--seq", "1K,8193"), ("count", "llama3-8b", "--phase", "decode", "--past", "8192"),
])
@pytest.mark.parametrize("form", ["table", "md", "html"])
def test_a_length_beyond_the_context_is_hypothetical(args: tuple[str, ...], form: str) -> None:
    within = [{"8193": "8192", "1K,8193": "1K,8192", "8192": "8191"}.get(arg, arg) for arg in args]
    assert words(*args, "--format", form).count(BEYOND) >= 1
    assert "hypothetical" not in words(*within, "--format", form)


def test_notes_are_in_the_documents() -> None:
    report = json.loads(run("count", "llama3-8b", "--seq", "8193", "--phase", "prefill", "--json").stdout)
    assert [note.startswith(BEYOND) for note in report["notes"]] == [True]
    entries = json.loads(run("compare", "llama3-8b", "llama3.1-8b", "--seq", "8193", "--phase", "prefill",
                             "--json").stdout)["entries"]
    assert [len(entry["notes"]) for entry in entries] == [1, 0]
    assert json.loads(run("count", "llama3-8b", "--phase", "prefill", "--json").stdout)["notes"] == []


@pytest.mark.parametrize(("field", "option", "model", "other"), [
    ("latents", ("--latents", "expanded"), "gpt2", "deepseek-v2-lite"),
    ("kv_dtype", ("--kv-dtype", "fp8"), "bert-base", "gpt2"),
    ("kv_block", ("--kv-block", "16"), "bert-base", "gpt2"),
])
def test_an_option_that_changes_nothing_says_so(field: str, option: tuple[str, str], model: str, other: str) -> None:
    said = f"{field} changes nothing here: {model} "
    for command in (("count", model), ("compare", model, other)):
        with_it, without = words(*command, *option), words(*command)
        assert with_it.count(said) == 1
        assert "changes nothing" not in without + with_it.replace(said, "")


def test_an_encoder_s_own_length_is_one() -> None:
    assert "9,000 positions are hypothetical" in words("count", "t5-base", "--seq", "7", "--source-seq", "9000")


@pytest.mark.parametrize(("name", "attention"), [
    ("gpt2", "flash"), ("gpt-oss-20b", "eager"), ("t5-base", "flash and eager"), ("mamba-2.8b", None)])
def test_attention_without_a_flash_kernel_is_said_to_be_eager(name: str, attention: str | None) -> None:
    entry, = json.loads(run("compare", name, "--seq", "64", "--json").stdout)["entries"]
    assert entry["attention"] == attention
    without = attention not in ("flash", None)
    kept = next(line for line in run("compare", name, "--seq", "64").stdout.splitlines() if "Activations" in line)
    assert kept.endswith(f", {attention}") == without
    for command in ("compare", "count"):
        assert ("no flash kernel of PyTorch" in words(command, name, "--seq", "64")) == without
        assert "no flash kernel" not in words(command, name, "--seq", "64", "--attention", "eager")


def test_what_transformers_code_keeps_beyond_ours() -> None:
    """GPT-2's own class, with its gelu_new and with PyTorch's: three tensors of the hidden width in each layer."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    layers, width, inner, found = 2, 24, 52, []
    for activation in ("gelu_pytorch_tanh", "gelu_new"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
            vocab_size=101, n_positions=32, n_embd=width, n_layer=layers, n_head=3, n_inner=inner, resid_pdrop=0,
            embd_pdrop=0, attn_pdrop=0, activation_function=activation, bos_token_id=0, eos_token_id=0))
        seen: dict[int, Any] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, seen=seen: seen.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage()) and t, lambda t: t
        ):
            model(torch.randint(0, 101, (2, 13)), use_cache=False)
        found.append(sum(storage.nbytes() for storage in seen.values()))
    assert found[1] - found[0] == 3 * layers * 4 * 2 * 13 * inner
    said = "three more tensors of the hidden width where its file says gelu_new"
    assert said in words("count", "gpt2") and said not in words("count", "llama3-8b")
    assert "transformers' own code" not in words("count", "gpt2", "--phase", "decode")
