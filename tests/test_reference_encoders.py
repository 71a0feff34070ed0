"""Images, sound, and encoders with positions of their own: the reference computes what transformers computes."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from test_reference_transformers import (  # noqa: E402
    BERT_NAMES,
    BERT_SIZES,
    BERT_SPEC,
    LAYERS,
    VOCAB,
    Float64,
    Weights,
    both,
    check,
    ids,
    renamed,
    spec,
    twin,
)

from txcalc.check.reference.transformer import build  # noqa: E402
from txcalc.check.validate import CASES, flops_rows, kept, parameters  # noqa: E402

torch.set_num_threads(1)

IMAGE = {"kind": "patches", "image": 12, "patch": 4}
DENSE = {"d_ff": 37, "bias": True}
BLOCK = {"attention": {"heads": 3, "bias": True}, "feed_forward": DENSE}
SIZES = {
    "hidden_size": 30, "num_hidden_layers": LAYERS, "num_attention_heads": 3, "intermediate_size": 37,
    "image_size": 12, "patch_size": 4, "num_labels": 5, "layer_norm_eps": 1e-5,
}
LAYER = r"(?:\w+\.)*layers?\.(\d+)\."
VISION_NAMES = [
    (r"(?:\w+\.)?embeddings\.patch_embeddings?(?:\.projection)?\.(.*)", r"patch_embedding.\1"),
    (r"(?:\w+\.)?embeddings\.mask_token", "mask_token"),
    (r"(?:\w+\.)?embeddings\.position_embeddings?(?:\.weight)?", "position_embedding"),
    (LAYER + r"(?:attention|self_attn)\.([qkvo])_proj\.(.*)", r"layers.\1.attention.\2.\3"),
    (LAYER + r"self_attn\.out_proj\.(.*)", r"layers.\1.attention.o.\2"),
    (LAYER + r"(?:layernorm_before|norm1|layer_norm1)\.(.*)", r"layers.\1.attention_norm.\2"),
    (LAYER + r"(?:layernorm_after|norm2|layer_norm2)\.(.*)", r"layers.\1.feed_forward_norm.\2"),
    (LAYER + r"mlp\.fc1\.(.*)", r"layers.\1.feed_forward.up.\2"),
    (LAYER + r"mlp\.fc2\.(.*)", r"layers.\1.feed_forward.down.\2"),
    (LAYER + r"(?:lambda_1|layer_scale1\.lambda1)", r"layers.\1.attention_scale"),
    (LAYER + r"(?:lambda_2|layer_scale2\.lambda1)", r"layers.\1.feed_forward_scale"),
    (r"(?:\w+\.)?(?:layernorm|post_layernorm|final_layer_norm)\.(.*)", r"final_norm.\1"),
    (r"\w+\.pooler\.layernorm\.(.*)", r"pooler.norm.\1"),
    (r"classifier\.(.*)", r"head.\1"),
    (r"cls_classifier\.(.*)", r"head.0.\1"),
    (r"distillation_classifier\.(.*)", r"head.1.\1"),
]
CLASS_TOKENS = ("cls_token", "distillation_token", "class_embedding")


def vision_weights(theirs: Any) -> Weights:
    """With the class tokens as rows of one table, and tables without a batch axis."""
    weights = dict(theirs.named_parameters())
    tokens = [weights.pop(n) for word in CLASS_TOKENS for n in list(weights) if n.endswith(word)]
    out = renamed(weights, VISION_NAMES)
    if "position_embedding" in out:
        out["position_embedding"] = out["position_embedding"].reshape(-1, 30)
    return out | ({"class_tokens": torch.cat([token.reshape(1, 30) for token in tokens])} if tokens else {})


def pixels(b: int):
    return torch.randn(b, 3, 12, 12, dtype=torch.float64)


@both
def test_vit(eager: bool) -> None:
    theirs = twin(transformers.ViTForImageClassification, transformers.ViTConfig(**SIZES))
    model = spec(
        architecture="encoder-only", d_model=30, input=IMAGE, position={"kind": "learned"}, **BLOCK,
        head={"kind": "classifier", "labels": 5},
    )
    x = pixels(2)
    check(model, vision_weights(theirs), lambda: theirs(x).logits, x, eager=eager)


@both
def test_deit_has_two_heads_on_two_class_tokens(eager: bool) -> None:
    theirs = twin(transformers.DeiTForImageClassificationWithTeacher, transformers.DeiTConfig(**SIZES))
    model = spec(
        architecture="encoder-only", d_model=30, input={**IMAGE, "class_tokens": 2}, position={"kind": "learned"},
        head={"kind": "classifier", "labels": 5, "copies": 2}, **BLOCK,
    )
    x, weights = pixels(2), vision_weights(theirs)
    check(model, weights, lambda: theirs(x).cls_logits, x, eager=eager)
    root = build(model, length=29, eager=eager, dtype=torch.float64).eval()
    root.load_state_dict(weights, strict=True)
    with torch.no_grad(), Float64():
        torch.testing.assert_close(root(x).extra[0], theirs(x).distillation_logits, atol=1e-10, rtol=0)


@both
def test_beit_has_a_bias_for_every_distance_of_two_patches(eager: bool) -> None:
    theirs = twin(transformers.BeitForImageClassification, transformers.BeitConfig(
        **SIZES, use_relative_position_bias=True, use_mask_token=False, use_absolute_position_embeddings=False,
        layer_scale_init_value=0.1,
    ))
    weights = dict(theirs.named_parameters())
    tables = {n: weights.pop(n) for n in list(weights) if "relative_position_bias_table" in n}
    theirs.named_parameters = lambda: weights.items()
    model = spec(
        architecture="encoder-only", d_model=30, input=IMAGE, layer_scale=True, final_norm=False,
        position={"kind": "relative", "buckets": 28, "per_layer": True}, feed_forward=DENSE,
        attention={"heads": 3, "bias": {"q": True, "v": True, "o": True}}, pooler={"kind": "norm", "of": "mean"},
        head={"kind": "classifier", "labels": 5}, norm={"eps": 1e-5},
    )
    ours = vision_weights(theirs)
    for i, table in enumerate(tables.values()):
        ours[f"layers.{i}.attention.relative_bias.weight"] = table
    assert len(tables) == LAYERS
    x = pixels(2)
    check(model, ours, lambda: theirs(x).logits, x, eager=eager)


@both
def test_dinov2_scales_its_sublayers(eager: bool) -> None:
    sizes = {key: value for key, value in SIZES.items() if key not in ("intermediate_size", "num_labels")}
    theirs = twin(transformers.Dinov2Model, transformers.Dinov2Config(**sizes, mlp_ratio=2))
    model = spec(
        architecture="encoder-only", d_model=30, input={**IMAGE, "mask_token": True}, layer_scale=True,
        position={"kind": "learned"}, attention={"heads": 3, "bias": True}, feed_forward={"d_ff": 60, "bias": True},
        head={"kind": "none"},
    )
    x = pixels(2)
    check(model, vision_weights(theirs), lambda: theirs(x).last_hidden_state, x, eager=eager, result="hidden")


@both
def test_siglip_pools_with_a_learned_query(eager: bool) -> None:
    sizes = {key: value for key, value in SIZES.items() if key != "num_labels"}
    theirs = twin(transformers.SiglipVisionModel, transformers.SiglipVisionConfig(**sizes, hidden_act="gelu"))
    weights = dict(theirs.named_parameters())
    top = {name: weights.pop(name) for name in list(weights) if name.startswith("head.")}
    theirs.named_parameters = lambda: weights.items()
    ours = vision_weights(theirs)
    for kind in ("weight", "bias"):
        parts = top[f"head.attention.in_proj_{kind}"].chunk(3)
        ours |= {f"pooler.attention.{x}.{kind}": part for x, part in zip("qkv", parts, strict=True)}
        ours[f"pooler.attention.o.{kind}"] = top[f"head.attention.out_proj.{kind}"]
        ours[f"pooler.norm.{kind}"] = top[f"head.layernorm.{kind}"]
        ours[f"pooler.feed_forward.up.{kind}"] = top[f"head.mlp.fc1.{kind}"]
        ours[f"pooler.feed_forward.down.{kind}"] = top[f"head.mlp.fc2.{kind}"]
    ours["pooler.query"] = top["head.probe"]
    model = spec(
        architecture="encoder-only", d_model=30, input={**IMAGE, "class_tokens": 0}, position={"kind": "learned"},
        head={"kind": "none"}, pooler={"kind": "attention", **BLOCK}, **BLOCK,
    )
    x = pixels(2)
    check(model, ours, lambda: theirs(x).pooler_output, x, eager=eager, result="pooled")


@both
def test_clip_compares_texts_with_images(eager: bool) -> None:
    text = {
        "hidden_size": 30, "num_hidden_layers": LAYERS, "num_attention_heads": 3, "intermediate_size": 37,
        "vocab_size": VOCAB, "max_position_embeddings": 29, "eos_token_id": VOCAB - 1, "bos_token_id": 0,
        "pad_token_id": 0,
    }
    image = {**text, "num_hidden_layers": 3, "image_size": 12, "patch_size": 4}
    theirs = twin(transformers.CLIPModel, transformers.CLIPConfig(
        text_config=text, vision_config=image, projection_dim=9,
    ))
    weights = dict(theirs.named_parameters())
    ours: Weights = {
        "temperature": weights.pop("logit_scale"),
        "text_projection.weight": weights.pop("text_projection.weight"),
        "image_projection.weight": weights.pop("visual_projection.weight"),
        "token_embedding.weight": weights.pop("text_model.embeddings.token_embedding.weight"),
        "position_embedding.weight": weights.pop("text_model.embeddings.position_embedding.weight"),
        "tower.class_tokens": weights.pop("vision_model.embeddings.class_embedding")[None],
    }
    for kind in ("weight", "bias"):
        ours[f"tower.embedding_norm.{kind}"] = weights.pop(f"vision_model.pre_layrnorm.{kind}")
        ours[f"tower.pooler.norm.{kind}"] = weights.pop(f"vision_model.post_layernorm.{kind}")
    for name, weight in weights.items():
        path = next(iter(renamed({name: weight}, VISION_NAMES)))
        ours[f"tower.{path}" if name.startswith("vision_model.") else path] = weight
    block = {"attention": {"heads": 3, "bias": True}, "feed_forward": {**DENSE, "activation": "quick_gelu"}}
    model = spec(
        architecture="encoder-only", d_model=30, position={"kind": "learned"}, causal_mask=True, **block,
        head={"kind": "contrastive", "width": 9}, tower={
            "d_model": 30, "layers": 3, "input": {**IMAGE, "bias": False}, "embedding_norm": True, "final_norm": False,
            "position": {"kind": "learned", "size": 10}, "pooler": {"kind": "norm"}, **block,
        },
    )
    tokens, x = ids(3, 13).clamp(max=VOCAB - 2), pixels(3)
    tokens[:, -1] = VOCAB - 1  # its vector is read where the text ends
    reference = build(model, length=29, eager=eager, dtype=torch.float64).eval()
    reference.load_state_dict(ours, strict=True)
    with torch.no_grad():
        with Float64():
            expected = theirs(input_ids=tokens, pixel_values=x)
        got = reference(tokens, images=x)
    torch.testing.assert_close(got.logits, expected.logits_per_text, atol=1e-10, rtol=0)
    with torch.no_grad(), Float64():
        loss = theirs(input_ids=tokens, pixel_values=x, return_loss=True).loss
    torch.testing.assert_close(reference.loss_of(got, (torch.arange(3),)).double(), loss, atol=1e-5, rtol=0)


@both
def test_siglip_compares_each_pair_on_its_own(eager: bool) -> None:
    sizes = {key: SIZES[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads",
                                         "intermediate_size")}
    theirs = twin(transformers.SiglipModel, transformers.SiglipConfig(
        text_config={**sizes, "vocab_size": VOCAB, "max_position_embeddings": 29, "layer_norm_eps": 1e-5},
        vision_config={**sizes, "image_size": 12, "patch_size": 4, "layer_norm_eps": 1e-5},
    ))
    weights = dict(theirs.named_parameters())
    head, text, query = "vision_model.head.", "text_model.", "tower.pooler.attention."
    ours = {
        "temperature": weights.pop("logit_scale")[0], "similarity_bias": weights.pop("logit_bias")[0],
        "token_embedding.weight": weights.pop(text + "embeddings.token_embedding.weight"),
        "position_embedding.weight": weights.pop(text + "embeddings.position_embedding.weight"),
        "tower.pooler.query": weights.pop(head + "probe"),
    }
    for kind in ("weight", "bias"):
        ours[f"pooler.dense.{kind}"] = weights.pop(f"{text}head.{kind}")
        parts = weights.pop(f"{head}attention.in_proj_{kind}").chunk(3)
        ours |= {f"{query}{name}.{kind}": part for name, part in zip("qkv", parts, strict=True)}
        ours[f"{query}o.{kind}"] = weights.pop(f"{head}attention.out_proj.{kind}")
        ours[f"tower.pooler.norm.{kind}"] = weights.pop(f"{head}layernorm.{kind}")
        for name, own in (("fc1", "up"), ("fc2", "down")):
            ours[f"tower.pooler.feed_forward.{own}.{kind}"] = weights.pop(f"{head}mlp.{name}.{kind}")
    for name, weight in weights.items():
        path = next(iter(renamed({name: weight}, VISION_NAMES)))
        ours[f"tower.{path}" if name.startswith("vision_model.") else path] = weight
    block = {"attention": {"heads": 3, "bias": True}, "feed_forward": {**DENSE, "activation": "gelu_tanh"}}
    model = spec(
        architecture="encoder-only", d_model=30, position={"kind": "learned"}, **block,
        pooler={"of": "last", "activation": None}, head={"kind": "contrastive", "loss": "sigmoid"}, tower={
            "d_model": 30, "layers": LAYERS, "input": {**IMAGE, "class_tokens": 0},
            "position": {"kind": "learned", "size": 9}, "pooler": {"kind": "attention", **block}, **block,
        },
    )
    tokens, x = ids(3, 13), pixels(3)
    reference = build(model, length=29, eager=eager, dtype=torch.float64).eval()
    reference.load_state_dict(ours, strict=True)
    with torch.no_grad():
        with Float64():
            expected = theirs(input_ids=tokens, pixel_values=x, return_loss=True)
        got = reference(tokens, images=x)
    torch.testing.assert_close(got.logits, expected.logits_per_text, atol=1e-10, rtol=0)
    loss = reference.loss_of(got, (torch.arange(3),)).double()
    torch.testing.assert_close(loss, expected.loss, atol=1e-5, rtol=0)


@both
def test_whisper(eager: bool) -> None:
    theirs = twin(transformers.WhisperForConditionalGeneration, transformers.WhisperConfig(
        vocab_size=VOCAB, d_model=30, encoder_layers=2, decoder_layers=2, encoder_attention_heads=3,
        decoder_attention_heads=3, encoder_ffn_dim=37, decoder_ffn_dim=37, num_mel_bins=7, max_source_positions=11,
        max_target_positions=29, pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0,
    ))
    block = r"model\.(encoder|decoder)\.layers\.(\d+)\."
    weights = renamed(dict(theirs.named_parameters()), [
        (r"model\.encoder\.conv([12])\.(.*)", r"frame_conv\1.\2"),
        (r"model\.decoder\.embed_tokens\.weight", "token_embedding.weight"),
        (r"model\.(encoder|decoder)\.embed_positions\.weight", r"\1.position_embedding.weight"),
        (block + r"self_attn\.([qkv])_proj\.(.*)", r"\1.layers.\2.attention.\3.\4"),
        (block + r"self_attn\.out_proj\.(.*)", r"\1.layers.\2.attention.o.\3"),
        (block + r"encoder_attn\.([qkv])_proj\.(.*)", r"\1.layers.\2.cross_attention.\3.\4"),
        (block + r"encoder_attn\.out_proj\.(.*)", r"\1.layers.\2.cross_attention.o.\3"),
        (block + r"self_attn_layer_norm\.(.*)", r"\1.layers.\2.attention_norm.\3"),
        (block + r"encoder_attn_layer_norm\.(.*)", r"\1.layers.\2.cross_attention_norm.\3"),
        (block + r"final_layer_norm\.(.*)", r"\1.layers.\2.feed_forward_norm.\3"),
        (block + r"fc1\.(.*)", r"\1.layers.\2.feed_forward.up.\3"),
        (block + r"fc2\.(.*)", r"\1.layers.\2.feed_forward.down.\3"),
        (r"model\.(encoder|decoder)\.layer_norm\.(.*)", r"\1.final_norm.\2"),
    ])
    weights["head.weight"] = weights["token_embedding.weight"]
    model = spec(
        architecture="encoder-decoder", d_model=30, position={"kind": "learned"}, feed_forward=DENSE,
        attention={"heads": 3, "bias": {"q": True, "v": True, "o": True}},
        encoder={
            "input": {"kind": "frames", "bins": 7, "length": 11}, "position": {"kind": "sinusoidal", "stored": True},
        },
    )
    tokens, frames = ids(2, 13), torch.randn(2, 7, 22, dtype=torch.float64)
    check(
        model, weights, lambda: theirs(input_features=frames, decoder_input_ids=tokens).logits, tokens, frames,
        eager=eager,
    )


DEBERTA_NAMES = [
    (r"encoder\.rel_embeddings\.weight", "relative_embedding"),
    (r"encoder\.LayerNorm\.(.*)", r"relative_norm.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.self\.([qkv])(?:uery|ey|alue)_proj\.(.*)", r"layers.\1.attention.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.self\.pos(?:_(?:k|key))?_proj\.(.*)", r"layers.\1.attention.position_k.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.self\.pos_(?:q|query)_proj\.(.*)", r"layers.\1.attention.position_q.\2"),
    *BERT_NAMES,
]
DEBERTA_SPEC = {key: value for key, value in BERT_SPEC.items() if key not in ("position", "token_types")}


@pytest.mark.parametrize("scores", [("c2p", "p2c"), ("c2p",), ("p2c",)])
@pytest.mark.parametrize("shared", [True, False])
def test_deberta_v2_has_disentangled_positions(scores: tuple[str, ...], shared: bool) -> None:
    sizes = {**BERT_SIZES, "type_vocab_size": 0}
    theirs = twin(transformers.DebertaV2Model, transformers.DebertaV2Config(
        **sizes, relative_attention=True, position_buckets=5, norm_rel_ebd="layer_norm", share_att_key=shared,
        pos_att_type=list(scores), position_biased_input=False,
    ))
    model = spec(**DEBERTA_SPEC, head={"kind": "none"}, position={
        "kind": "disentangled", "buckets": 5, "scores": scores, "shared_projections": shared,
    })
    weights = renamed(dict(theirs.named_parameters()), DEBERTA_NAMES)
    tokens = ids(2, 23)
    check(model, weights, lambda: theirs(tokens).last_hidden_state, tokens, eager=True, result="hidden")


def test_deberta_v2_convolves_around_its_first_layer() -> None:
    sizes = {**BERT_SIZES, "type_vocab_size": 0}
    theirs = twin(transformers.DebertaV2Model, transformers.DebertaV2Config(
        **sizes, relative_attention=True, position_buckets=5, share_att_key=True, pos_att_type=["c2p", "p2c"],
        position_biased_input=False, conv_kernel_size=3, conv_act="gelu",
    ))
    position = {"kind": "disentangled", "buckets": 5, "norm": False}
    first = {"convolution": {"kernel": 3, "activation": "gelu"}}
    model = spec(**DEBERTA_SPEC, head={"kind": "none"}, position=position, groups=[
        {"blocks": [first, {"repeat": LAYERS - 1}]},
    ])
    weights: Weights = {}
    for name, weight in renamed(dict(theirs.named_parameters()), [
        (r"encoder\.conv\.conv\.(.*)", r"layers.0.convolution.conv.\1"),
        (r"encoder\.conv\.LayerNorm\.(.*)", r"layers.0.convolution_norm.\1"), *DEBERTA_NAMES,
    ]).items():
        head, _, rest = name.removeprefix("layers.").partition(".")
        at = f"layers.0.0.0.{rest}" if head == "0" else f"layers.0.1.{int(head) - 1}.{rest}" if head.isdigit() else name
        weights[at] = weight
    tokens = ids(2, 23)
    check(model, weights, lambda: theirs(tokens).last_hidden_state, tokens, eager=True, result="hidden")


@pytest.mark.parametrize("reach", [7, 29])
def test_deberta_clips_the_distances(reach: int) -> None:
    sizes = {**BERT_SIZES, "type_vocab_size": 0}
    theirs = twin(transformers.DebertaModel, transformers.DebertaConfig(
        **sizes, relative_attention=True, max_relative_positions=reach, pos_att_type=["c2p", "p2c"],
        position_biased_input=True,
    ))
    weights: Weights = {}
    for name, weight in theirs.named_parameters():
        self_ = name.rpartition(".self.")[0] + ".self."
        if name.endswith("in_proj.weight"):
            parts = weight.unflatten(0, (3, 3, 7)).unbind(1)  # for each head: query, key, value
            for word, part in zip(("query", "key", "value"), parts, strict=True):
                weights[f"{self_}{word}_proj.weight"] = part.flatten(0, 1)
        elif name.endswith(("q_bias", "v_bias")):
            weights[self_ + ("query" if name.endswith("q_bias") else "value") + "_proj.bias"] = weight
        else:
            weights[name] = weight
    bias = {"q": True, "v": True, "o": True}
    model = spec(**{**DEBERTA_SPEC, "attention": {"heads": 3, "bias": bias}}, head={"kind": "none"}, position={
        "kind": "disentangled", "buckets": reach, "shared_projections": False, "key_bias": False, "clipped": True,
        "norm": False, "absolute": 29,
    })
    tokens = ids(2, 23)
    check(
        model, renamed(weights, DEBERTA_NAMES), lambda: theirs(tokens).last_hidden_state, tokens, eager=True,
        result="hidden",
    )


def test_electra_tells_tokens_apart() -> None:
    theirs = twin(transformers.ElectraForPreTraining, transformers.ElectraConfig(**BERT_SIZES, embedding_size=8))
    weights = {name.removeprefix("electra."): weight for name, weight in theirs.named_parameters()}
    model = spec(**BERT_SPEC, embedding_dim=8, head={
        "kind": "classifier", "labels": 1, "of": "all", "transform": {"norm": None},
    })
    names = [
        (r"embeddings_project\.(.*)", r"embedding_projection.\1"),
        (r"discriminator_predictions\.dense\.(.*)", r"head_transform.dense.\1"),
        (r"discriminator_predictions\.dense_prediction\.(.*)", r"head.\1"), *BERT_NAMES,
    ]
    tokens = ids(2, 13)
    check(model, renamed(weights, names), lambda: theirs(tokens).logits[..., None], tokens, eager=True)


def test_bert_pretraining_has_a_second_head() -> None:
    theirs = twin(transformers.BertForPreTraining, transformers.BertConfig(**BERT_SIZES))
    weights = {name.removeprefix("bert."): weight for name, weight in theirs.named_parameters()}
    weights = renamed(weights, [(r"cls\.seq_relationship\.(.*)", r"pair_head.\1"), *BERT_NAMES])
    weights["head.weight"] = weights["token_embedding.weight"]
    model = spec(**BERT_SPEC, pooler=True, head={
        "kind": "lm", "bias": True, "pair_labels": 2, "transform": {"norm": {"eps": 1e-12}},
    })
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).prediction_logits, tokens, eager=True)
    root = build(model, length=29, dtype=torch.float64).eval()
    root.load_state_dict(weights, strict=True)
    with torch.no_grad(), Float64():
        torch.testing.assert_close(
            root(tokens).extra[0], theirs(tokens).seq_relationship_logits, atol=1e-10, rtol=0
        )


MPNET_NAMES = [
    (r"encoder\.relative_attention_bias\.(.*)", r"relative_bias.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.attn\.([qkvo])\.(.*)", r"layers.\1.attention.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.LayerNorm\.(.*)", r"layers.\1.attention_norm.\2"),
    *BERT_NAMES,
]


def test_mpnet_adds_positions_and_biases_scores_by_distance() -> None:
    sizes = {name: value for name, value in BERT_SIZES.items() if name != "type_vocab_size"}
    theirs = twin(transformers.MPNetModel, transformers.MPNetConfig(**sizes))
    weights = renamed(dict(theirs.named_parameters()), MPNET_NAMES)
    # The first token stands in the third row: the first two are for padding.
    weights["position_embedding.weight"] = weights["position_embedding.weight"].roll(-2, 0)
    model = spec(**DEBERTA_SPEC, position={"kind": "relative", "buckets": 32, "absolute": 29}, pooler=True,
                 head={"kind": "none"})
    tokens = torch.randint(2, VOCAB, (2, 23))
    check(model, weights, lambda: theirs(tokens).last_hidden_state, tokens, eager=True, result="hidden")


def test_ernie_has_a_table_of_tasks() -> None:
    theirs = twin(transformers.ErnieModel, transformers.ErnieConfig(**BERT_SIZES, use_task_id=True))
    names = [(r"embeddings\.task_type_embeddings\.(.*)", r"task_embedding.\1"), *BERT_NAMES]
    model = spec(**BERT_SPEC, task_types=3, pooler=True, head={"kind": "none"})
    tokens = ids(2, 13)
    check(model, renamed(dict(theirs.named_parameters()), names), lambda: theirs(tokens).last_hidden_state, tokens,
          eager=True, result="hidden")


def test_rembert_has_a_wide_output() -> None:
    theirs = twin(transformers.RemBertForMaskedLM, transformers.RemBertConfig(
        **BERT_SIZES, input_embedding_size=8, output_embedding_size=13))
    weights = {name.removeprefix("rembert."): weight for name, weight in theirs.named_parameters()}
    names = [
        (r"encoder\.embedding_hidden_mapping_in\.(.*)", r"embedding_projection.\1"),
        (r"cls\.predictions\.dense\.(.*)", r"head_transform.dense.\1"),
        (r"cls\.predictions\.LayerNorm\.(.*)", r"head_transform.norm.\1"),
        (r"cls\.predictions\.decoder\.(.*)", r"head.\1"), *BERT_NAMES,
    ]
    model = spec(**BERT_SPEC, embedding_dim=8, head={
        "kind": "lm", "tied": False, "bias": True, "transform": {"norm": {"eps": 1e-12}, "width": 13},
    })
    tokens = ids(2, 13)
    check(model, renamed(weights, names), lambda: theirs(tokens).logits, tokens, eager=True)


def test_eurobert_averages_logits() -> None:
    theirs = twin(transformers.EuroBertForSequenceClassification, transformers.EuroBertConfig(
        vocab_size=VOCAB, hidden_size=24, num_hidden_layers=LAYERS, num_attention_heads=3, intermediate_size=37,
        num_labels=5, pad_token_id=0, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ))
    weights = {name.removeprefix("model."): weight for name, weight in theirs.named_parameters()}
    names = [
        (r"embed_tokens\.(.*)", r"token_embedding.\1"), (r"norm\.(.*)", r"final_norm.\1"),
        (LAYER + r"self_attn\.([qkvo])_proj\.(.*)", r"layers.\1.attention.\2.\3"),
        (LAYER + r"mlp\.(up|gate|down)_proj\.(.*)", r"layers.\1.feed_forward.\2.\3"),
        (LAYER + r"input_layernorm\.(.*)", r"layers.\1.attention_norm.\2"),
        (LAYER + r"post_attention_layernorm\.(.*)", r"layers.\1.feed_forward_norm.\2"),
        (r"dense\.(.*)", r"head_transform.dense.\1"), (r"classifier\.(.*)", r"head.\1"),
    ]
    model = spec(
        architecture="encoder-only", d_model=24, attention={"heads": 3}, position={"kind": "rope"},
        norm={"kind": "rmsnorm"}, feed_forward={"d_ff": 37, "activation": "silu", "gated": True},
        head={"kind": "classifier", "labels": 5, "of": "votes", "transform": {"norm": None}},
    )
    tokens = ids(2, 13)
    check(model, renamed(weights, names), lambda: theirs(tokens).logits, tokens, eager=True)


def test_esm_keeps_a_regression_beside_its_forward_pass() -> None:
    sizes = {name: value for name, value in BERT_SIZES.items() if name != "type_vocab_size"}
    theirs = twin(transformers.EsmModel, transformers.EsmConfig(**sizes, emb_layer_norm_before=True))
    names = [
        (r"contact_head\.regression\.(.*)", r"contact_head.\1"),
        (r"embeddings\.layer_norm\.(.*)", r"embedding_norm.\1"),
        (r"encoder\.emb_layer_norm_after\.(.*)", r"final_norm.\1"),
        (LAYER + r"attention\.LayerNorm\.(.*)", r"layers.\1.attention_norm.\2"),
        (LAYER + r"LayerNorm\.(.*)", r"layers.\1.feed_forward_norm.\2"), *BERT_NAMES,
    ]
    weights = renamed(dict(theirs.named_parameters()), names)
    weights["position_embedding.weight"] = weights["position_embedding.weight"].roll(-1, 0)  # a row for padding
    model = spec(**DEBERTA_SPEC | {"norm": {"eps": 1e-12}, "final_norm": True}, position={"kind": "learned"},
                 pooler=True, contact_head=True, head={"kind": "none"})
    tokens = torch.randint(1, VOCAB, (2, 23))
    check(model, weights, lambda: theirs(tokens).last_hidden_state, tokens, eager=True, result="hidden")


@pytest.mark.parametrize("way", [
    {"blocks": {"length": 3, "reach": "three", "summaries": 4}}, {"ahead": {"streams": 2, "buckets": 6}},
    {"blocks": {"length": 4, "reach": "own", "staggered": True, "global_tokens": 3}},
])
def test_ways_of_attention_cost_what_is_counted(way: dict[str, Any]) -> None:
    """LongT5's sums of blocks, PEGASUS-X's global tokens, ProphetNet's streams."""
    position = {"kind": "learned"} if "ahead" in way else {"kind": "relative", "buckets": 6} if (
        way["blocks"]["reach"] == "three") else {"kind": "none"}
    architecture = "decoder-only" if "ahead" in way else "encoder-only"
    model = spec(architecture=architecture, d_model=14, position=position, head={"kind": "none"},
                 attention={"heads": 2, "head_dim": 5, **way})
    rows = [parameters(model), kept(model, CASES[0], "cpu", ""), *flops_rows(model, eager=True, how="", device="cpu")]
    assert [row.differences for row in rows if row.verdict != "equal"] == []
