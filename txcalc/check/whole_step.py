"""Training steps of the reference with the optimizers themselves, by the names that a workload has for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from txcalc.check.measure import Inputs, all_ends, balance, maker
from txcalc.check.measure_modes import LiveMode, canonical_paths
from txcalc.check.measure_trained import build
from txcalc.check.reference.transformer import Reference
from txcalc.spec.model import Model

Made = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class _Of:
    """The optimizer of a package that may not be there."""

    package: str
    name: str

    def __call__(self, parameters: Sequence[nn.Parameter], **_: Any) -> torch.optim.Optimizer:
        return getattr(import_module(self.package), self.name)(parameters)  # type: ignore[no-any-return]


MADE: Final[dict[str, Made]] = {
    "adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "adamw-amsgrad": partial(torch.optim.AdamW, amsgrad=True),
    "nadam": torch.optim.NAdam, "radam": torch.optim.RAdam, "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop, "sgd": torch.optim.SGD, "sgd-momentum": partial(torch.optim.SGD, momentum=0.9),
    "adafactor": torch.optim.Adafactor, "lion": _Of("lion_pytorch", "Lion"),
    "adamw-8bit": _Of("bitsandbytes.optim", "AdamW8bit"),
    "paged-adamw-8bit": _Of("bitsandbytes.optim", "PagedAdamW8bit"),
    "torchao-adamw-8bit": _Of("torchao.optim", "AdamW8bit"), "torchao-adamw-4bit": _Of("torchao.optim", "AdamW4bit"),
    "torchao-adamw-fp8": _Of("torchao.optim", "AdamWFp8"),
}
KERNELS: Final[dict[str, dict[str, Any]]] = {
    "foreach": {"foreach": True}, "fused": {"fused": True}, "loop": {"foreach": False},
}


DATA: Final = ("adafactor",)
"""Optimizers whose step reads numbers, which tensors without data do not have."""


def runs_on(name: str, device: str) -> bool:
    """Tell whether the optimizer's package is installed, and its step runs on this device."""
    package = getattr(MADE.get(name), "package", "torch")
    return find_spec(package.partition(".")[0]) is not None and not (name in DATA and device.startswith("fake"))


STEPS: Final = {"radam": 6}
"""The first step in steady state, where it is not the second one: from then on RAdam rectifies."""


def made(
    name: str, kernel: str, root: nn.Module, parameters: Sequence[nn.Parameter]
) -> list[torch.optim.Optimizer]:
    """The optimizer of this name with its own defaults; of Muon, which has the matrices of hidden layers, and AdamW for
    the rest."""
    options = KERNELS[kernel]
    if name != "muon":
        return [MADE[name](parameters, **options)]
    inner = {id(module.weight) for path, module in root.named_modules()
             if isinstance(module, nn.Linear) and path != "head"}
    hidden = [p for p in parameters if p.dim() == 2 and id(p) in inner]
    rest = [p for p in parameters if all(p is not each for each in hidden)]
    return [torch.optim.Muon(hidden), torch.optim.AdamW(rest, **options)]


def step_live_bytes(
    model: Model, batch: int, seq: int, *, source_seq: int | None = None, dtype: torch.dtype = torch.float32,
    images: int | None = None, optimizer: str = "adamw", kernel: str = "foreach", accumulate: int = 1,
    clip: bool = False, in_backward: bool = False, autocast: torch.dtype | None = None, device: str = "cpu",
    order: Sequence[str] = (), live: LiveMode | None = None,
    prepared: Callable[[Reference, list[nn.Parameter]], list[nn.Parameter]] = lambda _, parameters: parameters,
    **how: Any,
) -> list[tuple[str, int]]:
    """The bytes live after every operation that allocates or frees of a training step in steady state: forward,
    loss and backward, as often as micro-batches are accumulated, clipping, the optimizer and its ``zero_grad``; or
    those of every weight once its gradient is there.

    Weights, states, inputs and targets count; buffers and what a kernel allocates for itself do not. The optimizer gets
    the parameters that are trained in this ``order`` of their paths. ``live``: what sees them; ``prepared``: makes the
    parameters others. ``how``: see ``build``.
    """
    with maker(device) as at:
        run = Inputs(model, batch, seq, source_seq, at, images=images, dtype=dtype)
        root = build(model, length=run.length, dtype=dtype, device=at, **how)
        if not device.startswith("fake"):
            balance(root)
        parameters, live = prepared(root, _in_order(root, order)), live or LiveMode(at)
        for tensor in (*parameters, run.tokens, run.source, run.images, *run.targets):
            if tensor is not None:
                live.see(tensor)

        def micro_batch() -> tuple[Tensor, ...]:
            with torch.autocast(at, autocast, enabled=autocast is not None):
                ends = all_ends(root, run, loss=root.has_loss)
            torch.autograd.backward(ends, None if root.has_loss else tuple(map(torch.ones_like, ends)))
            return ends

        with live:
            trained = [p for p in parameters if p.requires_grad]
            groups = [[p] for p in trained] if in_backward else [trained]
            update = [each for group in groups for each in made(optimizer, kernel, root, group)]
            for p, each in zip(trained, update, strict=True) if in_backward else ():
                p.register_post_accumulate_grad_hook(partial(_at_once, [each]))
            for _ in range(STEPS.get(optimizer, 2)):
                for state in tree_leaves([[*each.state.values()] for each in update]):  # a number is made unseen
                    if isinstance(state, Tensor):
                        live.see(state)
                live.taken()
                live.events.append(("", live.now))
                for _ in range(accumulate):
                    ends: tuple[Tensor, ...] = ()
                    ends = micro_batch()
                if clip:
                    nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
                if not in_backward:
                    _at_once(update)
                del ends
        return list(live.events)


def _at_once(update: Sequence[torch.optim.Optimizer], *_: Tensor) -> None:
    for each in update:
        each.step()
    for each in update:
        each.zero_grad()


def _in_order(root: nn.Module, order: Sequence[str]) -> list[nn.Parameter]:
    """The parameters by their paths, each of which names one copy after another, and then all others."""
    named: dict[str, list[nn.Parameter]] = {}
    for module, path in canonical_paths(root).items():
        for name, p in module.named_parameters(recurse=False):
            named.setdefault(f"{path}.{name}".lstrip("."), []).append(p)
    first = [named[path].pop(0) for path in order if named.get(path)]
    return list({id(p): p for p in (*first, *root.parameters())}.values())
