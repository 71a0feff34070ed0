"""Latent attention as transformers' modelling files compose it; its functions are named in quotes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import cache, norms, ops, parts
from txcalc.trace.composed import attended, times, turn, unmasked
from txcalc.trace.cores import Core, choose
from txcalc.trace.record import Trace
from txcalc.trace.sizes import several
from txcalc.trace.tables import Tables
from txcalc.trace.tensors import Tensor

if TYPE_CHECKING:
    from txcalc.spec.layers import MLA


def latent_attention(t: Trace, spec: MLA, given: Tables, x: Tensor, core: Core) -> Tensor:
    """``DeepseekV3Attention.forward`` on (b, n, d) hidden states: heads stand in front of positions."""
    (b, n, d), h, size = x.shape, spec.heads, spec.nope_dim + spec.rope_dim
    mask = given.masks[None]
    core = unmasked(t, core, mask)._replace(laid="qk")
    caches = not t.workload.keeps
    if caches:  # a kernel that masks by itself has keys of its queries alone
        keys = n if core.span.masks and mask is None else cache.seen(t, n, None)
        core = core._replace(span=core.span._replace(keys=keys))
    kernel = choose(t, core)
    with t.frame(x):
        if spec.q_rank is None:
            q = ops.linear(t, "q", x, h * size, part="q")
        else:
            q = norms.norm(t, "q_norm", ops.linear(t, "q_down", x, spec.q_rank, bias=spec.bias), norms.RMS)
            q = ops.linear(t, "q_up", q, h * size)
        q = ops.view(t, "q", t.hold(q), b, n, h, size, copied=several(t, n, h))
        q_nope, q_rope = parts.columns(t, "q_split", q, spec.nope_dim, spec.rope_dim)
        down = t.hold(ops.linear(t, "kv_down", x, spec.kv_rank + spec.rope_dim, bias=spec.bias))
        latent, k_rope = parts.columns(t, "kv_split", down, spec.kv_rank, spec.rope_dim)
        latent = norms.norm(t, "kv_norm", latent, norms.RMS)
        rotate = _interleaved if spec.interleaved else _rotated
        q_rope, k_rope = rotate(t, q_rope, k_rope.view(b, n, 1, spec.rope_dim), given.rotary[None])
        if caches:
            with t.frame(latent, k_rope):
                latent, k_rope = cache.update(t, latent, k_rope.view(b, n, spec.rope_dim), None)
        t.hold(latent)
        q = t.hold(parts.join(t, "q_join", (q_nope, t.hold(q_rope)), "rotated q")).view(b, n, h * size)
        k, v = (t.hold(each) for each in _expanded(t, spec, latent, t.hold(k_rope)))
        k, v = (each.view(b, core.span.keys, h * width) for each, width in ((k, size), (v, spec.value_dim)))
        y = attended(t, q, k, v, core, core.heads, mask, kernel)
        return ops.linear(t, "o", y, d, bias=spec.bias, part="attention output")


def _rotated(t: Trace, q: Tensor, k: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """``apply_rotary_pos_emb`` of (b, n, heads, columns)."""
    with t.frame(q, k):
        return t.hold(turn(t, "q_rotary", q, rotary)), t.hold(turn(t, "k_rotary", k, rotary))


def _interleaved(t: Trace, q: Tensor, k: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """``apply_rotary_pos_emb_interleave`` of (b, n, heads, columns): of every other column with that behind it."""
    names, xs = ("q_rotary", "k_rotary"), (q, k)
    with t.frame(*xs):
        halves = [[parts.narrow(t, name, x, x.shape[-1] // 2) for _ in range(2)]
                  for name, x in zip(names, xs, strict=True)]
        turned = [t.hold(_turned(t, name, first, second, rotary))
                  for name, (first, second) in zip(names, halves, strict=True)]
    return turned[0], turned[1]


def _turned(t: Trace, name: str, first: Tensor, second: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotary
    along, across = times(t, name, first, cos), times(t, name, second, sin)
    left = t.op(name, "elementwise", reads=(along, across), writes=(ops.like(t, along, first.label),),
                backward=((ops.through(along), ops.to(across)),))
    right = ops.add(t, times(t, name, second, cos), times(t, name, first, sin), name, label=first.label)
    return parts.join(t, name, (left, right), f"rotated {first.label}")


def _expanded(t: Trace, spec: MLA, latent: Tensor, k_rope: Tensor) -> tuple[Tensor, Tensor]:
    """``expand_kv``: keys, which their parts are copied into, and values, a part of what latents have become."""
    (b, n, _), h = latent.shape, spec.heads
    with t.frame(latent, k_rope):
        up = t.hold(ops.linear(t, "kv_up", latent, h * (spec.nope_dim + spec.value_dim), part="latents"))
        up = ops.view(t, "kv_up", up, b, n, h, spec.nope_dim + spec.value_dim, copied=several(t, n, h))
        k_nope, v = parts.columns(t, "kv_up_split", up, spec.nope_dim, spec.value_dim)
        k_rope = ops.view(t, "k_rope", k_rope, b, n, h, spec.rope_dim, copied=several(t, h))
        keys = t.tensor(b, n, h, spec.nope_dim + spec.rope_dim, label="keys with rotary part")
        part = t.op("k_join", "elementwise", reads=(k_nope,), writes=(keys,),
                    backward=((ops.temporary(keys),), (ops.to(k_nope),)))
        return t.op("k_join", "elementwise", reads=(part, k_rope), writes=(t.alias(keys, *keys.shape),),
                    backward=((ops.to(part),), (ops.to(k_rope) if t.needs(k_rope) else ops.temporary(k_rope),),
                              (ops.temporary(k_rope),))), v
