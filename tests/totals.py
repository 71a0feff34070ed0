"""Totals that no answer has: what the tests compare parts of the others with."""

from txcalc.count import flops, weights
from txcalc.count.entries import total
from txcalc.spec.quantization import StoredTensors
from txcalc.trace.record import Trace
from txcalc.trace.workload import Masked


def backward_flops(t: Trace, masked: Masked = "counted") -> int:
    """FLOPs of the backward pass, without what it computes once more."""
    return total(flops.entries(t, "backward", masked=masked))


def quantized_params(t: Trace) -> int:
    """Weights that are stored as codes of a few bits."""
    packing = weights.stored(t).packing
    packed = packing is not None and not isinstance(packing, StoredTensors)
    return sum(own for _, own, _ in weights.packed_matrices(t, packing)) if packed else 0
