"""Linear layers in float8: steps of classes of transformers that torchao has converted, event by event."""

from typing import Any

import pytest

from txcalc.answer.capacity import capacity
from txcalc.count import flops
from txcalc.count.entries import total
from txcalc.count.lifetimes import live_bytes
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

SIZES = {"vocab_size": 112, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
         "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "llama-bias": {"architectures": ["LlamaForCausalLM"], "attention_bias": True, "mlp_bias": True},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": True},
    "mixtral": {"architectures": ["MixtralForCausalLM"], "num_experts_per_tok": 2, "num_local_experts": 5},
}


def config(name: str) -> dict[str, Any]:
    return SIZES | {"model_type": name.partition("-")[0], "tie_word_embeddings": False} | CONFIGS[name]


def spec(name: str) -> Model:
    return Model.from_data(spec_from_config(config(name), "config.json", name))


def run(device: str = "cpu", **more: Any) -> Workload:
    return Workload.of({"phase": "training", "precision": "float8", "batch": 2, "seq": 16, "kernels": {
        "cpu": "cpu"}.get(device, "cuda"), "implementation": "transformers", "attention": "sdpa", **more})


@pytest.mark.grid(3)
@pytest.mark.parametrize("recompute", [None, "full"])
@pytest.mark.parametrize(("attention", "dropout"), [("sdpa", 0.0), ("eager", 0.1)])
@pytest.mark.parametrize("device", ["cpu", "fake-cuda"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_of_classes_that_torchao_converts(
    name: str, device: str, attention: str, dropout: float, recompute: str | None
) -> None:
    pytest.importorskip("torchao")
    from txcalc.check import classes, fake_cuda, measure

    how: dict[str, Any] = {"attention": attention, "dropout": dropout, "float8": True, "recompute": bool(recompute)}
    try:
        real = fake_cuda.ask("live_bytes", config(name), 2, 16, dtype="bf16", **how) if device == "fake-cuda" else (
            classes.live_bytes(config(name), 2, 16, dtype=measure.DTYPES["bf16"], **how))
    except fake_cuda.NotRun as reason:
        pytest.skip(f"not run: {reason}")
    w = run(device, attention=attention, dropout=dropout, recompute=recompute)
    assert [e.live for e in live_bytes(trace(spec(name), w), in_place=False)] == [live for _, live in real]


@pytest.mark.parametrize(("name", "events", "highest", "last", "sums"), [
    ("llama", 2_019, 197_520, 117_220, 244_825_029), ("llama-bias", 2_061, 197_520, 118_884, 249_962_869),
])
def test_events_that_torchao_018_was_measured_with(name: str, events: int, highest: int, last: int, sums: int) -> None:
    found = [event.live for event in live_bytes(trace(spec(name), run()), in_place=False)]
    assert (len(found), max(found), found[-1], sum(found)) == (events, highest, last, sums)


def test_lengths_that_fit_are_multiples_of_16() -> None:
    run: dict[str, Any] = {"phase": "training", "precision": "float8", "batch": 3, "seq": 32}
    found = capacity(spec("llama"), run, "70MB", reserve="0").document
    length = next(each for each in found.most if each.size == "seq")
    assert length.largest_fits and length.first_not == length.largest_fits + 16
    assert length.largest_fits % 16 == 0 and length.bytes <= found.room_bytes < length.bytes_first_not


def test_flops_are_those_of_16_bits() -> None:
    ours, plain = (trace(spec("llama"), run(precision=each)) for each in ("float8", "bf16"))
    for passes in ("forward", "backward"):
        assert total(flops.entries(ours, passes)) == total(flops.entries(plain, passes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("more", "message"), [
    ({"seq": 17, "batch": 1}, "float8 products want sizes in multiples of 16; layers.attention.q has 17"),
    ({"lora": "r=16"}, "float8 with frozen weights is not proved yet"),
    ({"recompute": "ops"}, "float8 with layers recomputed in part is not proved yet"),
    ({"attention": "eager", "implementation": "torch"}, "attention of single operations in plain PyTorch"),
    ({"dtype": "fp16"}, "float8 computes in bf16, and --dtype is fp16"),
])
def test_what_is_not_counted(more: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        live_bytes(trace(spec("llama"), run(**more)))
