"""The skeleton of encoders of text: a row says by keyword arguments what sets a family apart from BERT.

Read off the forward pass of the transformers class of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from txcalc.huggingface.build import Data, as_wide, groups_of, labels, rope
from txcalc.huggingface.config import Config
from txcalc.huggingface.rows import (
    LAYERNORM,
    LEARNED,
    Family,
    Only,
    Part,
    Reader,
    Value,
    activation,
    passed_over,
    plain,
    read,
    size,
)
from txcalc.spec.errors import shown

# ---------------------------------------------------------------- heads

NONE: Final[Data] = {"kind": "none"}
"""The hidden states are the output."""


def classifier(classes: Value = labels, of: Value = "first", **more: Value) -> Data:
    """A linear layer to so many classes."""
    return {"kind": "classifier", "labels": classes, "of": of, **more}


def dense(act: Value, *, norm: Value = None, bias: Value = True) -> Data:
    """A dense layer and an activation before an output."""
    return {"activation": act, "bias": bias, "norm": norm}


def lm(*, two_biases: bool = False, bias: Value = True, **more: Value) -> Reader:
    """A projection to the vocabulary, which may share the token table.

    ``two_biases``: untied, the class keeps a second bias that nothing reads.
    """
    def head(c: Config) -> Part:
        tied = c.flag("tie_word_embeddings")
        return {"kind": "lm", "tied": tied, "bias": bias, "unused_bias": two_biases and not tied, **more}
    return head


ACT: Final = activation("hidden_act")


def masked_lm(act: Value, *, two_biases: bool = False) -> Reader:
    """BERT's output: dense, activation, norm, and a biased projection that shares the token table."""
    return lm(two_biases=two_biases, transform=dense(act, norm=LAYERNORM))


Heads = dict[str, Value]
"""By the kind of a class: its head, and the pooler before it, as fields of the model."""

EACH: Final = {"head": classifier(of="all")}
BARE: Final[Heads] = {"none": {"head": NONE}, "token": EACH, "span": {
    "head": classifier(of=lambda c: "span" if labels(c) == 2 else "all")}}
"""The heads that are alike in all families, of models without a pooler."""
BERT: Final[Heads] = BARE | {
    "none": {"pooler": True, "head": NONE}, "sequence": {"pooler": True, "head": classifier()},
    "next": {"pooler": True, "head": classifier(2, undropped=True)}, "choice": {"pooler": True, "head": classifier(1)},
    "mlm": {"head": masked_lm(ACT, two_biases=True)},
    "pretraining": {"pooler": True, "head": lambda c: {**read(c, masked_lm(ACT, two_biases=True)), "pair_labels": 2}},
}
ROBERTA: Final[Heads] = BERT | {
    "mlm": {"head": masked_lm("gelu", two_biases=True)},  # whatever the layers' activation
    "sequence": {"head": classifier(transform=dense("tanh"))},
}


def pooled_where_classified(mlm: Reader) -> Heads:
    """BERT's heads, of models whose bare class has no pooler."""
    return BARE | {"mlm": {"head": mlm}, "sequence": BERT["sequence"]}


# ---------------------------------------------------------------- the skeleton

SUFFIXES: Final = {
    "none": "Model", "mlm": "ForMaskedLM", "sequence": "ForSequenceClassification", "token": "ForTokenClassification",
    "span": "ForQuestionAnswering", "choice": "ForMultipleChoice",
}


def encoder_classes(prefix: str, without: str = "", **more: str) -> dict[str, str]:
    """The classes that an encoder family usually has; ``more`` maps further suffixes to kinds of head.

    The bare model comes first: it is what a configuration without ``architectures`` stands for, as in the library.
    """
    usual = {suffix: kind for kind, suffix in SUFFIXES.items() if kind not in without.split()}
    return {f"{prefix}{suffix}": kind for suffix, kind in (usual | more).items()}


POST: Final[Data] = {**LAYERNORM, "placement": "post"}
NORMS_BEFORE: Final[Data] = {"norm": LAYERNORM, "final_norm": True}
HEADS: Final = size("num_attention_heads")
BODY: Final[Mapping[str, Value]] = {
    "architecture": "encoder-only", "vocab": size("vocab_size"), "d_model": size("hidden_size"),
    "layers": size("num_hidden_layers"), "context": size("max_position_embeddings"), "position": LEARNED, "norm": POST,
    "embedding_norm": True, "final_norm": False, "attention": {"heads": HEADS, "bias": True}, "feed_forward": plain(),
}
"""BERT's: learned positions, norms after each sublayer, biases everywhere."""
CROSSLESS: Final[Only] = {"add_cross_attention": False, "position_embedding_type": "absolute"}
SEES_ALL: Final[Only] = {**CROSSLESS, "is_decoder": False}


def encoder(
    classes: Mapping[str, str], heads: Heads, *, ignore: str = "", only: Only = SEES_ALL, **parts: Value
) -> Family:
    """A family of encoders, of BERT's shape but for ``parts``.

    ``ignore`` and ``only``: fields that change nothing, and those that must have some value to be understood.
    """
    def build(c: Config, kind: str) -> Data:
        passed_over(c, f"tie_word_embeddings {ignore}", only)  # without a masked-LM head there is nothing to tie
        return dict(read(c, {**BODY, **parts, **read(c, heads[kind])}))

    return Family(build, classes)


def split_width(c: Config) -> int:
    """Width of a head that is its share of the model's."""
    return c.size("hidden_size") // c.size("num_attention_heads")


def head_dim(c: Config) -> int:
    """Width of a head, which a file may say itself."""
    return c.size_or(split_width(c), "head_dim")


def share(c: Config) -> int:
    """The same, where all heads must be together as wide as the model."""
    return as_wide(c, c.size("num_attention_heads"), head_dim(c), c.size("hidden_size"))


def rotary(width: Reader = split_width) -> Reader:
    """Rotary positions on heads of this width."""
    return lambda c: rope(c, width(c))


def decodes(c: Config) -> str:
    """With ``is_decoder`` the same layers are a decoder, each position blind to what comes after it."""
    return "decoder-only" if c.flag("is_decoder", default=False) else "encoder-only"


def past_padding(c: Config) -> int:
    """Positions in a table that begins with rows for the padding index and all below it."""
    rows, padding = c.size("max_position_embeddings"), c.take("pad_token_id", default=1)
    if not isinstance(padding, int) or not 0 <= padding < rows - 1:
        raise c.error("pad_token_id", f"must be below max_position_embeddings - 1, got {shown(padding)}")
    return rows - padding - 1


def windows_in_blocks(c: Config, layers: str = "num_hidden_layers") -> list[Data]:
    """Longformer's windows, of an even number of positions, one for all layers or one for each, as groups."""
    number, given = c.size(layers), c.take("attention_window")
    each = given if isinstance(given, list) else [given] * number
    if len(each) != number or not all(type(window) is int and window > 0 and window % 2 == 0 for window in each):
        raise c.error("attention_window", f"must be even, one for all or one for each of {number} layers, got "
                      f"{shown(given)}")
    return groups_of([{"attention": {"blocks": {"length": window // 2}}} for window in each])


TYPES: Final = size("type_vocab_size")
TABLE: Final[Part] = {"kind": "learned", "size": size("max_position_embeddings")}
decoding = partial(encoder, only=CROSSLESS, architecture=decodes)
bert = partial(decoding, token_types=TYPES)
roberta = partial(bert, heads=ROBERTA, context=past_padding, position=TABLE)
_OF_POOLERS: Final = ("pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type "
                      "directionality")


