"""TII's Falcon: a parallel block, few key-value heads; hybrids of theirs are rows of Mamba's file."""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import decoder, rope
from txcalc.huggingface.rows import LAYERNORM, Fields, Rows, flag, plain, size

_HEADS: Final = size("num_attention_heads", "n_head")
_NEW: Final = flag("new_decoder_architecture")


def _attention(c: Config) -> Fields:
    """The newer form has grouped queries, the older one pair of keys and values, or as many as queries."""
    heads, multi_query = _HEADS(c), c.flag("multi_query")
    grouped = c.size_or(heads, "num_kv_heads", "n_head_kv")
    return {"heads": heads, "kv_heads": grouped if _NEW(c) else 1 if multi_query else heads}


def _norm(c: Config) -> Fields:
    """One for both branches, unless each has its own."""
    norms = c.size_or(2 if _NEW(c) else 1, "num_ln_in_parallel_attn")
    return {**LAYERNORM, "shared": c.flag("parallel_attn") and norms != 2}


ROWS: Final[Rows] = {
    "falcon": decoder(
        "Falcon", attention=_attention, bias=flag("bias"), norm=_norm,
        residual=lambda c: "parallel" if c.flag("parallel_attn") or _NEW(c) else "sequential",
        position=lambda c, width: {"kind": "alibi"} if c.flag("alibi") else rope()(c, width),
        feed_forward=plain(d_ff=lambda c: c.size_or(4 * c.size("hidden_size"), "ffn_hidden_size"), bias=flag("bias"),
                           act="activation"),
        gguf="falcon", ignore="apply_residual_connection_post_layernorm ff_factor",
        only={"partial_rotary_factor": 1.0}),
}
