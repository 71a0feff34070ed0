"""Encoders of text that are BERT or RoBERTa with one or two things changed: where norms stand, what says positions.

Read off the forward pass of the transformers class of the same name; every function says what sets its family apart.
"""

from __future__ import annotations

from txcalc.spec.errors import shown
from txcalc.spec.huggingface.build import Data, layernorm
from txcalc.spec.huggingface.config import Config
from txcalc.spec.huggingface.encoders import (
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

NORMS_BEFORE = {"norm": layernorm(), "final_norm": True}


def some_classes(prefix: str, *suffixes: str) -> dict[str, str]:
    """Of the classes that an encoder family usually has, those for single texts; ``suffixes`` name the kinds left."""
    named = {"none": "Model", "mlm": "ForMaskedLM", "sequence": "ForSequenceClassification",
             "token": "ForTokenClassification", "span": "ForQuestionAnswering"}
    return {f"{prefix}{named[kind]}": kind for kind in ("none", "mlm", "sequence", "token", *suffixes)}


def xlm_roberta_xl(c: Config, kind: str) -> Data:
    """XLM-RoBERTa XL, arXiv 2105.00572: norms before each sublayer and one at the end, none on the embeddings."""
    return roberta(c, kind) | NORMS_BEFORE | {"embedding_norm": False}


def roberta_prelayernorm(c: Config, kind: str) -> Data:
    """RoBERTa with norms before each sublayer, one at the end, and the one on the embeddings kept."""
    return roberta(c, kind) | NORMS_BEFORE


def megatron_bert(c: Config, kind: str) -> Data:
    """Megatron-LM's BERT, arXiv 1909.08053: norms before each sublayer and one at the end, none on the embeddings."""
    return bert(c, kind) | NORMS_BEFORE | {"embedding_norm": False}
