"""Notes beside the numbers: a length that the model was not made for, a kernel that does not exist, whose code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from txcalc import units
from txcalc.count.kv_cache import kv_cache_bytes
from txcalc.count.labels import KV_CACHE
from txcalc.count.weights import is_known, is_packed
from txcalc.spec.facts import located_blocks
from txcalc.spec.model import Model
from txcalc.trace.layout import WHOLE
from txcalc.trace.rank import layers
from txcalc.trace.record import Trace
from txcalc.trace.workload import AttentionKernel, Workload


def notes(spec: Model, t: Trace, asked: Workload) -> Iterator[str]:
    """Notes on a model under the workload of its trace, each a sentence; ``asked``: before it was made to fit."""
    workload = t.workload
    longest = workload.past + workload.seq if spec.input.kind == "tokens" else 0
    if spec.encoder is not None and spec.encoder.input.kind == "tokens":
        longest = max(longest, workload.source_seq or 0)
    yield from beyond(spec, longest)
    yield from one_rank(t)
    yield from instead(spec, t)
    yield from idle(spec, t, asked)
    if not is_known(t):
        yield (f"bytes of the weights are left out, for how they are stored is not understood: "
               f"{spec.unknown_quantization}; --weights counts them in a format of its own")
    if workload.phase == "training" and is_packed(t) and workload.adapter is None:
        yield ("packed weights have no gradients: what trains over them is an adapter (--lora); the backward pass "
               "here, and what it keeps, are those of weights that are all trained")
    if workload.keeps:
        yield from transformers_keep(spec, t)


def beyond(spec: Model, length: int) -> Iterator[str]:
    """A length beyond the context is a hypothetical one."""
    if length > spec.context:
        yield (f"{length:,} positions are hypothetical: {spec.name} was made for {spec.context:,}, and nothing says "
               "that it is of use beyond them")


def one_rank(t: Trace) -> Iterator[str]:
    """The rank that the numbers are of, and options that do nothing where an axis has one rank."""
    layout = t.workload.layout or WHOLE
    if layout.world > 1:
        which = " and ".join(str(stage + 1) for stage in layout.stages_of(t.stage))
        stage = f", of stage {which} of {layout.stages}, which holds most and has {layers(t.model):,} layers"
        yield f"all numbers are of one of {layout.world:,} ranks{stage if layout.pp > 1 else ''}"
    for name, given, axis in (("sp", layout.sp, "tp"), ("zero", layout.zero, "alike"), ("fsdp", layout.fsdp, "alike"),
                              ("schedule", layout.schedule, "pp"), ("cp_comm", layout.cp_comm, "cp")):
        if given and getattr(layout, axis) == 1:
            yield f"{name} changes nothing here: {axis.replace('alike', 'dp · cp')} is 1"


def unfollowed(t: Trace) -> Iterator[str]:
    """The reason why a layout makes a peak an estimate, if it does, and what it has elsewhere."""
    from txcalc.count.unproved import unmeasured

    if what := unmeasured(t):
        yield f"the peak is an estimate: no test has followed {what} yet, only its parts"
    if t.layout.offloads and t.layout.fsdp:
        from txcalc.count import step

        layout = t.layout.replaced(fsdp=t.layout.fsdp.replaced(offload=False))
        there = step.held(replace(t, workload=t.workload.replaced(layout=layout), layout=layout))
        yield (f"{units.memory(sum(there.values()) - there.get('inputs', 0))} of weights, gradients and the "
               "optimizer's states are in the CPU's memory")


def instead(spec: Model, t: Trace) -> Iterator[str]:
    """The kernels that run in place of the one that was asked for, and why."""
    if t.workload.attention == "sdpa":
        return
    several = len(t.kernels) > 1
    for kernel, why in t.kernels:
        if why:
            which = f"some attention of {spec.name}" if several else f"the attention of {spec.name}"
            counted = "counted eager, its scores and softmax are tensors" if kernel == "eager" else f"{kernel} runs"
            yield f"no {t.workload.attention} kernel of PyTorch computes {which}: {why}; {counted}"


def idle(spec: Model, t: Trace, asked: Workload) -> Iterator[str]:
    """Fields of the workload that were given and change nothing."""
    cached = kv_cache_bytes(t) is not None
    for name, why, holds in (
        ("latents", "caches no latents", asked.latents is not None and t.workload.latents is None),
        ("kv_dtype", f"has no {KV_CACHE}", asked.kv_dtype != asked.dtype and not cached),
        ("kv_block", f"has no {KV_CACHE}", asked.kv_block is not None and not cached),
        ("dropout", "is not trained in this pass", asked.dropout > 0 and not t.workload.keeps),
    ):
        if holds:
            yield f"{name} changes nothing here: {spec.name} {why}"


def runs_as(t: Trace) -> str | None:
    """Kernels of attention in this trace, such as ``flash`` or ``flash and eager``; None without attention."""
    found = dict.fromkeys(kernel for kernel, _ in t.kernels)
    return " and ".join(name for name in get_args(AttentionKernel)[::-1] if name in found) or None


def transformers_keep(spec: Model, t: Trace) -> Iterator[str]:
    """Activations that transformers' modelling code keeps beyond plain PyTorch: read in its 5.23."""
    if t.workload.implementation != "torch":
        return
    blocks = [block for stack in (spec, spec.encoder, spec.tower) if stack is not None
              for _, block in located_blocks(stack)]
    own = [block.feed_forward for block in blocks if block.feed_forward is not None]
    more = {
        "the rows that RMSNorm, composed, multiplies by its weight": t.workload.fused_norms and any(
            b.norm.kind == "rmsnorm" for b in blocks),
        "three more tensors of the hidden width where its file says gelu_new": any(
            getattr(each, "activation", None) == "gelu_tanh" for each in own),
        "a softmax in fp32 and copies of grouped keys in most of its classes": any(k == "eager" for k, _ in t.kernels),
    }
    known = [what for what, holds in more.items() if holds]
    if known:
        yield f"kept activations are plain PyTorch's; transformers' own code keeps more: {'; '.join(known)}"
