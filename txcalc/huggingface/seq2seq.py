"""Encoder-decoders: T5, BART and their descendants, Whisper.

Read off the forward pass of the transformers class of the same name; every function says what sets its family apart.
"""

from __future__ import annotations

from typing import Any

from txcalc.huggingface.build import ACTIVATIONS, Data, activation, labels, layered, layernorm, rms
from txcalc.huggingface.config import Config
from txcalc.huggingface.encoders import classifier, dense, no_head
from txcalc.huggingface.gemma import ROWS
from txcalc.spec.errors import shown


def seq2seq_classes(prefix: str, *, classifiers: bool = True) -> dict[str, str]:
    """The classes that an encoder-decoder family usually has."""
    found = {f"{prefix}ForConditionalGeneration": "lm", f"{prefix}Model": "none"}
    if classifiers:
        found |= {f"{prefix}ForSequenceClassification": "sequence", f"{prefix}ForQuestionAnswering": "span"}
    return found


def t5_classes(prefix: str) -> dict[str, str]:
    """T5's: some keep only the encoder."""
    return seq2seq_classes(prefix) | {f"{prefix}EncoderModel": "encoder", f"{prefix}ForTokenClassification": "token"}


def t5(c: Config, kind: str) -> Data:
    """T5 (arXiv 1910.10683) and v1.1: one bucketed bias per stack, RMSNorm, no biases, scores without a scale.

    ``tie_word_embeddings: false`` means what it says, as in the published weights; transformers 5 ties them all the
    same when it loads them.
    """
    return _t5(c, kind, per_layer=False)


def umt5(c: Config, kind: str) -> Data:
    """UMT5, arXiv 2304.09151: T5 v1.1 with a bias table in every layer."""
    return _t5(c, kind, per_layer=True)


def _t5(c: Config, kind: str, *, per_layer: bool) -> Data:
    c.only("is_decoder", False)
    if kind not in ("encoder", "token"):
        c.only("is_encoder_decoder", True)
    c.by_its_name("num_layers")
    layers, d = c.size("num_layers"), c.size("d_model", "hidden_size")
    position = {"kind": "relative", "buckets": c.size("relative_attention_num_buckets"),
                "max_distance": c.size("relative_attention_max_distance"), "per_layer": per_layer}
    decoder_layers = c.size_or(layers, "num_decoder_layers")
    tied = _t5_ties(c)
    body: Data = {
        "vocab": c.size("vocab_size"), "d_model": d, "context": c.size("n_positions", default=512),
        "position": position, "norm": rms(),
        "attention": {"heads": c.size("num_heads", "num_attention_heads"), "head_dim": c.size("d_kv", "head_dim"),
                      "scale": 1.0},
        "feed_forward": _t5_feed_forward(c),
    }
    if kind in ("encoder", "token"):
        head = no_head() if kind == "encoder" else classifier(labels(c), "all")
        return {"architecture": "encoder-only", "layers": layers, **body, "head": head}
    head = {"kind": "lm", "tied": tied} if kind == "lm" else _decoder_head(kind, labels(c))
    return {"architecture": "encoder-decoder", "layers": decoder_layers, "encoder": {"layers": layers}, **body,
            "head": head}


def _t5_ties(c: Config) -> bool:
    """Whether the head shares the token table. Since its fifth version, the library says so in the second field.

    There the first is always true, also beside the two tables of v1.1.
    """
    tied = c.flag("tie_word_embeddings", default=True) and c.flag("scale_decoder_outputs", default=True)
    if not tied:
        c.remarks.choices.append("the head is untied, as published; today's class ties it unless the weights differ")
    return tied


def switch_transformers(c: Config, kind: str) -> Data:
    """Switch Transformers, arXiv 2101.03961: T5 with one of many experts per token in every few layers.

    A token beyond an expert's capacity passes by it; the count takes every token to find room.
    """
    c.only("is_decoder", False)
    c.only("is_gated_act", False)
    c.only("feed_forward_proj", c.take("dense_act_fn"))
    c.ignore("expert_capacity", "router_dtype", "router_ignore_padding_tokens", "add_router_probs", "router_type",
             "batch_prioritized_routing")
    c.only("num_selected_experts", 1)
    feed = {"kind": "dense", "d_ff": c.size("d_ff"), "activation": activation(c, "dense_act_fn"), "gated": False}
    sparse = feed | {"kind": "moe", "experts": c.size("num_experts"), "active_experts": 1, "normalize": False,
                     "router_bias": c.flag("router_bias")}
    c.by_its_name("num_layers")
    layers, tied = c.size("num_layers"), c.flag("tie_word_embeddings")
    encoder = _every_few_sparse(c, "encoder", layers, feed, sparse)
    decoder = _every_few_sparse(c, "decoder", c.size_or(layers, "num_decoder_layers"), feed, sparse)
    body: Data = {
        "vocab": c.size("vocab_size"), "d_model": c.size("d_model"), "context": c.size("n_positions", default=512),
        "position": {"kind": "relative", "buckets": c.size("relative_attention_num_buckets"),
                     "max_distance": c.size("relative_attention_max_distance")},
        "norm": rms(), "attention": {"heads": c.size("num_heads"), "head_dim": c.size("d_kv"), "scale": 1.0},
    }
    if kind == "encoder":
        if not tied:
            raise c.error("tie_word_embeddings", "untied, an encoder alone keeps a second table that nothing reads")
        return {"architecture": "encoder-only", **body, **encoder, "head": no_head()}
    apart = {} if tied else {"source_vocab": c.size("vocab_size"), "unread_table": True}
    head = {"kind": "lm", "tied": tied} if kind == "lm" else no_head()
    return {"architecture": "encoder-decoder", **apart, **body, **decoder, "encoder": encoder, "head": head}


def _every_few_sparse(c: Config, stack: str, layers: int, dense_one: Data, sparse_one: Data) -> Data:
    """The second layer of every ``step`` is sparse: also where the file asks for none, as the class has it."""
    number, name = c.take(f"num_sparse_{stack}_layers"), f"{stack}_sparse_step"
    if not isinstance(number, int) or number < 0:
        raise c.error(f"num_sparse_{stack}_layers", f"must be a whole number, got {shown(number)}")
    step = c.data.get(name, layers // number if number else layers)  # a step in the file wins
    c.ignore(name)
    if not isinstance(step, int) or step < 0:
        raise c.error(name, f"must be a whole number, got {shown(step)}")
    which = [step > 0 and (step == 1 or i % step == 1) for i in range(layers)]
    return layered({"feed_forward": dense_one}, [{"feed_forward": sparse_one} if one else {} for one in which])


def _t5_feed_forward(c: Config) -> Data:
    """``feed_forward_proj``: ``relu``, ``gated-gelu``, …"""
    text = c.take("feed_forward_proj")
    gated, _, act = text.rpartition("-") if isinstance(text, str) else ("?", "", "")
    if gated not in ("", "gated") or act not in ACTIVATIONS:
        raise c.error("feed_forward_proj", f"{shown(text)} is not known")
    act = "gelu_new" if text == "gated-gelu" else act
    c.only("is_gated_act", gated == "gated")
    c.only("dense_act_fn", act)
    return {"d_ff": c.size("d_ff", "intermediate_size"), "activation": ACTIVATIONS[act], "gated": gated == "gated"}


def _decoder_head(kind: str, classes: int) -> Data:
    """On the decoder's last position, through a dense layer, or on all of its positions."""
    if kind == "sequence":
        return classifier(classes, transform=dense("tanh"))
    return no_head() if kind == "none" else classifier(classes, "all")


def bart(c: Config, kind: str) -> Data:
    """BART, arXiv 1910.13461: norms after each sublayer and on the embeddings, two rows more than positions."""
    named = "id2label" in c.data or "num_labels" in c.data
    return _bart(c, kind, extra_rows=2, placement="post", embedding_norm=True, classes=labels(c) if named else 3)


def mbart(c: Config, kind: str) -> Data:
    """mBART, arXiv 2001.08210: BART with norms before each sublayer and one at the end of each stack."""
    return _bart(c, kind, extra_rows=2, placement="pre", embedding_norm=True)


def blenderbot(c: Config, kind: str) -> Data:
    """Blenderbot, arXiv 2004.13637: norms before each sublayer, one at the end of each stack."""
    return _bart(c, kind, placement="pre")


def pegasus(c: Config, kind: str) -> Data:
    """PEGASUS, arXiv 1912.08777: norms before each sublayer, sines and cosines as frozen parameters."""
    return _bart(c, kind, placement="pre", learned=False)


def m2m_100(c: Config, kind: str) -> Data:
    """M2M-100 (arXiv 2010.11125) and NLLB-200 (arXiv 2207.04672): norms before, sines that are no parameters."""
    return _bart(c, kind, placement="pre") | {"position": {"kind": "sinusoidal"}}


def blenderbot_small(c: Config, kind: str) -> Data:
    """Blenderbot's smallest: norms after each sublayer and on the embeddings, as many rows as positions."""
    return _bart(c, kind, placement="post", embedding_norm=True)


def plbart(c: Config, kind: str) -> Data:
    """PLBART, arXiv 2103.06333: BART for programs."""
    return _bart(c, kind, extra_rows=2, placement="post", embedding_norm=True)


def mvp(c: Config, kind: str) -> Data:
    """MVP, arXiv 2206.12131: BART. Its prompts for every layer are refused: the class builds none, whatever it says."""
    c.only("use_prompt", False)
    c.ignore("prompt_length", "prompt_mid_dim")
    return _bart(c, kind, extra_rows=2, placement="post", embedding_norm=True)


def fsmt(c: Config, kind: str) -> Data:
    """FSMT, arXiv 1907.06616: Marian with a vocabulary for each language, and rows for padding before the positions.

    ``tie_word_embeddings: false`` means what the class makes of it: an output of its own.
    """
    c.ignore("langs", "decoder", "force_bos_token_to_be_generated")
    c.only("is_encoder_decoder", True)
    source, target, context = c.size("src_vocab_size"), c.size("tgt_vocab_size"), c.size("max_position_embeddings")
    tied, padding = c.flag("tie_word_embeddings"), c.take("pad_token_id", default=1)
    if tied and source != target:
        raise c.error("tie_word_embeddings", f"one table cannot have both {source} and {target} rows")
    if not isinstance(padding, int) or padding < 0:
        raise c.error("pad_token_id", f"must be a row of the positions, got {shown(padding)}")
    return {
        "architecture": "encoder-decoder", "vocab": target, **({} if tied else {"source_vocab": source}),
        "d_model": c.size("d_model"), "context": context,
        "position": {"kind": "sinusoidal", "stored": True, "size": context + padding + 1},
        "norm": layernorm(placement="post"), "final_norm": False,
        "embedding_scale": c.flag("scale_embedding", default=True),
        **_two_stacks(c), "head": {"kind": "lm", "tied": tied},
    }


def marian(c: Config, kind: str) -> Data:
    """Marian, the OPUS-MT models: the original Transformer; source and target may have vocabularies of their own."""
    shared = c.flag("share_encoder_decoder_embeddings")
    source = c.size("vocab_size")
    target = c.size_or(source, "decoder_vocab_size")
    if shared and target != source:
        raise c.error("decoder_vocab_size", f"shared embeddings of {source} rows, but {target} here")
    spec = _bart(c, kind, placement="post", learned=False, shared_tables=shared)
    return spec if shared else spec | {"vocab": target, "source_vocab": source}


def _bart(
    c: Config, kind: str, *, placement: str, extra_rows: int = 0, learned: bool = True, embedding_norm: bool = False,
    shared_tables: bool = True, classes: int | None = None,
) -> Data:
    """Two stacks with their own depth, heads and width, and biases everywhere.

    Untied, each stack has a token table of its own, and ``shared`` is a third one that nothing reads.
    """
    c.ignore("classif_dropout", "save_step", "force_bos_token_to_be_generated", "extra_layer_norm",
             "layernorm_variant", "do_blenderbot_90_layernorm", "adaptor_activation_function", "adaptor_dropout",
             "adaptor_hidden_size", "adaptor_init_std", "max_new_tokens", "encoder_emd_tok_dim", "decoder_emd_tok_dim")
    c.only("is_decoder", False)
    tied = c.flag("tie_word_embeddings")
    apart = {"source_vocab": c.size("vocab_size"), "unread_table": True} if shared_tables and not tied else {}
    context = c.size("max_position_embeddings")
    position = {"kind": "learned", "size": context + extra_rows} if learned else {
        "kind": "sinusoidal", "stored": True, "size": context}
    count = 2 if kind == "span" else classes or labels(c)  # a span's two ends, whatever the file says
    return {
        "architecture": "encoder-decoder", "vocab": c.size("vocab_size"), **apart, "d_model": c.size("d_model"),
        "context": context, "position": position, "norm": layernorm(placement=placement),
        "embedding_norm": embedding_norm, "final_norm": placement == "pre",
        "embedding_scale": c.flag("scale_embedding", default=False),
        **_two_stacks(c),
        "head": {"kind": "lm", "tied": tied} if kind == "lm" else _decoder_head(kind, count),
    }


def _two_stacks(c: Config, **attention: Any) -> Data:
    act = activation(c, "activation_function")

    def stack(name: str) -> Data:
        return {"layers": c.size(f"{name}_layers"),
                "attention": {"heads": c.size(f"{name}_attention_heads"), "bias": True, **attention},
                "feed_forward": {"d_ff": c.size(f"{name}_ffn_dim"), "activation": act, "bias": True}}

    return {**stack("decoder"), "encoder": stack("encoder")}


def whisper(c: Config, kind: str) -> Data:
    """Whisper, arXiv 2212.04356: spectrogram frames through two convolutions, no bias on keys."""
    c.ignore("classifier_proj_size", "median_filter_width", "use_weighted_layer_sum", "max_new_tokens",
             "alignment_heads", "lang_to_id", "task_to_id", "no_timestamps_token_id", "is_multilingual",
             "suppress_ids", "input_channels")
    sound = {"kind": "frames", "bins": c.size("num_mel_bins"), "length": c.size("max_source_positions")}
    tied = c.flag("tie_word_embeddings")
    stacks = _two_stacks(c, bias={"q": True, "k": False, "v": True, "o": True})
    stacks["encoder"] |= {"input": sound, "position": {"kind": "sinusoidal", "stored": True}}
    return {
        "architecture": "encoder-decoder", "vocab": c.size("vocab_size"), "d_model": c.size("d_model"),
        "context": c.size("max_target_positions"), "position": {"kind": "learned"}, "norm": layernorm(),
        "embedding_scale": c.flag("scale_embedding", default=False), **stacks,
        "head": {"kind": "lm", "tied": tied} if kind == "lm" else no_head(),
    }


def t5gemma(c: Config, kind: str) -> Data:
    """T5Gemma, arXiv 2504.06225: two Gemma 2 stacks, each with a token table of its own, of which one sees everything.

    The encoder's window reaches as far to either side as the decoder's does back.
    """
    c.only("is_encoder_decoder", True)
    c.ignore("vocab_size", "classifier_dropout_rate", "initializer_range")
    source, target = (c.section(name, "t5_gemma_module") for name in ("encoder", "decoder"))
    for part in (source, target):
        part.only("model_type", "t5_gemma_module")
        part.ignore("classifier_dropout_rate", "tie_word_embeddings", "cross_attention_hidden_size")
    gemma2 = ROWS["gemma2"].build
    encoder, spec = gemma2(source, "none"), gemma2(target, "lm" if kind == "lm" else "none")
    if encoder["d_model"] != spec["d_model"]:
        raise source.error("hidden_size", f"{encoder['d_model']}, but the decoder has {spec['d_model']}: stacks of "
                           "different widths are not understood")
    source.finish()
    target.finish()
    head: Data = classifier(labels(c), "all") if kind == "all" else spec["head"]
    if kind == "lm":
        head |= {"tied": c.flag("tie_word_embeddings")}
    c.ignore("tie_word_embeddings")
    own = ("layers", "groups", "position", "norm", "attention", "feed_forward")
    stack = {name: encoder[name] for name in own if name in encoder}
    return spec | {"architecture": "encoder-decoder", "source_vocab": encoder["vocab"], "encoder": _both_ways(stack),
                   "head": head}


def _both_ways(stack: Any) -> Any:
    """Windows as wide as those of a stack that sees what comes after as far as what came before."""
    if isinstance(stack, dict):
        return {name: 2 * value + 1 if name == "window" else _both_ways(value) for name, value in stack.items()}
    return [_both_ways(item) for item in stack] if isinstance(stack, list) else stack
