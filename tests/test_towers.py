"""A tower that feeds the main stack, and registers, in the reference: every weight, product and kept tensor."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from txcalc.check import measure  # noqa: E402
from txcalc.check.validate import by_module, parameters  # noqa: E402
from txcalc.count import activations  # noqa: E402
from txcalc.count.flops import entries  # noqa: E402
from txcalc.spec.errors import FieldError  # noqa: E402
from txcalc.spec.facts import positions  # noqa: E402
from txcalc.spec.model import Model  # noqa: E402
from txcalc.trace.model import trace  # noqa: E402
from txcalc.trace.workload import Workload  # noqa: E402

torch.set_num_threads(1)

IMAGE = {"kind": "patches", "image": 29, "patch": 4}  # 7 x 7 patches
TEXT: dict[str, Any] = {
    "name": "seeing", "vocab": 53, "d_model": 22, "layers": 2, "context": 131, "attention": {"heads": 2},
    "feed_forward": {"d_ff": 37}, "position": {"kind": "rope"},
}
TOWER: dict[str, Any] = {
    "d_model": 15, "layers": 3, "input": IMAGE, "position": {"kind": "learned"},
    "attention": {"heads": 3, "bias": True}, "feed_forward": {"d_ff": 17, "bias": True},
}
SOUND = {"kind": "frames", "bins": 5, "length": 11}
PLAIN = {**IMAGE, "class_tokens": 0}
LAYER = {"attention": {"heads": 3, "bias": True}, "feed_forward": {"d_ff": 17, "bias": True}}
MERGED = {"kind": "patch-merging", "width": 15, "d_ff": 19, "bias": True, "mean": True, "heads": 3}
READING = {"kind": "attention", "attention": {"heads": 3}, "feed_forward": {"d_ff": 11}}
GATED = [{"width": 19, "activation": "silu", "gated": True}]
ALONE = {"attention": None, "feed_forward": None, "residual": "none", "norm": {"placement": "none"}}


def merging(own: dict[str, Any], **block: Any) -> dict[str, Any]:
    """A layer, and what merges its patches."""
    alone = {"residual": "none", "norm": {"placement": "none"}, **block}
    return {"layers": 1 + block.get("repeat", 1), "attention": None, "feed_forward": None, "groups": [{"blocks": [
        LAYER, {**alone, "recurrent": {**MERGED, **own}}]}]}


CASES: dict[str, dict[str, Any]] = {
    "averaged": {"input": {**PLAIN, "image": 24}, "projector": {
        "average": True, "tokens": 4, "norm": {"kind": "rmsnorm"}}},
    "every patch": {"input": PLAIN, "projector": {"bias": True}},
    "after a class token": {"projector": {"hidden": [{"width": 22, "activation": "gelu", "bias": True}]}},
    "taken a layer before": {"projector": {"unused_layers": 1, "hidden": [{"width": 19, "activation": "relu"}]}},
    "taken two layers before": {"final_norm": False, "pooler": {"kind": "norm"}, "projector": {"unused_layers": 2}},
    "between layers, no class token": {"input": PLAIN, "projector": {"unused_layers": 1, "bias": True}},
    "between layers of normed embeddings": {
        "input": PLAIN, "embedding_norm": True, "projector": {"unused_layers": 1, "bias": True}},
    "between layers, with RMSNorm": {
        "input": PLAIN, "embedding_norm": True, "norm": {"kind": "rmsnorm"}, "projector": {"unused_layers": 2}},
    "several layers side by side": {"projector": {
        "unused_layers": 1, "feature_layers": [2, 1], "norm": {}, "hidden": [{"width": 9}]}},
    "several layers of patches alone": {"input": PLAIN, "projector": {"feature_layers": [0, 2]}},
    "several layers, merged": {"projector": {
        "merge": 2, "unused_layers": 1, "feature_layers": [2], "norm": {}, "norm_first": True}},
    "several layers, averaged": {"input": {**PLAIN, "image": 24}, "projector": {
        "average": True, "tokens": 4, "feature_layers": [1]}},
    "a table for either side": {
        "input": {**PLAIN, "image": 24}, "position": {"kind": "learned", "both_ways": True},
        "projector": {"average": True, "tokens": 4},
    },
    "tables for sides of other images": {
        "input": PLAIN, "position": {"kind": "learned", "both_ways": True, "size": 9}, "projector": {},
    },
    "a table with rows to spare": {"input": PLAIN, "position": {"kind": "learned", "size": 64}, "projector": {}},
    "merged": {"input": PLAIN, "projector": {"merge": 2, "norm": {"kind": "layernorm"}, "hidden": [
        {"width": 13, "activation": "silu", "gated": True, "bias": True}]}},
    "merged, a layer before": {"projector": {"merge": 3, "unused_layers": 1}},
    "normed, then merged": {"input": PLAIN, "projector": {
        "merge": 3, "norm": {"kind": "rmsnorm"}, "norm_first": True,
        "hidden": [{"width": 15}, {"width": 22, "activation": "gelu"}]}},
    "a layer's own norm": {"input": PLAIN, "projector": {"merge": 2, "hidden": [
        {"width": 11, "bias": True}, {"width": 9, "norm": {"kind": "layernorm"}, "activation": "gelu"},
        {"width": 13, "norm": {"kind": "rmsnorm"}}, {"width": 7, "activation": "silu", "gated": True}]}},
    "every position, class token and register": {"input": {**IMAGE, "registers": 2}, "projector": {
        "unpatched": True, "final_norm": {}}},
    "a sound, merged": {"input": SOUND, "projector": {"merge": 3, "hidden": [{"width": 19, "activation": "gelu"}]}},
    "a sound in pieces": {"input": {**SOUND, "length": 6, "grid": {"channels": 4, "frames": 19}}, "projector": {}},
    "a sound, averaged": {"input": SOUND, "final_norm": False, "projector": {"average": True, "tokens": 5, "norm": {}}},
    "patches alone": {"layers": 0, "d_model": 22, "attention": None, "feed_forward": None, "final_norm": False,
                      "input": PLAIN, "position": "none", "projector": {"dense": False}},
    "normed patches": {"layers": 0, "attention": None, "feed_forward": None, "final_norm": False,
                       "input": {**PLAIN, "normed": True}, "embedding_norm": True,
                       "position": {"kind": "learned", "both_ways": True, "size": 9},
                       "projector": {"norm": {"kind": "rmsnorm", "scale": False}}},
    "layers of patches": {"input": PLAIN, "projector": {"merge": 3, "norm": {}, "patchwise": [
        {"width": 13, "activation": "gelu", "bias": True}, {"width": 11}], "hidden": [{"width": 9}]}},
    "a vocabulary of patches": {"input": PLAIN, "projector": {"merge": 2, "hidden": [
        {"width": 13, "norm": {}, "softmax": True, "padding": 3}]}},
    "another for films": {"second": {**TOWER, "pooler": {"kind": "norm"}}, "projector": {"unused_layers": 1}},
    "another for sounds": {"second": {**TOWER, "input": SOUND, "projector": {
        "merge": 2, "separators": 2, "hidden": [{"width": 13, "activation": "gelu"}]}}, "projector": {}},
    "a convolution of patches": {"input": PLAIN, "projector": {}, "groups": [{"blocks": [
        {"attention": None, "recurrent": {"kind": "short-convolution", "conv": 3, "image": True}, "repeat": 2}, {}]}]},
    "newlines that are projected": {"input": PLAIN, "projector": {
        "merge": 2, "newlines": True, "norm": {"kind": "rmsnorm"}, "norm_first": True, "bias": True,
        "final_norm": {"kind": "rmsnorm"}, "hidden": [{"width": 13, "activation": "gelu", "bias": True}]}},
    "newlines": {"projector": {"separators": 2}},
    "with registers": {"input": {**IMAGE, "registers": 2}, "projector": {"merge": 2}},
    "squares that attend by themselves": {
        "input": {**PLAIN, "image": 24}, "position": {"kind": "rope"}, "attention": {"heads": 3, "head_dim": 4},
        "projector": {"merge": 3}, "groups": [{"blocks": [{"attention": {"image_window": 3}, "repeat": 2}, {}]}]},
    "merged between layers": {
        "layers": 4, "input": {**PLAIN, "image": 48}, "projector": {"merge": 3}, "feed_forward": None,
        "attention": None,
        "groups": [{"blocks": [
            {**LAYER, "repeat": 2},
            {"residual": "none", "norm": {"placement": "none"}, "recurrent": MERGED}, LAYER]}]},
    "merged where no image passes": {
        "layers": 4, "input": PLAIN, "projector": {"merge": 7}, "feed_forward": None, "attention": None,
        "groups": [{"blocks": [
            {**LAYER, "repeat": 2}, {"residual": "none", "norm": {"placement": "none"}, "recurrent": {
                **MERGED, "skipped": True}}, LAYER]}]},
    "a neck of SAM": {
        "layers": 4, "input": {**PLAIN, "image": 28}, "position": {"kind": "decomposed", "absolute": 49},
        "final_norm": False, "projector": {"bias": True}, "groups": [{"blocks": [
            {"attention": {"heads": 3, "image_window": 3, "window_border": True, "bias": True}, "repeat": 2}, {},
            {**ALONE, "recurrent": {"kind": "image-convolutions", "layers": [
                {"channels": 11, "kernel": 1, "norm": "layernorm"}, {"channels": 12, "stride": 2},
                {"channels": 8, "kernel": 2, "stride": 2, "groups": 4, "activation": "gelu", "bias": True}]}}]}]},
    "vectors of distances in windows": {
        "input": {**PLAIN, "image": 24}, "position": {"kind": "decomposed"}, "projector": {},
        "groups": [{"blocks": [{"attention": {"image_window": 3}, "repeat": 3}]}]},
    "cosines in windows": {
        "input": {**PLAIN, "image": 24}, "position": {"kind": "continuous", "hidden": 11, "absolute": 36},
        "projector": {}, "groups": [{"blocks": [{"attention": {"image_window": 3}, "repeat": 3}]}]},
    "deepstack": {"input": PLAIN, "projector": {"merge": 2}, "deepstack": [
        {"merge": 2, "unused_layers": 2, "norm": {}, "hidden": [{"width": 8, "activation": "gelu"}]},
        {"merge": 2, "unused_layers": 1, "norm": {}}]},
    "projectors that no run takes": {"input": {**PLAIN, "image": 24}, "projector": {"merge": 3}, "unused": [
        {"merge": 2}, {"merge": 2, "unused_layers": 1, "norm": {}, "hidden": [{"width": 8, "activation": "gelu"}]}]},
    "read by learned queries": {
        "input": PLAIN, "projector": {"hidden": [{"width": 19, "bias": True}], "bias": True}, "resampler": {
            "input": {"kind": "queries", "length": 5}, "d_model": 14, "position": "none", "embedding_norm": True,
            "layers": 2, "norm": {"placement": "post"}, "attention": {"heads": 2, "bias": True}, "final_norm": False,
            "feed_forward": {"d_ff": 17}, "groups": [{"repeat": 1, "blocks": [
                {"cross_attention": {"heads": 7, "bias": True}}, {}]}]}},
    "read by latents that stand among the keys": {
        "input": PLAIN, "projector": {"hidden": [{"width": 22}], "dense": False}, "resampler": {"position": "none",
            "input": {"kind": "queries", "length": 3}, "d_model": 22, "layers": 2, "norm": {"kind": "rmsnorm"},
            "cross_attention": {"heads": 2, "joined": True, "memory_norm": {"kind": "rmsnorm"}},
            "feed_forward": {"d_ff": 17}}},
    "read in projections of projections": {"input": PLAIN, "projector": {"behind": [
        {"width": 14, "bias": True, "norm": {}}, {"width": 11, "activation": "gelu"}]}, "resampler": {
            "input": {"kind": "queries", "length": 5}, "d_model": 14, "position": "none", "layers": 1,
            "residual": "none", "final_norm": False, "feed_forward": "none", "cross_attention": {
                "heads": 7, "bias": True, "twice": True, "memory_norm": {}}}},
    "queries beside an instruction": {
        "input": PLAIN, "projector": {}, "resampler": {
            "input": {"kind": "queries", "length": 5, "instruction": {"rows": 43, "positions": 7}}, "d_model": 14,
            "position": "none", "layers": 2, "embedding_norm": True, "norm": {"placement": "post"},
            "cross_attention": {"heads": 2},
            "feed_forward": {"d_ff": 17, "bias": True}}},
    "read by queries that no norm stands before": {
        "projector": {"hidden": [], "bias": True}, "resampler": {
            "input": {"kind": "queries", "length": 5}, "d_model": 14, "position": "none", "layers": 2,
            "norm": {"placement": "post"}, "attention": {"heads": 2}, "cross_attention": {"heads": 7, "bias": True},
            "feed_forward": {"d_ff": 17}}},
    "routed queries that no norm stands before": {"projector": {}, "resampler": {
        "input": {"kind": "queries", "length": 5}, "d_model": 14, "position": "none", "layers": 2, "norm": {
            "placement": "post"}, "attention": {"heads": 7, "query_experts": 3}, "cross_attention": {"heads": 7},
        "feed_forward": {"d_ff": 11}, "groups": [{"repeat": 1, "blocks": [
            {"attention": None, "cross_attention": None, "feed_forward": {
                "kind": "moe", "d_ff": 11, "experts": 3, "active_experts": 2}}, {}]}]}},
    "two products of patches behind a class token": {"projector": {"hidden": GATED}},
    "two products of every position's patches": {"projector": {"patchwise": GATED}},
    "two products of what no norm has made": {"input": PLAIN, "final_norm": False, "projector": {"hidden": GATED}},
    "two products between layers": {"input": PLAIN, "projector": {"unused_layers": 1, "hidden": GATED}},
    "with a pooler that nothing reads": {"input": PLAIN, "pooler": READING, "projector": {}},
}


def test_an_autoencoder_has_the_weights_of_the_reference() -> None:
    own = {"levels": [5, 10, 15], "channels": 5, "depth": 2, "attention_levels": [2], "latent": 7, "codes": 41,
           "code_dim": 3}
    for more in ({}, {"mid_attention": False, "out_channels": 2, "generation": {"width": 13, "depth": 2}}):
        model = Model.from_data({**TEXT, "autoencoder": {**own, **more}})
        assert parameters(model).verdict == "equal", parameters(model).differences


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("eager", [True, False])
def test_stages_of_convolutions_cost_what_the_reference_measures(eager: bool, positions: bool) -> None:
    def stage(width: int, **attention: Any) -> list[dict[str, Any]]:
        mixing = [{"channels": 2 * width, "kernel": 1, "bias": True},
                  {"channels": 2 * width, "groups": 2 * width, "bias": True, "activation": "gelu", "norm": "batchnorm"},
                  {"channels": width, "kernel": 1, "bias": True}]
        return [{"repeat": 2, "attention": {"heads": 3, "head_dim": width // 3, "bias": True, **attention},
                 "recurrent": {"kind": "image-convolutions", "layers": mixing}, "feed_forward": None}]

    def way(width: int, **more: Any) -> dict[str, Any]:
        return {"attention": None, "feed_forward": None, "residual": "none", "recurrent": {
            "kind": "image-convolutions", "layers": [{"channels": width, "stride": 2, "norm": "layernorm"}], **more}}

    compare(Model.from_data({
        "name": "stages", "architecture": "encoder-only", "d_model": 6, "position": "none", "embedding_norm": True,
        "input": {**PLAIN, "image": 24, "kernel": 5}, "head": {"kind": "classifier", "labels": 5},
        "groups": [{"blocks": [*stage(6, image_reduction=2), way(9), *stage(9, image_convolution=3), way(
            12, positions=positions, class_tokens=1), {"attention": {
                "heads": 2, "head_dim": 6, **({} if positions else {"image_convolution": 3, "image_reduction": 2})},
                "feed_forward": {"d_ff": 13}}]}]}), 36, eager=eager)


@pytest.mark.parametrize("eager", [True, False])
def test_one_sum_of_all_positions_costs_what_the_reference_measures(eager: bool) -> None:
    def alone(**recurrent: Any) -> dict[str, Any]:
        return {"attention": None, "feed_forward": None, "norm": {"placement": "none"}, "recurrent": recurrent}

    norm = alone(kind="image-convolutions", norm="batchnorm", activation="relu", layers=[])
    compare(Model.from_data({
        "name": "sums", "architecture": "encoder-only", "d_model": 6, "position": "none", "layer_scale": True,
        "final_norm": False, "input": {**PLAIN, "image": 24}, "head": {
            "kind": "classifier", "labels": 5, "of": "mean", "copies": 2}, "groups": [{"blocks": [
                {**norm, "residual": "none"}, {**alone(kind="additive-attention"), "repeat": 2}, {
                    **alone(kind="additive-attention", separable=True), "norm": {}, "feed_forward": {"d_ff": 13}}, {
                    **norm, "residual": "none"}]}]}), 36, eager=eager)


def spec(**tower: Any) -> Model:
    return Model.from_data({**TEXT, "tower": {**TOWER, **tower}})


@pytest.mark.grid(7)
@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_images_cost_what_the_reference_measures(name: str, eager: bool) -> None:
    compare(spec(**CASES[name]), 101, eager=eager, images=2)


@pytest.mark.parametrize("eager", [True, False])
def test_stages_of_squares_cost_what_the_reference_measures(eager: bool) -> None:
    def stage(width: int, window: int, merged: int | None = None) -> list[dict[str, Any]]:
        heads = {"heads": width // 3, "head_dim": 3, "image_window": window, "bias": {"q": True, "o": True}}
        merging = {"feed_forward": "none", "residual": "none", "norm": {"placement": "none"}, "recurrent": {
            "kind": "patch-merging", "width": merged}}
        layer = {"repeat": 2, "attention": heads, "feed_forward": {"d_ff": 2 * width, "bias": True}}
        return [layer, *([merging] if merged else [])]

    compare(Model.from_data({
        "name": "stages", "architecture": "encoder-only", "d_model": 6, "input": {**PLAIN, "image": 48},
        "position": {"kind": "relative", "buckets": 25, "per_layer": True}, "embedding_norm": True,
        "head": {"kind": "classifier", "labels": 5, "of": "mean"},
        "groups": [{"blocks": [*stage(6, 3, 12), *stage(12, 3, 9), *stage(9, 3)]}]}), 144, eager=eager)


@pytest.mark.parametrize("encoder", [
    {"projection": True, "pooler": {}}, {"input": PLAIN, "position": {"kind": "learned", "both_ways": True}}])
def test_an_encoder_of_images_costs_what_the_reference_measures(encoder: dict[str, Any]) -> None:
    model = Model.from_data({**TEXT, "architecture": "encoder-decoder", "cross_attention": {"heads": 11},
                             "encoder": {**TOWER, **encoder}})
    assert model.encoder is not None
    compare(model, 13, eager=True, source_seq=positions(model.encoder.input))
    one = Workload(phase="decode", seq=1, past=5, source_seq=positions(model.encoder.input))
    assert not sum(each.each for each in entries(trace(model, one), "forward") if each.op.path.startswith("encoder"))


def compare(model: Model, seq: int, *, eager: bool, **lengths: int) -> None:
    """Every weight, product and kept tensor of a training step."""
    assert parameters(model).verdict == "equal", parameters(model).differences
    w = Workload(phase="training", batch=2, seq=seq, attention="eager" if eager else "flash", dtype="bf16",
                 kernels="cpu", **lengths)
    t, modules = trace(model, w), measure.module_paths(model)
    measured = measure.flops(model, 2, seq, eager=eager, loss=True, backward=True, **lengths)
    assert by_module(entries(t, "forward"), modules) == {k: v for k, v in measured.forward.items() if v}
    assert by_module(entries(t, "backward", "recomputed"), modules) == {
        k: v for k, v in measured.backward.items() if v}
    theirs: Counter[str] = Counter()
    for storage in measure.kept(model, 2, seq, dtype=torch.bfloat16, eager=eager, loss=True, **lengths):
        theirs[storage.path] += storage.nbytes
    assert by_module(activations.kept(t), modules) == theirs


@pytest.mark.parametrize(("tower", "field"), [
    ({"projector": {"merge": 2, "tokens": 16}}, "tokens"),
    ({"projector": {"tokens": 4}}, "tokens"),
    ({"projector": {"average": True, "tokens": 50}}, "tokens"),
    ({"projector": {"unused_layers": 3}}, "unused_layers"),
    ({"projector": {"norm_first": True, "norm": {}}}, "norm_first"),
    ({"projector": {"hidden": [{"width": 3, "gated": True}]}}, "gate"),
    ({"input": SOUND, "projector": {"merge": 2, "tokens": 2}}, "reads 5 positions"),
    ({"input": SOUND, "projector": {"unpatched": True}}, "unpatched"),
    ({"projector": {"unpatched": True, "merge": 2}}, "unpatched"),
    ({"projector": {}, "input": PLAIN, "position": {"kind": "learned", "size": 6, "both_ways": True}},
     "along an image"),
    ({"projector": {}, "position": {"kind": "learned", "both_ways": True}}, "nothing beside them"),
    ({"projector": {"average": True}}, "averaged"),
    ({"projector": {"behind": [{"width": 3}]}}, "needs a resampler"),
    ({"projector": {"newlines": True}}, "needs patches that are merged"),
    ({"projector": {}, "input": {**SOUND, "grid": {"channels": 4, "frames": 19}}}, "whole pieces"),
    ({"projector": {}, "attention": None, "recurrent": {"kind": "short-convolution", "image": True}}, "patches alone"),
    ({"projector": {}, "resampler": {
        "input": {"kind": "queries", "length": 5}, "d_model": 14, "position": "none", "layers": 1,
        "feed_forward": "none", "cross_attention": {"heads": 7, "twice": True, "value_from": "key"}}},
     "needs queries and values"),
    ({"deepstack": [{}]}, "feeds the main stack"),
    ({"projector": {}, "deepstack": [{"unused_layers": 1}] * 3}, "first layers"),
    ({"projector": {}, "deepstack": [{"unused_layers": 9}]}, "leave layers"),
    ({"projector": {}, "attention": {"heads": 3, "image_window": 7}}, "nothing else"),
    ({"projector": {}, "input": PLAIN, "attention": {"heads": 3, "image_window": 2}}, "do not divide"),
    ({"projector": {}, "input": PLAIN, "position": {"kind": "relative"}, "attention": {"heads": 3, "image_window": 7}},
     "positions of its own"),
    ({"projector": {"average": True, "merge": 2}}, "not both"),
    ({"projector": {"hidden": [{"width": 3, "gated": True, "activation": "silu", "norm": {}}]}}, "has none"),
    ({"projector": {"unused_layers": 2, "feature_layers": [1]}}, "must not be less than unused_layers"),
    ({"projector": {"feature_layers": [3]}}, "leave layers"),
    ({"projector": {"hidden": [{"width": 3, "softmax": True, "activation": "relu"}]}}, "in place of an activation"),
    ({"projector": {}, "input": {**IMAGE, "normed": True}}, "patches alone"),
    ({"projector": {}, "input": PLAIN, **merging({})}, "do not divide an image's 7 x 7"),
    ({"projector": {}, **merging({"merge": 7})}, "patches and nothing else"),
    ({"projector": {}, "input": PLAIN, **merging({"merge": 7}, repeat=2)}, "stand once"),
    ({"projector": {}, "input": PLAIN, **merging({"merge": 7}, residual="sequential")}, "stands alone"),
    ({"projector": {}, "input": PLAIN, "pooler": READING, **merging({"merge": 7, "width": 9})}, "keeps its width"),
    ({"projector": {}, "input": PLAIN, **merging({"merge": 7, "heads": 4})}, "does not divide 15"),
])
def test_a_projector_that_cannot_be_is_refused(tower: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        spec(**tower)
    assert not isinstance(caught.value, FieldError)


def test_larger_images_have_more_positions() -> None:
    tokens = [spec(input={**PLAIN, "image": side}, projector={"merge": 2}).tower for side in (29, 32, 64)]
    assert [tower.projector.tokens for tower in tokens if tower and tower.projector] == [9, 16, 64]


def test_deepstack_is_one_line_of_the_breakdown() -> None:
    from txcalc.answer.report import count
    from txcalc.show.where import shares

    seeing = spec(input=PLAIN, projector={}, deepstack=[{"unused_layers": 1}, {}])
    titles = [share.title for share in shares(count(seeing, Workload(seq=64, images=1)))]
    assert "tower projector" in titles and "tower deepstack × 2" in titles
