"""Small models of every family but decoders, whose live bytes are followed through a step: see ``test_live``."""

from typing import Any

BERT: dict[str, Any] = {
    "name": "bert", "architecture": "encoder-only", "vocab": 101, "d_model": 24, "layers": 2, "context": 19,
    "token_types": 3, "position": {"kind": "learned"}, "embedding_norm": True, "norm": {"placement": "post"},
    "final_norm": False, "attention": {"heads": 3, "head_dim": 8, "bias": True},
    "feed_forward": {"d_ff": 40, "activation": "gelu", "bias": True}, "pooler": True, "head": {"kind": "none"},
}
T5: dict[str, Any] = {
    "name": "t5", "architecture": "encoder-decoder", "vocab": 101, "d_model": 22, "layers": 2, "context": 19,
    "position": {"kind": "relative", "buckets": 8}, "norm": {"kind": "rmsnorm"},
    "attention": {"heads": 3, "head_dim": 8, "scale": 1.0}, "feed_forward": {"d_ff": 40, "activation": "relu"},
}
BART: dict[str, Any] = {
    "name": "bart", "architecture": "encoder-decoder", "vocab": 101, "d_model": 24, "layers": 2, "context": 19,
    "position": {"kind": "learned", "size": 21}, "embedding_norm": True, "norm": {"placement": "post"},
    "final_norm": False, "attention": {"heads": 3, "head_dim": 8, "bias": True},
    "feed_forward": {"d_ff": 40, "activation": "gelu", "bias": True}, "head": {"kind": "none"},
}
VIT: dict[str, Any] = {
    "name": "vit", "architecture": "encoder-only", "d_model": 24, "layers": 2,
    "input": {"kind": "patches", "image": 12, "patch": 4}, "position": {"kind": "learned"},
    "attention": {"heads": 3, "head_dim": 8, "bias": True},
    "feed_forward": {"d_ff": 40, "activation": "gelu", "bias": True}, "head": {"kind": "classifier", "labels": 5},
}
WHISPER: dict[str, Any] = {
    "name": "whisper", "architecture": "encoder-decoder", "vocab": 101, "d_model": 24, "layers": 2, "context": 19,
    "position": {"kind": "learned"}, "feed_forward": {"d_ff": 40, "activation": "gelu", "bias": True},
    "attention": {"heads": 3, "head_dim": 8, "bias": {"q": True, "v": True, "o": True}},
    "encoder": {"input": {"kind": "frames", "bins": 7, "length": 11},
                "position": {"kind": "sinusoidal", "stored": True}},
}
DECODER: dict[str, Any] = {
    "name": "decoder", "vocab": 101, "d_model": 22, "layers": 2, "context": 19, "position": {"kind": "rope"},
    "norm": {"kind": "rmsnorm"}, "attention": {"heads": 6, "kv_heads": 2, "head_dim": 4},
    "feed_forward": {"d_ff": 41, "activation": "silu", "gated": True}, "head": {"tied": False},
}
HEADS = DECODER["attention"]
TOWER: dict[str, Any] = {
    "input": {"kind": "patches", "image": 8, "patch": 4, "class_tokens": 0}, "d_model": 16, "layers": 2,
    "position": {"kind": "learned"}, "attention": {"heads": 2, "head_dim": 8, "bias": True},
    "feed_forward": {"d_ff": 23, "activation": "gelu", "bias": True}, "final_norm": True,
    "projector": {"hidden": [{"width": 13, "activation": "gelu"}]},
}
VLM = DECODER | {"context": 29, "tower": TOWER}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "bert-masked-lm": BERT | {"pooler": None, "head": {"bias": True, "transform": {"activation": "gelu"}}},
    "bert-pretraining": BERT | {"head": {"bias": True, "transform": {"activation": "gelu"}, "pair_labels": 2}},
    "bert-classifier": BERT | {"head": {"kind": "classifier", "labels": 5}},
    "bert-tagger": BERT | {"pooler": None, "head": {"kind": "classifier", "labels": 5, "of": "all"}},
    "bert-spans": BERT | {"pooler": None, "head": {"kind": "classifier", "labels": 2, "of": "span"}},
    "last-classified": DECODER | {"head": {"kind": "classifier", "labels": 5, "bias": False, "of": "last",
                                            "padded": True}},
    "t5": T5,
    "t5-gated": T5 | {"feed_forward": {"d_ff": 40, "activation": "gelu_tanh", "gated": True}, "head": {"tied": False}},
    "t5-scaled": T5 | {"embedding_scale": True, "position": {"kind": "relative", "per_layer": True}},
    "bart": BART,
    "transformer": BART | {"position": {"kind": "sinusoidal"}, "embedding_norm": False, "embedding_scale": True,
                           "head": {}},
    "whisper": WHISPER,
    "vit": VIT,
    "vit-mean": VIT | {"input": {"kind": "patches", "image": 12, "patch": 4, "class_tokens": 0},
                       "head": {"kind": "classifier", "labels": 5, "of": "mean"}},
    "vit-normed": VIT | {"pooler": {"kind": "norm", "of": "mean"}},
    "vit-normed-all": VIT | {"pooler": {"kind": "norm", "of": "mean"},
                            "input": {"kind": "patches", "image": 12, "patch": 4, "class_tokens": 0}},
    "vit-both": VIT | {"head": {"kind": "classifier", "labels": 5, "of": "first+mean"}},
    "vit-votes": VIT | {"head": {"kind": "classifier", "labels": 5, "of": "votes"}},
    "vit-registers": VIT | {"input": {"kind": "patches", "image": 12, "patch": 4, "registers": 2, "mask_token": True}},
    "alibi": DECODER | {"position": {"kind": "alibi"}, "attention": {"heads": 3, "head_dim": 8}},
    "alibi-norm": DECODER | {"position": {"kind": "alibi"}, "embedding_norm": True},
    "chunk": DECODER | {"attention": HEADS | {"chunk": 3}},
    "inner-norm": DECODER | {"attention": HEADS | {"inner_norm": {"kind": "rmsnorm"}}},
    "value-norm": DECODER | {"attention": HEADS | {"value_norm": {"kind": "rmsnorm", "scale": False}}},
    "qk-norm-heads": DECODER | {"attention": HEADS | {"qk_norm": {"over": "heads"}}},
    "inner-norm-dense": DECODER | {"feed_forward": {"d_ff": 41, "activation": "silu", "inner_norm": {}}},
    "res-post": DECODER | {"norm": {"kind": "rmsnorm", "placement": "res-post"}},
    "shared-norm": DECODER | {"residual": "parallel", "norm": {"kind": "layernorm", "shared": True}},
    "plain-norm": DECODER | {"norm": {"kind": "layernorm", "scale": False, "bias": False}},
    "rms-bias": DECODER | {"norm": {"kind": "rmsnorm", "bias": True}},
    "layer-scale": DECODER | {"layer_scale": True},
    "albert": BERT | {"embedding_dim": 13, "share_layers": True},
    "narrow-embeddings": BERT | {"embedding_dim": 13, "layers": 4},
    "opt": DECODER | {"embedding_dim": 13, "embedding_projection": "tokens", "embedding_projection_bias": False},
    "stored-sinusoids": BERT | {"position": {"kind": "sinusoidal", "stored": True}, "task_types": 2},
    "groups": DECODER | {"layers": 4, "groups": [{"repeat": 2, "blocks": [
        {"attention": HEADS | {"window": 3}}, {"attention": HEADS}]}]},
    "shared-groups": DECODER | {"layers": 6, "groups": [
        {"repeat": 2, "shared": True, "blocks": [{}]}, {"repeat": 4, "shared": True, "blocks": [
            {"feed_forward": {"d_ff": 13}}]}]},
    "beit": VIT | {"position": {"kind": "relative", "buckets": 28, "per_layer": True}, "layer_scale": True},
    "beit-shared": VIT | {"position": {"kind": "relative", "buckets": 28}},
    "projection": BERT | {"head": {"kind": "projection", "width": 7}},
    "head-softcap": DECODER | {"head": {"softcap": 30.0}, "embedding_scale": True},
    "sinks": DECODER | {"attention": HEADS | {"sinks": True, "bias": True}},
    "gated-channels": DECODER | {"attention": HEADS | {"output_gate": True}},
    "gated-heads": DECODER | {"attention": HEADS | {"output_gate": True, "gate_over": "head",
                                                    "gate_activation": "softplus"}},
    "gated-channels-heads": DECODER | {"attention": HEADS | {"output_gate": True, "gate_bias": "head"}},
    "projected-mean": BERT | {"pooler": None, "head": {"kind": "projection", "width": 7, "of": "mean", "hidden": 11}},
    "layoutlm": BERT | {"token_tables": [{"rows": 13, "lookups": 2}, {"rows": 17}]},
    "roc-bert": BERT | {"token_tables": [{"rows": 13, "width": 7}, {"rows": 17, "width": 11}]},
    "roformer": BERT | {"position": {"kind": "rope", "size": 23}, "attention": {"heads": 3, "head_dim": 8}},
    "two-layers-before-head": BERT | {
        "pooler": None, "head": {"tied": True, "transform": {"activation": "gelu_tanh", "hidden": 13}}},
    "value-is-key": DECODER | {"attention": HEADS | {"value_from": "key"}},
    "value-is-key-normed": DECODER | {"attention": HEADS | {
        "value_from": "key", "qk_norm": {}, "value_norm": {"kind": "rmsnorm", "scale": False}}},
    "layer-norm-qk": DECODER | {"attention": HEADS | {"qk_norm": {"kind": "layernorm", "over": "heads"}}},
    "xielu": DECODER | {"feed_forward": {"d_ff": 41, "activation": "xielu"}},
    "bert-convolved": BERT | {"convolution": {"kernel": 3, "activation": "tanh"}},
    "kv-shared": DECODER | {"layers": 3, "groups": [{"repeat": 1, "blocks": [
        {"attention": HEADS}, {"attention": HEADS | {"kv_shared": True}, "repeat": 2}]}]},
    "per-layer": DECODER | {"per_layer_embedding": {"rows": 103, "width": 5}},
    "transformer-xl": DECODER | {"position": {"kind": "transformer-xl"}, "attention": {"heads": 3, "head_dim": 8}},
    "transformer-xl-shared": DECODER | {"position": {"kind": "transformer-xl", "per_layer": False,
                                                     "cached": "inputs"}, "attention": {"heads": 3, "head_dim": 8}},
    "xlnet": BERT | {"position": {"kind": "transformer-xl"}},
    "vit-both-ways": VIT | {"position": {"kind": "learned", "both_ways": True},
                            "input": {"kind": "patches", "image": 12, "patch": 4, "class_tokens": 0}},
    "vit-pooled": VIT | {"pooler": {"kind": "attention", "attention": {"heads": 3, "head_dim": 8},
                                    "feed_forward": {"d_ff": 17, "activation": "gelu"}}},
    "vlm": VLM,
    "vlm-class": VLM | {"tower": TOWER | {"input": {"kind": "patches", "image": 8, "patch": 4}}},
    "vlm-merged": VLM | {"tower": TOWER | {
        "input": {"kind": "patches", "image": 16, "patch": 4, "class_tokens": 0},
        "projector": {"merge": 2, "norm": {}, "norm_first": True, "hidden": [{"width": 13, "activation": "gelu"}]}}},
    "vlm-averaged": VLM | {"tower": TOWER | {
        "projector": {"average": True, "tokens": 1, "norm": {"kind": "rmsnorm"}}}},
    "vlm-gated": VLM | {"tower": TOWER | {
        "projector": {"hidden": [{"width": 13, "activation": "silu", "gated": True}]}}},
    "value-dim": DECODER | {"attention": HEADS | {"value_dim": 5}},
    "inner-norm-gated": DECODER | {"attention": HEADS | {"output_gate": True, "inner_norm": {"kind": "rmsnorm"}}},
    "cell-beside-attention": DECODER | {"attention": None, "feed_forward": None, "groups": [{"blocks": [
        {"recurrent": {"kind": "gru", "hidden": 22}, "attention": None, "feed_forward": None},
        {"attention": HEADS, "feed_forward": DECODER["feed_forward"]}]}]},
    "cell-and-attention": DECODER | {"recurrent": {"kind": "gru", "hidden": 22}},
    "cells-both-ways": {
        "name": "cells", "architecture": "encoder-only", "vocab": 101, "d_model": 22, "layers": 2, "context": 19,
        "norm": {"placement": "none"}, "final_norm": False, "residual": "none", "position": {"kind": "none"},
        "recurrent": {"kind": "lstm", "hidden": 11, "bidirectional": True}, "feed_forward": None, "attention": None,
        "head": {"tied": False},
    },
}
