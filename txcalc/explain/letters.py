"""What sizes are called in formulas: the letters of the literature, where it has them."""

from __future__ import annotations

from typing import Final, NamedTuple


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
    "pieces": Letter("P_m", "pieces of a maxout unit"),
    "tokens": Letter("j", "positions that a projector hands on"),
    "image_window": Letter("Q", "patches along a square that attends by itself"),
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
    ("transform", "width"): Letter("W_t", "width before the output"),
    ("maxout", "width"): Letter("W_m", "maxout units"),
    ("hidden", "width"): Letter("f_p", "width of a projector"),
    ("convolution", "width"): Letter("K", "positions that a convolution sees"),
    ("convolution", "channels"): Letter("Z", "channels of a convolution"),
}
"""Letters of one kind of layer, or of one field's contents."""
