"""T5 and its descendants, with experts, blocks of neighbours, or Gemma's layers.

Read off the forward pass of the transformers class of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from txcalc.huggingface.build import ACTIVATIONS, Data, layered
from txcalc.huggingface.config import Config
from txcalc.huggingface.encoder import NONE, classifier
from txcalc.huggingface.gemma import ROWS as GEMMA
from txcalc.huggingface.rows import RMS, Family, Reader, Rows, activation, passed_over, read, size
from txcalc.huggingface.seq2seq import OF_ROUTING, ON_TOP, seq2seq_classes, source_vocab, unread_table
from txcalc.spec.errors import shown


def _sums_of_blocks(c: Config) -> Data:
    """A radius to either side, and positions of a block whose sum is seen by all."""
    c.ignore("global_block_size")
    sums = c.choice("encoder_attention_type", {"local": False, "transient-global": True})
    return {"length": c.size("local_radius") + 1, "reach": "three",
            "summaries": c.size("global_block_size") if sums else None}


def _t5(classes: Mapping[str, str], *, per_layer: bool = False, blocks: Reader | None = None) -> Family:
    """T5: a bucketed bias per stack or ``per_layer``, RMSNorm, no biases, scores without a scale.

    ``tie_word_embeddings: false`` means what it says, as in the published weights; transformers 5 ties them all the
    same when it loads them.
    """
    def build(c: Config, kind: str) -> Data:
        alone = kind in ("encoder", "token")
        passed_over(c, "num_decoder_layers", {"is_decoder": False, **({} if alone else {"is_encoder_decoder": True})})
        c.by_its_name("num_layers")
        layers, tied = c.size("num_layers"), _t5_ties(c)
        body = {**_t5_body(c, per_layer=per_layer), "feed_forward": _t5_feed_forward(c)}
        own = {} if blocks is None else {"attention": body["attention"] | {"blocks": read(c, blocks)}}
        if alone:
            head = NONE if kind == "encoder" else classifier(of="all")
            return {"architecture": "encoder-only", "layers": layers, **body, **own, "head": read(c, head)}
        head = {"kind": "lm", "tied": tied} if kind == "lm" else ON_TOP["all" if kind == "span" else kind]
        return {"architecture": "encoder-decoder", "layers": c.size_or(layers, "num_decoder_layers"),
                "encoder": {"layers": layers, **own}, **body, "head": read(c, head)}

    return Family(build, classes)


def _t5_classes(prefix: str, without: str = "") -> dict[str, str]:
    """T5's: some keep only the encoder."""
    token = {} if without else {f"{prefix}ForTokenClassification": "token"}
    return seq2seq_classes(prefix, without, alone=False) | {f"{prefix}EncoderModel": "encoder"} | token


def _t5_body(c: Config, *, per_layer: bool = False) -> Data:
    return dict(read(c, {
        "vocab": size("vocab_size"), "d_model": size("d_model", "hidden_size"),
        "context": size("n_positions", default=512), "norm": RMS,
        "position": {"kind": "relative", "buckets": size("relative_attention_num_buckets"),
                     "max_distance": size("relative_attention_max_distance"), "per_layer": per_layer},
        "attention": {"heads": size("num_heads", "num_attention_heads"), "head_dim": size("d_kv", "head_dim"),
                      "scale": 1.0}}))


def _t5_ties(c: Config) -> bool:
    """Tell whether the head shares the token table. Since its fifth version, the library says so in the second field.

    There the first is always true, also beside the two tables of v1.1.
    """
    tied = c.flag("tie_word_embeddings", default=True) and c.flag("scale_decoder_outputs", default=True)
    if not tied:
        c.remarks.choices.append("the head is untied, as published; today's class ties it unless the weights differ")
    return tied


def _switch(c: Config, kind: str) -> Data:
    """T5 with one of many experts per token in every few layers.

    A token beyond an expert's capacity passes by it; the count takes every token to find room.
    """
    passed_over(c, f"{OF_ROUTING} add_router_probs router_type", {
        "is_decoder": False, "is_gated_act": False, "num_selected_experts": 1,
        "feed_forward_proj": c.take("dense_act_fn")})
    feed = {"kind": "dense", "d_ff": c.size("d_ff"), "activation": activation("dense_act_fn")(c), "gated": False}
    sparse = feed | {"kind": "moe", "experts": c.size("num_experts"), "active_experts": 1, "normalize": False,
                     "router_bias": c.flag("router_bias")}
    c.by_its_name("num_layers")
    layers, tied = c.size("num_layers"), c.flag("tie_word_embeddings")
    encoder = _every_few_sparse(c, "encoder", layers, feed, sparse)
    decoder = _every_few_sparse(c, "decoder", c.size_or(layers, "num_decoder_layers"), feed, sparse)
    body = _t5_body(c)
    if kind == "encoder":
        if not tied:
            raise c.error("tie_word_embeddings", "untied, an encoder alone keeps a second table that nothing reads")
        return {"architecture": "encoder-only", **body, **encoder, "head": NONE}
    tables = read(c, {"source_vocab": source_vocab, "unused_table": unread_table, "head": ON_TOP[kind]})
    return {"architecture": "encoder-decoder", **body, **decoder, "encoder": encoder, **tables}


def _every_few_sparse(c: Config, stack: str, layers: int, dense_one: Data, sparse_one: Data) -> Data:
    """The second layer of every ``step`` is sparse: also where the file asks for none, as the class has it."""
    number, name = c.take(f"num_sparse_{stack}_layers"), f"{stack}_sparse_step"
    if not isinstance(number, int) or number < 0:
        raise c.error(f"num_sparse_{stack}_layers", f"must be a whole number, got {shown(number)}")
    step = c.data.get(name, layers // number if number else layers)  # a step in the file wins
    c.ignore(name)
    if not isinstance(step, int) or step < 0:
        raise c.error(name, f"must be a whole number, got {shown(step)}")
    which = [step > 0 and (step == 1 or i % step == 1) for i in range(layers)]
    return layered({"feed_forward": dense_one}, [{"feed_forward": sparse_one} if one else {} for one in which])


def _t5_feed_forward(c: Config) -> Data:
    """``feed_forward_proj`` (``relu``, ``gated-gelu``, …); its class makes two fields of it unless a file has them."""
    text = c.take("feed_forward_proj")
    gated, _, act = text.rpartition("-") if isinstance(text, str) else ("?", "", "")
    if gated not in ("", "gated") or act not in ACTIVATIONS:
        raise c.error("feed_forward_proj", f"{shown(text)} is not known")
    c.data.setdefault("dense_act_fn", "gelu_new" if text == "gated-gelu" else act)
    c.data.setdefault("is_gated_act", gated == "gated")
    return {"d_ff": c.size("d_ff", "intermediate_size"), "activation": activation("dense_act_fn")(c),
            "gated": c.flag("is_gated_act")}


def _t5gemma(c: Config, kind: str) -> Data:
    """T5Gemma, arXiv 2504.06225: two Gemma 2 stacks, each with a token table of its own, of which one sees everything.

    The encoder's window reaches as far to either side as the decoder's does back.
    """
    c.only("is_encoder_decoder", True)
    c.ignore("vocab_size", "classifier_dropout_rate", "initializer_range")
    source, target = (c.section(name, "t5_gemma_module") for name in ("encoder", "decoder"))
    for part in (source, target):
        part.only("model_type", "t5_gemma_module")
        part.ignore("classifier_dropout_rate", "tie_word_embeddings", "cross_attention_hidden_size")
    gemma2 = GEMMA["gemma2"].build
    encoder, spec = gemma2(source, "none"), gemma2(target, "lm" if kind == "lm" else "none")
    if encoder["d_model"] != spec["d_model"]:
        raise source.error("hidden_size", f"{encoder['d_model']}, but the decoder has {spec['d_model']}: stacks of "
                           "different widths are not understood")
    source.finish()
    target.finish()
    head = read(c, ON_TOP["all"]) if kind == "all" else spec["head"]
    if kind == "lm":
        head |= {"tied": c.flag("tie_word_embeddings")}
    c.ignore("tie_word_embeddings")
    own = ("layers", "groups", "position", "norm", "attention", "feed_forward")
    stack = {name: encoder[name] for name in own if name in encoder}
    return spec | {"architecture": "encoder-decoder", "source_vocab": encoder["vocab"], "encoder": _both_ways(stack),
                   "head": head}


def _both_ways(stack: Any) -> Any:
    """Windows as wide as those of a stack that sees what comes after as far as what came before."""
    if isinstance(stack, dict):
        return {name: 2 * value + 1 if name == "window" else _both_ways(value) for name, value in stack.items()}
    return [_both_ways(item) for item in stack] if isinstance(stack, list) else stack

ROWS: Final[Rows] = {
    # T5 (arXiv 1910.10683) and v1.1.
    "t5": _t5(_t5_classes("T5")),
    "mt5": _t5(_t5_classes("MT5")),
    # UMT5, arXiv 2304.09151: T5 v1.1 with a bias table in every layer.
    "umt5": _t5(_t5_classes("UMT5"), per_layer=True),
    # Switch Transformers, arXiv 2101.03961.
    # LongT5, arXiv 2112.07916: an encoder of blocks with those next to them, and sums of blocks if it is told so.
    "longt5": _t5(_t5_classes("LongT5", "sequence span"), blocks=_sums_of_blocks),
    "switch_transformers": Family(_switch, {
        "SwitchTransformersForConditionalGeneration": "lm", "SwitchTransformersModel": "none",
        "SwitchTransformersEncoderModel": "encoder"}),
    "t5gemma": Family(_t5gemma, {
        "T5GemmaForConditionalGeneration": "lm", "T5GemmaModel": "none", "T5GemmaForSequenceClassification": "all",
        "T5GemmaForTokenClassification": "all"}),
}
