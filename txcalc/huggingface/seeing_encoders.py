"""Encoders of text that see, which retrievers of pages are: a tower, squares of its patches, and an encoder."""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.build import Data, labels
from txcalc.huggingface.config import Config
from txcalc.huggingface.multimodal import family_of, image_tower, part_of, whole_squares
from txcalc.huggingface.rows import RMS, Family, Rows, Value


def seeing_encoder(prefix: str, text: str, **more: Value) -> Family:
    """An encoder of text that sees, by squares of patches through one layer; ``more``: other fields of the projector.

    What it says of its output itself stands for what the text's configuration says of it.
    """
    def build(c: Config, kind: str) -> Data:
        c.ignore("initializer_cutoff_factor", "classifier_bias")
        given, _ = part_of(c, "text_config", text, only=True)
        said = {name: c.take(name) for name in ("classifier_pooling", "tie_word_embeddings")}
        part = c.part("text_config", {**given.data, **said, "num_labels": labels(c)}, text)
        spec = family_of(part, text, (kind,)).build(part, kind)
        part.finish()
        tower, merge = image_tower(c, "siglip_vision_model"), c.size("pixel_shuffle_factor")
        whole_squares(c, "pixel_shuffle_factor", tower, merge)
        return {**spec, "tower": {**tower, "projector": {"merge": merge, **more}}}

    return Family(build, {f"{prefix}{suffix}": kind for suffix, kind in {
        "ForMaskedLM": "mlm", "Model": "none", "ForSequenceClassification": "sequence",
        "ForTokenClassification": "token"}.items()})


ROWS: Final[Rows] = {
    # ModernVBERT, arXiv 2510.01149; UltraVBERT norms the projected patches.
    "modernvbert": seeing_encoder("ModernVBert", "modernbert"),
    "ultravbert": seeing_encoder("UltraVBert", "ultrabert", final_norm=RMS),
}
