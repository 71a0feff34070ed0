"""Encoders of text: BERT and its descendants.

Read off the forward pass of the transformers class of the same name; every function says what sets its family apart.
"""

from __future__ import annotations

from typing import Any, Final

from txcalc.huggingface.build import (
    ACTIVATIONS,
    Data,
    activation,
    labels,
    layer_types,
    layered,
    layernorm,
    plain,
    rope,
)
from txcalc.huggingface.config import Config
from txcalc.spec.errors import shown

ENCODER_SUFFIXES: Final = {
    "Model": "none", "ForMaskedLM": "mlm", "ForSequenceClassification": "sequence", "ForTokenClassification": "token",
    "ForQuestionAnswering": "span", "ForMultipleChoice": "choice",
}


def encoder_classes(prefix: str, **more: str) -> dict[str, str]:
    """The classes that an encoder family usually has; ``more`` maps further suffixes to kinds of head.

    The bare model comes first: it is what a configuration without ``architectures`` stands for, as in the library.
    """
    return {f"{prefix}{suffix}": kind for suffix, kind in (ENCODER_SUFFIXES | more).items()}


def no_head() -> Data:
    """The hidden states are the output."""
    return {"kind": "none"}


def classifier(classes: int, of: str = "first", **more: Any) -> Data:
    """A linear layer to ``classes``."""
    return {"kind": "classifier", "labels": classes, "of": of, **more}


def dense(act: str, *, norm: Data | None = None, bias: bool = True) -> Data:
    """A dense layer and an activation before an output."""
    return {"activation": act, "bias": bias, "norm": norm}


def masked_lm(c: Config, act: str, *, two_biases: bool) -> Data:
    """BERT's output: dense, activation, norm, and a biased projection that shares the token table.

    ``two_biases``: untied, the class keeps a second bias that nothing reads.
    """
    return lm(c, two_biases=two_biases) | {"transform": dense(act, norm=layernorm())}


def lm(c: Config, *, two_biases: bool) -> Data:
    """A biased projection to the vocabulary, which may share the token table."""
    tied = c.flag("tie_word_embeddings")
    return {"kind": "lm", "tied": tied, "bias": True, "unread_bias": two_biases and not tied}


def by_position(c: Config, kind: str) -> Data | None:
    """The heads that are alike in all families, as fields of the model."""
    if kind in ("token", "span"):
        return {"head": classifier(labels(c), "all")}
    return {"head": no_head()} if kind == "none" else None


def encoder(c: Config, head: Data, *, decodes: bool = False, **parts: Any) -> Data:
    """BERT's body: learned positions, norms after each sublayer, biases everywhere. ``parts`` win.

    ``decodes``: with ``is_decoder`` the same layers are a decoder, each position blind to what comes after it.
    """
    if not decodes:
        c.only("is_decoder", False)
    causal = c.flag("is_decoder", default=False)
    c.only("add_cross_attention", False)
    c.only("position_embedding_type", "absolute")
    c.ignore("tie_word_embeddings")  # without a masked-LM head there is nothing to tie
    return {
        "architecture": "decoder-only" if causal else "encoder-only",
        "vocab": c.size("vocab_size"),
        "d_model": c.size("hidden_size"),
        "layers": c.size("num_hidden_layers"),
        "context": c.size("max_position_embeddings"),
        "position": {"kind": "learned"},
        "norm": layernorm(placement="post"),
        "embedding_norm": True,
        "final_norm": False,
        "attention": {"heads": c.size("num_attention_heads"), "bias": True},
        "feed_forward": plain(c, c.size("intermediate_size")),
        **head,
        **parts,
    }


def bert(c: Config, kind: str) -> Data:
    """BERT, arXiv 1810.04805."""
    c.ignore("pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head",
             "pooler_type", "directionality")
    return encoder(c, _bert_head(c, kind), decodes=True, token_types=c.size("type_vocab_size"))


def bert_generation(c: Config, kind: str) -> Data:
    """BERT for generation, arXiv 1907.12461: no token types, no pooler, no dense layer before the output."""
    return encoder(c, {"head": no_head() if kind == "none" else lm(c, two_biases=True)}, decodes=True)


def _bert_head(c: Config, kind: str, *, pair_labels: int = 2) -> Data:
    pooled = {"pooler": True}
    if kind in ("mlm", "pretraining"):
        head = masked_lm(c, activation(c, "hidden_act"), two_biases=True)
        return {"head": head} if kind == "mlm" else pooled | {"head": head | {"pair_labels": pair_labels}}
    if kind == "none":
        return pooled | {"head": no_head()}
    classes = {"sequence": labels(c), "next": 2, "choice": 1}
    return pooled | {"head": classifier(classes[kind])} if kind in classes else _known(by_position(c, kind))


def _known(head: Data | None) -> Data:
    assert head is not None  # every kind of head that a family's classes name is built
    return head


def roberta(c: Config, kind: str) -> Data:
    """RoBERTa, arXiv 1907.11692: its position table begins with rows for the padding index and all below it."""
    if kind == "sequence":
        head: Data = {"head": classifier(labels(c), transform=dense("tanh"))}
    elif kind == "mlm":
        head = {"head": masked_lm(c, "gelu", two_biases=True)}  # whatever the layers' activation
    else:
        head = _bert_head(c, kind)
    rows, padding = c.size("max_position_embeddings"), c.take("pad_token_id", default=1)
    if not isinstance(padding, int) or not 0 <= padding < rows - 1:
        raise c.error("pad_token_id", f"must be below max_position_embeddings - 1, got {shown(padding)}")
    return encoder(c, head, decodes=True, token_types=c.size("type_vocab_size"), context=rows - padding - 1,
                   position={"kind": "learned", "size": rows})


def distilbert(c: Config, kind: str) -> Data:
    """DistilBERT, arXiv 1910.01108: no token types, no pooler, a dense layer in the classifier."""
    c.ignore("qa_dropout", "seq_classif_dropout", "tie_weights_", "tie_word_embeddings")
    d, act = c.size("dim", "hidden_size"), activation(c, "activation", "hidden_act")
    if kind == "mlm":
        head: Data = {"head": masked_lm(c, act, two_biases=False)}
    elif kind in ("sequence", "choice"):
        head = {"head": classifier(labels(c) if kind == "sequence" else 1, transform=dense("relu"))}
    else:
        head = _known(by_position(c, kind))
    stored = c.flag("sinusoidal_pos_embds")
    return {
        "architecture": "encoder-only", "vocab": c.size("vocab_size"), "d_model": d,
        "layers": c.size("n_layers", "num_hidden_layers"), "context": c.size("max_position_embeddings"),
        "position": {"kind": "sinusoidal", "stored": True} if stored else {"kind": "learned"},
        "norm": layernorm(placement="post"), "embedding_norm": True, "final_norm": False,
        "attention": {"heads": c.size("n_heads", "num_attention_heads"), "bias": True},
        "feed_forward": {"d_ff": c.size("hidden_dim", "intermediate_size"), "activation": act, "bias": True},
        **head,
    }


def albert(c: Config, kind: str) -> Data:
    """ALBERT, arXiv 1909.11942: a factorised embedding, and layers that share their weights."""
    c.ignore("gap_size", "net_structure_type", "num_memory_blocks", "down_scale_factor", "layers_to_keep")
    classes = labels(c) if kind == "pretraining" else 2
    spec = encoder(c, _bert_head(c, kind, pair_labels=classes), token_types=c.size("type_vocab_size"),
                   embedding_dim=c.size("embedding_size"))
    return _shared_layers(c, spec)


def _shared_layers(c: Config, spec: Data) -> Data:
    """``num_hidden_groups`` sets of ``inner_group_num`` layers, each set run as often as its share of the depth."""
    layers, groups, inner = spec["layers"], c.size("num_hidden_groups"), c.size("inner_group_num")
    turns = [0] * groups
    for i in range(layers):
        turns[int(i / (layers / groups))] += 1
    if 0 in turns:
        raise c.error("num_hidden_groups", f"{layers} layers leave a group unused")
    if groups == 1 and inner == 1:
        return spec | {"share_layers": True}
    runs = [{"repeat": times, "shared": True, "blocks": [{"repeat": inner}]} for times in turns]
    return spec | {"layers": layers * inner, "groups": runs}


def electra(c: Config, kind: str) -> Data:
    """ELECTRA, arXiv 2003.10555: a discriminator without pooler, or a generator with a narrow output."""
    act = activation(c, "hidden_act")
    if kind == "mlm":
        head = masked_lm(c, "gelu", two_biases=False)
    elif kind == "sequence":
        head = classifier(labels(c), transform=dense("gelu"))
    elif kind == "pretraining":
        head = classifier(1, "all", transform=dense(act))
    elif kind == "choice":
        c.only("summary_type", "first")
        c.only("summary_use_proj", True)
        c.only("summary_activation", "gelu")
        head = classifier(1, transform=dense("gelu"))
    else:
        head = _known(by_position(c, kind))["head"]
    d, width = c.size("hidden_size"), c.size("embedding_size")
    return encoder(c, {"head": head}, decodes=True, token_types=c.size("type_vocab_size"),
                   **({} if width == d else {"embedding_dim": width}))


def deberta(c: Config, kind: str) -> Data:
    """DeBERTa, arXiv 2006.03654: positions have projections of their own, no bias on keys."""
    c.only("talking_head", False)
    spec = _disentangled(c, kind)
    spec["attention"]["bias"] = {"q": True, "k": False, "v": True, "o": True}
    if c.flag("relative_attention"):
        spec["position"] |= {"buckets": _longest_distance(c), "shared_projections": False, "key_bias": False,
                             "clipped": True, "norm": False}
    return spec


def deberta_v2(c: Config, kind: str) -> Data:
    """DeBERTa-v2 and v3 (arXiv 2111.09543): distances in buckets, positions may share the projections of the words."""
    spec = _disentangled(c, kind) | _around_first_layer(c)
    buckets = c.take("position_buckets", default=-1)
    shared = c.flag("share_att_key", default=False)
    normed = "layer_norm" in [part.strip() for part in str(c.take("norm_rel_ebd", default="none")).lower().split("|")]
    if not c.flag("relative_attention"):
        if normed:
            raise c.error("norm_rel_ebd", "a norm of relative positions needs relative_attention")
        return spec
    if shared and len(spec["position"]["scores"]) != 2:
        raise c.error("pos_att_type", "with share_att_key, only c2p and p2c together are understood")
    distances = _longest_distance(c)
    spec["position"] |= {"buckets": buckets if isinstance(buckets, int) and buckets > 0 else distances,
                         "shared_projections": shared, "norm": normed}
    return spec


def _around_first_layer(c: Config) -> Data:
    """A convolution of the embeddings, added to what the first layer makes of them."""
    if c.take("conv_kernel_size", default=0) == 0:
        c.ignore("conv_act", "conv_groups")
        return {}
    c.only("conv_groups", 1)
    kernel, act = c.size("conv_kernel_size"), c.choice("conv_act", ACTIVATIONS, default="tanh")
    if kernel % 2 == 0:
        raise c.error("conv_kernel_size", "must be odd: an even one makes another length")
    others = c.size("num_hidden_layers") - 1
    first = {"convolution": {"kernel": kernel, "activation": act}}
    return {"groups": [{"blocks": [first, *([{"repeat": others}] if others else [])]}]}


def _disentangled(c: Config, kind: str) -> Data:
    """What both generations share. Without relative attention they are BERTs with or without positions."""
    c.ignore("pooler_dropout", "padding_idx", "cls_dropout", "legacy")
    d = c.size("hidden_size")
    for name in ("embedding_size", "pooler_hidden_size"):
        c.only(name, d)
    heads = c.size("num_attention_heads")
    c.only("attention_head_size", d // heads)
    types = c.take("type_vocab_size", default=0)
    spec = encoder(c, _deberta_head(c, kind), token_types=types)
    absolute = {"absolute": spec["context"]} if c.flag("position_biased_input") else {}
    if c.flag("relative_attention"):
        spec["position"] = {"kind": "disentangled", "scores": _scores(c), **absolute}
    else:
        c.ignore("max_relative_positions", "pos_att_type", "position_buckets", "share_att_key")
        spec["position"] = {"kind": "learned"} if absolute else {"kind": "none"}
    return spec


def _deberta_head(c: Config, kind: str) -> Data:
    pooler = {"activation": c.choice("pooler_hidden_act", ACTIVATIONS)}
    if kind == "mlm":
        if c.flag("legacy"):
            return {"head": masked_lm(c, activation(c, "hidden_act"), two_biases=True)}
        # The newer head reads the token table itself, tied or not.
        return {"head": {"kind": "lm", "tied": True, "bias": True,
                         "transform": dense(activation(c, "hidden_act"), norm=layernorm())}}
    if kind in ("sequence", "choice"):
        return {"pooler": pooler, "head": classifier(labels(c) if kind == "sequence" else 1)}
    return _known(by_position(c, kind))


def _scores(c: Config) -> list[str]:
    """``c2p`` and ``p2c``, from a list or from text such as ``p2c|c2p``."""
    given = c.take("pos_att_type", default=None) or []
    names = [part.strip() for part in given.lower().split("|")] if isinstance(given, str) else given
    if not isinstance(names, list) or any(name not in ("c2p", "p2c") for name in names):
        raise c.error("pos_att_type", f"only c2p and p2c are understood, got {shown(given)}")
    return [name for name in ("c2p", "p2c") if name in names]


def _longest_distance(c: Config) -> int:
    given = c.take("max_relative_positions", default=-1)
    return given if isinstance(given, int) and given >= 1 else c.size("max_position_embeddings")


def modernbert(c: Config, kind: str) -> Data:
    """ModernBERT, arXiv 2412.13663: rotary positions, GeGLU, local attention in two of three layers, no biases."""
    c.ignore("position_embedding_type")
    bias, normed = c.flag("attention_bias"), layernorm(bias=c.flag("norm_bias"))
    feed = {"d_ff": c.size("intermediate_size"), "activation": activation(c, "hidden_activation"), "gated": True,
            "bias": c.flag("mlp_bias")}
    spec: Data = {
        "architecture": "encoder-only", "vocab": c.size("vocab_size"), "d_model": c.size("hidden_size"),
        "layers": c.size("num_hidden_layers"), "context": c.size("max_position_embeddings"),
        "position": rope(c, c.size("hidden_size") // c.size("num_attention_heads")), "norm": normed,
        "embedding_norm": True,
        "attention": {"heads": c.size("num_attention_heads"), "bias": bias}, "feed_forward": feed,
        "head": _modernbert_head(c, kind, normed),
    }
    layers, every = spec["layers"], c.size("global_attn_every_n_layers", default=3)
    window = c.size("local_attention")
    default = ["sliding_attention" if i % every else "full_attention" for i in range(layers)]
    first, *others = [{"attention": {"window": window}} if kind == "sliding_attention" else {}
                      for kind in layer_types(c, layers, default)]
    first = {**first, "norm": {"on_attention": False}}  # the embedding's norm stands right before it
    groups = [{"blocks": [first]}]
    if others:
        groups += layered({}, others).get("groups") or [{"blocks": [{"repeat": len(others), **others[0]}]}]
    return spec | {"groups": groups}


def _modernbert_head(c: Config, kind: str, norm: Data) -> Data:
    act = c.choice("classifier_activation", ACTIVATIONS, default="gelu")
    transform = dense(act, norm=norm, bias=c.flag("classifier_bias"))
    tied, bias = c.flag("tie_word_embeddings"), c.flag("decoder_bias")
    if kind == "mlm":
        return {"kind": "lm", "tied": tied, "bias": bias, "transform": transform}
    if kind == "none":
        return no_head()
    if kind in ("token", "span"):
        return classifier(labels(c), "all", transform=transform)
    of = c.choice("classifier_pooling", {"cls": "first", "mean": "mean"}, default="cls")
    return classifier(labels(c) if kind == "sequence" else 1, of, transform=transform)
