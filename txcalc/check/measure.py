"""Measure the reference: what PyTorch itself says about parameters, FLOPs, kept tensors, caches and peak memory.

Paths are canonical: the index of a repeated layer or expert is left out, so that ``layers.0.attention.q`` and
``layers.1.attention.q`` are both ``layers.attention.q``. Every function builds the reference it needs from a spec.

Devices: ``cpu`` and ``cuda`` run for real. ``fake`` has sizes only and takes the kernels that the CPU would take,
flash attention among them. ``meta`` has sizes only too, but replaces flash attention with its N x N decomposition.
``fake-cuda`` is ``fake`` with CUDA's kernels, and runs in a process of its own (``txcalc.check.fake_cuda``).
On both, experts get equal shares of the tokens, since there are no scores to rank; on ``meta`` one layer or
expert is built and stands for all that are like it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from txcalc.check.measure_kept import Kept, kept_by
from txcalc.check.measure_modes import FlopMode, ModulePath, Unfilled, canonical_paths, copies
from txcalc.check.measure_modes import LiveMode as _LiveMode
from txcalc.check.measure_trained import Trained, build
from txcalc.check.reference.layers import MixtureOfExperts
from txcalc.check.reference.transformer import Output, Reference
from txcalc.spec.facts import located_blocks, positions
from txcalc.spec.inputs import ClassifierHead, ContrastiveHead, FrameInput, Grid, Input, LMHead, PatchInput, eighth
from txcalc.spec.model import Model

Shape = tuple[int, ...]
DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Flops(NamedTuple):
    """FLOPs by canonical path of the innermost module: two per multiply-accumulate, matrix products only."""

    forward: dict[str, int]
    backward: dict[str, int]
    recomputed: dict[str, int]  # the forward pass within the backward one


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
    paths, times = canonical_paths(root), copies(root)
    found: dict[str, tuple[Shape, int]] = {}
    seen: set[nn.Parameter] = set()
    for module, path in paths.items():
        for name, weight in module.named_parameters(recurse=False):
            if weight in seen:
                continue
            seen.add(weight)
            full, shape = f"{path}.{name}".lstrip("."), tuple(weight.shape)
            before, count = found.get(full, (shape, 0))
            if before != shape:
                raise ValueError(f"{full} is both {before} and {shape}")
            found[full] = (shape, count + times[module])
    return found


def flops(
    model: Model, batch: int, seq: int, *, source_seq: int | None = None, past: int = 0, eager: bool = True,
    loss: bool = False, backward: bool = False, images: int | None = None, device: str | None = None,
    absorbed: bool = False, recompute: str = "none", trained: Trained | None = None,
) -> Flops:
    """FLOPs of ``seq`` new tokens after ``past`` cached ones, as PyTorch's flop formulas count the ops that ran.

    Without a device it runs on sizes alone: on meta when eager, else on fake CPU tensors, which know flash attention.
    The gradient starts at every output: at the loss if asked, else at the logits or hidden states, and at a pooler.
    """
    device = device or ("meta" if eager else "fake")
    with maker(device) as at:
        run = Inputs(model, batch, seq, source_seq, at, images=images)
        root = build(model, length=run.length + past, eager=eager, absorbed=absorbed, recompute=recompute,
                     trained=trained, device=at)
        if past:
            if backward:
                raise ValueError("there is no backward pass through a cache")
            with torch.no_grad():
                _, cache = root.prefill(run.ids(past), run.source)
                with ModulePath(root) as where, FlopMode(where.now) as counted:
                    root(run.tokens, cache=cache)
            return Flops(counted.by_path(), {}, {})
        with ModulePath(root) as where:
            with FlopMode(where.now) as counted:
                end = _end(root, run, loss)
            with FlopMode(where.of_backward) as counted_back:
                if backward:
                    end.backward()  # type: ignore[no-untyped-call]
        back, again = ({path: n for (anew, path), n in counted_back.by_path().items() if anew is which}
                       for which in (False, True))
        return Flops(counted.by_path(), back, again)


def kept(
    model: Model, batch: int, seq: int, *, source_seq: int | None = None, dtype: torch.dtype = torch.float32,
    loss: bool = False, images: int | None = None, autocast: torch.dtype | None = None, device: str = "cpu", **how: Any,
) -> list[Kept]:
    """Every storage that autograd keeps for the backward pass, in the order of saving. ``how``: see ``build``.

    Parameters and buffers are left out, and so are empty storages (an expert that got no token).
    """
    with maker(device) as at:
        run = Inputs(model, batch, seq, source_seq, at, images=images, dtype=dtype)
        routes = any(getattr(block.feed_forward, "kind", "") == "moe" for _, block in located_blocks(model))
        with nullcontext() if routes else Unfilled():  # experts have what routers choose
            root = build(model, length=run.length, dtype=dtype, device=at, **how)
        with torch.autocast(at, autocast, enabled=autocast is not None):
            return kept_by(root, lambda: _end(root, run, loss), at_the_end="trained" in how)


def live_bytes(
    model: Model, batch: int, seq: int, *, source_seq: int | None = None, dtype: torch.dtype = torch.float32,
    loss: bool = True, images: int | None = None, autocast: torch.dtype | None = None, device: str = "cpu", **how: Any,
) -> list[tuple[str, int]]:
    """The bytes live after every operation of a training step that allocates or frees, the loss and backward included.

    Without a ``loss``, or where a model has none, the gradients of its outputs are given; ``how``: see ``build``.
    What was there before (weights, buffers, inputs, targets, given gradients) and what a kernel allocates for itself
    are not seen. ``autocast``: to that dtype, over weights in ``dtype``.
    """
    with maker(device) as at:
        run = Inputs(model, batch, seq, source_seq, at, images=images, dtype=dtype)
        root = build(model, length=run.length, dtype=dtype, device=at, **how)
        if not device.startswith("fake"):
            balance(root)
        live = _LiveMode(at)
        with live, torch.autocast(at, autocast, enabled=autocast is not None):
            ends = all_ends(root, run, loss=loss and root.has_loss)
        given = None if loss and root.has_loss else tuple(map(torch.ones_like, ends))
        with live:
            torch.autograd.backward(ends, given)
        return list(live.events)


def balance(root: nn.Module) -> None:
    """Let routers choose experts in turn, in place of what they score: all get equal shares, the first ones a token
    more."""
    for module in root.modules():
        if isinstance(module, MixtureOfExperts):
            module.router.register_forward_hook(_in_turn(module.active))


def _in_turn(active: int) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
    def hook(_: nn.Module, __: tuple[Tensor], scores: Tensor) -> None:
        tokens, experts = scores.shape
        with torch.no_grad(), _disable_current_modes():
            place = torch.arange(experts)[None, :] - active * torch.arange(tokens)[:, None]
            scores.copy_((active - place % experts).clamp(min=0))

    return hook


def cache_bytes(
    model: Model, batch: int, seq: int, *, steps: int = 0, source_seq: int | None = None,
    dtype: torch.dtype = torch.float32, device: str = "cpu",
) -> list[int]:
    """Bytes of the cache after a prompt of ``seq`` tokens, and after each of ``steps`` single tokens.

    It holds keys and values, latents, and the states of recurrences.
    """
    with maker(device) as at, torch.no_grad():
        run = Inputs(model, batch, seq, source_seq, at, dtype=dtype)
        root = build(model, length=run.length + steps, dtype=dtype, device=at)
        _, cache = root.prefill(run.tokens, run.source)
        measured = [cache.bytes()]
        for _ in range(steps):
            root(run.ids(1), cache=cache)
            measured.append(cache.bytes())
        return measured


def attention_memory(
    model: Model, batch: int, seq: int, *, eager: bool, dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> AttentionMemory:
    """Kept and peak bytes of the model's first self-attention alone, on ``seq`` tokens, input to output.

    The peak counts every tensor allocated inside (not the input, not what a kernel allocates within one op); on
    CUDA it is the allocator's own, rounded up by it to 512 bytes a tensor.
    """
    with maker(device) as at:
        root = build(model, length=seq, eager=eager, dtype=dtype, device=at)
        stack = root.stack
        attention = next(block.attention for block in stack.blocks_in_order() if block.attention is not None)
        bias = stack.relative(0, seq)
        x = torch.randn(batch, seq, model.d_model, dtype=dtype, device=at, requires_grad=True)
        saved: list[Kept] = []
        besides = () if bias is None else (bias,)
        peak = _peak(lambda: saved.extend(kept_by(attention, lambda: attention(x, bias, 0, None), besides)), at)
        return AttentionMemory(sum(storage.nbytes for storage in saved), peak)


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


class Inputs:
    """Random token ids, pixels or frames of the right shapes, and what they should have given."""

    def __init__(
        self, model: Model, batch: int, seq: int, source_seq: int | None, device: str, *,
        images: int | None = None, dtype: torch.dtype = torch.float32,
    ) -> None:
        if (source_seq is None) != (model.encoder is None):
            raise ValueError("source_seq is needed by an encoder-decoder, and only by it")
        self.model, self.batch, self.device, self.dtype = model, batch, device, dtype
        self.tokens = self._read(model.input, batch, seq)
        self.length = max(positions(model.input, seq), positions(model.encoder.input, source_seq or 0)
                          if model.encoder is not None else 0)
        self.source = None
        if model.encoder is not None and source_seq is not None:
            self.source = self._read(model.encoder.input, batch, source_seq, rows=model.source_vocab)
        self.images = None
        if images is None and isinstance(model.head, ContrastiveHead):
            images = batch
        if model.tower is not None and images:
            self.images = self._read(model.tower.input, images, 0)
        self.targets = self._targets(positions(model.input, seq))

    def ids(self, length: int) -> Tensor:
        """Token ids (batch, length)."""
        return self._choose(self.model.vocab or 1, self.batch, length)

    def _choose(self, classes: int, *shape: int) -> Tensor:
        return torch.randint(0, classes, shape, device=self.device)

    def _read(self, own: Input, batch: int, length: int, *, rows: int | None = None) -> Tensor:
        match own:
            case PatchInput(image=side, channels=channels):
                return torch.randn(batch, channels, side, side, dtype=self.dtype, device=self.device)
            case FrameInput(bins=bins, length=length, grid=Grid(frames=piece)):
                whole = length // eighth(piece) * piece
                return torch.randn(batch, bins, whole, dtype=self.dtype, device=self.device)
            case FrameInput(bins=bins, length=length):
                return torch.randn(batch, bins, 2 * length, dtype=self.dtype, device=self.device)
        return self._choose(rows or self.model.vocab or 1, batch, length)

    def _targets(self, length: int) -> tuple[Tensor, ...]:
        """One for every output of the model's head."""
        b, head = self.batch, self.model.head
        match head:
            case ClassifierHead(of="span"):
                return tuple(self._choose(length, b) for _ in range(2))
            case ClassifierHead(labels=labels, of=of, copies=n):
                return tuple(self._choose(labels, *((b, length) if of == "all" else (b,))) for _ in range(n))
            case ContrastiveHead():
                return (torch.arange(b, device=self.device),)
        pairs = head.pair_labels if isinstance(head, LMHead) else 0
        if isinstance(head, LMHead) and head.copies > 1:
            return tuple(self.ids(length) for _ in range(head.copies))
        return (self.ids(length), *([self._choose(pairs, b)] if pairs else []))


def _end(root: Reference, run: Inputs, loss: bool) -> Tensor:
    """Run forward to one number whose gradient reaches everything the model computed."""
    out: Output = root(run.tokens, run.source, images=run.images)
    if not loss:
        first, *rest = _outputs(out)
        return sum((each.sum() for each in rest), first.sum())
    end = root.loss_of(out, run.targets)
    return end if out.pooled is None else end + out.pooled.sum()


def all_ends(root: Reference, run: Inputs, loss: bool) -> tuple[Tensor, ...]:
    """Run forward to the loss, or to all outputs."""
    out: Output = root(run.tokens, run.source, images=run.images)
    return (root.loss_of(out, run.targets),) if loss else _outputs(out)


def _outputs(out: Output) -> tuple[Tensor, ...]:
    return (out.hidden if out.logits is None else out.logits, *out.extra, *([] if out.pooled is None else [out.pooled]))


@contextmanager
def maker(device: str) -> Iterator[str]:
    """The name to build tensors under; ``fake`` means CPU tensors without data, ``fake-cuda`` CUDA's."""
    with FakeTensorMode() if device.startswith("fake") else nullcontext() as mode:
        if mode is not None:
            mode.cache_enabled = False  # it makes views anew as storages of their own size
        yield {"fake": "cpu", "fake-cuda": "cuda"}.get(device, device)


# ---------------------------------------------------------------- what is kept and allocated


def _peak(run: Callable[[], None], device: str) -> int:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - before
    live = _LiveMode(device)
    with live:
        run()
    return live.peak
