"""Dispatch modes that watch a running model: the module that runs, its products, the storages that live."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.hooks import RemovableHandle

from txcalc.check.reference.layers import Repeated

# ---------------------------------------------------------------- which module is running


def canonical_paths(root: nn.Module) -> dict[nn.Module, str]:
    """Every module to its path, without the index where modules are repeated; a shared module has its first path."""
    paths: dict[nn.Module, str] = {}

    def visit(module: nn.Module, path: str) -> None:
        if module in paths:
            return
        paths[module] = path
        for name, child in module.named_children():
            visit(child, path if isinstance(module, Repeated) else f"{path}.{name}".lstrip("."))

    visit(root, "")
    return paths


def copies(root: nn.Module) -> dict[nn.Module, int]:
    """The number of modules that each module stands for: on meta one may be repeated by reference."""
    found: dict[nn.Module, int] = {}

    def visit(module: nn.Module, times: int) -> None:
        found.setdefault(module, times)
        for child, n in Counter(module._modules.values()).items():
            if child is not None and child not in found:
                visit(child, times * n)

    visit(root, 1)
    return found


class ModulePath:
    """The canonical path of the innermost module that is running, in forward and in backward.

    In backward it is found through autograd's sequence number, which every node got when it was made in forward.
    """

    def __init__(self, root: nn.Module) -> None:
        self._paths = canonical_paths(root)
        self._running: list[str] = []
        self._marks: list[tuple[int, str]] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> ModulePath:
        for module, path in self._paths.items():
            self._handles.append(module.register_forward_pre_hook(self._entering(path)))
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))
        self._mark()
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def now(self) -> str:
        """The module whose forward is running; the root's path is empty."""
        return self._running[-1] if self._running else ""

    def of_backward(self) -> tuple[bool, str]:
        """Tell whether part of the forward pass is run once more, and its module, else the one whose forward made the
        autograd node that is running.
        """
        again = torch.is_grad_enabled()
        return again, self.now() if again and self._running else self._of_node()

    def _of_node(self) -> str:
        node = torch._C._current_autograd_node()
        if node is None:
            return ""
        return self._marks[bisect_right(self._marks, node._sequence_nr(), key=lambda mark: mark[0]) - 1][1]

    def _entering(self, path: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, args: Any) -> None:
            self._running.append(path)
            self._mark()

        return enter

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        self._running.pop()
        self._mark()

    def _mark(self) -> None:
        if torch._C._current_graph_task_id() != -1:
            return  # a forward pass inside the backward one: its nodes are not those that run
        self._marks.append((torch._C._autograd._get_sequence_nr(), self.now()))


# ---------------------------------------------------------------- counting what ran


def _cpu_flash(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)  # type: ignore[no-untyped-call]


def _cpu_flash_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)  # type: ignore[no-untyped-call]


def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any, **known: Any) -> int:
    groups, wanted = rest[-2], rest[-1]
    if groups == 1:
        return flop_registry[_aten.convolution_backward](grad, x, weight, *rest, **known)
    per_half: int = conv_flop_count(list(x.shape), list(weight.shape), list(grad.shape))
    return per_half * sum(wanted[:2])


_aten = torch.ops.aten
# PyTorch has formulas for the CUDA kernels of flash attention alone and reads 0 on the CPU's; these give its kernel
# the same ones. Its formula for the backward of a convolution forgets the groups in the weight's half.
FORMULAS: dict[Any, Callable[..., int]] = flop_registry | {
    _aten.convolution_backward: _convolution_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu: _cpu_flash,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_flash_backward,
}


class Unfilled(TorchFunctionMode):
    """Weights are zeros where they would be drawn: what only looks at sizes need not wait for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function of PyTorch's."""
        given = kwargs or {}
        return (args or [given["tensor"]])[0].detach().zero_() if func in _DRAWS else func(*args, **given)


_DRAWS: Final = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_,
                 nn.init.xavier_uniform_, nn.init.trunc_normal_)


class FlopMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """FlopCounterMode with a path of our own for each op."""

    def __init__(self, where: Callable[[], Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._where = where
        self._counts: dict[Any, int] = defaultdict(int)

    def by_path(self) -> dict[Any, int]:
        """Counts so far, by path."""
        return dict(self._counts)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if (formula := FORMULAS.get(func._overloadpacket)) is not None:
            self._counts[self._where()] += formula(*args, **kwargs, out_val=out)
        return out


def storage_of(tensor: Tensor) -> int:
    """The identity of the memory behind a tensor, as long as it lives."""
    return int(tensor.untyped_storage()._cdata)


class LiveMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The bytes of the storages made on a device while it is on: now, at most, after each operation that changed them.

    ``events``: the operation that allocated, or nothing where others were freed before the next did, and the bytes
    that live then.
    """

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = torch.device(device).type
        self.now: int = 0
        self.peak: int = 0
        self.events: list[tuple[str, int]] = []
        self._live: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(each.__module__.startswith("torchao.") for each in types):  # what they wrap is seen, as they are run
            return NotImplemented
        given = {storage_of(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        before = self.now
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and storage_of(tensor) not in given:
                self.see(tensor)
        if self.now != before:
            self.events.append((str(func), self.now))
        self.peak = max(self.peak, self.now)
        return out

    def see(self, tensor: Tensor) -> None:
        """Count a tensor's storage, if it is on the device and not counted yet."""
        key, storage = storage_of(tensor), tensor.untyped_storage()
        if tensor.device.type == self._device and key not in self._live:
            self.now += storage.nbytes()
            self._live[key] = weakref.finalize(storage, self._free, key, storage.nbytes())

    def taken(self) -> list[tuple[str, int]]:
        """The events so far, which are then forgotten."""
        found, self.events = self.events, []
        return found

    def _free(self, key: int, nbytes: int) -> None:
        del self._live[key]
        self.now -= nbytes
        if not nbytes:
            return
        if self.events and not self.events[-1][0]:
            self.events.pop()
        self.events.append(("", self.now))
