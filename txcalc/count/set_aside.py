"""Buffers that Megatron-LM with TransformerEngine, or nanotron, set aside once and hold from step to step."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Final

from txcalc.count.entries import Entry
from txcalc.spec.facts import first_attention
from txcalc.trace.record import Op, Trace
from txcalc.trace.tensors import Role

WORKSPACE: Final = 4_194_304
LARGE_WORKSPACE: Final = 32 * 1024**2 + 1024
"""Bytes of TransformerEngine's workspace of cuBLAS, and from Hopper on (``pytorch/cpp_extensions/gemm.py``)."""
STREAMS: Final = 4
"""Products of groups run on so many streams, each with a workspace (``get_num_cublas_streams``)."""


def workspaces(trace: Trace, *, large: bool) -> int:
    """Bytes of what products of TransformerEngine work in, beside PyTorch's own."""
    if not trace.code.workspaces:
        return 0
    grouped = any(op.within.experts for op in trace.ops)
    return (LARGE_WORKSPACE if large else WORKSPACE) * (1 + STREAMS * grouped)


def resident(trace: Trace) -> Iterator[Entry]:
    """Buffers that are made in the first step.

    A product that adds its weight's gradient to what holds it hands autograd a stand-in: one for every shape, which all
    weights of that shape share (``get_dummy_wgrad`` in TransformerEngine's ``pytorch/module/base.py``). Megatron-LM's
    head has it too, and gathers positions in a buffer of its own (``core/tensor_parallel/layers.py``). In nanotron each
    layer has rotary tables: pairs of numbers in fp32, which generation turns with, and flash-attn's.
    """
    if trace.code.rotary_buffers:
        w, first = trace.workload, first_attention(trace.model)
        assert first.kind == "standard"
        for op, often in trace.placed:
            if op.kind.fused:
                pairs = w.seq * first.head_dim
                size = pairs * (w.bytes_of(Role.FLOAT32) + w.bytes_of(Role.ACTIVATION))
                yield Entry(op, "rotary tables", size, often.copies, part="inputs", shape=())
    if not trace.code.adds_gradients or trace.workload.phase != "training":
        return
    shapes = {g.shape[-2:]: op for op in trace.ops for step in op.backward for g in step if g.how == "added"}
    for shape, op in shapes.items():
        yield _held(trace, op, "stand-in of a weight's gradient", shape, "gradients")
    for op in trace.ops:
        if op.kind.name == "regathered" and op.writes[0].role is Role.PARAMETER:
            yield _held(trace, op, "gathered input of the head", op.writes[0].shape, "collectives")


def _held(trace: Trace, op: Op, what: str, shape: tuple[int, ...], part: str) -> Entry:
    size = prod(shape) * trace.workload.bytes_of(Role.ACTIVATION)
    return Entry(op, what, size, 1, part=part, shape=shape)
