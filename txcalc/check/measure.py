"""Measure the reference: what PyTorch itself says about parameters, FLOPs, kept tensors, caches and peak memory.

Paths are canonical: the index of a repeated layer or expert is left out, so that ``layers.0.attention.q`` and
``layers.1.attention.q`` are both ``layers.attention.q``. Every function builds the reference it needs from a spec.

Devices: ``cpu`` and ``cuda`` run for real. ``fake`` has sizes only and takes the kernels that the CPU would take,
flash attention among them. ``meta`` has sizes only too, but replaces flash attention with its N x N decomposition.
On both, experts get equal shares of the tokens, since there are no scores to rank.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.hooks import RemovableHandle

from txcalc.check.reference import Output, Reference, build
from txcalc.check.reference_layers import Repeated
from txcalc.spec.inputs import ClassifierHead
from txcalc.spec.model import Model

Shape = tuple[int, ...]


class Flops(NamedTuple):
    """FLOPs by canonical path of the innermost module: two per multiply-accumulate, matrix products only."""

    forward: dict[str, int]
    backward: dict[str, int]


class Kept(NamedTuple):
    """One storage that autograd keeps: the module that first saved it, as it saw it, and the storage's bytes."""

    path: str
    shape: Shape
    dtype: str
    nbytes: int


class AttentionMemory(NamedTuple):
    """Bytes of one attention layer's forward pass: kept for backward, its input included, and allocated at most."""

    kept: int
    peak: int


# ---------------------------------------------------------------- what is measured


def module_paths(model: Model) -> frozenset[str]:
    """The canonical path of every module of the reference."""
    return frozenset(canonical_paths(build(model, length=1, device="meta")).values())


def shapes(model: Model) -> dict[str, tuple[Shape, int]]:
    """Every weight's path to its shape and how many of it there are; a tied or shared weight counts once.

    Raises ValueError if weights that share a canonical path differ in shape.
    """
    root = build(model, length=1, device="meta")
    paths = canonical_paths(root)
    found: dict[str, tuple[Shape, int]] = {}
    seen: set[nn.Parameter] = set()
    for module, path in paths.items():
        for name, weight in module.named_parameters(recurse=False):
            if weight in seen:
                continue
            seen.add(weight)
            full, shape = f"{path}.{name}", tuple(weight.shape)
            before, count = found.get(full, (shape, 0))
            if before != shape:
                raise ValueError(f"{full} is both {before} and {shape}")
            found[full] = (shape, count + 1)
    return found


def flops(
    model: Model, batch: int, seq: int, *, source_seq: int | None = None, past: int = 0, eager: bool = True,
    loss: bool = False, backward: bool = False, device: str | None = None,
) -> Flops:
    """FLOPs of ``seq`` new tokens after ``past`` cached ones, as PyTorch's flop formulas count the ops that ran.

    Without a device it runs on sizes alone: on meta when eager, else on fake CPU tensors, which know flash attention.
    The gradient starts at every output: at the loss if asked, else at the logits or hidden states, and at a pooler.
    """
    device = device or ("meta" if eager else "fake")
    with _maker(device) as at:
        root = build(model, length=max(past + seq, source_seq or 0), eager=eager, device=at)
        run = _Inputs(model, batch, seq, source_seq, at)
        if past:
            if backward:
                raise ValueError("there is no backward pass through a cache")
            with torch.no_grad():
                _, cache = root.prefill(run.ids(past), run.source)
                with ModulePath(root) as where, _FlopMode(where.now) as counted:
                    root(run.tokens, cache=cache)
            return Flops(counted.by_path(), {})
        with ModulePath(root) as where:
            with _FlopMode(where.now) as counted:
                end = _end(root, run, loss)
            with _FlopMode(where.of_backward) as counted_back:
                if backward:
                    end.backward()  # type: ignore[no-untyped-call]
        return Flops(counted.by_path(), counted_back.by_path())


def kept(
    model: Model, batch: int, seq: int, *, source_seq: int | None = None, dtype: torch.dtype = torch.float32,
    eager: bool = False, dropout: float = 0.0, loss: bool = False, device: str = "cpu",
) -> list[Kept]:
    """Every storage that autograd keeps for the backward pass, in the order of saving.

    Parameters and buffers are left out, and so are empty storages (an expert that got no token).
    """
    with _maker(device) as at:
        length = max(seq, source_seq or 0)
        root = build(model, length=length, eager=eager, dropout=dropout, dtype=dtype, device=at)
        run = _Inputs(model, batch, seq, source_seq, at)
        return _kept(root, lambda: _end(root, run, loss))


def cache_bytes(
    model: Model, batch: int, seq: int, *, steps: int = 0, source_seq: int | None = None,
    dtype: torch.dtype = torch.float32, device: str = "cpu",
) -> list[int]:
    """Bytes of the key-value cache after a prompt of ``seq`` tokens, and after each of ``steps`` single tokens."""
    with _maker(device) as at, torch.no_grad():
        root = build(model, length=max(seq + steps, source_seq or 0), dtype=dtype, device=at)
        run = _Inputs(model, batch, seq, source_seq, at)
        _, cache = root.prefill(run.tokens, run.source)
        measured = [cache.bytes()]
        for _ in range(steps):
            root(run.ids(1), cache=cache)
            measured.append(cache.bytes())
        return measured


def attention_memory(
    model: Model, batch: int, seq: int, *, eager: bool, dropout: float = 0.0, dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> AttentionMemory:
    """Kept and peak bytes of the model's first self-attention alone, on ``seq`` tokens, input to output.

    The peak counts every tensor allocated inside (not the input, not what a kernel allocates within one op); on
    CUDA it is the allocator's own, rounded up by it to 512 bytes a tensor.
    """
    with _maker(device) as at:
        root = build(model, length=seq, eager=eager, dropout=dropout, dtype=dtype, device=at)
        stack = root.stack
        attention = next(block.attention for block in stack.blocks_in_order() if block.attention is not None)
        bias = None if stack.relative_bias is None else stack.relative_bias.look_up(0, seq)
        x = torch.randn(batch, seq, model.d_model, dtype=dtype, device=at, requires_grad=True)
        saved = _kept(attention, lambda: attention(x, bias, 0, None), besides=() if bias is None else (bias,))
        return AttentionMemory(sum(storage.nbytes for storage in saved), _peak(lambda: attention(x, bias, 0, None), at))


def visible(n: int, past: int = 0, *, causal: bool = True, window: int | None = None, chunk: int | None = None) -> int:
    """The (query, key) pairs that the mask lets through, counted one by one."""

    def sees(query: int, key: int) -> bool:
        if causal and key > query:
            return False
        if window is not None and (query - key >= window if causal else abs(query - key) > window // 2):
            return False
        return chunk is None or query // chunk == key // chunk

    return sum(sees(query, key) for query in range(past, past + n) for key in range(past + n))


# ---------------------------------------------------------------- inputs and outputs


class _Inputs:
    """Random token ids of the right shapes."""

    def __init__(self, model: Model, batch: int, seq: int, source_seq: int | None, device: str) -> None:
        if (source_seq is None) != (model.encoder is None):
            raise ValueError("source_seq is needed by an encoder-decoder, and only by it")
        self.vocab, self.batch, self.device = model.vocab or 1, batch, device
        self.tokens = self.ids(seq)
        self.source = None if source_seq is None else self.ids(source_seq)
        head = model.head
        one_each = isinstance(head, ClassifierHead) and head.of != "all"
        classes = head.labels if isinstance(head, ClassifierHead) else self.vocab
        self.targets = torch.randint(0, classes, (batch,) if one_each else (batch, seq), device=device)

    def ids(self, length: int) -> Tensor:
        return torch.randint(0, self.vocab, (self.batch, length), device=self.device)


def _end(root: Reference, run: _Inputs, loss: bool) -> Tensor:
    """Run forward to one number whose gradient reaches everything the model computed."""
    out: Output = root(run.tokens, run.source)
    last = out.hidden if out.logits is None else out.logits
    if loss:
        if out.logits is None:
            raise ValueError("a model without a head has no loss")
        last = root.loss(out.logits, run.targets)
    end = last.sum()
    return end if out.pooled is None else end + out.pooled.sum()


@contextmanager
def _maker(device: str) -> Iterator[str]:
    """The name to build tensors under; ``fake`` means CPU tensors without data."""
    mode: AbstractContextManager[object] = FakeTensorMode() if device == "fake" else nullcontext()
    with mode:
        yield "cpu" if device == "fake" else device


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

    def of_backward(self) -> str:
        """The module whose forward made the autograd node that is running."""
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
        self._marks.append((torch._C._autograd._get_sequence_nr(), self.now()))


# ---------------------------------------------------------------- counting what ran


def _cpu_flash(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    count: int = sdpa_flop_count(q.shape, k.shape, v.shape)  # type: ignore[no-untyped-call]
    return count


def _cpu_flash_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    count: int = sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)  # type: ignore[no-untyped-call]
    return count


_aten = torch.ops.aten
# PyTorch has formulas for the CUDA kernels alone and reads 0 on the CPU's; these give its kernel the same ones.
_FORMULAS: dict[Any, Callable[..., int]] = flop_registry | {
    _aten._scaled_dot_product_flash_attention_for_cpu: _cpu_flash,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_flash_backward,
}


class _FlopMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """FlopCounterMode with a path of our own for each op."""

    def __init__(self, where: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._where = where
        self._counts: dict[str, int] = defaultdict(int)

    def by_path(self) -> dict[str, int]:
        return dict(self._counts)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if (formula := _FORMULAS.get(func._overloadpacket)) is not None:
            self._counts[self._where()] += formula(*args, **kwargs, out_val=out)
        return out


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _kept(root: nn.Module, run: Callable[[], Tensor], besides: tuple[Tensor, ...] = ()) -> list[Kept]:
    own = {_storage(tensor) for tensor in chain(root.parameters(), root.buffers(), besides)}
    found: dict[int, Kept] = {}
    alive: list[Tensor] = []  # a storage that is freed may lend its address to the next

    with ModulePath(root) as where:

        def pack(tensor: Tensor) -> Tensor:
            key = _storage(tensor)
            nbytes = tensor.untyped_storage().nbytes()
            if key not in own and key not in found and nbytes:
                name = str(tensor.dtype).removeprefix("torch.")
                found[key] = Kept(where.now(), tuple(tensor.shape), name, nbytes)
                alive.append(tensor)
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            run()
    return list(found.values())


def by_path(storages: list[Kept]) -> Counter[tuple[str, str, int]]:
    """How often each (path, dtype, bytes) occurs: what two lists are compared by."""
    return Counter((storage.path, storage.dtype, storage.nbytes) for storage in storages)


class _LiveMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The bytes of the storages made while it is on, now and at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._live: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _storage(tensor) not in given and _storage(tensor) not in self._live:
                storage = tensor.untyped_storage()
                self.now += storage.nbytes()
                self._live[_storage(tensor)] = weakref.finalize(storage, self._free, _storage(tensor), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _free(self, key: int, nbytes: int) -> None:
        del self._live[key]
        self.now -= nbytes


def _peak(run: Callable[[], Tensor], device: str) -> int:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - before
    live = _LiveMode()
    with live:
        run()
    return live.peak
