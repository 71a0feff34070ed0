"""Random specs: small, pairwise different, mostly prime sizes, and every option that a spec has."""

from typing import Any, get_args

from hypothesis import strategies as st

from txcalc.spec.base import Routing
from txcalc.spec.model import Block, Model

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "silu", "tanh", "sigmoid")
flags = st.booleans()


@st.composite
def norms(draw: st.DrawFn, **fixed: Any) -> dict[str, Any]:
    return {"kind": draw(st.sampled_from(("layernorm", "rmsnorm"))), "scale": draw(flags), "bias": draw(flags), **fixed}


@st.composite
def attentions(draw: st.DrawFn, *, rotary: bool, crossing: bool = False) -> dict[str, Any]:
    kv_heads = draw(st.sampled_from((1, 2, 3)))
    spec: dict[str, Any] = {
        "heads": kv_heads * draw(st.sampled_from((1, 2, 3))), "kv_heads": kv_heads,
        "head_dim": draw(st.sampled_from((4, 6, 10) if rotary else (3, 5, 7))),
        "bias": {name: draw(flags) for name in "qkvo"}, "query_experts": None,
    }
    if draw(st.integers(0, 5)) == 0:
        spec |= {"query_experts": draw(st.sampled_from((3, 5))), "bias": {**spec["bias"], "q": False}}
    if crossing:
        spec["value_from"] = "input" if draw(st.integers(0, 3)) else "key"
        return {**spec, "value_norm": None if draw(st.integers(0, 3)) else draw(norms())}
    over = draw(st.sampled_from((None, None, "head", "heads", "full")))
    bound = draw(st.sampled_from((None, None, "window", "chunk")))
    apart = draw(st.integers(0, 2)) == 0
    spec["value_dim"] = draw(st.sampled_from((8, 11))) if apart else None
    spec["value_from"] = "input" if apart or draw(st.integers(0, 3)) else "key"
    if draw(st.integers(0, 2)) == 0:
        spec |= {"output_gate": True, "gate_over": draw(st.sampled_from(("channel", "head"))),
                 "gate_activation": draw(st.sampled_from(("sigmoid", "softplus"))),
                 "gate_bias": draw(st.sampled_from(("q", "none", "head")))}
    kept = None if not rotary or draw(st.integers(0, 4)) else draw(st.sampled_from((3, 7)))
    return {
        **spec, "qk_norm": None if over is None else draw(norms(over=over)), "window": None, "chunk": None,
        "value_norm": None if draw(st.integers(0, 3)) else draw(norms()),
        **({} if bound is None or kept is not None else {bound: draw(st.sampled_from((2, 5, 11)))}),
        "softcap": None if draw(st.integers(0, 5)) else 30.0,
        "kept_keys": kept, "indexer": None,
        "differential": kv_heads == 2 and not apart and kept is None and draw(st.integers(0, 2)) == 0,
        "unused": {} if draw(st.integers(0, 5)) else {"q": 3, "k": 1, "v": 2}, "value_convolution": None,
        "similarity": "softmax", "blocks": None, "span_convolution": None,
        "column_groups": dict.fromkeys("qkvo", 1),
        "inner_norm": None if draw(st.integers(0, 3)) else draw(norms()),
    }


@st.composite
def feed_forwards(draw: st.DrawFn) -> dict[str, Any]:
    common = {
        "activation": draw(st.sampled_from(ACTIVATIONS)), "gated": draw(flags),
        "bias": {name: draw(flags) for name in ("up", "gate", "down")},
    }
    if draw(flags):
        inner = None if draw(st.integers(0, 3)) else draw(norms())
        learned = {} if draw(st.integers(0, 3)) else {"activation": "xielu"}
        return {"kind": "dense", "d_ff": draw(st.sampled_from((17, 23, 37))), "inner_norm": inner,
                "channel_mix": not draw(st.integers(0, 5)), "column_groups": {"up": 1, "down": 1}, **common, **learned}
    experts = draw(st.sampled_from((3, 5)))
    shared = draw(st.sampled_from((0, 1, 2)))
    return {
        "kind": "moe", "d_ff": draw(st.sampled_from((11, 13))), "experts": experts,
        "active_experts": draw(st.integers(1, experts)), "router_bias": draw(flags),
        "routing": draw(st.sampled_from(get_args(Routing))),
        "normalize": draw(flags), "shared_experts": shared,
        "shared_d_ff": draw(st.sampled_from((7, 9))) if shared else None,
        "shared_gate": draw(flags) if shared else False, "separate_norms": False, **common,
        "latent": None if draw(st.integers(0, 2)) else draw(st.sampled_from((6, 19))),
        "output_norm": None if draw(st.integers(0, 2)) else draw(norms()), "output_bias": not draw(st.integers(0, 2)),
    }


@st.composite
def recurrences(draw: st.DrawFn, *, d: int, causal: bool, crossing: bool) -> dict[str, Any]:
    """A cell or a convolution that hands on as many columns as it reads."""
    kinds = ("rnn", "lstm", "gru", "convolution", "short-convolution", *(() if causal else ("fourier",)))
    kind = draw(st.sampled_from(kinds))
    if kind == "fourier":
        return {"kind": kind}
    if kind == "short-convolution":
        return {"kind": kind, "conv": draw(st.sampled_from((1, 2, 3, 5))), "bias": draw(flags)}
    if kind == "convolution":
        gated = draw(flags)
        return {"kind": kind, "width": draw(st.sampled_from((1, 2, 3, 5))), "bias": draw(flags), "gated": gated,
                "activation": None if gated else draw(st.sampled_from((None, *ACTIVATIONS)))}
    both = not causal and d % 2 == 0 and draw(flags)
    cell: dict[str, Any] = {"kind": kind, "hidden": d // 2 if both else d, "bidirectional": both,
                            "bias": {"input": draw(flags), "hidden": draw(flags)}}
    if kind == "gru":
        cell["reset"] = draw(st.sampled_from(("after", "before")))
    if crossing and draw(flags):
        cell["attends"] = {"width": draw(st.sampled_from((3, 11))), "bias": draw(flags)}
    return cell


@st.composite
def shared(draw: st.DrawFn, *, rotary: bool) -> dict[str, Any]:
    """A block whose weights layers share; of those that are drawn, each has another."""
    rank, adapts = draw(st.sampled_from(((None, False), (2, False), (3, True))))
    return {"attention": {"heads": 6, "kv_heads": draw(st.sampled_from((2, 3, 6))), "head_dim": 6 if rotary else 5},
            "feed_forward": {"d_ff": 29, "gated": draw(flags), "bias": draw(flags)}, "rank": rank,
            "attention_adapters": adapts, "index": draw(st.integers(0, 10**6))}


@st.composite
def blocks(draw: st.DrawFn, *, rotary: bool, crossing: bool, bare: bool, d: int, causal: bool) -> dict[str, Any]:
    block: dict[str, Any] = {
        "attention": draw(attentions(rotary=rotary)), "recurrent": None, "feed_forward": draw(feed_forwards()),
        "shared_block": None, "tanh_gates": False,
    }
    if not causal and block["attention"]["heads"] == block["attention"]["kv_heads"] and not (
            block["attention"]["differential"]) and draw(flags):
        block["attention"]["value_convolution"] = 3
    if d % 2 == 0 and not block["feed_forward"]["gated"] and not block["feed_forward"].get("channel_mix", True):
        block["feed_forward"]["d_ff"] = 18
        block["feed_forward"]["column_groups"] |= draw(st.sampled_from(({}, {"up": 2}, {"down": 2})))
    whole = block["attention"]["query_experts"] is not None
    own = block["attention"]
    bare_core = own["window"] is own["chunk"] is own["softcap"] is own["value_dim"] is None
    whole_keys = not causal and own["heads"] == own["kv_heads"] and bare_core and not (
        own["differential"] or own["kept_keys"])
    if whole_keys:
        own["similarity"] = draw(st.sampled_from(("softmax", "collisions")))
    if causal and rotary and bare_core and not (own["differential"] or own["kept_keys"] or whole) and draw(flags):
        own["indexer"] = {"heads": draw(st.sampled_from((1, own["heads"]))), "head_dim": 10, "averaged": draw(flags),
                          "block": draw(st.sampled_from((2, 3, 5))), "blocks": draw(st.sampled_from((1, 2, 3)))}
    plain = own["value_dim"] is own["qk_norm"] is own["query_experts"] is own["inner_norm"] is own.get("output_gate")
    if not causal and plain and not rotary and not own["differential"] and draw(flags):
        own |= {"span_convolution": draw(st.sampled_from((1, 3))), "output_gate": False, "gate_over": "channel",
                "gate_activation": "sigmoid", "gate_bias": "q"}  # said, lest an encoder have its decoder's
    if whole_keys and own["similarity"] == "softmax" and not rotary and draw(flags):
        own["blocks"] = draw(st.sampled_from((
            {"length": 2}, {"length": 3}, {"length": 5}, {"length": 3, "reach": "three"},
            {"length": 5, "reach": "three", "summaries": 4}, {"length": 4, "reach": "own", "staggered": True})))
    if d % 2 == 0 and block["attention"]["head_dim"] % 2 == 0 and not whole and draw(flags):
        block["attention"]["column_groups"] |= draw(st.sampled_from(({"q": 2}, {"k": 2})))
    block["adapter"] = None
    if crossing:
        block["cross_attention"] = draw(attentions(rotary=rotary, crossing=True))
    if draw(st.integers(0, 3)) == 0:
        block["recurrent"] = draw(recurrences(d=d, causal=causal, crossing=crossing))
        if bare and not crossing and draw(flags):
            return {**block, "attention": None, "shared_block": draw(shared(rotary=rotary)), "residual": "sequential",
                    "norm": draw(norms(placement="pre", shared=False)) | UNGATED}
        for name in ("attention", "cross_attention", "feed_forward"):
            read = name != "cross_attention" or "attends" in block["recurrent"]
            if name in block and read and (bare or name != "attention") and draw(flags):
                block[name] = None
        if not crossing and block["attention"] is not None and draw(flags):
            return {**block, "residual": "mixers", "norm": draw(norms(placement="pre", shared=False)) | UNGATED}
        placement = draw(st.sampled_from(PLACES))
        return draw(perhaps_apart({**block, "residual": draw(st.sampled_from(("sequential", "none"))),
                                   "norm": draw(norms(placement=placement, shared=False)) | UNGATED}))
    if not crossing and draw(st.integers(0, 3)) == 0:
        return {**block, "residual": "parallel", "norm": draw(norms(placement="pre", shared=draw(flags))) | UNGATED}
    placement = draw(st.sampled_from(PLACES))
    gate = UNGATED if placement not in ("pre", "sandwich") or draw(st.integers(0, 3)) else {
        "gate_rank": 5, "gate_on": draw(st.sampled_from(("both", "attention", "time")))}
    return draw(perhaps_apart(
        {**block, "residual": "sequential", "tanh_gates": not draw(st.integers(0, 4)),
         "norm": draw(norms(placement=placement, shared=False)) | gate}))


UNGATED = {"gate_rank": None, "gate_on": "both"}
PLACES = ("pre", "post", "sandwich", "res-post", "none")


@st.composite
def perhaps_apart(draw: st.DrawFn, block: dict[str, Any]) -> dict[str, Any]:
    feed = block["feed_forward"] or {}
    if feed and draw(st.integers(0, 3)) == 0:
        again = block["norm"]["kind"] == "layernorm" and block["norm"]["placement"] in ("pre", "post")
        norm = draw(st.sampled_from(("none", "own", *(("again",) if again else ()))))
        block = {**block, "adapter": {"width": 11, "languages": draw(st.sampled_from((1, 3))), "norm": norm,
                                      "normed_residual": norm != "none" and draw(flags)}}
    if block["norm"]["placement"] not in ("pre", "sandwich") or not feed.get("shared_experts") or draw(flags):
        return block
    return {**block, "feed_forward": {**feed, "shared_gate": False, "separate_norms": True,
                                      "latent": None, "output_norm": None, "output_bias": False}}


def of_softmax(block: dict[str, Any]) -> dict[str, Any]:
    own = block["attention"]
    return {**block, "attention": own and {**own, "similarity": "softmax", "blocks": None}}


def uncapped(block: dict[str, Any]) -> dict[str, Any]:
    return {**block, "attention": {**block["attention"], "similarity": "softmax", "softcap": None, "blocks": None,
                                   "span_convolution": None, "differential": False,
                                   "value_convolution": None,
                                   "column_groups": dict.fromkeys("qkvo", 1)}}


@st.composite
def stacks(draw: st.DrawFn, *, d: int, causal: bool, crossing: bool = False) -> dict[str, Any]:
    position = draw(st.sampled_from((
        {"kind": "none"}, {"kind": "learned", "size": 31}, {"kind": "sinusoidal"},
        {"kind": "sinusoidal", "stored": True, "size": 29}, {"kind": "rope"}, {"kind": "rope", "dim": 4, "size": 43},
        {"kind": "alibi"}, {"kind": "relative", "buckets": 8}, {"kind": "relative", "buckets": 8, "absolute": 37},
        {"kind": "relative", "buckets": 8, "per_layer": True},
        {"kind": "transformer-xl", "per_layer": True, "cached": "keys"},
        {"kind": "transformer-xl", "per_layer": False, "cached": "inputs"},
        {"kind": "transformer-xl", "per_layer": True, "of_sequences": True, "segments": True},
    )))
    own = blocks(rotary=position["kind"] == "rope", crossing=crossing, d=d, causal=causal,
                 bare=position["kind"] not in ("relative", "transformer-xl") and "size" not in position)
    by_distance = position["kind"] == "transformer-xl"
    own = own.map(uncapped if by_distance else of_softmax if position["kind"] in ("alibi", "relative") else dict)
    own = own.map(lambda block: block if in_inputs(position) else {**block, "shared_block": None})
    stack: dict[str, Any] = {
        "position": position, "embedding_norm": draw(flags), "embedding_norm_scale": draw(flags),
        "final_norm": draw(flags), **draw(own),
    }
    shared_bias = position["kind"] in ("relative", "transformer-xl") and not position.get("per_layer", by_distance)
    if shared_bias or draw(st.integers(0, 2)):
        return {**stack, "layers": draw(st.integers(1, 4)), "share_layers": draw(flags)}
    groups = [
        {"repeat": draw(st.integers(1, 2)), "blocks": [
            {"repeat": draw(st.integers(1, 2)), **draw(own)} for _ in range(draw(st.integers(1, 2)))
        ]} for _ in range(draw(st.integers(1, 2)))
    ]
    for i, block in enumerate(block for group in groups for block in group["blocks"]):
        if block["shared_block"] is not None:
            block["shared_block"]["index"] += i * 10**7  # each another, whatever is drawn
    first = groups[0]["blocks"][0]
    if first["attention"] is not None and not by_distance and draw(flags):
        own = first["attention"]
        for attention in [block["attention"] for group in groups for block in group["blocks"]]:
            if attention is not None and reach_of(attention) == reach_of(own):  # the last of its kind is read
                attention |= own
        groups.append({"blocks": [{**first, "attention": {**own, "kv_shared": True, "indexer": None}}]})
    return {**stack, "groups": groups}


def perhaps_altup(data: dict[str, Any]) -> dict[str, Any]:
    """With alternating updates, where layers are alike and have what those run on."""
    own = data["attention"]
    if data.get("groups") or not own or own.get("blocks") or not data["feed_forward"] or data["recurrent"] or (
            data.get("convolution") or data["residual"] != "sequential" or not data.get("per_layer_embedding")):
        return data
    return data | {"altup": {"streams": 3, "laurel_rank": 5}, "tanh_gates": False, "adapter": None, "streams": None,
                   "norm": {**data["norm"], "placement": "sandwich", **UNGATED}}


def in_inputs(position: dict[str, Any]) -> bool:
    return position["kind"] in ("none", "learned", "sinusoidal", "rope")


def perhaps_streams(draw: st.DrawFn, data: dict[str, Any]) -> dict[str, Any]:
    """With residual streams, where every sublayer can read a mix of them."""
    blocks = [block for group in data["groups"] for block in group["blocks"]] if data.get("groups") else [data]
    plain = all(block["residual"] == "sequential" and block["norm"]["placement"] in ("pre", "sandwich")
                and not block.get("tanh_gates") and not block.get("shared_block")
                and not block.get("adapter") and not (block["attention"] or {}).get("blocks") for block in blocks)
    if not plain or data.get("convolution"):
        return data
    return data | {"streams": 3, "layer_scale": False, "mix_rank": draw(st.sampled_from((None, 5)))}


@st.composite
def compressed(draw: st.DrawFn, data: dict[str, Any]) -> dict[str, Any]:
    """With keys that are sums of others, as DeepSeek-V4 has them, and streams that mix."""
    own = draw(st.sampled_from((None, {"rate": 3}, {"rate": 2, "overlaps": True}, {
        "rate": 2, "overlaps": True, "index_topk": 2, "indexer": {"heads": 2, "head_dim": 8}})))
    groups = {"o_groups": draw(st.sampled_from((1, 3))), "o_rank": 5}
    block = {"attention": {"kind": "compressed", "heads": draw(st.sampled_from((3, 6))), "head_dim": 6, "q_rank": 7,
                           "window": draw(st.sampled_from((1, 4))), "compression": own, **groups},
             "feed_forward": draw(feed_forwards()), "norm": draw(norms())}
    return {name: value for name, value in data.items() if name not in {*Block.names(), "groups", "layers"}} | block | {
        "layers": 2, "position": draw(st.sampled_from(({"kind": "none"}, {"kind": "rope", "dim": 4}))), "streams": 2,
        "mix_rank": None, **draw(st.sampled_from(({"sinkhorn": 1}, {"sinkhorn": 3}, {"mix_rank": 5}, {}))),
        "layer_scale": False, "residual_scale": False, "per_layer_embedding": None}


def reach_of(attention: dict[str, Any]) -> str:
    return next((name for name in ("window", "chunk") if attention[name] is not None), "full")


@st.composite
def specs(draw: st.DrawFn) -> Model:
    architecture = draw(st.sampled_from(("decoder-only", "encoder-only", "encoder-decoder")))
    crossing = architecture == "encoder-decoder"
    d = draw(st.sampled_from((14, 19, 22)))
    data: dict[str, Any] = {
        "name": "drawn", "architecture": architecture, "vocab": draw(st.sampled_from((53, 61))),
        "d_model": d, "context": 41, "token_types": draw(st.sampled_from((0, 0, 3))),
        "task_types": draw(st.sampled_from((0, 0, 4))),
        "embedding_scale": draw(flags), **draw(stacks(d=d, causal=architecture != "encoder-only", crossing=crossing)),
    }
    if architecture == "encoder-only":
        convolution = {"kernel": draw(st.sampled_from((1, 3, 5))), "activation": draw(st.sampled_from(ACTIVATIONS))}
        data["convolution"] = draw(st.sampled_from((None, None, convolution)))
    if crossing:
        data["encoder"] = draw(stacks(d=d, causal=False))
        data["encoder"].setdefault("groups", None)
        data["encoder"].setdefault("share_layers", False)
        data |= draw(st.sampled_from(({}, {"source_vocab": 47}, {"source_vocab": 43, "unused_table": True})))
    elif draw(st.integers(0, 3)) == 0:
        data["per_layer_embedding"] = {"rows": 67, "width": draw(st.sampled_from((4, 6))),
                                       "activation": draw(st.sampled_from(ACTIVATIONS))}
        data = perhaps_altup(data)
    elif draw(st.integers(0, 2)) == 0:
        data = perhaps_streams(draw, data)
    elif data.get("groups") is None and data["attention"] is not None:
        data["entities"] = draw(st.sampled_from((None, None, {"rows": 43, "width": 5, "tied": draw(flags)})))
        data["contact_head"] = draw(flags)
        data["idle"] = draw(st.sampled_from(((), ({"name": "said", "shape": (7, 5), "kind": "linear"}, {
            "name": "heard", "shape": (3, 2, 5), "times": 2}))))
    alone = architecture == "decoder-only" and data.get("groups") is None and data["residual"] == "sequential"
    if alone and data["attention"] is not None and draw(flags):
        data |= {"unread_memory": 17, "cross_attention": {
            **draw(attentions(rotary=False, crossing=True)), "query_experts": None}}
    head = draw(st.sampled_from(("lm", "untied", "transform", "wide", "none", "classifier", "projection")))
    data["head"] = {
        "lm": {"tied": True, "bias": draw(flags)},
        "untied": {"tied": False, "bias": draw(flags), "copies": draw(st.sampled_from((1, 1, 3)))},
        "transform": {"tied": draw(flags), "bias": True, "transform": {
            "activation": "gelu", "norm": draw(norms()), "hidden": draw(st.sampled_from((None, 13)))},
                      "unused_bias": draw(flags)},
        "wide": {"tied": False, "transform": {"width": 17}},
        "projection": {"kind": "projection", "width": 7, "of": draw(st.sampled_from(("pooled", "mean"))),
                       "hidden": draw(st.sampled_from((None, 11)))},
        "none": {"kind": "none"}, "classifier": {
            "kind": "classifier", "labels": 5, "bias": draw(flags), "padded": draw(flags), "undropped": draw(flags),
            "of": draw(st.sampled_from(("first", "all", "votes", "last")))},
    }[head]
    data["extra_tokens"] = draw(st.sampled_from((0, 2))) if head == "untied" else 0
    if head == "transform" and draw(flags):
        data["embedding_dim"] = 9
    else:
        data["token_tables"] = draw(st.sampled_from(((), (), ({"rows": 7, "lookups": 2}, {"rows": 5, "width": 3}))))
    if architecture == "decoder-only" and data["residual"] == "sequential" and not data.get("per_layer_embedding") and (
            data["head"].get("kind") in (None, "none") and not data["recurrent"] and draw(st.integers(0, 2)) == 0):
        data |= {"position": draw(st.sampled_from(({"kind": "none"}, {"kind": "learned", "size": 31}))), "groups": None,
                 "layers": 2, "streams": None, "entities": None, "contact_head": False, "attention": {
                     "heads": 3, "head_dim": 4, "bias": draw(flags), "ahead": {"streams": 2, "buckets": 5}}}
    if architecture == "decoder-only" and not data.get("altup") and not data.get("unread_memory") and not data.get(
            "entities") and "ahead" not in (data["attention"] or {}) and draw(st.integers(0, 3)) == 0:
        data = draw(compressed(data))
    if architecture == "encoder-only" and data.get("groups") is None and draw(flags):
        if data["position"]["kind"] not in ("none", "learned", "sinusoidal"):
            data["position"] = {"kind": "learned", "size": 31}
        data |= draw(bottlenecks())
    return Model.from_data(data)


@st.composite
def bottlenecks(draw: st.DrawFn) -> dict[str, Any]:
    """A narrow layer within each, trigrams of tokens, and a head beside their table, as MobileBERT has them."""
    return {
        "embedding_dim": 5, "embedding_projection": "rows", "embedding_span": draw(st.sampled_from((1, 3))),
        "token_tables": (), "entities": None, "contact_head": False, "recurrent": None, "convolution": None,
        "adapter": None, "tanh_gates": False, "shared_block": None,
        "residual": "sequential", "per_layer_embedding": None, "altup": None, "extra_tokens": 0, "streams": None,
        "norm": {"kind": draw(st.sampled_from(("layernorm", "affine"))), "scale": draw(flags), "placement": "post"},
        "attention": {"heads": 2, "head_dim": 4, "bias": draw(flags)},
        "feed_forward": {"d_ff": 17, "bias": draw(flags)},
        "bottleneck": {"width": draw(st.sampled_from((8, 11))), "shared": draw(flags),
                       "feed_forwards": draw(st.integers(1, 3))},
        "head": {"tied": draw(flags), "bias": draw(flags), "widened": True, "transform": {"activation": "relu"}},
    }
