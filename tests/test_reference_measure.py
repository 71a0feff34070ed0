"""Measures of the rarer parts: one module that stands for many, images and sound, states, and nothing left behind."""

from __future__ import annotations

import gc

import pytest

torch = pytest.importorskip("torch")

import txcalc  # noqa: E402
from txcalc.check import measure, validate  # noqa: E402
from txcalc.check.reference.transformer import build  # noqa: E402
from txcalc.check.sibling import sibling  # noqa: E402
from txcalc.spec.facts import positions  # noqa: E402
from txcalc.spec.model import Model  # noqa: E402

torch.set_num_threads(1)

BASE = {
    "name": "tiny", "vocab": 31, "layers": 3, "context": 29, "d_model": 15, "attention": {"heads": 3},
    "feed_forward": {"d_ff": 23}, "position": "none",
}
IMAGE = {"kind": "patches", "image": 13, "patch": 4, "class_tokens": 2}
SOUND = {"kind": "frames", "bins": 7, "length": 11}
DELTA = {"kind": "gated-delta", "key_heads": 2, "value_heads": 4, "key_dim": 5, "value_dim": 3, "conv": 4}
MAMBA = {"kind": "mamba2", "heads": 4, "head_dim": 3, "state": 5, "groups": 2, "conv": 3}
LATENT = {"kind": "mla", "heads": 3, "kv_rank": 7, "nope_dim": 5, "rope_dim": 4, "value_dim": 6}
MODELS = {
    "experts": {"feed_forward": {"kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 7, "shared_experts": 1}},
    "latents": {"attention": LATENT},
    "delta": {"attention": None, "recurrent": DELTA},
    "mamba": {"attention": None, "recurrent": MAMBA},
    "image": {
        "architecture": "encoder-only", "input": IMAGE, "position": {"kind": "learned"},
        "head": {"kind": "classifier", "labels": 5, "copies": 2},
    },
}


def spec(name: str) -> Model:
    return Model.from_data({**BASE, **MODELS[name]})


def test_one_expert_stands_for_all_on_meta() -> None:
    model = spec("experts")
    real, stand_in = build(model, length=1), build(model, length=1, device="meta")
    assert len({id(expert) for expert in stand_in.layers[0].feed_forward.experts}) == 1
    shapes = measure.shapes(model)
    assert shapes["layers.feed_forward.experts.up.weight"] == ((7, 15), 3 * 5)
    assert shapes["layers.feed_forward.shared.up.weight"] == ((7, 15), 3)
    counted = sum(torch.Size(shape).numel() * times for shape, times in shapes.values())
    assert counted == sum(weight.numel() for weight in real.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_sizes_alone_cost_what_real_tensors_cost(name: str) -> None:
    run = {"loss": True, "backward": True, "eager": True}
    meta, cpu = (measure.flops(spec(name), 2, 13, device=device, **run) for device in ("meta", "cpu"))
    assert meta == cpu


def test_a_recurrence_is_read_and_written_once_per_token() -> None:
    got = measure.flops(spec("delta"), 2, 13, backward=True)
    products = 3 * 2 * 13 * 4 * 3 * (2 * 5 * 3)  # layers, batch, tokens, heads, products, one product
    conv = 3 * 2 * (13 + 4 - 1) * (2 * 10 + 12) * 4 * 2  # also over the zeros after the last token
    assert got.forward["layers.recurrent"] == products
    assert got.forward["layers.recurrent.conv"] == conv
    assert got.backward["layers.recurrent"] == 2 * products
    assert got.backward["layers.recurrent.conv"] == 2 * conv


def test_pixels_need_no_gradient() -> None:
    got = measure.flops(spec("image"), 2, 0, backward=True, loss=True)
    assert got.forward["patch_embedding"] == got.backward["patch_embedding"] == 2 * 9 * 15 * (3 * 16) * 2
    assert got.forward["layers.attention.q"] * 2 == got.backward["layers.attention.q"] == 3 * 2 * 11 * 15 * 15 * 2 * 2


def test_states_do_not_grow_and_latents_are_all_that_is_cached() -> None:
    half = {"steps": 2, "dtype": torch.bfloat16}
    assert measure.cache_bytes(spec("latents"), 2, 13, **half) == [2 * n * 3 * (7 + 4) * 2 for n in (13, 14, 15)]
    state = 3 * 2 * ((2 * 10 + 12) * 4 * 2 + 4 * 5 * 3 * 4)
    assert measure.cache_bytes(spec("delta"), 2, 13, **half) == [state] * 3
    state = 3 * 2 * ((12 + 2 * 10) * 3 * 2 + 4 * 3 * 5 * 4)
    assert measure.cache_bytes(spec("mamba"), 2, 1, **half) == [state] * 3


def test_what_can_be_compared() -> None:
    assert validate.keeps_exactly(spec("latents"))
    assert not validate.keeps_exactly(spec("delta"))
    assert measure.positions(spec("image").input, 99) == 9 + 2


def test_nothing_is_left_behind() -> None:
    """A graph that is held by what it saved is never freed, and a run over all presets ends out of memory."""

    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    measure.kept(spec("experts"), 2, 13, eager=True)
    before = alive()
    measure.kept(spec("experts"), 2, 13, eager=True)
    measure.attention_memory(spec("experts"), 2, 13, eager=True)
    assert alive() == before


def test_a_sibling_of_an_image_model_fits_together() -> None:
    big = {
        **BASE, "architecture": "encoder-only", "input": {"kind": "patches", "image": 224, "patch": 16},
        "position": {"kind": "relative", "buckets": 732, "per_layer": True}, "head": {"kind": "none"},
    }
    small = sibling(Model.from_data(big))
    assert small.position.buckets == 5 * 5 + 3
    measure.kept(small, 2, 0, eager=True)
    encoder = {"input": SOUND, "position": {"kind": "learned"}}
    small = sibling(Model.from_data({**BASE, "architecture": "encoder-decoder", "encoder": encoder}))
    assert small.encoder.position.size == positions(small.encoder.input)
    encoder["input"] = {**SOUND, "length": 13 * 15, "grid": {"channels": 48, "frames": 100}}
    small = sibling(Model.from_data({**BASE, "architecture": "encoder-decoder", "encoder": encoder}))
    assert small.encoder.position.size == positions(small.encoder.input) == 2 * 3
    hybrid = sibling(Model.from_data({**BASE, "recurrent": {**MAMBA, "heads": 96, "groups": 8}}))
    assert (hybrid.recurrent.heads, hybrid.recurrent.groups) == (6, 2)
    assert sibling(txcalc.load("lfm2-1.2b")).layers == 11
