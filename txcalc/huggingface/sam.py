"""Models that see by SAM's encoder (arXiv 2304.02643): windows, some layers that see the whole image, a neck."""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.build import Data, groups_of
from txcalc.huggingface.config import Config
from txcalc.huggingface.multimodal import seeing
from txcalc.huggingface.rows import Family, Part, Rows, plain, size
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
    position: Data = {"kind": "learned"} if absolute else {"kind": "none"}
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


def narrowed(tower: Data, *widths: int) -> Data:
    """The same behind a neck with convolutions of stride 2 to these widths."""
    *groups, last = tower["groups"]
    made = [*last["blocks"][-1]["recurrent"]["layers"], *({"channels": width, "stride": 2} for width in widths)]
    return {**tower, "groups": [*groups, {"blocks": [_convolved(made)]}]}


def _got(prefix: str, model_type: str) -> Family:
    """A quarter of the positions along either side, through one layer."""
    def projector(c: Config, text: Data, tower: Data) -> Part:
        out = tower["groups"][-1]["blocks"][-1]["recurrent"]["layers"][-1]["channels"]
        tower |= narrowed(tower, 2 * out, text["d_model"])
        return {"bias": True}

    return seeing(prefix, "qwen2", f"{model_type}_vision", projector, only_tower=True, ignore="image_seq_length",
                  family=Family(sam_tower, {}), parts=(f"{model_type}_vision",))


ROWS: Final[Rows] = {
    # GOT-OCR 2.0, arXiv 2409.01704, and PP-Chart2Table, which is of its classes.
    "got_ocr2": _got("GotOcr2", "got_ocr2"), "pp_chart2table": _got("GotOcr2", "pp_chart2table"),
}
