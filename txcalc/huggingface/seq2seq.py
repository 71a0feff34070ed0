"""Encoder-decoders: BART and its descendants, Whisper; a skeleton, and rows that say what sets a family apart.

Read off the forward pass of the transformers class of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from txcalc.huggingface.build import Data, groups_of, labels
from txcalc.huggingface.config import Config
from txcalc.huggingface.encoder import NONE, POST, Heads, classifier, dense, windows_in_blocks
from txcalc.huggingface.rows import (
    LAYERNORM,
    LEARNED,
    Family,
    Only,
    Part,
    Reader,
    Rows,
    Value,
    activation,
    flag,
    passed_over,
    read,
    size,
)
from txcalc.spec.errors import shown


def seq2seq_classes(prefix: str, without: str = "sequence span", *, alone: bool = True) -> dict[str, str]:
    """The classes that an encoder-decoder family usually has. ``alone``: one that is the decoder alone, among them."""
    suffixes = {"ForConditionalGeneration": "lm", "Model": "none", "ForSequenceClassification": "sequence",
                "ForQuestionAnswering": "span"}
    usual = {f"{prefix}{suffix}": kind for suffix, kind in suffixes.items() if kind not in without.split()}
    return {**usual, f"{prefix}ForCausalLM": "alone"} if alone else usual


ON_TOP: Final[Heads] = {
    "lm": {"kind": "lm", "tied": flag("tie_word_embeddings")}, "none": NONE, "span": classifier(2, "span"),
    "all": classifier(of="all"), "sequence": classifier(transform=dense("tanh")),
}
"""On the decoder's last position through a dense layer, or on all of its positions; of a span, its two ends."""

# ---------------------------------------------------------------- BART's kin


def source_vocab(c: Config) -> int | None:
    """Untied, each stack has a token table of its own."""
    return None if c.flag("tie_word_embeddings") else c.size("vocab_size")


def unread_table(c: Config) -> bool | None:
    """And ``shared`` is a third one that nothing reads."""
    return None if c.flag("tie_word_embeddings") else True


def _stack(name: str, number: str = "", /, **attention: Value) -> Data:
    """``number``: what stands before the names of numbers."""
    return {"layers": size(f"{number}{name}_layers"),
            "attention": {"heads": size(f"{number}{name}_attention_heads"), "bias": True, **attention},
            "feed_forward": {"d_ff": size(f"{name}_ffn_dim"), "activation": activation("activation_function"),
                             "bias": True}}


CONTEXT: Final = size("max_position_embeddings")
SINES: Final[Data] = {"kind": "sinusoidal", "stored": True, "size": CONTEXT}
"""Sines and cosines as frozen parameters."""
BEFORE: Final[Data] = {"norm": LAYERNORM, "final_norm": True}
AFTER: Final[Data] = {"norm": POST, "final_norm": False}
TWO_MORE: Final[Part] = {"kind": "learned", "size": lambda c: c.size("max_position_embeddings") + 2}
"""Two rows more than positions."""

BODY: Final[Mapping[str, Value]] = {
    "architecture": "encoder-decoder", "vocab": size("vocab_size"), "d_model": size("d_model"), "context": CONTEXT,
    "embedding_scale": flag("scale_embedding", default=False), **_stack("decoder"), "encoder": _stack("encoder")}
"""Two stacks with their own depth, heads and width, and biases everywhere."""


def encoder_decoder(
    classes: Mapping[str, str], *, ignore: str = "", only: Only | None = None, heads: Heads = ON_TOP, **parts: Value
) -> Family:
    """A family of two stacks, of BART's fields but for ``parts``."""
    def build(c: Config, kind: str) -> Data:
        alone = kind == "alone"
        passed_over(c, ignore, {**(only or {}), "is_decoder": (False, True)} if alone else only or {})
        spec = dict(read(c, {**BODY, **parts, "head": heads.get(kind, heads["lm"])}))
        return decoder_alone(spec) if alone else spec

    return Family(build, classes)


def decoder_alone(spec: Data) -> Data:
    """The decoder of two stacks, which keeps its attention to an encoder, and runs without."""
    own = {name: part for name, part in spec.items() if name not in ("encoder", "source_vocab", "unused_table")}
    return {"unread_memory": spec["d_model"], **own, "architecture": "decoder-only",
            "cross_attention": spec.get("cross_attention", spec["attention"])}


_OF_BART: Final = (
    "tie_word_embeddings classif_dropout save_step force_bos_token_to_be_generated extra_layer_norm layernorm_variant "
    "do_blenderbot_90_layernorm adaptor_activation_function adaptor_dropout adaptor_hidden_size adaptor_init_std "
    "max_new_tokens encoder_emd_tok_dim decoder_emd_tok_dim")


_bart: Final = partial(encoder_decoder, ignore=_OF_BART, only={"is_decoder": False}, source_vocab=source_vocab,
                       unused_table=unread_table)


def _read_positions(c: Config) -> Part:
    return TWO_MORE if c.flag("use_learned_position_embeddings") else {"kind": "sinusoidal"}


def _bart_labels(c: Config) -> int:
    return labels(c) if "id2label" in c.data or "num_labels" in c.data else 3


_like_bart: Final = partial(_bart, position=TWO_MORE, embedding_norm=True, **AFTER)


def _marian_vocab(c: Config) -> int:
    """The target's, where source and target have vocabularies of their own."""
    source = c.size("vocab_size")
    target = c.size_or(source, "decoder_vocab_size")
    if c.flag("share_encoder_decoder_embeddings") and target != source:
        raise c.error("decoder_vocab_size", f"shared embeddings of {source} rows, but {target} here")
    return target


def _if_shared(reader: Reader, otherwise: Value = None) -> Reader:
    return lambda c: read(c, reader if c.flag("share_encoder_decoder_embeddings") else otherwise)


def _fsmt_source(c: Config) -> int | None:
    source, target = c.size("src_vocab_size"), c.size("tgt_vocab_size")
    if not c.flag("tie_word_embeddings"):
        return source
    if source != target:
        raise c.error("tie_word_embeddings", f"one table cannot have both {source} and {target} rows")
    return None


def _fsmt_rows(c: Config) -> int:
    """Rows for padding before the positions."""
    padding = c.take("pad_token_id", default=1)
    if not isinstance(padding, int) or padding < 0:
        raise c.error("pad_token_id", f"must be a row of the positions, got {shown(padding)}")
    return c.size("max_position_embeddings") + padding + 1


_PROPHETS: Final = _stack("decoder", "num_")
_STREAMS: Final[Data] = {"streams": size("ngram"), "buckets": size("num_buckets")}


def _tied_alone(c: Config) -> Part:
    """A decoder alone that is untied would keep a second table, which nothing reads."""
    c.only("tie_word_embeddings", True)
    return {"kind": "lm", "tied": True}


_WHISPER: Final = {"bias": {"q": True, "k": False, "v": True, "o": True}}

def _seamless(prefix: str) -> Family:
    def build(c: Config, kind: str) -> Data:
        c.ignore(*(name for name in c.own if name.startswith(_OF_SPEECH)), *_UNHEARD.split())
        return family.build(c, kind)

    family = encoder_decoder({f"{prefix}ForTextToText": "lm"}, d_model=size("hidden_size"),
                             position={"kind": "sinusoidal"}, source_vocab=source_vocab, unused_table=unread_table,
                             **BEFORE)
    return Family(build, family.classes)


_OF_SPEECH: Final = ("speech_", "t2u_", "vocoder_", "unit_", "upsample_", "resblock_", "adaptor_", "num_conv_", "char_",
                     "var", "lang_", "spkr_", "max_", "num_adapter", "conv_depthwise", "left_chunk", "right_max")
_UNHEARD: Final = "add_adapter feature_projection_input_dim position_embeddings_type rotary_embedding_base"

def _staggered(c: Config) -> list[Data]:
    """Blocks of each layer's own, of which every second layer's begin half a block before."""
    length, staggers = c.size("block_size"), c.flag("stagger_local_blocks")
    if staggers and length % 2:
        raise c.error("block_size", f"{length} is odd: staggered blocks need halves")
    tokens = c.size("num_global_tokens")
    for name, number in (("block_size", length), ("num_global_tokens", tokens)):
        if number == 1:  # ``torch.einsum`` over one key is no product of matrices
            raise c.error(name, "must be more than 1: what the class multiplies for a single one is not understood")
    own = {"length": length, "reach": "own", "global_tokens": tokens}
    return groups_of([{"attention": {"blocks": own | {"staggered": staggers and i % 2 == 1}}}
                      for i in range(c.size("encoder_layers"))])


OF_ROUTING: Final = "expert_capacity router_dtype router_ignore_padding_tokens batch_prioritized_routing"


def _nllb_experts(stack: str) -> Reader:
    """Two of many experts per token in the last of every few layers; as for Switch, every token finds room."""
    feed = _stack(stack)["feed_forward"]
    moe = {**feed, "kind": "moe", "gated": False, "experts": size("num_experts"), "active_experts": 2,
           "router_bias": flag("router_bias")}

    def groups(c: Config) -> list[Data]:
        step, kinds = c.size(f"{stack}_sparse_step", least=0), (read(c, feed), read(c, moe))
        return groups_of([{"feed_forward": kinds[bool(step) and i % step == step - 1]}
                          for i in range(c.size(f"{stack}_layers"))])
    return groups


# ---------------------------------------------------------------- rows

ROWS: Final[Rows] = {
    # PEGASUS-X, arXiv 2208.04347: an encoder of blocks, in every second layer staggered, and tokens that see all.
    "pegasus_x": _bart(
        seq2seq_classes("PegasusX", alone=False), position={"kind": "sinusoidal"}, **BEFORE, ignore=f"{_OF_BART} d_kv",
        attention={"heads": size("decoder_attention_heads"), "bias": False}, encoder=_stack("encoder", bias=False) | {
            "groups": _staggered}),
    # BART, arXiv 1910.13461: norms after each sublayer and on the embeddings.
    "bart": _like_bart(seq2seq_classes("Bart", without=""), heads=ON_TOP | {
        "sequence": classifier(_bart_labels, transform=dense("tanh"))}),
    # mBART, arXiv 2001.08210: BART with norms before each sublayer and one at the end of each stack.
    "mbart": _bart(seq2seq_classes("MBart", without=""), position=TWO_MORE, embedding_norm=True, **BEFORE),
    # Blenderbot, arXiv 2004.13637; its smallest has norms after each sublayer and on the embeddings.
    "blenderbot": _bart(seq2seq_classes("Blenderbot"), position=LEARNED, **BEFORE),
    "blenderbot-small": _bart(seq2seq_classes("BlenderbotSmall"), position=LEARNED, embedding_norm=True, **AFTER),
    # PEGASUS, arXiv 1912.08777.
    "pegasus": _bart(seq2seq_classes("Pegasus"), position=SINES, **BEFORE),
    # M2M-100 (arXiv 2010.11125) and NLLB-200 (arXiv 2207.04672): sines that are no parameters.
    "m2m_100": _bart(seq2seq_classes("M2M100", alone=False), position={"kind": "sinusoidal"}, **BEFORE),
    # NLLB-MoE, arXiv 2207.04672: the same with experts.
    "nllb-moe": _bart(
        {"NllbMoeForConditionalGeneration": "lm", "NllbMoeModel": "none"}, position={"kind": "sinusoidal"}, **BEFORE,
        ignore=f"{_OF_BART} {OF_ROUTING} normalize_router_prob_before_dropping moe_eval_capacity_token_fraction "
        "moe_token_dropout", only={"second_expert_policy": ("all", "sampling")}, groups=_nllb_experts("decoder"),
        encoder=_stack("encoder") | {"groups": _nllb_experts("encoder")}),
    # SeamlessM4T, arXiv 2308.11596, from text to text: M2M-100. What it hears and says with is not built for that.
    "seamless_m4t": _seamless("SeamlessM4T"),
    "seamless_m4t_v2": _seamless("SeamlessM4Tv2"),
    # BigBird-PEGASUS, arXiv 2007.14062, where it attends to everything; blocks of sparse attention are refused.
    "bigbird_pegasus": _bart(
        seq2seq_classes("BigBirdPegasus", without=""), position=LEARNED, heads={
            **ON_TOP, "alone": {"kind": "lm", "tied": False}}, ignore=f"{_OF_BART} block_size num_random_blocks",
        only={"is_decoder": False, "attention_type": "original_full"},
        attention={"heads": size("decoder_attention_heads"), "bias": flag("use_bias")}, **BEFORE, encoder={
            **_stack("encoder"), "attention": {"heads": size("encoder_attention_heads"), "bias": flag("use_bias")}}),
    # TrOCR, arXiv 2109.10282: the decoder of a model that reads lines of text.
    "trocr": encoder_decoder({"TrOCRForCausalLM": "alone"}, position=_read_positions, **AFTER, encoder={},
                             embedding_norm=flag("layernorm_embedding"), ignore="is_decoder",
                             unread_memory=lambda c: c.size_or(c.size("d_model"), "cross_attention_hidden_size")),
    # PLBART, arXiv 2103.06333: BART for programs.
    "plbart": _like_bart(seq2seq_classes("PLBart", without="span")),
    # MVP, arXiv 2206.12131: BART. Its prompts are refused: the class builds none, whatever it says.
    "mvp": _like_bart(seq2seq_classes("Mvp", without=""), only={
        "is_decoder": False, "use_prompt": False}, ignore=f"{_OF_BART} prompt_length prompt_mid_dim"),
    # LED, arXiv 2004.05150: BART with Longformer's encoder; its QA and classification heads make tokens see everything.
    "led": encoder_decoder(
        {"LEDForConditionalGeneration": "lm", "LEDModel": "none"}, ignore="classifier_dropout",
        source_vocab=source_vocab, unused_table=unread_table, context=size("max_decoder_position_embeddings"),
        position=LEARNED, embedding_norm=True, **AFTER, encoder=_stack("encoder", unused=dict.fromkeys("qkv", 1)) | {
            "position": {"kind": "learned", "size": size("max_encoder_position_embeddings")},
            "groups": partial(windows_in_blocks, layers="encoder_layers")}),
    # ProphetNet, arXiv 2001.04063: streams beside the decoder's positions predict further ahead.
    "prophetnet": encoder_decoder(
        seq2seq_classes("ProphetNet"), ignore="relative_max_distance disable_ngram_loss eps",
        heads=ON_TOP | {"alone": _tied_alone}, d_model=size("hidden_size"), position=LEARNED, embedding_norm=True,
        only={"add_cross_attention": True, "is_encoder_decoder": (True, False)}, source_vocab=source_vocab,
        unused_table=unread_table, encoder=_stack("encoder", "num_"), cross_attention=_PROPHETS["attention"],
        **AFTER, **_PROPHETS | {"attention": {**_PROPHETS["attention"], "ahead": _STREAMS}}),
    # Marian, the OPUS-MT models: the original Transformer.
    "marian": _bart({"MarianMTModel": "lm", "MarianModel": "none"}, position=SINES, vocab=_marian_vocab,
                    source_vocab=_if_shared(source_vocab, size("vocab_size")), unused_table=_if_shared(unread_table),
                    **AFTER),
    # FSMT, arXiv 1907.06616: Marian with a vocabulary for each language. ``tie_word_embeddings: false`` means what
    # the class makes of it: an output of its own.
    "fsmt": encoder_decoder(
        {"FSMTForConditionalGeneration": "lm", "FSMTModel": "lm"}, only={"is_encoder_decoder": True},
        ignore="langs decoder force_bos_token_to_be_generated", vocab=size("tgt_vocab_size"), source_vocab=_fsmt_source,
        position={**SINES, "size": _fsmt_rows}, embedding_scale=flag("scale_embedding", default=True), **AFTER),
    # Whisper, arXiv 2212.04356: spectrogram frames through two convolutions, no bias on keys.
    "whisper": encoder_decoder(
        seq2seq_classes("Whisper"), ignore="tie_word_embeddings classifier_proj_size median_filter_width "
        "use_weighted_layer_sum max_new_tokens alignment_heads lang_to_id task_to_id no_timestamps_token_id "
        "is_multilingual suppress_ids input_channels", context=size("max_target_positions"), position=LEARNED,
        norm=LAYERNORM, **_stack("decoder", **_WHISPER), encoder=_stack("encoder", **_WHISPER) | {
            "input": {"kind": "frames", "bins": size("num_mel_bins"), "length": size("max_source_positions")},
            "position": {"kind": "sinusoidal", "stored": True}}),
}
