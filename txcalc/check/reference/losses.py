"""The losses of the reference: cross-entropy, as it is, in chunks or fused with the head, and contrasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CrossEntropy(nn.Module):
    """The mean loss over all positions, computed in at least float32, unless it is plain."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.plain = how == "plain"

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (..., classes) and targets (...) to a scalar."""
        return F.cross_entropy((logits if self.plain else logits.float()).flatten(0, -2), targets.flatten())


IGNORED = -100
"""A target that has no part in the loss."""


class ChunkedCrossEntropy(nn.Module):
    """torchtune's ``CEWithChunkedOutputLoss`` (0.4 to 0.6): one chunk of logits at a time is copied to float32."""

    def __init__(self, chunks: int) -> None:
        super().__init__()
        self.chunks = chunks

    def _of_chunk(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")

    def forward(self, logits: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Chunks of logits (b, n / chunks, classes), the last one shorter, and targets (b, n) to a scalar."""
        total_elements = (targets != IGNORED).sum()
        chunks = [each.reshape(-1) for each in targets.chunk(self.chunks, dim=1)]
        logits = [each.reshape(-1, each.size(-1)) for each in logits]
        total: Any = 0.0
        for of, wanted in zip(logits, chunks, strict=True):
            total += self._of_chunk(of, wanted)
        return total / total_elements


class FusedLinearCrossEntropy(nn.Module):
    """The mean loss of a head's input, whose logits are made in chunks and hold their own gradient (Liger-Kernel)."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.read = (lambda: (head.weight, head.bias))

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Hidden states (b, n, d) and targets (b, n) to a scalar."""
        return _Fused.apply(hidden.view(-1, hidden.size(-1)), *self.read(), targets.view(-1))  # type: ignore[no-untyped-call]


def chunk_rows(rows: int, width: int, classes: int) -> int:
    """Rows of logits at a time: about as many elements as the hidden states have, rounded up to a power of two."""
    least = -(-rows // -(-classes // width))
    return min(1 << (least - 1).bit_length(), rows)


class _Fused(torch.autograd.Function):
    """``LigerFusedLinearCrossEntropyFunction`` of liger-kernel 0.8.5 on CUDA, with its Triton kernel left out.

    That kernel writes the gradient of logits over them and allocates nothing. A bias under autocast is not followed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
        """Make all gradients."""
        step = chunk_rows(len(x), x.size(-1), len(weight))
        grad_x = torch.zeros_like(x)
        grad_weight = torch.zeros_like(weight) if weight.requires_grad else None
        grad_bias = None if bias is None else torch.zeros_like(bias)
        losses = torch.zeros(len(x), dtype=torch.float32, device=x.device)
        mask = target != IGNORED
        mask.sum()
        storage: Tensor | None = None
        if not torch.is_autocast_enabled():
            storage = torch.empty((step, len(weight)), dtype=x.dtype, device=x.device)
        for start in range(0, len(x), step):
            part = x[start:start + step]
            if storage is None:
                logits = part @ weight.t()
                grad_x[start:start + step] = logits @ weight
            else:
                logits = storage[:len(part)]
                torch.mm(part, weight.t(), out=logits)
                if bias is not None:
                    logits.add_(bias)
                torch.mm(logits, weight, out=grad_x[start:start + step])
            if grad_weight is not None and logits.dtype in (torch.float16, torch.bfloat16):
                torch.addmm(grad_weight, logits.t(), part.to(logits.dtype), out_dtype=grad_weight.dtype,
                            out=grad_weight)
            elif grad_weight is not None:
                grad_weight += torch.mm(logits.t(), part).float()
            if grad_bias is not None:
                torch.add(grad_bias, logits.sum(dim=0), out=grad_bias)
            del logits
        del storage
        ctx.save_for_backward(*(None if each is None else each.detach() for each in (grad_x, grad_weight, grad_bias)))
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Hand them on."""
        torch.ones((), device=grads[0].device)  # what the loss's own gradient is compared with
        return (*ctx.saved_tensors, None)


class ContrastiveLoss(nn.Module):
    """Every text's own image among all, and every image's own text: the mean of two cross-entropies."""

    def forward(self, similarity: Tensor, targets: Tensor) -> Tensor:
        """A square of products and ``targets`` (b,) to a scalar."""
        logits = similarity.float()
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


class PairsLoss(nn.Module):
    """Every pair of a text and an image on its own: whether they belong together (SigLIP, arXiv 2303.15343)."""

    def forward(self, similarity: Tensor, targets: Tensor) -> Tensor:
        """A square of products and ``targets`` (b,) to a scalar."""
        logits = similarity.float()
        images = torch.arange(logits.shape[1], device=logits.device)
        signs = torch.where(targets[:, None] == images, 1.0, -1.0)
        return -F.logsigmoid(signs * logits).sum(dim=-1).mean()
