"""Small models of every family but decoders, whose live bytes are followed through a step: see ``test_live``."""

from typing import Any

BERT: dict[str, Any] = {
    "name": "bert", "architecture": "encoder-only", "vocab": 101, "d_model": 24, "layers": 2, "context": 19,
    "token_types": 3, "position": {"kind": "learned"}, "embedding_norm": True, "norm": {"placement": "post"},
    "final_norm": False, "attention": {"heads": 3, "head_dim": 8, "bias": True},
    "feed_forward": {"d_ff": 40, "activation": "gelu", "bias": True}, "pooler": True, "head": {"kind": "none"},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "bert-masked-lm": BERT | {"pooler": None, "head": {"bias": True, "transform": {"activation": "gelu"}}},
    "bert-pretraining": BERT | {"head": {"bias": True, "transform": {"activation": "gelu"}, "pair_labels": 2}},
    "bert-classifier": BERT | {"head": {"kind": "classifier", "labels": 5}},
    "bert-tagger": BERT | {"pooler": None, "head": {"kind": "classifier", "labels": 5, "of": "all"}},
}
