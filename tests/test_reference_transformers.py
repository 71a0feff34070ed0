"""The reference computes what transformers computes: equal logits in float64, on the same random weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.overrides import TorchFunctionMode  # noqa: E402

from txcalc.check.reference.transformer import build  # noqa: E402
from txcalc.spec.model import Model  # noqa: E402

torch.set_num_threads(1)

VOCAB, LAYERS = 31, 2
Weights = dict[str, Any]


class Float64(TorchFunctionMode):
    """transformers computes norms, softmax and rotations in float32 whatever the weights are; not here."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        swap = lambda x: torch.float64 if x is torch.float32 else x  # noqa: E731
        return func(*map(swap, args), **{k: swap(v) for k, v in (kwargs or {}).items()})


def spec(**fields) -> Model:
    return Model.from_data({"name": "twin", "vocab": VOCAB, "layers": LAYERS, "context": 29, "position": "none",
                                 "feed_forward": "none", **fields})


def twin(cls: type, config: Any) -> Any:
    """A transformers model in float64 with random weights, norms and biases included.

    Weights that the class leaves uninitialised come as NaN under deterministic algorithms, and start from zero here.
    """
    torch.manual_seed(0)
    config._attn_implementation = config._experts_implementation = "eager"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    try:
        with Float64():
            model = cls(config).double().eval()
    finally:
        torch.set_default_dtype(before)
        torch.use_deterministic_algorithms(False)
    with torch.no_grad():
        for weight in model.parameters():
            weight.nan_to_num_(0.0).add_(torch.randn_like(weight) * 0.2)
    return model


def renamed(weights: Weights, names: list[tuple[str, str]]) -> Weights:
    """Each weight under the reference's name: the first pattern that matches the whole name."""
    out = {}
    for name, weight in weights.items():
        for pattern, path in names:
            if match := re.fullmatch(pattern, name):
                out[match.expand(path)] = weight
                break
        else:
            raise AssertionError(f"no name for {name}")
    return out


def check(model: Model, weights: Weights, run: Callable[[], Any], *inputs, eager: bool, result: str = "logits") -> None:
    reference = build(model, length=29, eager=eager, dtype=torch.float64).eval()
    reference.load_state_dict(weights, strict=True)
    with torch.no_grad():
        with Float64():
            expected = run()
        got = getattr(reference(*inputs), result)
    assert got.dtype == expected.dtype == torch.float64
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)
    assert expected.std() > 1e-2


def ids(b: int, n: int):
    return torch.randint(0, VOCAB, (b, n))


both = pytest.mark.parametrize("eager", [True, False])


@both
def test_gpt2(eager: bool) -> None:
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=15, n_layer=LAYERS, n_head=3, n_positions=29, n_inner=37,
        bos_token_id=0, eos_token_id=0,
    )
    theirs = twin(transformers.GPT2LMHeadModel, config)
    block = r"transformer\.h\.(\d+)\."
    weights: Weights = {}
    for name, weight in theirs.named_parameters():
        weight = weight.T if re.search(r"(c_attn|c_proj|c_fc)\.weight", name) else weight  # Conv1D
        if "c_attn" in name:
            for letter, part in zip("qkv", weight.chunk(3), strict=True):
                weights[name.replace("c_attn", letter)] = part
        else:
            weights[name] = weight
    weights = renamed(weights, [
        (r"transformer\.wte\.weight", "token_embedding.weight"),
        (r"transformer\.wpe\.weight", "position_embedding.weight"),
        (block + r"ln_1\.(.*)", r"layers.\1.attention_norm.\2"),
        (block + r"ln_2\.(.*)", r"layers.\1.feed_forward_norm.\2"),
        (block + r"attn\.([qkv]\..*)", r"layers.\1.attention.\2"),
        (block + r"attn\.c_proj\.(.*)", r"layers.\1.attention.o.\2"),
        (block + r"mlp\.c_fc\.(.*)", r"layers.\1.feed_forward.up.\2"),
        (block + r"mlp\.c_proj\.(.*)", r"layers.\1.feed_forward.down.\2"),
        (r"transformer\.ln_f\.(.*)", r"final_norm.\1"),
    ])
    weights["head.weight"] = weights["token_embedding.weight"]
    model = spec(
        d_model=15, position={"kind": "learned"}, attention={"heads": 3, "bias": True},
        feed_forward={"d_ff": 37, "activation": "gelu_tanh", "bias": True},
    )
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)


LLAMA_NAMES = [
    (r"model\.embed_tokens\.weight", "token_embedding.weight"),
    (r"model\.layers\.(\d+)\.self_attn\.([qkvo])_proj\.(.*)", r"layers.\1.attention.\2.\3"),
    (r"model\.layers\.(\d+)\.self_attn\.([qk]_norm)\.(.*)", r"layers.\1.attention.\2.\3"),
    (r"model\.layers\.(\d+)\.mlp\.(up|gate|down)_proj\.(.*)", r"layers.\1.feed_forward.\2.\3"),
    (r"model\.layers\.(\d+)\.mlp\.gate\.(.*)", r"layers.\1.feed_forward.router.\2"),
    (r"model\.layers\.(\d+)\.mlp\.(experts\..*)", r"layers.\1.feed_forward.\2"),
    (r"model\.layers\.(\d+)\.input_layernorm\.(.*)", r"layers.\1.attention_norm.\2"),
    (r"model\.layers\.(\d+)\.post_attention_layernorm\.(.*)", r"layers.\1.feed_forward_norm.\2"),
    (r"model\.norm\.(.*)", r"final_norm.\1"),
    (r"lm_head\.(.*)", r"head.\1"),
]
LLAMA_SIZES = {
    "vocab_size": VOCAB, "hidden_size": 30, "num_hidden_layers": LAYERS, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 29, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}
LLAMA_SPEC = {
    "d_model": 30, "position": {"kind": "rope"}, "norm": {"kind": "rmsnorm"}, "head": {"kind": "lm", "tied": False},
    "attention": {"heads": 6, "kv_heads": 2, "head_dim": 10},
}


@both
def test_llama_with_grouped_queries(eager: bool) -> None:
    theirs = twin(transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA_SIZES, intermediate_size=37))
    weights = renamed(dict(theirs.named_parameters()), LLAMA_NAMES)
    model = spec(**LLAMA_SPEC, feed_forward={"d_ff": 37, "activation": "silu", "gated": True})
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)


@both
def test_qwen3_norms_on_heads(eager: bool) -> None:
    config = transformers.Qwen3Config(**LLAMA_SIZES, intermediate_size=37)
    theirs = twin(transformers.Qwen3ForCausalLM, config)
    weights = renamed(dict(theirs.named_parameters()), LLAMA_NAMES)
    attention = {**LLAMA_SPEC["attention"], "qk_norm": {"kind": "rmsnorm", "over": "head"}}
    gated = {"d_ff": 37, "activation": "silu", "gated": True}
    model = spec(**{**LLAMA_SPEC, "attention": attention}, feed_forward=gated)
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)


@both
@pytest.mark.parametrize("window", [None, 5])
def test_mixtral(eager: bool, window: int | None) -> None:
    config = transformers.MixtralConfig(
        **LLAMA_SIZES, intermediate_size=17, num_local_experts=5, num_experts_per_tok=2, sliding_window=window,
        rope_theta=10000.0,
    )
    theirs = twin(transformers.MixtralForCausalLM, config)
    weights: Weights = {}
    for name, weight in theirs.named_parameters():
        for e in range(5):
            if name.endswith("experts.gate_up_proj"):
                gate, up = weight[e].chunk(2)
                weights[name.replace("gate_up_proj", f"{e}.gate.weight")] = gate
                weights[name.replace("gate_up_proj", f"{e}.up.weight")] = up
            elif name.endswith("experts.down_proj"):
                weights[name.replace("down_proj", f"{e}.down.weight")] = weight[e]
        if "experts" not in name:
            weights[name] = weight
    moe = {"kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 17}
    attention = {**LLAMA_SPEC["attention"], "window": window}
    model = spec(**{**LLAMA_SPEC, "attention": attention}, feed_forward=moe)
    tokens = ids(2, 13)
    check(model, renamed(weights, LLAMA_NAMES), lambda: theirs(tokens).logits, tokens, eager=eager)


BERT_BLOCK = r"encoder\.layer\.(\d+)\."
BERT_NAMES = [
    (r"embeddings\.word_embeddings\.weight", "token_embedding.weight"),
    (r"embeddings\.position_embeddings\.weight", "position_embedding.weight"),
    (r"embeddings\.token_type_embeddings\.weight", "type_embedding.weight"),
    (r"embeddings\.LayerNorm\.(.*)", r"embedding_norm.\1"),
    (BERT_BLOCK + r"attention\.self\.([qkv])(?:uery|ey|alue)\.(.*)", r"layers.\1.attention.\2.\3"),
    (BERT_BLOCK + r"attention\.output\.dense\.(.*)", r"layers.\1.attention.o.\2"),
    (BERT_BLOCK + r"attention\.output\.LayerNorm\.(.*)", r"layers.\1.attention_norm.\2"),
    (BERT_BLOCK + r"intermediate\.dense\.(.*)", r"layers.\1.feed_forward.up.\2"),
    (BERT_BLOCK + r"output\.dense\.(.*)", r"layers.\1.feed_forward.down.\2"),
    (BERT_BLOCK + r"output\.LayerNorm\.(.*)", r"layers.\1.feed_forward_norm.\2"),
    (r"pooler\.dense\.(.*)", r"pooler.dense.\1"),
    (r"cls\.predictions\.transform\.dense\.(.*)", r"head_transform.dense.\1"),
    (r"cls\.predictions\.transform\.LayerNorm\.(.*)", r"head_transform.norm.\1"),
    (r"cls\.predictions\.bias", "head.bias"),
    (r"classifier\.(.*)", r"head.\1"),
]
BERT_SIZES = {
    "vocab_size": VOCAB, "hidden_size": 21, "num_hidden_layers": LAYERS, "num_attention_heads": 3,
    "intermediate_size": 37, "max_position_embeddings": 29, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
BERT_SPEC = {
    "architecture": "encoder-only", "d_model": 21, "position": {"kind": "learned"}, "token_types": 2,
    "embedding_norm": True, "final_norm": False, "norm": {"placement": "post", "eps": 1e-12},
    "attention": {"heads": 3, "bias": True}, "feed_forward": {"d_ff": 37, "bias": True},
}


def bert_weights(theirs: Any) -> Weights:
    weights = {name.removeprefix("bert."): weight for name, weight in theirs.named_parameters()}
    return renamed(weights, BERT_NAMES)


@both
def test_bert_masked_lm(eager: bool) -> None:
    theirs = twin(transformers.BertForMaskedLM, transformers.BertConfig(**BERT_SIZES))
    weights = bert_weights(theirs)
    weights["head.weight"] = weights["token_embedding.weight"]
    model = spec(**BERT_SPEC, head={"kind": "lm", "bias": True, "transform": {"norm": {"eps": 1e-12}}})
    tokens, types = ids(2, 13), torch.randint(0, 2, (2, 13))
    check(
        model, weights, lambda: theirs(tokens, token_type_ids=types).logits, tokens, None, types, eager=eager
    )


@both
@pytest.mark.parametrize("result", ["hidden", "pooled"])
def test_bert_pooler(eager: bool, result: str) -> None:
    theirs = twin(transformers.BertModel, transformers.BertConfig(**BERT_SIZES))
    model = spec(**BERT_SPEC, pooler=True, head={"kind": "none"})
    name = {"hidden": "last_hidden_state", "pooled": "pooler_output"}[result]
    tokens = ids(2, 13)
    check(model, bert_weights(theirs), lambda: theirs(tokens)[name], tokens, eager=eager, result=result)


def test_bert_classifier() -> None:
    theirs = twin(transformers.BertForSequenceClassification, transformers.BertConfig(**BERT_SIZES, num_labels=5))
    model = spec(**BERT_SPEC, pooler=True, head={"kind": "classifier", "labels": 5})
    tokens = ids(2, 13)
    check(model, bert_weights(theirs), lambda: theirs(tokens).logits, tokens, eager=True)


def t5_names(stack: str, cross: bool) -> list[tuple[str, str]]:
    block = stack + r"\.block\.(\d+)\.layer\."
    last = "2" if cross else "1"
    return [
        (block + r"0\.SelfAttention\.relative_attention_bias\.weight", f"{stack}.relative_bias.weight"),
        (block + r"0\.SelfAttention\.(.*)", stack + r".layers.\1.attention.\2"),
        (block + r"0\.layer_norm\.(.*)", stack + r".layers.\1.attention_norm.\2"),
        (block + r"1\.EncDecAttention\.(.*)", stack + r".layers.\1.cross_attention.\2"),
        (block + last + r"\.DenseReluDense\.wi_0\.(.*)", stack + r".layers.\1.feed_forward.gate.\2"),
        (block + last + r"\.DenseReluDense\.wi(?:_1)?\.(.*)", stack + r".layers.\1.feed_forward.up.\2"),
        (block + last + r"\.DenseReluDense\.wo\.(.*)", stack + r".layers.\1.feed_forward.down.\2"),
        (block + last + r"\.layer_norm\.(.*)", stack + r".layers.\1.feed_forward_norm.\2"),
        (block + r"1\.layer_norm\.(.*)", stack + r".layers.\1.cross_attention_norm.\2"),
        (stack + r"\.final_layer_norm\.(.*)", stack + r".final_norm.\1"),
    ]


@both
@pytest.mark.parametrize(("kind", "activation", "gated"), [
    ("relu", "relu", False), ("gated-gelu", "gelu_tanh", True), ("gated-silu", "silu", True),
])
def test_t5(eager: bool, kind: str, activation: str, gated: bool) -> None:
    theirs = twin(transformers.T5ForConditionalGeneration, transformers.T5Config(
        vocab_size=VOCAB, d_model=26, d_kv=7, d_ff=37, num_layers=LAYERS, num_heads=3, feed_forward_proj=kind,
        relative_attention_num_buckets=11, relative_attention_max_distance=23, layer_norm_epsilon=1e-6,
        tie_word_embeddings=not gated, pad_token_id=0, eos_token_id=1,
    ))
    weights = renamed(dict(theirs.named_parameters()), [
        (r"shared\.weight", "token_embedding.weight"),
        *t5_names("encoder", cross=False), *t5_names("decoder", cross=True),
    ])
    model = spec(
        architecture="encoder-decoder", d_model=26, position={"kind": "relative", "buckets": 11, "max_distance": 23},
        attention={"heads": 3, "head_dim": 7, "scale": 1.0}, norm={"kind": "rmsnorm", "eps": 1e-6},
        feed_forward={"d_ff": 37, "activation": activation, "gated": gated}, head={"kind": "lm", "tied": not gated},
    )
    # transformers 5.23 ties T5's head whatever the config says: `tie_word_embeddings` only switches the scale.
    weights["head.weight"] = weights["token_embedding.weight"]
    if not gated:
        # A tied T5 scales its last hidden states by d_model**-0.5, which the final norm's weight can take.
        weights["decoder.final_norm.weight"] = weights["decoder.final_norm.weight"] * 26**-0.5
    source, tokens = ids(2, 19), ids(2, 13)
    check(
        model, weights, lambda: theirs(input_ids=source, decoder_input_ids=tokens).logits, tokens, source, eager=eager
    )


def split_heads(weights: Weights, heads: int) -> Weights:
    """A fused query_key_value whose rows are (heads, 3, head_dim), as three."""
    out: Weights = {}
    for name, weight in weights.items():
        if "query_key_value" in name:
            parts = weight.unflatten(0, (heads, 3, -1)).unbind(1)
            out |= {name.replace("query_key_value", x): p.flatten(0, 1) for x, p in zip("qkv", parts, strict=True)}
        else:
            out[name] = weight
    return out


def neox_names(root: str, attention: str) -> list[tuple[str, str]]:
    return [
        (root + r"(\d+)\.input_layernorm\.(.*)", r"layers.\1.attention_norm.\2"),
        (root + r"(\d+)\.post_attention_layernorm\.(.*)", r"layers.\1.feed_forward_norm.\2"),
        (root + r"(\d+)\." + attention + r"\.([qkv])\.(.*)", r"layers.\1.attention.\2.\3"),
        (root + r"(\d+)\." + attention + r"\.dense\.(.*)", r"layers.\1.attention.o.\2"),
        (root + r"(\d+)\.mlp\.dense_h_to_4h\.(.*)", r"layers.\1.feed_forward.up.\2"),
        (root + r"(\d+)\.mlp\.dense_4h_to_h\.(.*)", r"layers.\1.feed_forward.down.\2"),
    ]


@both
def test_gpt_neox_is_parallel_with_partial_rope(eager: bool) -> None:
    theirs = twin(transformers.GPTNeoXForCausalLM, transformers.GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=30, intermediate_size=37, num_hidden_layers=LAYERS, num_attention_heads=3,
        max_position_embeddings=29, rope_parameters={
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4,
        },
    ))
    weights = renamed(split_heads(dict(theirs.named_parameters()), 3), [
        (r"gpt_neox\.embed_in\.weight", "token_embedding.weight"),
        (r"gpt_neox\.final_layer_norm\.(.*)", r"final_norm.\1"),
        (r"lm_head\.weight", "head.weight"),
        *neox_names(r"gpt_neox\.layers\.", "attention"),
    ])
    model = spec(
        d_model=30, position={"kind": "rope", "dim": 4}, attention={"heads": 3, "bias": True}, residual="parallel",
        feed_forward={"d_ff": 37, "bias": True}, head={"kind": "lm", "tied": False},
    )
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)


@both
@pytest.mark.parametrize("heads", [3, 5])
def test_bloom_has_alibi(eager: bool, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its own gelu has sqrt(2 / pi) to 8 digits, which is 1e-9 off in the logits.
    gelu = partial(torch.nn.functional.gelu, approximate="tanh")
    monkeypatch.setattr(transformers.models.bloom.modeling_bloom, "bloom_gelu_forward", gelu)
    theirs = twin(transformers.BloomForCausalLM, transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=30, n_layer=LAYERS, n_head=heads, bos_token_id=0, eos_token_id=0,
    ))
    weights = renamed(split_heads(dict(theirs.named_parameters()), heads), [
        (r"transformer\.word_embeddings\.weight", "token_embedding.weight"),
        (r"transformer\.word_embeddings_layernorm\.(.*)", r"embedding_norm.\1"),
        (r"transformer\.ln_f\.(.*)", r"final_norm.\1"),
        *neox_names(r"transformer\.h\.", "self_attention"),
    ])
    weights["head.weight"] = weights["token_embedding.weight"]
    model = spec(
        d_model=30, position={"kind": "alibi"}, attention={"heads": heads, "bias": True}, embedding_norm=True,
        feed_forward={"d_ff": 120, "activation": "gelu_tanh", "bias": True},
    )
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)


@both
def test_albert_shares_layers_and_factorises(eager: bool) -> None:
    theirs = twin(transformers.AlbertForMaskedLM, transformers.AlbertConfig(
        vocab_size=VOCAB, hidden_size=21, embedding_size=8, num_hidden_layers=3, num_attention_heads=3,
        intermediate_size=37, max_position_embeddings=29, layer_norm_eps=1e-12, pad_token_id=0,
        bos_token_id=0, eos_token_id=0,
    ))
    block = r"encoder\.albert_layer_groups\.0\.albert_layers\.0\."
    weights = {name.removeprefix("albert."): weight for name, weight in theirs.named_parameters()}
    weights = renamed(weights, [
        *BERT_NAMES[:4],
        (r"encoder\.embedding_hidden_mapping_in\.(.*)", r"embedding_projection.\1"),
        (block + r"full_layer_layer_norm\.(.*)", r"layers.0.feed_forward_norm.\1"),
        (block + r"attention\.LayerNorm\.(.*)", r"layers.0.attention_norm.\1"),
        (block + r"attention\.dense\.(.*)", r"layers.0.attention.o.\1"),
        (block + r"attention\.([qkv])(?:uery|ey|alue)\.(.*)", r"layers.0.attention.\1.\2"),
        (block + r"ffn\.(.*)", r"layers.0.feed_forward.up.\1"),
        (block + r"ffn_output\.(.*)", r"layers.0.feed_forward.down.\1"),
        (r"predictions\.bias", "head.bias"),
        (r"predictions\.dense\.(.*)", r"head_transform.dense.\1"),
        (r"predictions\.LayerNorm\.(.*)", r"head_transform.norm.\1"),
    ])
    weights["head.weight"] = weights["token_embedding.weight"]
    gelu = {"activation": "gelu_tanh"}
    model = spec(**{
        **BERT_SPEC, "layers": 3, "share_layers": True, "embedding_dim": 8,
        "feed_forward": {"d_ff": 37, "bias": True, **gelu},
        "head": {"kind": "lm", "bias": True, "transform": {"norm": {"eps": 1e-12}, **gelu}},
    })
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)


@both
def test_olmo2_norms_what_comes_out(eager: bool) -> None:
    theirs = twin(transformers.Olmo2ForCausalLM, transformers.Olmo2Config(
        vocab_size=VOCAB, hidden_size=30, intermediate_size=37, num_hidden_layers=LAYERS, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=29, rms_norm_eps=1e-5, tie_word_embeddings=False,
        pad_token_id=0, eos_token_id=0,
    ))
    names = [
        (r"model\.layers\.(\d+)\.post_attention_layernorm\.(.*)", r"layers.\1.attention_norm.\2"),
        (r"model\.layers\.(\d+)\.post_feedforward_layernorm\.(.*)", r"layers.\1.feed_forward_norm.\2"),
        *LLAMA_NAMES,
    ]
    model = spec(
        d_model=30, position={"kind": "rope"}, norm={"kind": "rmsnorm", "placement": "res-post"},
        attention={"heads": 3, "kv_heads": 1, "qk_norm": {"kind": "rmsnorm", "over": "full"}},
        feed_forward={"d_ff": 37, "activation": "silu", "gated": True}, head={"kind": "lm", "tied": False},
    )
    tokens = ids(2, 13)
    check(model, renamed(dict(theirs.named_parameters()), names), lambda: theirs(tokens).logits, tokens, eager=eager)
