"""DeepSeek's decoders, with latent attention, and those that others built on them."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import ROUTING, decoder, experts
from txcalc.huggingface.layerwise import after, layer_kinds, listed_sparse, sparse, where
from txcalc.huggingface.rows import RMS, Fields, Reader, Rows, flag, gated, optional, passed_over, size


def _value_dim(c: Config) -> int:
    return c.size_or(c.size("hidden_size") // c.size("num_attention_heads"), "v_head_dim")


def latent(c: Config) -> Fields:
    """Latent attention under DeepSeek's field names."""
    c.ignore("num_key_value_heads", "head_dim", "qk_head_dim")
    return {
        "kind": "mla", "heads": size("num_attention_heads"), "kv_rank": size("kv_lora_rank"),
        "nope_dim": size("qk_nope_head_dim"), "rope_dim": size("qk_rope_head_dim"), "value_dim": _value_dim,
        "bias": flag("attention_bias"), "q_rank": optional("q_lora_rank"),
    }


def with_value_dim(c: Config) -> Fields:
    """The same where the width of values must be said."""
    c.size("v_head_dim")
    return {**latent(c), "interleaved": c.flag("rope_interleave", default=True)}


def routed(routing: str = "sigmoid-topk") -> Fields:
    """DeepSeek's experts, and the shared ones beside them."""
    return experts(routing=routing)


def grouped(c: Config) -> Fields:
    """Experts in groups, of which some are left out first."""
    return {**routed(), "expert_groups": size("n_group", default=1), "active_groups": size("topk_group", default=1)}


deepseek = partial(decoder, attention=with_value_dim, position={"kind": "rope"})
_IGNORED: Final = f"{ROUTING} topk_method scoring_func ep_size"
_ONLY: Final = {"moe_layer_freq": 1, "mlp_bias": False}
_FIRST_DENSE: Final = after(size("first_k_dense_replace", least=0))
v3 = partial(deepseek, layers=[sparse(routed(), _FIRST_DENSE)], ignore=_IGNORED, only=_ONLY)


def with_indexer(c: Config) -> Fields:
    """Latent attention whose keys an indexer chooses."""
    c.size("q_lora_rank")
    return {**with_value_dim(c), "index_topk": size("index_topk"),
            "indexer": {"heads": size("index_n_heads"), "head_dim": size("index_head_dim")}}


def _alike(kind: str, c: Config) -> list[str]:
    return [kind] * c.size("num_hidden_layers")


_V32_EXPERTS: Final = sparse(routed(), listed_sparse(after(size("first_k_dense_replace", least=0))))
v32 = partial(
    deepseek, attention=with_indexer, ignore=f"{_IGNORED} indexer_rope_interleave index_share_for_mtp_iteration "
    "moe_router_dtype", only=_ONLY | {
        "num_experts": (None, size("n_routed_experts")),
        "layer_types": (None, *(partial(_alike, kind) for kind in ("indexed_attention", "deepseek_sparse_attention")))})


def _borrowed(c: Config, layers: int) -> list[Data]:
    """Layers that attend to the keys that the indexer of one before them chose: listed, by letters, or all but some."""
    kinds, pattern = c.take("indexer_types", default=None), c.take("index_topk_pattern", default=None)
    every = max(c.size("index_topk_freq", default=1, least=0), 1)
    first = c.size("index_skip_topk_offset", default=2, least=0)
    name, listed = ("indexer_types", kinds) if kinds is not None else ("index_topk_pattern", pattern)
    if listed is None:
        listed = ["shared" if max(i - first + 1, 0) % every else "full" for i in range(layers)]
    letters = {"F": "full", "S": "shared"} if isinstance(listed, str) else {}
    named = [letters.get(kind, kind) for kind in listed] if isinstance(listed, list | str) else []
    if len(named) != layers or not all(kind in ("full", "shared") for kind in named):
        raise c.error(name, f"must say full or shared of each of {layers} layers")
    return [{} if kind == "full" else {"attention": {"indexer": None}} for kind in named]


def _with_q_rank(c: Config) -> Fields:
    c.size("q_lora_rank")
    return with_value_dim(c)


_after_few: Final = after(size("first_k_dense_replace", default=1, least=0))


def _dots3(c: Config) -> Fields:
    return {**with_indexer(c), "output_gate": True, "gate_over": "head", "rope_norm": True}


def _dots3_kinds(c: Config, layers: int) -> list[str]:
    return ["sliding_attention" if i >= 2 and i % 4 != 1 else "indexed_attention" for i in range(layers)]


_DOTS3_WINDOW: Final = {"num_attention_heads": 64, "num_key_value_heads": 64, "q_lora_rank": 1024, "kv_lora_rank": 1024,
                        "head_dim": 256, "qk_nope_head_dim": 192, "v_head_dim": 128}


_DOTS3_SWA: Final = " ".join(f"swa_{name}" for name in (*_DOTS3_WINDOW, "rope_theta"))


def _dots3_window(c: Config) -> Fields:
    """Its latents and heads have sizes of their own, under other names or, as the library saves them, by layer."""
    saved, kinds = c.take("per_layer_config", default=None) or {}, c.take("layer_types", default=None) or []
    each, there = [*saved.values()], [str(i) for i, kind in enumerate(kinds) if kind == "sliding_attention"]
    if each and ([*map(str, saved)] != there or any(one != each[0] for one in each)):
        raise c.error("per_layer_config", "must say the same sizes of each layer with a window")
    sizes = each[0] if each else {name: c.take(f"swa_{name}", default=usual) for name, usual in _DOTS3_WINDOW.items()}
    own = c.part("per_layer_config", sizes, "")
    heads = own.size("num_attention_heads")
    head, nope = own.size("head_dim"), own.size("qk_nope_head_dim")
    rope = own.size("qk_rope_head_dim", default=c.size("swa_qk_rope_head_dim", default=head - nope))
    found = {"indexer": None, "index_topk": None, "window": c.size_or(512, "sliding_window", "sliding_window_size"),
             "heads": heads, "nope_dim": nope, "rope_dim": rope, "value_dim": own.size("v_head_dim"),
             "q_rank": own.size("q_lora_rank"), "kv_rank": own.size("kv_lora_rank")}
    passed_over(own, "", {"num_key_value_heads": heads})
    own.finish()
    return {"attention": found}


_V4_KINDS: Final = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}


def _v4_kinds(c: Config, layers: int) -> list[str]:
    """As ratios list them, or by turns behind two of many positions each."""
    ratios = c.take("compress_ratios", default=None)
    if ratios is None:
        return [_V4_KINDS[4 if i > 2 and i % 2 else 128] for i in range(layers)]
    if not isinstance(ratios, list) or len(ratios) < layers or not {*ratios} <= {*_V4_KINDS}:
        raise c.error("compress_ratios", f"must be a list of 0, 4 and 128, at least one per layer, of {layers}")
    return [_V4_KINDS[ratio] for ratio in ratios[:layers]]


def _v4_rate(ratio: int, older: str) -> Reader:
    """Positions of a sum: by the kind of layer, by an older name, or as many as the kind is named after."""
    def rate(c: Config) -> Fields:
        given = c.take("compress_rates", default=None) or {}
        if not isinstance(given, dict):
            raise c.error("compress_rates", f"must be a mapping of kinds of layers, got {given!r}")
        own = c.part("compress_rates", given, "")
        found = c.take(older, default=None) or own.size(_V4_KINDS[ratio], default=ratio)
        return {"attention": {"compression": {"rate": found, **({} if ratio == 128 else {
            "overlaps": True, "index_topk": size("index_topk"),
            "indexer": {"heads": size("index_n_heads"), "head_dim": size("index_head_dim")}})}}}
    return rate


def _v4_rotary(c: Config, width: int) -> Data:
    part = c.take("partial_rotary_factor", default=None)
    given = c.take("qk_rope_head_dim", default=None)
    return {"kind": "rope", "dim": int(width * part) if part is not None else given or width // 8}


_AXK2_SPARSE: Final = listed_sparse(_after_few)

ROWS: Final[Rows] = {
    "deepseek_v2": v3("DeepseekV2", layers=[sparse(routed("softmax-topk"), _FIRST_DENSE)]),
    "deepseek_v3": v3("DeepseekV3", layers=[sparse(grouped, _FIRST_DENSE)]),
    # Mistral Small 4: DeepSeek V3 with DeepSeek V2's router.
    "mistral4": v3("Mistral4", layers=[sparse(lambda c: {**grouped(c), "routing": "softmax-topk"}, _FIRST_DENSE)]),
    "kimi_k2": v3("DeepseekV3", layers=[sparse(grouped, _FIRST_DENSE)]),
    "deepseek_v32": v32("DeepseekV32", layers=[_V32_EXPERTS]),  # an indexer in every layer chooses the keys of a query
    "glm4_moe_lite": v3("Glm4MoeLite", layers=[sparse(routed(), listed_sparse(after(1)))], only={
        **_ONLY, "first_k_dense_replace": 1, "partial_rotary_factor": 1.0}),  # which the class does not read
    "glm_moe_dsa": v32("GlmMoeDsa", layers=[_V32_EXPERTS, _borrowed]),
    # A.X K1: DeepSeek V3 with a norm on what its experts put out.
    "axk1": v3("AXK1", attention=_with_q_rank, layers=[
        sparse({**routed(), "output_norm": RMS}, listed_sparse(_after_few))], only=_ONLY),
    # dots 3: an indexer in some layers; latents of a window, of sizes of their own, in the others.
    "dots3_note_text": v32(
        {"Dots3NoteForCausalLM": "lm", "Dots3NoteTextModel": "none"}, attention=_dots3, only=_ONLY | {
            "use_dsa": (None, True), "use_sliding_window": True}, layers=[
            layer_kinds(_dots3_kinds, {
                "indexed_attention": {}, "full_attention": {}, "sliding_attention": _dots3_window},
                unread=f"sliding_window sliding_window_size per_layer_config swa_qk_rope_head_dim {_DOTS3_SWA}"),
            sparse({**routed(), "shared_d_ff": size("shared_experts_intermediate_size")}, listed_sparse(_after_few))]),
    # A.X K2: norms with gates, and a gate of attention's output, read off the latent of queries.
    "axk2": v32("AXK2", attention=lambda c: {**with_indexer(c), "output_gate": True, "joint": True}, norm={
        **RMS, "gate_rank": size("gated_norm_rank"), "gate_on": "attention"}, layers=[
            sparse(routed(), _AXK2_SPARSE), where(_AXK2_SPARSE, {"norm": {"gate_on": "both"}})]),
    # DeepSeek V4: keys that are sums of others, residual streams, experts in every layer, some chosen by a table.
    "deepseek_v4": decoder(
        "DeepseekV4", attention={
            "kind": "compressed", "heads": size("num_attention_heads"), "head_dim": size("head_dim"),
            "q_rank": size("q_lora_rank"), "o_groups": size("o_groups"), "o_rank": size("o_lora_rank"),
            "window": size("sliding_window")}, bias=None, position=_v4_rotary, streams=size("hc_mult"),
        sinkhorn=size("hc_sinkhorn_iters"), feed_forward=experts(
            routing="softplus-topk", shared_experts=1, normalize=True), layers=[layer_kinds(_v4_kinds, {
                "sliding_attention": {}, _V4_KINDS[4]: _v4_rate(4, "compress_rate_csa"),
                _V4_KINDS[128]: _v4_rate(128, "compress_rate_hca")}, unread="compress_ratios compress_rates")],
        ignore=f"{ROUTING} num_key_value_heads hc_eps swiglu_limit attention_bias mlp_layer_types num_hash_layers "
               "compress_rope_theta topk_method n_shared_experts norm_topk_prob index_n_heads index_head_dim "
               "index_topk compress_rate_csa compress_rate_hca qk_rope_head_dim router_jitter_noise expert_dtype",
        only={"mlp_bias": False, "scoring_func": "sqrtsoftplus"}),
    "youtu": deepseek("Youtu", only={"mlp_bias": False}),
    "minicpm3": deepseek("MiniCPM3", attention=latent, feed_forward=gated(bias=flag("mlp_bias")),
                         ignore="scale_emb scale_depth dim_model_base"),
}
