"""What people call a module of the trace, and what a size in a formula: the letters of the literature."""

from __future__ import annotations

from typing import Final, NamedTuple

from txcalc.spec.facts import located_blocks
from txcalc.spec.model import Model, Stack, Sublayers

NAMES: Final = {
    "cross_attention": "cross-attention", "mla": "latent attention", "feed_forward": "feed-forward",
    "moe": "MoE feed-forward", "lm": "lm head", "layernorm": "layernorm", "rmsnorm": "rmsnorm",
    "per_layer_embedding": "per-layer embedding", "per_layer_input": "per-layer input",
}
"""What people call a module, or one of a kind; any other is called what its path says."""

RECURRENT: Final = {
    "mamba2": "Mamba-2", "gated-delta": "gated DeltaNet", "mamba": "Mamba", "lightning": "lightning attention",
    "kimi-delta": "Kimi delta attention", "short-convolution": "gated short convolution",
    "fourier": "Fourier mixing",
    "rnn": "RNN", "lstm": "LSTM", "gru": "GRU", "convolution": "convolution",
}
"""The kinds of layers that stand where ``recurrent`` does."""


class Name(NamedTuple):
    """``plain`` tells apart what a reader expects apart; ``detail`` is added where that is not enough."""

    plain: str
    detail: str

    @property
    def full(self) -> str:
        """Both."""
        return f"{self.plain} ({self.detail})" if self.detail else self.plain


def name(spec: Model, path: str) -> Name:
    """The name of a component at this path."""
    first, *rest = path.split(".")
    pair = spec.encoder is not None and first in ("encoder", "decoder")
    tower = first == "tower"
    where = rest if pair or tower else [first, *rest]
    stack: Stack = spec
    if pair and first == "encoder" and spec.encoder is not None:
        stack = spec.encoder
    elif tower and spec.tower is not None:
        stack = spec.tower
    found = Name(NAMES.get(spec.head.kind, "head"), "") if where == ["head"] else _called(stack, where)
    of = "images" if tower else first if pair and where[-1] == "attention" else ""
    if pair:
        found = found._replace(detail=" ".join(filter(None, (first, found.detail))))
    if pair and found.plain == "attention":
        found = found._replace(plain="self-attention")
    return found._replace(plain=f"{found.plain}, {of}") if of else found


def _called(stack: Stack, where: list[str]) -> Name:
    last = where[-1]
    block = _block(stack, where)
    detail = ".".join(where[1:-1])
    if last.endswith("norm"):
        return Name(NAMES[stack.norm.kind], last.replace("_", " "))
    if where[0] == "deepstack":
        return Name(where[0], "")
    if last == "attention":
        latent = block.attention is not None and block.attention.kind == "mla"
        told_apart = ", ".join(filter(None, (_reach(stack, block), _sharing(block))))
        return Name(NAMES["mla"] if latent else "attention", told_apart or detail)
    if last == "recurrent" and block.recurrent is not None:
        return Name(RECURRENT[block.recurrent.kind], detail)
    if last == "feed_forward":
        mixed = block.feed_forward is not None and block.feed_forward.kind == "moe"
        return Name(NAMES["moe" if mixed else last], detail)
    return Name(NAMES.get(last, last.replace("_", " ")), detail)


def _reach(stack: Stack, block: Sublayers) -> str:
    found = [_limit(each) for _, each in located_blocks(stack)]
    return _limit(block) or ("full" if any(found) else "")


def _limit(block: Sublayers) -> str:
    attention = block.attention
    if attention is not None and attention.kind == "standard":
        if attention.window is not None:
            return f"window {attention.window:,}"
        if attention.chunk is not None:
            return f"chunk {attention.chunk:,}"
    return ""


def _sharing(block: Sublayers) -> str:
    attention = block.attention
    return "shared keys" if attention is not None and attention.kind == "standard" and attention.kv_shared else ""


def _block(stack: Stack, where: list[str]) -> Sublayers:
    """The block that a path such as layers.0.1.attention leads to."""
    if stack.groups is not None and where[0] == "layers" and len(where) > 3:
        return stack.groups[int(where[1])].blocks[int(where[2])]
    return stack


# ---------------------------------------------------------------- sizes


class Letter(NamedTuple):
    """What a field is called in a formula, and what it means."""

    letter: str
    meaning: str


LETTERS: Final[dict[str, Letter]] = {
    "vocab": Letter("V", "vocabulary"),
    "source_vocab": Letter("V", "the encoder's vocabulary"),
    "d_model": Letter("d", "model width"),
    "layers": Letter("L", "layers"),
    "repeat": Letter("L", "layers"),
    "token_types": Letter("T", "token types"),
    "task_types": Letter("T_k", "task types"),
    "embedding_dim": Letter("e", "width of the token table"),
    "heads": Letter("h", "attention heads"),
    "kv_heads": Letter("g", "heads of keys and values"),
    "head_dim": Letter("k", "width of a head"),
    "window": Letter("w", "sliding window"),
    "chunk": Letter("c", "chunk of attention"),
    "q_rank": Letter("q", "query latent"),
    "kv_rank": Letter("r", "key-value latent"),
    "nope_dim": Letter("k_n", "part of a head without position"),
    "rope_dim": Letter("k_r", "rotary part of a head"),
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
    "kernel": Letter("K", "positions of the convolution"),
    "hidden": Letter("U", "units of a recurrent cell"),
    "d_ff": Letter("f", "feed-forward width"),
    "shared_d_ff": Letter("f", "width of a shared expert"),
    "experts": Letter("E", "experts"),
    "active_experts": Letter("A", "active experts"),
    "shared_experts": Letter("S", "shared experts"),
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
    "lookups": Letter("O", "rows that are looked up for a token"),
    "pieces": Letter("P_m", "pieces of a maxout unit"),
    "tokens": Letter("j", "positions that a projector hands on"),
    "image_window": Letter("Q", "patches along a square that attends by itself"),
    "separators": Letter("z", "newlines between an image's positions"),
    "merge": Letter("M", "patches along a merged square"),
    "unused_layers": Letter("L_u", "layers whose output is not read"),
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
    ("indexer", "head_dim"): Letter("k_i", "width of an indexer's head"),
    ("mamba2", "heads"): Letter("H", "heads of the recurrence"),
    ("mamba2", "head_dim"): Letter("P", "width of a recurrent head"),
    ("lightning", "heads"): Letter("H", "heads of the recurrence"),
    ("lightning", "head_dim"): Letter("P", "width of a recurrent head"),
    ("kimi-delta", "heads"): Letter("H", "heads of the recurrence"),
    ("kimi-delta", "head_dim"): Letter("P", "width of a recurrent head"),
    ("gated-delta", "value_dim"): Letter("P", "width of a recurrent value"),
    ("additive", "width"): Letter("W_a", "width of additive attention"),
    ("per_layer_embedding", "width"): Letter("e_l", "width of a layer's vector"),
    ("token_tables", "rows"): Letter("V_t", "rows of a table of what else a token has"),
    ("token_tables", "width"): Letter("e_t", "columns of such a table"),
    ("transform", "hidden"): Letter("U_t", "width of a first layer before the output"),
    ("transform", "width"): Letter("W_t", "width before the output"),
    ("maxout", "width"): Letter("W_m", "maxout units"),
    ("hidden", "width"): Letter("f_p", "width of a projector"),
    ("convolution", "width"): Letter("K", "positions that a convolution sees"),
    ("convolution", "channels"): Letter("Z", "channels of a convolution"),
}
"""Letters of one kind of layer, or of one field's contents."""
