"""One layer by itself, as ``txcalc mixers`` compares them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace.attention import Around, self_attention
from txcalc.trace.record import Trace
from txcalc.trace.recurrent import linear_attention, recurrent

if TYPE_CHECKING:
    from txcalc.spec.layers import Mixer
    from txcalc.trace.tensors import Number
    from txcalc.trace.workload import Workload


def trace_mixer(spec: Mixer, d: Number, workload: Workload) -> Trace:
    """Run one layer of width ``d`` on the workload's batch and length, causally."""
    t = Trace(workload)
    x = t.tensor(workload.batch, workload.seq, d, label="x")
    if spec.kind == "linear-attention":
        linear_attention(t, spec, x)
    elif spec.kind == "standard":
        self_attention(t, spec, Around(None, causal=True, cached=True), x)
    else:
        recurrent(t, spec, x, cached=True)
    return t
