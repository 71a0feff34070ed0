"""Models that see by SAM's encoder (arXiv 2304.02643): windows, some layers that see the whole image, a neck."""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.build import Data, groups_of
from txcalc.huggingface.captioning import captioner
from txcalc.huggingface.config import Config
from txcalc.huggingface.multimodal import image_tower, part_of, seeing
from txcalc.huggingface.rows import LAYERNORM, Family, Part, Rows, flag, plain, read, size
from txcalc.huggingface.staged import MERGES
from txcalc.huggingface.vision import attention, patches, qkv, side_of, vit_tower
from txcalc.spec.errors import shown


def sam_tower(c: Config, _: str = "none") -> Data:
    """Layers of windows that zeros fill up, with vectors of distances along both sides, and two convolutions."""
    c.ignore("num_pos_feats", "window_positions")
    layers, window, whole = c.size("num_hidden_layers"), c.size("window_size", least=0), c.take("global_attn_indexes")
    if not isinstance(whole, list) or not all(type(i) is int for i in whole):
        raise c.error("global_attn_indexes", f"must be a list of layers, counted from 0, got {shown(whole)}")
    rows = (side_of(c, "image_size") // side_of(c, "patch_size")) ** 2
    absolute, apart = c.flag("use_abs_pos"), c.flag("use_rel_pos")
    position: Data = {"kind": "learned", "size": rows} if absolute else {"kind": "none"}
    if apart:
        position = {"kind": "decomposed", "absolute": rows if absolute else None}
    tower = vit_tower(c, input=patches(class_tokens=0), position=position, final_norm=False,
                      attention=attention(qkv("qkv_bias")), feed_forward=plain(d_ff=size("mlp_dim")))
    own: Data = {"attention": {"image_window": window, "window_border": True}} if window else {}
    out = c.size("output_channels")
    neck = [{"channels": out, "kernel": 1, "norm": "layernorm"}, {"channels": out, "norm": "layernorm"}]
    return {**tower, "layers": layers + 1, "groups": [
        *groups_of([{} if i in whole else own for i in range(layers)]), {"blocks": [_convolved(neck)]}]}


def _convolved(layers: list[Data]) -> Data:
    return {**MERGES, "recurrent": {"kind": "image-convolutions", "layers": layers}}


def narrowed(tower: Data, *widths: int, layers: tuple[int, ...] = ()) -> Data:
    """The same behind a neck with convolutions of stride 2 to these widths, and ``layers`` of each position."""
    *groups, last = tower["groups"]
    made = [*last["blocks"][-1]["recurrent"]["layers"], *({"channels": width, "stride": 2} for width in widths),
            *({"channels": width, "kernel": 1, "bias": True} for width in layers)]
    return {**tower, "groups": [*groups, {"blocks": [_convolved(made)]}]}


def _got(prefix: str, model_type: str) -> Family:
    """A quarter of the positions along either side, through one layer."""
    def projector(c: Config, text: Data, tower: Data) -> Part:
        out = tower["groups"][-1]["blocks"][-1]["recurrent"]["layers"][-1]["channels"]
        tower |= narrowed(tower, 2 * out, text["d_model"])
        return {"bias": True}

    return seeing(prefix, "qwen2", f"{model_type}_vision", projector, only_tower=True, ignore="image_seq_length",
                  family=Family(sam_tower, {}), parts=(f"{model_type}_vision",))


def _formulanet(c: Config, kind: str) -> Data:
    """MBart's decoder, which reads what two convolutions and two layers make of SAM's."""
    image = image_tower(c, "pp_formulanet_vision", only=True, family=Family(_formulas, {}))
    text, _ = part_of(c, "text_config", "pp_formulanet_text", only=True)
    text.ignore("encoder_layers", "encoder_attention_heads", "decoder_layerdrop", "tie_word_embeddings",
                "num_hidden_layers", "num_attention_heads", "hidden_size")
    c.ignore("tie_word_embeddings")  # the class ties none
    rows = text.size("max_position_embeddings")
    spec = read(text, {
        "vocab": size("vocab_size"), "d_model": size("d_model"), "layers": size("decoder_layers"), "norm": LAYERNORM,
        "context": rows, "position": {"kind": "learned", "size": rows + 2}, "embedding_norm": True,
        "embedding_scale": flag("scale_embedding", default=True), "attention": {
            "heads": size("decoder_attention_heads"), "bias": True}, "feed_forward": plain(
                d_ff=size("decoder_ffn_dim"), act="activation_function"), "head": {"kind": "lm", "tied": False}})
    text.finish()
    if (made := image["groups"][-1]["blocks"][-1]["recurrent"]["layers"][-1]["channels"]) != spec["d_model"]:
        raise c.error("vision_config.decoder_hidden_size", f"must be the text's d_model {spec['d_model']}, got {made}")
    return captioner(image, spec)


def _formulas(c: Config, kind: str) -> Data:
    tower = sam_tower(c)
    c.only("post_conv_in_channels", c.size("output_channels"))
    out = c.size("post_conv_out_channels")
    return narrowed(tower, c.size("post_conv_mid_channels"), out, layers=(out, c.size("decoder_hidden_size")))


ROWS: Final[Rows] = {
    # PP-FormulaNet, arXiv 2503.18382.
    "pp_formulanet": Family(_formulanet, {"PPFormulaNetForConditionalGeneration": "lm"}, (
        "pp_formulanet_text", "pp_formulanet_vision")),
    # GOT-OCR 2.0, arXiv 2409.01704, and PP-Chart2Table, which is of its classes.
    "got_ocr2": _got("GotOcr2", "got_ocr2"), "pp_chart2table": _got("GotOcr2", "pp_chart2table"),
}
