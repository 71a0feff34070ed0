"""Training steps of the reference with the optimizers themselves, by the names that a workload has for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from txcalc.check.measure import Inputs, all_ends, balance, maker
from txcalc.check.measure_modes import LiveMode
from txcalc.check.measure_trained import build
from txcalc.spec.model import Model

MADE: Final[dict[str, Callable[..., torch.optim.Optimizer]]] = {
    "adamw": torch.optim.AdamW,
}
KERNELS: Final[dict[str, dict[str, Any]]] = {"foreach": {"foreach": True}}


def made(name: str, kernel: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of this name with its own defaults."""
    return MADE[name](parameters, **KERNELS[kernel])


def step_live_bytes(
    model: Model, batch: int, seq: int, *, source_seq: int | None = None, dtype: torch.dtype = torch.float32,
    images: int | None = None, optimizer: str = "adamw", kernel: str = "foreach", accumulate: int = 1,
    clip: bool = False, device: str = "cpu", **how: Any,
) -> list[tuple[str, int]]:
    """The bytes live after every operation of the second training step that allocates or frees: forward, loss,
    backward, as often as micro-batches are accumulated, clipping, the optimizer and its ``zero_grad``.

    Weights, states, inputs and targets count; buffers and what a kernel allocates for itself do not. ``how``: see
    ``build``.
    """
    with maker(device) as at:
        run = Inputs(model, batch, seq, source_seq, at, images=images, dtype=dtype)
        root = build(model, length=run.length, dtype=dtype, device=at, **how)
        if not device.startswith("fake"):
            balance(root)
        live = LiveMode(at)
        for tensor in (*root.parameters(), run.tokens, run.source, run.images, *run.targets):
            if tensor is not None:
                live.see(tensor)

        def micro_batch() -> tuple[Tensor, ...]:
            ends = all_ends(root, run, loss=root.has_loss)
            torch.autograd.backward(ends, None if root.has_loss else tuple(map(torch.ones_like, ends)))
            return ends

        with live:
            update = made(optimizer, kernel, list(root.parameters()))
            for _ in range(2):
                for state in tree_leaves(list(update.state.values())):  # a number is made where no mode sees it
                    if isinstance(state, Tensor):
                        live.see(state)
                live.taken()
                live.events.append(("", live.now))
                for _ in range(accumulate):
                    ends: tuple[Tensor, ...] = ()
                    ends = micro_batch()
                if clip:
                    nn.utils.clip_grad_norm_(root.parameters(), 1.0)
                update.step()
                update.zero_grad()
                del ends
        return list(live.events)
