"""StepFun's models: Step 3.7, which sees."""

from __future__ import annotations

from typing import Any, Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, HEADS, decoder, experts
from txcalc.huggingface.layerwise import Pattern, layer_types, listed_sparse, sparse
from txcalc.huggingface.mixtures import rotated
from txcalc.huggingface.multimodal import head_of, part_of, seeing_classes
from txcalc.huggingface.rows import Family, Rows, gated, size, some
from txcalc.huggingface.staged import MERGES
from txcalc.huggingface.vision import patches, rotates_both_ways, vit_tower


def _none(c: Config, layers: int) -> list[bool]:
    return [False] * layers


def _listed(c: Config, layers: int) -> list[bool]:
    """Layers with experts: as older files list them in a text or a list, or all after the third."""
    given: Any = c.take("moe_layers_enum", default=None)
    if given is None:
        return [i >= 3 for i in range(layers)]
    chosen = {int(i) for i in (given.split(",") if isinstance(given, str) else given) if str(i).strip()}
    return [i in chosen for i in range(layers)]


def _sliding_heads(c: Config) -> int:
    other = c.take("attention_other_setting", default=None)
    usual = int(other.get("num_attention_heads", 0)) if isinstance(other, dict) else 0
    return c.size_or(usual or HEADS(c), "num_sliding_attention_heads")


_SPARSE: Final[Pattern] = listed_sparse(_listed)
_TEXT: Final = decoder(
    {}, qk_norm="head", attention={**GROUPED, "output_gate": True, "gate_over": "head", "gate_bias": "none"},
    position=rotated(full_attention=1.0, sliding_attention=1.0), feed_forward=gated(bias=False),
    only={"use_bidirectional_attention": (None, False), "mlp_bias": False},
    ignore="query_pre_attn_scalar moe_router_scaling_factor swiglu_limits swiglu_limits_shared "
           "num_nextn_predict_layers per_layer_config", layers=[
        layer_types("sliding_attention", _none, {"attention": {
            "window": some("sliding_window"), "heads": _sliding_heads}},
                    unread="sliding_window num_sliding_attention_heads attention_other_setting"),
        sparse(experts(routing="sigmoid-topk", normalize=True, shared_experts=1,
                       shared_d_ff=size("share_expert_dim")), _SPARSE)])


def _step3p7(c: Config, kind: str) -> Data:
    """Layers of a learned scale each, two convolutions of stride 2, and a layer."""
    text, _ = part_of(c, "text_config", "step3p5", only=True)
    image, _ = part_of(c, "vision_config", "step3p5_vision", only=True)
    for name in ("layer_types", "mlp_layer_types"):  # older files list layers that predict further tokens behind them
        if isinstance(listed := text.data.get(name), list):
            text.data[name] = listed[:text.size("num_hidden_layers")]
        if isinstance(text.data.get(f"mtp_{name}"), list):
            text.ignore(f"mtp_{name}")
    spec = _TEXT.build(text, "lm")
    tied = c.flag("tie_word_embeddings")
    text.ignore("tie_word_embeddings")
    text.finish()
    image.rename(width="hidden_size", layers="num_hidden_layers", heads="num_attention_heads")
    image.ignore("intermediate_size", "ls_init_value", "layer_scale_init_value", "max_position_embeddings")
    d = image.size("hidden_size")
    tower = vit_tower(image, embedding_norm=True, final_norm=False, layer_scale=True, input=patches(
        bias=False, class_tokens=0), feed_forward={
            "d_ff": int(d * image.factor("mlp_ratio")), "bias": True,
            "activation": vit_tower(image)["feed_forward"]["activation"]})
    rotates_both_ways(image, "num_attention_heads", d)
    image.finish()
    convolutions = [{"channels": width * d, "stride": 2, "bias": True} for width in (2, 4)]
    tower |= {"layers": tower["layers"] + 1, "groups": [{"blocks": [{"repeat": tower["layers"]}, {
        **MERGES, "recurrent": {"kind": "image-convolutions", "layers": convolutions}}]}]}
    return {**spec, "head": head_of(kind, tied), "tower": {**tower, "projector": {"bias": c.flag("projector_bias")}}}


ROWS: Final[Rows] = {
    "step3p7": Family(_step3p7, seeing_classes("Step3p7"), ("step3p5", "step3p5_vision")),
}
