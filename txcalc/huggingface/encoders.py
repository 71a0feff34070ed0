"""Encoders of text whose positions are apart from words, as in DeBERTa, or rotary, as in ModernBERT and its like.

Read off the forward pass of the transformers class of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from txcalc.huggingface.build import ACTIVATIONS, Data, groups_of
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED
from txcalc.huggingface.encoder import (
    ACT,
    BARE,
    HEADS,
    NONE,
    ROBERTA,
    SEES_ALL,
    TYPES,
    Heads,
    classifier,
    dense,
    encoder,
    encoder_classes,
    head_dim,
    lm,
    masked_lm,
    pooled_where_classified,
    rotary,
    share,
    split_width,
)
from txcalc.huggingface.layerwise import all_but, every, listed_kinds
from txcalc.huggingface.rows import (
    LAYERNORM,
    PLAIN_LAYERNORM,
    RMS,
    Family,
    Only,
    Part,
    Reader,
    Rows,
    Value,
    flag,
    gated,
    passed_over,
    size,
)
from txcalc.spec.errors import shown

# ---------------------------------------------------------------- positions apart from words: DeBERTa


def _disentangled(c: Config) -> Data:
    """Without relative attention they are BERTs with or without positions."""
    newer = c.model_type == "deberta-v2"
    placed = c.flag("position_biased_input")
    normed = newer and "layer_norm" in [part.strip() for part in str(
        c.take("norm_rel_ebd", default="none")).lower().split("|")]
    if not c.flag("relative_attention"):
        c.ignore("max_relative_positions", "pos_att_type", "position_buckets", "share_att_key")
        if normed:
            raise c.error("norm_rel_ebd", "a norm of relative positions needs relative_attention")
        return {"kind": "learned" if placed else "none"}
    scores, distances = _scores(c), c.take("max_relative_positions", default=-1)
    if not isinstance(distances, int) or distances < 1:
        distances = c.size("max_position_embeddings")
    found = {"kind": "disentangled", "scores": scores, "norm": normed,
             **({"absolute": c.size("max_position_embeddings")} if placed else {})}
    if not newer:
        return {**found, "buckets": distances, "shared_projections": False, "key_bias": False, "clipped": True}
    shared, buckets = c.flag("share_att_key", default=False), c.take("position_buckets", default=-1)
    if shared and len(scores) != 2:
        raise c.error("pos_att_type", "with share_att_key, only c2p and p2c together are understood")
    return {**found, "buckets": buckets if isinstance(buckets, int) and buckets > 0 else distances,
            "shared_projections": shared}


def _scores(c: Config) -> list[str]:
    """``c2p`` and ``p2c``, from a list or from text such as ``p2c|c2p``."""
    given = c.take("pos_att_type", default=None) or []
    names = [part.strip() for part in given.lower().split("|")] if isinstance(given, str) else given
    if not isinstance(names, list) or any(name not in ("c2p", "p2c") for name in names):
        raise c.error("pos_att_type", f"only c2p and p2c are understood, got {shown(given)}")
    return [name for name in ("c2p", "p2c") if name in names]


def _around_first_layer(c: Config) -> list[Data] | None:
    """A convolution of the embeddings, added to what the first layer makes of them."""
    if c.take("conv_kernel_size", default=0) == 0:
        c.ignore("conv_act", "conv_groups")
        return None
    c.only("conv_groups", 1)
    kernel, act = c.size("conv_kernel_size"), c.choice("conv_act", ACTIVATIONS, default="tanh")
    if kernel % 2 == 0:
        raise c.error("conv_kernel_size", "must be odd: an even one makes another length")
    others = c.size("num_hidden_layers") - 1
    first = {"convolution": {"kernel": kernel, "activation": act}}
    return [{"blocks": [first, *([{"repeat": others}] if others else [])]}]


def _deberta_lm(c: Config) -> Part | Reader:
    """The newer head reads the token table itself, tied or not."""
    return masked_lm(ACT, two_biases=True) if c.flag("legacy") else {
        "kind": "lm", "tied": True, "bias": True, "transform": dense(ACT, norm=LAYERNORM)}


_DEBERTA_POOLER: Final = {"activation": lambda c: c.choice("pooler_hidden_act", ACTIVATIONS)}
_deberta = partial(
    encoder, heads=BARE | {"mlm": {"head": _deberta_lm}, "sequence": {"pooler": _DEBERTA_POOLER, "head": classifier()},
                           "choice": {"pooler": _DEBERTA_POOLER, "head": classifier(1)}},
    ignore="pooler_dropout padding_idx cls_dropout legacy pooler_hidden_act",
    token_types=size("type_vocab_size", default=0, least=0), position=_disentangled)
_OF_DEBERTA: Final[Only] = {
    **SEES_ALL, "embedding_size": size("hidden_size"), "pooler_hidden_size": size("hidden_size"),
    "attention_head_size": split_width}


# ---------------------------------------------------------------- ModernBERT


def _local_layers(c: Config) -> list[Data]:
    """Local attention in two of three layers; the embedding's norm stands right before the first one's attention."""
    usual = all_but(every(size("global_attn_every_n_layers", default=3), first=0))
    slides = listed_kinds(c, "layer_types", c.size("num_hidden_layers"), usual, "full_attention", "sliding_attention")
    window = {"attention": {"window": c.size("local_attention")}}
    first, *others = [window if slid else {} for slid in slides]
    return [{"blocks": [{**first, "norm": {"on_attention": False}}]}, *(groups_of(others) if others else ())]


def _thirds_slide(c: Config) -> list[Data]:
    """Windows of so many positions to either side in two of three layers."""
    slides = listed_kinds(c, "layer_types", c.size("num_hidden_layers"), all_but(every(3)), "full_attention",
                          "sliding_attention")
    window = {"attention": {"window": 2 * c.size("sliding_window") + 1}}
    return groups_of([window if slid else {} for slid in slides])


_MODERN_NORM: Final[Part] = {**LAYERNORM, "bias": flag("norm_bias")}
_MODERN: Final[Mapping[str, Value]] = {"transform": dense(
    lambda c: c.choice("classifier_activation", ACTIVATIONS, default="gelu"), norm=_MODERN_NORM,
    bias=flag("classifier_bias"))}


def _modern_pooling(c: Config) -> Any:
    return c.choice("classifier_pooling", {"cls": "first", "mean": "mean"}, default="cls")


_MODERN_HEADS: Final[Heads] = {
    "none": {"head": NONE}, "token": {"head": classifier(of="all", **_MODERN)},
    "mlm": {"head": {"kind": "lm", "tied": flag("tie_word_embeddings"), "bias": flag("decoder_bias"), **_MODERN}},
    "span": {"head": classifier(of="all", **_MODERN)}, "sequence": {"head": classifier(of=_modern_pooling, **_MODERN)},
    "choice": {"head": classifier(1, _modern_pooling, **_MODERN)},
}

# ---------------------------------------------------------------- rotary BERTs


def _nomic(c: Config, kind: str) -> Data:
    """Nomic's files, of its own code too: under the names of GPT-2, with switches that the library's class lacks."""
    if "n_embd" in c.data:
        c.rename(n_embd="hidden_size", n_layer="num_hidden_layers", n_head="num_attention_heads",
                 n_inner="intermediate_size", n_positions="max_position_embeddings")
        switches = ("prenorm causal parallel_block parallel_block_tied_norm use_rms_norm qkv_proj_bias mlp_fc1_bias "
                    "mlp_fc2_bias add_pooling_layer")
        passed_over(c, "", {**dict.fromkeys(switches.split(), False), "activation_function": "swiglu",
                            "rotary_emb_fraction": 1.0, "num_experts": 0})
        for name, whole in (("vocab_size", c.size("pad_vocab_size_multiple", default=1)), ("n_inner", 256)):
            if c.size(name) % whole:
                raise c.error(name, f"Nomic's code rounds it up to a multiple of {whole}: {shown(c.data[name])} is "
                              "none")
    return _NOMIC.build(c, kind)


_NOMIC: Final = encoder(
    encoder_classes("NomicBert", without="span choice"), pooled_where_classified(masked_lm(ACT, two_biases=True)),
    token_types=TYPES, position=rotary(head_dim), feed_forward=gated(),
    attention={"heads": HEADS, "head_dim": head_dim})


ROWS: Final[Rows] = {
    # DeBERTa, arXiv 2006.03654: positions have projections of their own, no bias on keys.
    "deberta": _deberta(encoder_classes("Deberta", without="choice"), only={**_OF_DEBERTA, "talking_head": False},
                        attention={"heads": HEADS, "bias": {"q": True, "k": False, "v": True, "o": True}}),
    # DeBERTa-v2 and v3, arXiv 2111.09543: distances in buckets, positions may share the projections of the words.
    "deberta-v2": _deberta(encoder_classes("DebertaV2"), only=_OF_DEBERTA, groups=_around_first_layer),
    # ModernBERT, arXiv 2412.13663: rotary positions, GeGLU, no biases.
    "modernbert": encoder(
        encoder_classes("ModernBert"), _MODERN_HEADS, only={}, norm=_MODERN_NORM, final_norm=True,
        ignore="position_embedding_type decoder_bias classifier_bias classifier_pooling", position=rotary(),
        attention={"heads": HEADS, "bias": flag("attention_bias")}, groups=_local_layers,
        feed_forward=gated(bias=flag("mlp_bias"), act="hidden_activation")),
    # EuroBERT, arXiv 2503.05500: Llama without its mask; a classifier may average the logits of all positions.
    "eurobert": encoder(
        encoder_classes("EuroBert", without="span choice"), BARE | {
            "mlm": {"head": lm(bias=flag("mlp_bias"))},
            "sequence": {"head": classifier(transform=dense("gelu"), of=lambda c: c.choice(
                "classifier_pooling", {"bos": "first", "mean": "mean", "late": "votes"}))}},
        ignore="bos_token eos_token pad_token mask_token classifier_pooling", only={}, norm=RMS,
        final_norm=True, embedding_norm=False, position=rotary(head_dim), feed_forward=gated(bias=flag("mlp_bias")),
        attention={**GROUPED, "bias": flag("attention_bias"), "head_dim": head_dim}),
    # UltraBERT: EuroBERT with windows in two of three layers, and two dense layers before the output.
    "ultrabert": encoder(
        encoder_classes("Ultrabert", without="choice"), BARE | {
            "mlm": {"head": {"kind": "lm", "tied": flag("tie_word_embeddings"), "transform": {
                "activation": "gelu_tanh", "bias": False, "norm": None, "hidden": size("prediction_head_size")}}},
            "span": {"head": classifier(2, "span")}, "sequence": {"head": classifier(of=_modern_pooling)}},
        ignore="classifier_pooling mask_token pad_token attention_windows prediction_head_size", only={}, norm=RMS,
        final_norm=True, embedding_norm=False, position=rotary(head_dim), feed_forward=gated(bias=flag("mlp_bias")),
        groups=_thirds_slide,
        attention={**GROUPED, "bias": flag("attention_bias"), "head_dim": head_dim}),
    # ESM C: rotary positions, SwiGLU, norms over whole queries and keys; the last norm has no bias.
    "esmc": encoder(
        encoder_classes("Esmc", without="span choice"), BARE | {
            "mlm": {"head": {"kind": "lm", "tied": False, "bias": True, "transform": dense("gelu", norm=LAYERNORM)}},
            "sequence": ROBERTA["sequence"]}, only={}, norm=PLAIN_LAYERNORM, final_norm=True, embedding_norm=False,
        position=rotary(head_dim), feed_forward=gated(bias=flag("mlp_bias")),
        groups=lambda c: [{"blocks": [{"repeat": c.size("num_hidden_layers"), "norm": LAYERNORM}]}], attention={
            **GROUPED, "bias": flag("attention_bias"), "head_dim": share,
            "qk_norm": {**PLAIN_LAYERNORM, "over": "full"}}),
    # Nomic BERT, arXiv 2402.01613: rotary positions, SwiGLU, and biases on norms alone; no pooler.
    "nomic_bert": Family(_nomic, _NOMIC.classes),
    # GTE, arXiv 2407.19669: rotary positions and a gated feed-forward, of which the way down has a bias.
    "gte": encoder(
        encoder_classes("Gte", without="span choice"), pooled_where_classified(masked_lm("gelu")), position=rotary(),
        token_types=size("type_vocab_size", least=0), feed_forward=gated(bias={"down": True})),
    # Jina Embeddings v3, arXiv 2409.10173: XLM-RoBERTa with rotary positions; its adapters are another package's.
    "jina_embeddings_v3": encoder(encoder_classes("JinaEmbeddingsV3", without="choice"), ROBERTA, token_types=TYPES,
                                  position=rotary()),
}
