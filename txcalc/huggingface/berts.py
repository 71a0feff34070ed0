"""Encoders of text that are BERT or RoBERTa with one or two things changed: where norms stand, what says positions.

Read off the forward pass of the transformers class of the same name; every function says what sets its family apart.
"""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.build import Data, activation, gated, grouped_query, labels, layernorm, rms, rope
from txcalc.huggingface.config import Config
from txcalc.huggingface.encoders import (
    ENCODER_SUFFIXES,
    bert,
    by_position,
    classifier,
    dense,
    encoder,
    lm,
    masked_lm,
    no_head,
    roberta,
)
from txcalc.spec.errors import shown

NORMS_BEFORE: Final = {"norm": layernorm(), "final_norm": True}
TRAINING_OF_XLM: Final = (
    "amp", "bptt", "clip_grad_norm", "context_size", "fp16", "group_by_size", "langs", "lg_sampling_factor", "lgs",
    "max_batch_size", "max_len", "mlm_steps", "sample_alpha", "tokens_per_batch", "word_blank", "word_dropout",
    "word_keep", "word_mask", "word_mask_keep_rand", "word_pred", "word_rand", "word_shuffle",
)
"""How FlauBERT was trained, which its files say as well."""


def single_text_classes(prefix: str, *more: str) -> dict[str, str]:
    """Of the classes that an encoder family usually has, the ones that newer families keep; ``more`` adds kinds."""
    kinds = ("none", "mlm", "sequence", "token", *more)
    return {f"{prefix}{suffix}": kind for suffix, kind in ENCODER_SUFFIXES.items() if kind in kinds}


def xlm_classes(prefix: str) -> dict[str, str]:
    """XLM's, less those with a beam search over spans or a summary of their own."""
    return {f"{prefix}Model": "none", f"{prefix}WithLMHeadModel": "mlm",
            f"{prefix}ForSequenceClassification": "sequence", f"{prefix}ForTokenClassification": "token",
            f"{prefix}ForQuestionAnsweringSimple": "span"}


def xlm_roberta_xl(c: Config, kind: str) -> Data:
    """XLM-RoBERTa XL, arXiv 2105.00572: norms before each sublayer and one at the end, none on the embeddings."""
    return roberta(c, kind) | NORMS_BEFORE | {"embedding_norm": False}


def roberta_prelayernorm(c: Config, kind: str) -> Data:
    """RoBERTa with norms before each sublayer, one at the end, and the one on the embeddings kept."""
    return roberta(c, kind) | NORMS_BEFORE


def megatron_bert(c: Config, kind: str) -> Data:
    """Megatron-LM's BERT, arXiv 1909.08053: norms before each sublayer and one at the end, none on the embeddings."""
    c.ignore("tokenizer_type")
    return bert(c, kind) | NORMS_BEFORE | {"embedding_norm": False}


def ernie(c: Config, kind: str) -> Data:
    """ERNIE 1.0 to 3.0 (arXiv 1907.12412): BERT, and from 2.0 on a table for the task that a text is of."""
    c.only("pool_act", "tanh")
    c.ignore("task_id", "paddlenlp_version")
    tasks = c.size("task_type_vocab_size")
    return bert(c, kind) | {"task_types": tasks if c.flag("use_task_id") else 0}


def big_bird(c: Config, kind: str) -> Data:
    """BigBird, arXiv 2007.14062, where it attends to everything; blocks of sparse attention are refused.

    Its other classes run a pooler whose vector nothing reads, so that it has no backward pass: they are not known.
    """
    c.only("attention_type", "original_full")
    c.ignore("block_size", "num_random_blocks")
    bias = c.flag("use_bias")
    attention = {"heads": c.size("num_attention_heads"), "bias": {"q": bias, "k": bias, "v": bias, "o": True}}
    return bert(c, kind) | {"attention": attention, "embedding_scale": c.flag("rescale_embeddings")}


def mpnet(c: Config, kind: str) -> Data:
    """MPNet, arXiv 2004.09297: RoBERTa with T5's bias by distance in one table for all layers, and no token types."""
    rows = c.size("max_position_embeddings")
    if rows < 3:
        raise c.error("max_position_embeddings", f"must be above 2, the rows that no position uses, got {rows}")
    position = {"kind": "relative", "buckets": c.size("relative_attention_num_buckets"), "absolute": rows}
    return encoder(c, _plain_head(c, kind, two_biases=True), context=rows - 2, position=position)


def _plain_head(c: Config, kind: str, *, two_biases: bool) -> Data:
    """RoBERTa's heads. ``two_biases``: untied, its masked-LM head keeps a second bias that nothing reads."""
    if kind == "mlm":
        return {"head": masked_lm(c, "gelu", two_biases=two_biases)}
    if kind == "sequence":
        return {"head": classifier(labels(c), transform=dense("tanh"))}
    found = by_position(c, kind)
    pooled = {"pooler": True} if kind in ("none", "choice") else {}
    return pooled | (found or {"head": classifier(1)})


def esm(c: Config, kind: str) -> Data:
    """ESM-1b and ESM-2, doi 10.1126/science.ade2574: proteins; norms before each sublayer and one at the end.

    Every class keeps a regression from all attention maps to contacts of residues, which has its own method to run.
    """
    c.only("is_folding_model", False, None)
    c.only("is_decoder", False)
    c.only("add_cross_attention", False)
    c.only("hidden_act", "gelu")
    c.ignore("token_dropout", "mask_token_id", "esmfold_config", "vocab_list", "tie_word_embeddings")
    width, heads, rows = c.size("hidden_size"), c.size("num_attention_heads"), c.size("max_position_embeddings")
    padding = c.take("pad_token_id")
    if c.choice("position_embedding_type", {"absolute": False, "rotary": True}):
        place = {"context": rows, "position": rope(c, width // heads)}
    elif isinstance(padding, int) and 0 <= padding < rows - 1:
        place = {"context": rows - padding - 1, "position": {"kind": "learned", "size": rows}}
    else:
        raise c.error("pad_token_id", f"must be below max_position_embeddings - 1, got {shown(padding)}")
    return {
        "architecture": "encoder-only", "vocab": c.size("vocab_size"), "d_model": width,
        "layers": c.size("num_hidden_layers"), **place, **NORMS_BEFORE,
        "embedding_norm": c.choice("emb_layer_norm_before", {True: True, False: False, None: False}),
        "attention": {"heads": heads, "bias": True},
        "feed_forward": {"d_ff": c.size("intermediate_size"), "activation": "gelu", "bias": True},
        "contact_head": True, **_plain_head(c, kind, two_biases=False),
    }


def eurobert(c: Config, kind: str) -> Data:
    """EuroBERT, arXiv 2503.05500: Llama without its mask; a classifier may average the logits of all positions."""
    c.ignore("bos_token", "eos_token", "pad_token", "mask_token")  # of the hub's older files, as is clf_pooling
    bias, heads = c.flag("mlp_bias"), c.size("num_attention_heads")
    width = c.size("hidden_size")
    head_dim = c.size_or(width // heads, "head_dim")
    if kind != "sequence":
        c.ignore("classifier_pooling", "clf_pooling")
        head = {"head": lm(c, two_biases=False) | {"bias": bias}} if kind == "mlm" else by_position(c, kind)
    else:
        of = c.choice("classifier_pooling", {"bos": "first", "mean": "mean", "late": "votes"})
        head = {"head": classifier(labels(c), of, transform=dense("gelu"))}
    c.ignore("tie_word_embeddings")
    return {
        "architecture": "encoder-only", "vocab": c.size("vocab_size"), "d_model": width,
        "layers": c.size("num_hidden_layers"), "context": c.size("max_position_embeddings"),
        "position": rope(c, head_dim), "norm": rms(),
        "attention": grouped_query(c, bias=c.flag("attention_bias")) | {"head_dim": head_dim},
        "feed_forward": gated(c, bias=bias), **(head or {}),
    }


def nomic_bert(c: Config, kind: str) -> Data:
    """Nomic BERT, arXiv 2402.01613: BERT with rotary positions, SwiGLU, and biases on norms alone; no pooler."""
    _nomic_of_gpt(c)
    width, heads = c.size("hidden_size"), c.size("num_attention_heads")
    head_dim = c.size_or(width // heads, "head_dim")
    if kind == "mlm":
        head: Data = {"head": masked_lm(c, activation(c, "hidden_act"), two_biases=True)}
    else:
        head = _pooled_where_classified(c, kind)
    return encoder(c, head, token_types=c.size("type_vocab_size"), position=rope(c, head_dim),
                   attention={"heads": heads, "head_dim": head_dim}, feed_forward=gated(c))


def _nomic_of_gpt(c: Config) -> None:
    """The names of GPT-2 in the files of Nomic's own code, and its switches, which the library's class lacks."""
    if "n_embd" not in c.data:
        return
    c.rename(n_embd="hidden_size", n_layer="num_hidden_layers", n_head="num_attention_heads",
             n_inner="intermediate_size", n_positions="max_position_embeddings")
    for name in ("prenorm", "causal", "parallel_block", "parallel_block_tied_norm", "use_rms_norm", "qkv_proj_bias",
                 "mlp_fc1_bias", "mlp_fc2_bias"):
        c.only(name, False)
    c.only("activation_function", "swiglu")
    c.only("rotary_emb_fraction", 1.0)
    c.only("num_experts", 0)
    c.only("add_pooling_layer", False)
    for name, whole in (("vocab_size", c.size("pad_vocab_size_multiple", default=1)), ("n_inner", 256)):
        if c.size(name) % whole:
            raise c.error(name, f"Nomic's code rounds it up to a multiple of {whole}: {shown(c.data[name])} is none")


def gte(c: Config, kind: str) -> Data:
    """GTE, arXiv 2407.19669: BERT with rotary positions and a gated feed-forward, of which the way down has a bias."""
    head = {"head": masked_lm(c, "gelu", two_biases=False)} if kind == "mlm" else _pooled_where_classified(c, kind)
    head_dim = c.size("hidden_size") // c.size("num_attention_heads")
    return encoder(c, head, token_types=c.take("type_vocab_size"), position=rope(c, head_dim),
                   feed_forward=gated(c, bias={"down": True}))


def _pooled_where_classified(c: Config, kind: str) -> Data:
    """BERT's heads, of models whose bare class has no pooler."""
    if kind == "sequence":
        return {"pooler": True, "head": classifier(labels(c))}
    return by_position(c, kind) or {"head": no_head()}


def jina_embeddings_v3(c: Config, kind: str) -> Data:
    """Jina Embeddings v3, arXiv 2409.10173: XLM-RoBERTa with rotary positions; its adapters are another package's."""
    head_dim = c.size("hidden_size") // c.size("num_attention_heads")
    return encoder(c, _plain_head(c, kind, two_biases=True), token_types=c.size("type_vocab_size"),
                   position=rope(c, head_dim))


def rembert(c: Config, kind: str) -> Data:
    """RemBERT, arXiv 2010.12821: a narrow table for tokens, and an untied and wide one for the output."""
    c.only("tie_word_embeddings", False)
    c.only("embedding_size", c.size("input_embedding_size"))
    c.ignore("embedding_dropout_prob")
    transform = dense(activation(c, "hidden_act"), norm=layernorm()) | {"width": c.size("output_embedding_size")}
    if kind == "mlm":
        head: Data = {"head": {"kind": "lm", "tied": False, "bias": True, "transform": transform}}
    elif kind == "sequence":
        head = {"pooler": True, "head": classifier(labels(c))}
    else:
        head = _plain_head(c, kind, two_biases=False)
    return encoder(c, head, decodes=True, token_types=c.size("type_vocab_size"),
                   embedding_dim=c.size("input_embedding_size"))


def xlm(c: Config, kind: str) -> Data:
    """XLM (arXiv 1901.07291) and FlauBERT (arXiv 1912.05372): a table of languages in place of token types.

    FlauBERT's larger models have their norms before each sublayer, and none at the end.
    """
    c.ignore("start_n_top", "end_n_top", "lang_id", "unk_index", "mask_index", "bos_index", "eos_index", "pad_index",
             "embed_init_std", "lang2id", "id2lang", "max_vocab", "min_count", "same_enc_dec", "tie_word_embeddings")
    c.ignore(*TRAINING_OF_XLM)
    c.only("is_encoder", True)
    c.only("encoder_only", True)
    c.only("asm", False)
    c.only("share_inout_emb", True)
    if kind == "mlm":
        head: Data = {"head": lm(c, two_biases=False)}
    elif kind == "sequence":
        _summary_is_a_classifier(c)
        head = {"head": classifier(labels(c))}
    else:
        head = by_position(c, kind) or {}
    languages, width = c.size("n_langs"), c.size("emb_dim")
    frozen = c.flag("sinusoidal_embeddings")
    act = "gelu" if c.flag("gelu_activation") else "relu"
    return {
        "architecture": "encoder-only", "vocab": c.size("vocab_size"), "d_model": width, "layers": c.size("n_layers"),
        "context": c.size("max_position_embeddings"), "causal_mask": c.flag("causal"),
        "position": {"kind": "sinusoidal", "stored": True} if frozen else {"kind": "learned"},
        "token_types": languages if c.flag("use_lang_emb") and languages > 1 else 0,
        "norm": layernorm(placement="pre" if c.flag("pre_norm", default=False) else "post"),
        "embedding_norm": True, "final_norm": False, "attention": {"heads": c.size("n_heads"), "bias": True},
        "feed_forward": {"d_ff": 4 * width, "activation": act, "bias": True}, **head,
    }


def _summary_is_a_classifier(c: Config) -> None:
    c.only("summary_type", "first")
    c.only("summary_use_proj", True)
    c.only("summary_proj_to_labels", True)
    c.only("summary_activation", None)
