"""What is compared with published figures: one number of a run, by the word that a row has for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final

from txcalc.answer import devices
from txcalc.answer.fit import fit
from txcalc.answer.report import Totals, totals
from txcalc.count import step
from txcalc.count.activations import kept
from txcalc.count.flops import core_flops, forward_flops
from txcalc.count.params import params
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Role
from txcalc.trace.workload import Workload


def _trace(spec: Model, workload: Workload) -> Trace:
    return trace(spec, fit(spec, workload))


def _total(name: str) -> Callable[[Model, Workload], int]:
    def found(spec: Model, workload: Workload) -> int:
        total: Totals = totals(_trace(spec, workload))
        return int(getattr(total, name).value)

    return found


def _six_n(spec: Model, workload: Workload, *, tokens: str) -> Fraction:
    """6 FLOPs per parameter and token."""
    return Fraction(tokens) * int(6 * params(_trace(spec, workload)))


def _over_six_nd(spec: Model, workload: Workload) -> Fraction:
    """FLOPs of a training step as arXiv 2203.15556, appendix F counts them, over 6ND.

    The embeddings, the logits and all that belongs to distances are left out, and 3 FLOPs for every score are in.
    """
    plain = _trace(Model.from_data({**spec.to_data(), "position": {"kind": "none"}}), workload)
    logits = sum(often.calls * op.flops for op, often in plain.placed if op.kind.name == "head")
    assert spec.attention is not None
    seq, batch = workload.seq, workload.batch
    softmax = 3 * spec.layers * spec.attention.heads * seq**2 * batch
    return Fraction(forward_flops(plain) - logits + softmax, 2 * seq * batch * params(_trace(spec, workload)))


def _utilisation(spec: Model, workload: Workload, *, rate: str, peak: str, attention: bool) -> Fraction:
    """Model FLOPs utilisation in per cent, of ``rate`` tokens/s and a ``peak`` in FLOP/s: 6N per token, and attention's
    own 12 L H Q T."""
    t = _trace(spec, workload)
    per_token = Fraction(6 * params(t)) + (Fraction(3 * core_flops(t), t.workload.seq * t.workload.batch)
                                           if attention else 0)
    return 100 * Fraction(rate) * per_token / Fraction(peak)


def _kept_units(spec: Model, workload: Workload) -> Fraction:
    """Bytes that a layer keeps, over s b h, without the norms' statistics."""
    t = _trace(spec, workload)
    inside = sum(each.value for each in kept(t) if each.op.within.layer and each.tensor.role is not Role.STATISTIC)
    return Fraction(inside, spec.layers * workload.seq * workload.batch * spec.d_model)


def _held(spec: Model, workload: Workload, *, device: str) -> int:
    """Weights, the cache and one workspace of matrix products: what is held once the last token is there."""
    found = totals(_trace(spec, workload))
    assert found.weight_bytes is not None
    assert found.kv_cache_bytes is not None
    return found.weight_bytes.value + found.kv_cache_bytes.value + devices.device(device).workspaces(backward=False)


def _after_step(spec: Model, workload: Workload) -> int:
    """Bytes allocated after a step, before gradients are set to none, while the last batch's logits are alive."""
    t = _trace(spec, workload)
    gradients = sum(each.elements * each.width * each.copies for each in step.parameters(t))
    logits = workload.batch * workload.seq * (spec.vocab or 0) * t.workload.bytes_of(Role.ACTIVATION)
    return int(sum(entry.value for entry in step.resident(t)) + gradients + logits)


MEASURES: Final[Mapping[str, Callable[..., Any]]] = {
    "params": _total("params"), "params_active": _total("params_active"),
    "kv_cache_bytes_per_token": _total("kv_cache_bytes_per_token"), "flops_forward": _total("flops_forward"),
    "6 N D": _six_n, "FLOPs / 6 N D": _over_six_nd, "MFU": _utilisation, "kept bytes / s b h, a layer": _kept_units,
    "held after generation": _held, "allocated after a step": _after_step,
}
"""By the name of what is compared: a function of a model, a workload and what else a row gives."""
