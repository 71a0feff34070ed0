"""Names of a trace's modules as people say them, and letters of sizes in a formula, as the literature has them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

NAMES: Final = {
    "cross_attention": "cross-attention", "mla": "latent attention", "feed_forward": "feed-forward",
    "moe": "MoE feed-forward", "lm": "lm head", "layernorm": "layernorm", "rmsnorm": "rmsnorm",
    "per_layer_embedding": "per-layer embedding", "per_layer_input": "per-layer input",
}
"""Names that people give a module, or one of a kind; any other is called what its path says."""

RECURRENT: Final = {
    "mamba2": "Mamba-2", "gated-delta": "gated DeltaNet", "mamba": "Mamba", "lightning": "lightning attention",
    "kimi-delta": "Kimi delta attention", "short-convolution": "gated short convolution",
    "image-convolutions": "convolutions over an image", "additive-attention": "additive attention",
    "fourier": "Fourier mixing",
    "patch-merging": "merging of patches", "mlstm": "xLSTM matrix memory",
    "rg-lru": "real-gated linear recurrence", "wkv": "RWKV time mixing",
    "rnn": "RNN", "lstm": "LSTM", "gru": "GRU", "convolution": "convolution",
}
"""The kinds of layers that stand where ``recurrent`` does."""


Fields = dict[str, Any]
"""A resolved spec, or a part of it, as plain data."""


def stacks(spec: Fields) -> list[Fields]:
    """The towers of a resolved spec: the encoder, if there is one, and the model's own."""
    return [stack for stack in (spec.get("encoder"), spec) if stack]


def tower_input(spec: Fields) -> str:
    """The input of a model's tower: an image or a sound."""
    return "sound" if spec["tower"]["input"]["kind"] == "frames" else "image"


def blocks(stack: Fields) -> list[Fields]:
    """Every distinct block of a stack; the stack itself when its layers are all alike."""
    groups = stack.get("groups")
    return [block for group in groups for block in group["blocks"]] if groups else [stack]


class Component(NamedTuple):
    """A module of the trace: its stack, its path there, the fields of its block. ``called``: what people call it."""

    stack: str
    where: list[str]
    block: Fields
    called: str
    reach: str
    others_reach: bool


def component(spec: Fields, path: str) -> Component:
    """The module at a path of a model. ``reach``: how far its attention sees, where that has an end."""
    stack, _, rest = path.partition(".")
    known = [*(("encoder", "decoder") if spec.get("encoder") else ()), *(("tower",) if spec.get("tower") else ())]
    stack, rest = (stack, rest) if rest and stack in known else ("", path)
    fields, where = spec[stack] if stack in ("encoder", "tower") else spec, rest.split(".")
    if where[0] == "second":
        fields, where = fields["second"], where[1:]
    if where[:2] == ["projector", "resampler"]:
        fields, where = fields["resampler"], where[2:]
    groups = fields.get("groups") if where[0] == "layers" and len(where) > 3 else None
    block = _block(groups, where) if groups else fields
    return Component(stack, where, block, _called(where, fields, block, spec["head"]), _reach(block),
                     any(map(_reach, blocks(fields))))


def _block(groups: list[Fields], where: list[str]) -> Fields:
    """The block at a path; of a pipeline's stage, whose groups are cut, else the first that has what is there."""
    at = groups[int(where[1]):][:1]
    own = at[0]["blocks"][int(where[2]):][:1] if at else []
    every: list[Fields] = [*own, *(block for group in groups for block in group["blocks"])]
    return next((block for block in every if block.get(where[3])), every[0])


def _called(where: list[str], stack: Fields, block: Fields, head: Fields) -> str:
    last = where[-1]
    if last.endswith("_norm"):
        return NAMES.get(stack["norm"]["kind"], "norm")
    if where[0] == "deepstack":
        return where[0]
    if last == "head":
        return NAMES.get(head["kind"], "head")
    if last == "recurrent":
        return RECURRENT[block["recurrent"]["kind"]]
    special = {"attention": "mla", "feed_forward": "moe"}.get(last, "")
    if special and (block[last] or {}).get("kind") == special:
        return NAMES[special]
    return NAMES.get(last, last.replace("_", " "))


def _reach(block: Fields) -> str:
    attention = block.get("attention") or {}
    return next((f"{limit} {attention[limit]:,}" for limit in ("window", "chunk") if attention.get(limit)), "")


class Name(NamedTuple):
    """``plain`` tells apart what a reader expects apart; ``detail`` is added where that is not enough."""

    plain: str
    detail: str

    @property
    def full(self) -> str:
        """Both."""
        return f"{self.plain} ({self.detail})" if self.detail else self.plain


def name(spec: Fields, path: str) -> Name:
    """The name of a component at this path in formulas."""
    found = component(spec, path)
    last, plain, pair = found.where[-1], found.called, found.stack in ("encoder", "decoder")
    detail = "" if found.where[0] == "deepstack" else ".".join(found.where[1:-1])
    if last.endswith("_norm"):
        detail = last.replace("_", " ")
    if last == "attention":
        reach = found.reach or ("full" if found.others_reach else "")
        shares = "shared keys" if (found.block["attention"] or {}).get("kv_shared") else ""
        detail = ", ".join(filter(None, (reach, shares))) or detail
    if pair:
        detail = " ".join(filter(None, (found.stack, detail)))
        plain = "self-attention" if plain == "attention" else plain
    of = f"{tower_input(spec)}s" if found.stack == "tower" else found.stack if pair and last == "attention" else ""
    return Name(f"{plain}, {of}" if of else plain, detail)


# ---------------------------------------------------------------- sizes


class Letter(NamedTuple):
    """The letter of a field in a formula, and its meaning."""

    letter: str
    meaning: str


LETTERS: Final[dict[str, Letter]] = {
    "vocab": Letter("V", "vocabulary"),
    "source_vocab": Letter("V", "the encoder's vocabulary"),
    "unread_memory": Letter("d_e", "width of an encoder's output that is not there"),
    "d_model": Letter("d", "model width"),
    "layers": Letter("L", "layers"),
    "repeat": Letter("L", "layers"),
    "extra_tokens": Letter("V_x", "tokens without logits"),
    "token_types": Letter("T", "token types"),
    "task_types": Letter("T_k", "task types"),
    "embedding_dim": Letter("e", "width of the token table"),
    "heads": Letter("h", "attention heads"),
    "kv_heads": Letter("g", "heads of keys and values"),
    "head_dim": Letter("k", "width of a head"),
    "streams": Letter("n_s", "residual streams"),
    "gate_rank": Letter("r_g", "bottleneck of a norm's gate"),
    "query_experts": Letter("E_q", "experts that project queries"),
    "window": Letter("w", "sliding window"),
    "chunk": Letter("c", "chunk of attention"),
    "q_rank": Letter("q", "query latent"),
    "kv_rank": Letter("r", "key-value latent"),
    "nope_dim": Letter("k_n", "part of a head without position"),
    "rope_dim": Letter("k_r", "rotary part of a head"),
    "rate": Letter("r_c", "positions of a sum that is a key"),
    "o_groups": Letter("G_h", "groups of heads that are projected by themselves"),
    "o_rank": Letter("r_o", "columns of such a projection"),
    "sinkhorn": Letter("n_k", "steps that balance what mixes streams"),
    "mix_rank": Letter("r_m", "bottleneck of the gates that mix streams"),
    "index_topk": Letter("k_c", "keys that a query attends to"),
    "value_dim": Letter("v", "width of a head's values"),
    "key_heads": Letter("H_k", "key heads of the recurrence"),
    "value_heads": Letter("H", "value heads of the recurrence"),
    "key_dim": Letter("P_k", "width of a recurrent key"),
    "state": Letter("N", "state dimension"),
    "groups": Letter("G", "groups of the recurrence"),
    "inner": Letter("J", "channels of the recurrence"),
    "rank": Letter("R", "width of the step sizes"),
    "conv": Letter("K", "length of the short convolution"),
    "kept_keys": Letter("k_k", "keys that are kept of each query's"),
    "value_convolution": Letter("K_v", "positions of the convolution of values"),
    "span_convolution": Letter("K_s", "positions under a query's own kernel"),
    "languages": Letter("G_l", "languages with an adapter"),
    "kernel": Letter("K", "positions of the convolution"),
    "hidden": Letter("U", "units of a recurrent cell"),
    "d_ff": Letter("f", "feed-forward width"),
    "shared_d_ff": Letter("f", "width of a shared expert"),
    "experts": Letter("E", "experts"),
    "active_experts": Letter("A", "active experts"),
    "shared_experts": Letter("S", "shared experts"),
    "latent": Letter("l_e", "columns of an expert's input and output"),
    "size": Letter("n", "positions of the table"),
    "absolute": Letter("n", "positions of the table"),
    "buckets": Letter("B", "buckets of relative positions"),
    "dim": Letter("k_R", "rotated part of a head"),
    "max_distance": Letter("D", "farthest relative position"),
    "image": Letter("I", "pixels along an image"),
    "patch": Letter("a", "pixels along a patch"),
    "channels": Letter("C", "colour channels"),
    "class_tokens": Letter("t", "class tokens"),
    "registers": Letter("t_r", "registers"),
    "bins": Letter("F", "mel bins"),
    "length": Letter("l", "positions of one input"),
    "labels": Letter("Y", "classes"),
    "pair_labels": Letter("Y_p", "classes of a pair"),
    "copies": Letter("u", "heads side by side"),
    "width": Letter("W", "width of the joint space"),
    "rows": Letter("V_l", "rows of the per-layer table"),
    "embedding_span": Letter("o", "tokens whose rows stand side by side"),
    "feed_forwards": Letter("F_f", "feed-forwards of a layer"),
    "lookups": Letter("O", "rows that are looked up for a token"),
    "pieces": Letter("P_m", "pieces of a maxout unit"),
    "tokens": Letter("j", "positions that a projector hands on"),
    "image_window": Letter("Q", "patches along a square that attends by itself"),
    "image_convolution": Letter("C_q", "pixels along a convolution before queries, keys and values"),
    "image_reduction": Letter("R", "stride of the convolution before keys and values"),
    "separators": Letter("z", "newlines between an image's positions"),
    "merge": Letter("M", "patches along a merged square"),
    "unused_layers": Letter("L_u", "layers whose output is not read"),
    "padding": Letter("z_p", "columns of zeros"),
    "batch": Letter("b", "batch, sequences"),
    "seq": Letter("s", "new tokens of a sequence"),
    "past": Letter("p", "cached tokens of a sequence"),
    "source_seq": Letter("m", "source tokens of a sequence"),
    "images": Letter("x", "images"),
}
"""Field names with one meaning wherever they occur. ``SPECIAL`` has other ones."""

SPECIAL: Final[dict[tuple[str, str], Letter]] = {
    ("moe", "d_ff"): Letter("f", "width of an expert"),
    ("indexer", "heads"): Letter("h_i", "heads of an indexer"),
    ("indexer", "block"): Letter("b_i", "keys of a block"),
    ("indexer", "blocks"): Letter("c_i", "blocks that a query attends to"),
    ("indexer", "head_dim"): Letter("k_i", "width of an indexer's head"),
    ("mamba2", "heads"): Letter("H", "heads of the recurrence"),
    ("mamba2", "head_dim"): Letter("P", "width of a recurrent head"),
    ("lightning", "heads"): Letter("H", "heads of the recurrence"),
    ("lightning", "head_dim"): Letter("P", "width of a recurrent head"),
    ("mlstm", "heads"): Letter("H", "heads of the recurrence"),
    ("mlstm", "value_dim"): Letter("P", "width of a recurrent value"),
    ("rg-lru", "heads"): Letter("H", "heads of the recurrence"),
    ("kimi-delta", "heads"): Letter("H", "heads of the recurrence"),
    ("kimi-delta", "head_dim"): Letter("P", "width of a recurrent head"),
    ("gated-delta", "value_dim"): Letter("P", "width of a recurrent value"),
    ("queries", "length"): Letter("l_q", "learned queries"),
    ("blocks", "length"): Letter("w_b", "positions of a block, which are seen to either side"),
    ("ahead", "streams"): Letter("n_a", "streams that predict ahead"),
    ("ahead", "buckets"): Letter("B_a", "buckets of distances, each with a bias"),
    ("blocks", "summaries"): Letter("w_s", "positions of a block whose sum is a key for all"),
    ("blocks", "global_tokens"): Letter("n_g", "global tokens"),
    ("bottleneck", "width"): Letter("d_b", "columns of a bottleneck"),
    ("additive", "width"): Letter("W_a", "width of additive attention"),
    ("per_layer_embedding", "width"): Letter("e_l", "width of a layer's vector"),
    ("token_tables", "rows"): Letter("V_t", "rows of a table of what else a token has"),
    ("token_tables", "width"): Letter("e_t", "columns of such a table"),
    ("head", "hidden"): Letter("U_h", "width of a first projection"),
    ("transform", "hidden"): Letter("U_t", "width of a first layer before the output"),
    ("transform", "width"): Letter("W_t", "width before the output"),
    ("adapter", "width"): Letter("f_a", "width of an adapter"),
    ("instruction", "rows"): Letter("V_i", "tokens of an instruction"),
    ("instruction", "positions"): Letter("n_i", "positions of an instruction"),
    ("autoencoder", "channels"): Letter("A_c", "channels of an autoencoder's first convolution"),
    ("autoencoder", "in_channels"): Letter("A_i", "channels of an image that an autoencoder reads"),
    ("autoencoder", "latent"): Letter("A_l", "channels of an autoencoder's latent"),
    ("autoencoder", "codes"): Letter("V_A", "codes of images"),
    ("autoencoder", "code_dim"): Letter("A_w", "width of an image code"),
    ("autoencoder", "out_channels"): Letter("A_o", "channels of an image that an autoencoder makes"),
    ("generation", "width"): Letter("A_d", "width of layers that generate images"),
    ("grid", "channels"): Letter("C_F", "channels of convolutions over mel bins"),
    ("grid", "frames"): Letter("n_F", "frames of a piece of sound"),
    ("shared_block", "rank"): Letter("r_s", "rank of adapters to a shared block"),
    ("altup", "streams"): Letter("n_s", "streams of alternating updates"),
    ("altup", "laurel_rank"): Letter("r_l", "rank of an augmented residual"),
    ("entities", "rows"): Letter("V_e", "entities"),
    ("entities", "width"): Letter("e_e", "columns of the table of entities"),
    **{("column_groups", name): Letter(f"G_{name}", f"groups of columns of {name}")
       for name in ("q", "k", "v", "o", "up", "down")},
    **{("unused", name): Letter(f"u_{name}", f"projections {name} that are not used") for name in "qkv"},
    ("maxout", "width"): Letter("W_m", "maxout units"),
    ("hidden", "width"): Letter("f_p", "width of a projector"),
    ("patchwise", "width"): Letter("f_q", "width of a projector's layers of patches"),
    ("continuous", "hidden"): Letter("U_d", "columns between layers of distances"),
    ("layers", "channels"): Letter("C_I", "channels of a convolution over an image"),
    ("patches", "kernel"): Letter("a_K", "pixels along what is convolved to a patch"),
    ("patch-merging", "width"): Letter("d_M", "columns of merged patches"),
    ("patch-merging", "d_ff"): Letter("f_M", "width of a layer of merged patches"),
    ("convolution", "width"): Letter("K", "positions that a convolution sees"),
    ("convolution", "channels"): Letter("Z", "channels of a convolution"),
}
"""Letters of one kind of layer, or of one field's contents."""
