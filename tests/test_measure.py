"""The measuring itself: against PyTorch's own counter, against counts done by hand, and fake against real tensors."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from txcalc.check import measure  # noqa: E402
from txcalc.check.measure_kept import Kept  # noqa: E402
from txcalc.check.reference.transformer import build  # noqa: E402
from txcalc.spec.facts import architecture_fields  # noqa: E402
from txcalc.spec.model import Model  # noqa: E402

torch.set_num_threads(1)


def by_path(storages: list[Kept]) -> Counter[tuple[str, str, int]]:
    """How often each (path, dtype, bytes) occurs: what two lists are compared by."""
    return Counter((storage.path, storage.dtype, storage.nbytes) for storage in storages)


BASE = {
    "name": "tiny", "vocab": 31, "layers": 3, "context": 29, "d_model": 15,
    "attention": {"heads": 3}, "feed_forward": {"d_ff": 23}, "position": "none",
}
GROUPED = {"heads": 6, "kv_heads": 2, "head_dim": 10, "bias": {"q": True}}
RMS_HEADS = {"kind": "rmsnorm", "over": "heads", "bias": False}
EXPERTS = {"kind": "moe", "experts": 7, "active_experts": 2, "d_ff": 11, "shared_experts": 1, "shared_gate": True}
MODELS = {
    "plain": {"position": {"kind": "learned"}},
    "llama": {
        "position": {"kind": "rope"}, "attention": GROUPED, "norm": {"kind": "rmsnorm"},
        "feed_forward": {"d_ff": 23, "gated": True, "activation": "silu"}, "head": {"kind": "lm", "tied": False},
    },
    "experts": {"feed_forward": EXPERTS, "attention": {**GROUPED, "window": 5}, "position": {"kind": "alibi"}},
    "shared": {"share_layers": True, "embedding_dim": 8, "head": {"kind": "lm", "transform": {}}, "token_types": 2},
    "qk norm": {"attention": {**GROUPED, "qk_norm": RMS_HEADS}, "residual": "parallel", "norm": {"shared": True}},
    "bert": {
        "architecture": "encoder-only", "norm": {"placement": "post"}, "pooler": True,
        "position": {"kind": "sinusoidal"}, "head": {"kind": "classifier", "labels": 5}, "embedding_norm": True,
    },
    "t5": {"architecture": "encoder-decoder", "position": {"kind": "relative", "buckets": 7}, "vocab": 37},
    "grouped": {"layers": 5, "position": {"kind": "rope"}, "attention": GROUPED, "groups": [
        {"repeat": 2, "blocks": [
            {"attention": {"window": 4}}, {"feed_forward": {"d_ff": 19, "activation": "quick_gelu"}},
        ]},
        {"blocks": [{"feed_forward": EXPERTS}]},
    ]},
}
every_model = pytest.mark.parametrize("name", MODELS)


def spec(name: str, **fields) -> Model:
    return Model.from_data({**BASE, **MODELS[name], **fields})


def source_of(model: Model) -> int | None:
    return None if model.encoder is None else 11


@every_model
def test_shapes_are_all_the_weights(name: str) -> None:
    model = spec(name)
    found = measure.shapes(model)
    total = sum(torch.Size(shape).numel() * count for shape, count in found.values())
    assert total == sum(weight.numel() for weight in build(model, length=1).parameters())


def test_shapes_by_hand() -> None:
    found = measure.shapes(spec("grouped"))
    assert found["layers.0.0.attention.k.weight"] == ((20, 15), 2)
    assert found["layers.0.1.feed_forward.up.weight"] == ((19, 15), 2)
    assert found["layers.1.0.feed_forward.experts.down.weight"] == ((15, 11), 7)
    assert found["layers.1.0.feed_forward.shared_gate.weight"] == ((1, 15), 1)
    assert found["layers.0.0.attention.q.bias"] == ((60,), 2)
    assert found["token_embedding.weight"] == ((31, 15), 1)
    assert "head.weight" not in found
    assert measure.shapes(spec("t5"))["decoder.layers.cross_attention.q.weight"] == ((15, 15), 3)
    assert measure.shapes(spec("shared"))["layers.feed_forward.up.weight"] == ((23, 15), 1)


@pytest.mark.grid(7)
@every_model
@pytest.mark.parametrize("device", ["meta", "fake", "cpu"])
def test_eager_flops_are_those_of_flop_counter_mode(name: str, device: str) -> None:
    model = spec(name)
    got = measure.flops(model, 2, 13, source_seq=source_of(model), eager=True, loss=True, backward=True, device=device)
    root = build(model, length=13, eager=True, device="meta")
    run = measure.Inputs(model, 2, 13, source_of(model), "meta")
    with FlopCounterMode(display=False) as forward:
        end = measure._end(root, run, loss=True)
    with FlopCounterMode(display=False) as backward:
        end.backward()
    assert sum(got.forward.values()) == forward.get_total_flops()
    assert sum(got.backward.values()) == backward.get_total_flops()
    assert "" not in got.forward and "" not in got.backward


@every_model
def test_backward_is_twice_the_forward_of_each_module(name: str) -> None:
    """Every product's input needs a gradient: no embedding of a continuous input is in these models."""
    model = spec(name)
    eager, flash = (
        measure.flops(model, 2, 13, source_seq=source_of(model), eager=eager, backward=True) for eager in (True, False)
    )
    assert eager.backward == {path: 2 * count for path, count in eager.forward.items()}
    assert flash.forward == eager.forward
    relative = model.position.kind == "relative"
    for path, count in flash.forward.items():
        on_kernel = path.endswith(".core") and (not relative or "cross_attention" in path)
        assert flash.backward[path] * 2 == count * (5 if on_kernel else 4)


def test_flops_by_hand() -> None:
    got = measure.flops(spec("llama"), 2, 13).forward
    assert got["layers.attention.q"] == 3 * 2 * 2 * 13 * 15 * 60
    assert got["layers.attention.k"] == 3 * 2 * 2 * 13 * 15 * 20
    assert got["layers.attention.core"] == 3 * 2 * 2 * 6 * 13 * 13 * (10 + 10)
    assert got["layers.feed_forward.gate"] == 3 * 2 * 2 * 13 * 15 * 23
    assert got["head"] == 2 * 2 * 13 * 15 * 31
    experts = measure.flops(spec("experts"), 2, 13).forward
    assert experts["layers.feed_forward.experts.up"] == 3 * 2 * (2 * 13 * 2) * 15 * 11
    assert experts["layers.feed_forward.router"] == 3 * 2 * 2 * 13 * 15 * 7


@pytest.mark.parametrize("eager", [True, False])
def test_decode_flops_by_hand(eager: bool) -> None:
    got = measure.flops(spec("llama"), 2, 1, past=12, eager=eager).forward
    assert got["layers.attention.core"] == 3 * 2 * 2 * 6 * 1 * 13 * (10 + 10)
    assert got["layers.attention.q"] == 3 * 2 * 2 * 1 * 15 * 60
    windowed = measure.flops(spec("experts"), 2, 1, past=12, eager=eager).forward
    assert windowed["layers.attention.core"] == 3 * 2 * 2 * 6 * 1 * 5 * (10 + 10)
    model = spec("t5")
    crossed = measure.flops(model, 2, 1, past=12, source_seq=11, eager=eager).forward
    assert "decoder.layers.cross_attention.k" not in crossed and "encoder.layers.attention.q" not in crossed
    assert crossed["decoder.layers.cross_attention.core"] == 3 * 2 * 2 * 3 * 1 * 11 * (5 + 5)


@pytest.mark.grid(9)
@every_model
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_kept_on_fake_tensors_is_kept_on_real_ones(name: str, dtype: str, eager: bool, dropout: float) -> None:
    model = spec(name)
    if "experts" in str(architecture_fields(model)):
        pytest.skip("fake tokens are shared out evenly")
    real, fake = (
        measure.kept(
            model, 2, 13, source_seq=source_of(model), dtype=getattr(torch, dtype), eager=eager, dropout=dropout,
            loss=True, device=device,
        )
        for device in ("cpu", "fake")
    )
    assert real == fake


@pytest.mark.parametrize("eager", [True, False])
def test_kept_by_experts_does_not_depend_on_the_routing(eager: bool) -> None:
    real, fake = (measure.kept(spec("experts"), 2, 13, eager=eager, device=device) for device in ("cpu", "fake"))
    for storages in (real, fake):
        up = [storage for storage in storages if storage.path == "layers.feed_forward.experts"]
        assert sum(storage.nbytes for storage in up) == 3 * 3 * 4 * (2 * 13 * 2) * 11
    assert sum(storage.nbytes for storage in real) == sum(storage.nbytes for storage in fake)


def test_kept_by_hand() -> None:
    """One pre-norm layer without anything that is not needed, under flash attention."""
    model = spec("plain", layers=1, head={"kind": "none"}, position={"kind": "none"}, final_norm=False)
    x, hidden, stat = 4 * 2 * 13 * 15, 4 * 2 * 13 * 23, 4 * 2 * 13
    assert by_path(measure.kept(model, 2, 13)) == Counter({
        ("token_embedding", "int64", 8 * 2 * 13): 1,
        ("layers.attention_norm", "float32", x): 1,
        ("layers.attention_norm", "float32", stat): 2,
        ("layers.attention.q", "float32", x): 1,  # the normed x that q, k and v read
        ("layers.attention.core", "float32", x): 4,  # q, k, v and the context
        ("layers.attention.core", "float32", 3 * stat): 1,  # log-sum-exp
        ("layers.feed_forward_norm", "float32", x): 1,
        ("layers.feed_forward_norm", "float32", stat): 2,
        ("layers.feed_forward.up", "float32", x): 1,
        ("layers.feed_forward", "float32", hidden): 1,
        ("layers.feed_forward.down", "float32", hidden): 1,
    })


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("position", ["none", "rope", "alibi", "sinusoidal"])
def test_masks_and_rotations_are_buffers_and_not_kept(position: str, eager: bool) -> None:
    """Also with a window, also where the mask is a slice of a longer table, as in an encoder-decoder."""
    plain, other = (
        measure.kept(
            spec("t5", position={"kind": kind}, attention={"heads": 3, "window": window}), 2, 13, source_seq=17,
            eager=eager,
        )
        for kind, window in (("none", None), (position, 5))
    )
    assert by_path(plain) == by_path(other)


@pytest.mark.parametrize("device", ["cpu", "meta", "fake"])
def test_cache_bytes_by_hand(device: str) -> None:
    half = {"dtype": torch.bfloat16, "device": device}
    per_token = 3 * 2 * 2 * 10 * 2
    assert measure.cache_bytes(spec("llama"), 2, 13, steps=2, **half) == [2 * n * per_token for n in (13, 14, 15)]
    assert measure.cache_bytes(spec("experts"), 2, 3, steps=4, **half) == [2 * n * per_token for n in (3, 4, 5, 5, 5)]
    assert measure.cache_bytes(spec("experts"), 2, 13, **half) == [2 * 5 * per_token]
    own = 3 * 2 * 2 * 15 * 2
    assert measure.cache_bytes(spec("t5"), 2, 13, steps=1, source_seq=11, **half) == [own * (n + 11) for n in (13, 14)]


@pytest.mark.parametrize("device", ["cpu", "fake"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["plain", "llama"])
def test_eager_attention_is_quadratic_and_flash_is_linear(name: str, dtype: str, device: str) -> None:
    sizes = [32, 64, 96, 128] if device == "cpu" else [1024, 2048, 3072, 4096]

    def differences(values: list[int]) -> list[int]:
        return [b - a for a, b in pairwise(values)]

    for eager in (True, False):
        found = [
            measure.attention_memory(spec(name), 2, n, eager=eager, dtype=getattr(torch, dtype), device=device)
            for n in sizes
        ]
        for values in ([m.kept for m in found], [m.peak for m in found]):
            first = differences(values)
            second = differences(first)
            assert len(set(second)) == 1
            assert (second[0] > 0) == eager
            if not eager:
                assert second == [0, 0]


def test_attention_memory_by_hand() -> None:
    """Eager at n = 11: the scores are scaled and masked in copies, of which two live at once beside the softmax."""
    x, scores = 4 * 2 * 11 * 15, 4 * 2 * 3 * 11 * 11
    memory = measure.attention_memory(spec("plain"), 2, 11, eager=True)
    assert memory.kept == x + 3 * x + scores + x  # x, then q, k, v as the products read them, weights, context
    flash = measure.attention_memory(spec("plain"), 2, 11, eager=False)
    assert flash.kept == x + 3 * x + 4 * 2 * 3 * 11 + x
    assert flash.peak < memory.peak


def test_a_model_is_asked_only_for_what_it_has() -> None:
    with pytest.raises(ValueError, match="source_seq"):
        measure.kept(spec("t5"), 2, 13)
    with pytest.raises(ValueError, match="no loss"):
        measure.kept(spec("plain", head={"kind": "none"}), 2, 13, loss=True)
    with pytest.raises(ValueError, match="backward"):
        measure.flops(spec("plain"), 2, 1, past=3, backward=True)
