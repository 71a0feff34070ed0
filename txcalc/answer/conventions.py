"""Every choice on which experts differ, as data: what was chosen, and the flag that chooses otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.count.states import RECIPES
from txcalc.document import Part
from txcalc.trace.workload import Workload

if TYPE_CHECKING:
    from txcalc.spec.model import Model
    from txcalc.spec.quantization import Quantization


class Convention(Part):
    """One choice. ``flag`` is the option that changes it, if there is one."""

    id: str
    text: str
    flag: str | None = None


def conventions(spec: Model, workload: Workload) -> tuple[Convention, ...]:
    """The choices behind a report on this model and workload, in the order of its totals."""
    rows = [
        ("flops", "1 multiply-accumulate = 2 FLOPs; matrix products are counted, "
                  "softmax, norms, activations and additions are not", None),
        ("logits", "logits are computed at every position", None),
        ("masked", _MASKED[workload.masked], "--masked"),
        ("non-embedding", "non-embedding parameters leave out the token, position and type tables "
                          "and the output head", None),
        ("active", "active parameters: each token's top experts, and everything that is always on", None),
        ("kv-cache", f"keys and values in {workload.kv_dtype}; a sliding window holds at most its window",
         "--kv-dtype"),
        ("attention", _ATTENTION[workload.attention], "--attention"),
        ("kept", _KEPT[workload.device], "--device"),
        ("dropout", _dropout(workload), "--dropout"),
        ("loss", "kept activations of a training step include the loss: fp32 log-probabilities of every position"
         if workload.phase == "training" else "kept activations are those of the model, without a loss", "--phase"),
        ("training-state", f"{workload.recipe}: {_recipe(workload)} bytes per parameter", "--recipe"),
    ]
    if spec.quantization is not None:
        rows.append(("weights", _packing(spec.quantization, workload), "--dtype"))
    if workload.kv_block is not None:
        rows.append(("kv-block", f"a paged engine's cache: whole blocks of {workload.kv_block} tokens that hold one "
                                 "still needed, for each sequence and layer; recurrent states are not paged",
                     "--kv-block"))
    if workload.attention == "flash" and "relative" in _positions(spec):
        rows.append(("relative-bias", "a learned relative bias needs the scores' gradient, "
                                      "so its attention is eager", None))
    if "transformer-xl" in _positions(spec):
        rows.append(("distances", "the sinusoids of all distances are projected in every run, once for all sequences",
                     None))
    if workload.attention == "flash" and {"disentangled", "transformer-xl"} & set(_positions(spec)):
        rows.append(("relative-positions", "every query is scored with every distance as well, "
                                           "so its attention is eager", None))
    return tuple(Convention(id=i, text=text, flag=flag) for i, text, flag in rows)


def _positions(spec: Model) -> list[str]:
    return [stack.position.kind for stack in (spec, spec.encoder) if stack is not None]


_MASKED = {
    "counted": "masked (query, key) pairs are counted, as PyTorch's FlopCounterMode counts them",
    "skipped": "only the (query, key) pairs that the mask keeps are counted",
}
_ATTENTION = {
    "eager": "attention is eager: scores and softmax are N x N tensors",
    "flash": "attention is a flash kernel: no N x N tensor is kept; backward is 2.5 x its forward",
}
_KEPT = {
    "cuda": "kept activations follow PyTorch's CUDA kernels: fused norms with fp32 statistics, 1-byte dropout masks",
    "cpu": "kept activations follow PyTorch on the CPU: RMSNorm composed in fp32, dropout masks as wide as their "
           "input, no dropout inside the flash kernel",
}


def _dropout(workload: Workload) -> str:
    if not workload.dropout:
        return "no dropout"
    return "dropout on the embeddings, the attention probabilities and the output of every sublayer"


def _packing(spec: Quantization, workload: Workload) -> str:
    sure = "" if spec.exact else "; the layout leaves some bytes open, so they are an estimate"
    return (f"weights packed as {spec.method} stores them, with scales and all that belongs to them; "
            f"what is not packed in {workload.dtype}{sure}")


def _recipe(workload: Workload) -> str:
    row = RECIPES[workload.recipe]
    return f"{row.weights} weights + {row.gradients} gradients + {row.optimizer} optimizer"

