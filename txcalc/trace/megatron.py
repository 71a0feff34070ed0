"""Attention and linear layers as Megatron-LM runs them on TransformerEngine (core 0.14 at 23e00ed, 2.11).

A linear layer whose columns are split keeps its input as it is split by position, and gathers it again in its backward
pass (``_LayerNormLinear`` in ``pytorch/module/layernorm_linear.py``); its product adds the weight's gradient to what
holds it in fp32 (``fuse_wgrad_accumulation``). Heads are turned by one kernel, and what the attention kernel reads is
made contiguous (``megatron/core/transformer/attention.py``, ``multi_latent_attention.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from txcalc.trace import norms, ops, parts, split
from txcalc.trace.cores import Core, attend
from txcalc.trace.record import Part, Trace
from txcalc.trace.sizes import Product
from txcalc.trace.tensors import Gradient, Number, Role, Steps, Tensor

if TYPE_CHECKING:
    from txcalc.spec.layers import MLA, Attention


def column(
    t: Trace, x: Tensor, sizes: Mapping[str, tuple[Number, Part]], *, bias: bool = False, tied: str | None = None,
    kind: Literal["linear", "head"] = "linear",
) -> Tensor:
    """One product of layers whose columns are split, (b, n / tp, d) to (b, n, all of their widths) where positions are.

    ``sizes``: the width of each layer, and its part in the model; the first one stands for all in the backward pass. A
    head gathers its input in a buffer that stays (``get_global_memory_buffer``).
    """
    (b, n, d), given, first = x.shape, x, next(iter(sizes))
    reads, path = (x,), t.path(first)
    back: Steps = ((ops.to(x),),)
    if t.layout.sp:
        n *= t.layout.tp
        x = t.op(f"{first}_enter", "gathered", reads=(x,), writes=(t.alias(x, b, n, d),),
                 backward=((ops.through(x),),))
        role = Role.PARAMETER if kind == "head" else x.made
        whole = t.tensor(b, n, d, role=role, label=x.label, grad=False)
        t.op(f"{first}_enter", "regathered", reads=(x,), writes=(whole,))
        again: Steps = () if kind == "head" else ((ops.temporary(whole),),)
        reads, back = (whole,), (*again, (ops.temporary(x),), (Gradient(x, given.shape, x.made),))
    elif t.layout.tp > 1:
        x = split.enter(t, first, x)
        reads = (x,)
    total = sum(width for width, _ in sizes.values())
    back += ((Gradient(tied or f"{path}.weight", (total, d), Role.WEIGHT, how="added"),),)
    back += ((ops.of_weight(f"{path}.bias", total),),) if bias else ()
    wide = t.tensor(b, n, total, role=x.made, label=" ".join(sizes))
    for i, (name, (width, part)) in enumerate(sizes.items()):
        own = ({} if tied else {"weight": (width, d)}) | ({"bias": (width,)} if bias else {})
        t.op(name, kind, weights=own, products=(Product(1, b * n, width, d, backward=2),), saves=(x,), part=part,
             reads=(x, wide) if i else reads, writes=(t.alias(wide, b, n, width) if i else wide,),
             backward=() if i else back)
    return wide


def attention(t: Trace, spec: Attention, x: Tensor, core: Core, *, rotates: bool) -> Tensor:
    """``SelfAttention.forward``: one projection, of which queries of several to a key are copied, and values are where
    queries and keys are turned; else the kernel reads all of it."""
    h, d = core.heads, x.shape[-1]
    with t.frame(x):
        wide = column(t, x, h.columns, bias=spec.bias.q)
        q, k, v = parts.columns(t, "qkv_split", wide, *(width for width, _ in h.columns.values()))
        if h.grouped:
            q = ops.copy(t, "q_copy", q, label="queries")
        q, k = (norms.of_heads(t, name, y, spec.qk_norm, h.dim) for name, y in (("q", q), ("k", k)))
        if rotates:
            q, k = (parts.remade(t, f"{name}_rotary", y, *y.shape, label=f"rotated {name}")
                    for name, y in (("q", q), ("k", k)))
        if rotates or h.grouped or spec.qk_norm is not None:
            v = ops.copy(t, "v_copy", v, label="values")
        o = ops.linear(t, "o", _attended(t, q, k, v, core), d, bias=spec.bias.o, part="attention output")
        return ops.dropout(t, "dropout", split.leave(t, "o", o))


def _attended(t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core) -> Tensor:
    """cuDNN's fused attention, which has values of another width than keys too, or plain operations."""
    kernel: Literal["eager", "flash"] = "eager" if t.workload.attention == "eager" else "flash"
    t.note_kernel(kernel, "")
    return attend(t, q, k, v, core, kernel)


def latent_attention(t: Trace, spec: MLA, x: Tensor, core: Core) -> Tensor:
    """``MLASelfAttention.forward``: latents stay split by position, queries are turned in place, and one kernel makes
    keys and values (``fused_mla_yarn_rope_apply.py``)."""
    (b, _, d), n, h, size = x.shape, core.span.queries, spec.heads, spec.nope_dim + spec.rope_dim
    with t.frame(x):
        q = x
        if spec.q_rank is not None:
            q = norms.norm(t, "q_norm", ops.linear(t, "q_down", x, spec.q_rank), norms.RMS)
        q = column(t, q, {"q" if spec.q_rank is None else "q_up": (h * size, "q" if spec.q_rank is None else "")})
        q = ops.view(t, "q_rotary", q)
        down = ops.linear(t, "kv_down", x, spec.kv_rank + spec.rope_dim)
        latent, turned = parts.columns(t, "kv_split", down, spec.kv_rank, spec.rope_dim)
        if t.layout.sp:
            turned = split.enter(t, "k_rope", turned)
        latent = norms.norm(t, "kv_norm", latent, norms.RMS)
        up = column(t, latent, {"kv_up": (h * (spec.nope_dim + spec.value_dim), "latents")})
        k, v = (t.tensor(b, n, h * width, label=label)
                for width, label in ((size, "keys with rotary part"), (spec.value_dim, "values")))
        t.op("kv_rotary", "elementwise", reads=(up, turned), writes=(k, v),
             backward=((ops.to(up), ops.to(turned)),))
        o = ops.linear(t, "o", _attended(t, q, k, v, core), d, part="attention output")
        return ops.dropout(t, "dropout", split.leave(t, "o", o))
