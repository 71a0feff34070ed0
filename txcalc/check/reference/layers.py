"""The plain layers of the reference: norms, activations, feed-forward and mixture of experts.

Nothing in the reference counts anything. What autograd keeps, what is computed and what is cached follow from
running it, so it is written the way one would write it to train a model: no custom kernel, no needless copy.
Shapes: ``b`` batch, ``n`` new tokens, ``t`` keys, ``d`` d_model, ``h`` heads, ``kv`` kv_heads, ``hd`` head_dim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts, noop_context_fn

from txcalc.check.reference.routed import route, through
from txcalc.spec import layers, projections
from txcalc.spec.base import Activation, Curve
from txcalc.spec.layers import DenseBias, HeadNorm, MoE, Norm
from txcalc.spec.projections import DenseGroups


@dataclass(frozen=True)
class Options:
    """Options of the reference: dtypes, kernels, dropout."""

    length: int  # of the longest sequence that its buffers serve
    attention: str = "flash"  # eager, or what ``F.scaled_dot_product_attention`` may choose from: flash (all) or math
    dropout: float = 0.0
    absorbed: bool = False  # latents are read as they are
    loss_as: str = "fp32"  # plain, of the logits as they are; fp32, of a copy; chunked:N, of so many copies; fused
    # Full, every layer under ``torch.utils.checkpoint``; ops, where it saves what ``SAVED`` give, in ops:K of products
    # all but every K-th.
    recompute: str = "none"

    @property
    def checkpoints(self) -> bool:
        """True where every layer is checkpointed by itself."""
        return self.recompute == "full" or self.recompute.startswith("ops")


SAVED: Final = [getattr(torch.ops.aten, name).default for name in (
    "mm", "addmm", *(f"_scaled_dot_product_{kernel}" for kernel in (
        "flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")), "_grouped_mm")]
"""Products with weights, and fused attention."""


def contexts(recompute: str) -> Callable[[], tuple[Any, Any]]:
    """Contexts of a checkpointed layer's forward pass and of its recomputation.

    Outputs may be written to in between, as a test that balances experts does with a router's.
    """
    name, _, every = recompute.partition(":")
    if name != "ops":
        return noop_context_fn

    def made() -> tuple[Any, Any]:
        seen = Counter[bool]()  # products in the forward pass, and run once more

        def saves(ctx: Any, func: Any, *_: Any, **__: Any) -> CheckpointPolicy:
            seen[ctx.is_recompute] += func in SAVED[:2]
            left = bool(every) and func in SAVED[:2] and seen[ctx.is_recompute] % int(every) == 0
            return CheckpointPolicy.PREFER_RECOMPUTE if left or func not in SAVED else CheckpointPolicy.MUST_SAVE

        return create_selective_checkpoint_contexts(saves, allow_cache_entry_mutation=True)

    return made


class Repeated(nn.ModuleList):
    """``count`` modules that are all alike (layers, experts): the index is left out when paths are compared.

    On meta, where weights have no values, one module stands for all of them: it is run as often, and built once.
    """

    def __init__(self, make: Callable[[], nn.Module], count: int) -> None:
        if torch.get_default_device().type == "meta":
            super().__init__([make()] * count)
        else:
            super().__init__(make() for _ in range(count))


def activate(kind: Activation, x: Tensor) -> Tensor:
    """The activation function called ``kind``, elementwise."""
    match kind:
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "quick_gelu":
            return x * torch.sigmoid(1.702 * x)
        case "relu":
            return F.relu(x)
        case "relu2":
            return F.relu(x).square()
        case "silu":
            return F.silu(x)
        case "tanh":
            return torch.tanh(x)
        case "sigmoid":
            return torch.sigmoid(x)


class XIELU(nn.Module):
    """A parabola above zero, an exponential with its tangent taken off below, both of a learned slope, and x / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha_p = nn.Parameter(torch.full((1,), 0.8).expm1().log())
        self.alpha_n = nn.Parameter(torch.full((1,), 0.3).expm1().log())

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise; arXiv 2411.13010, section 4, with beta = 0.5."""
        above, below = F.relu(x), x.clamp(max=0)
        curve = F.softplus(self.alpha_p) * above.square()
        return 0.5 * x + curve + (0.5 + F.softplus(self.alpha_n)) * (below.expm1() - below)


def dropout_or_nothing(p: float) -> nn.Module:
    """Dropout, or a module that keeps nothing when p is 0."""
    return nn.Dropout(p) if p > 0 else nn.Identity()


class Normalization(nn.Module):
    """LayerNorm or RMSNorm over the last axis; with ``groups`` every group of the axis before has its own weights."""

    bias: nn.Parameter | None

    def __init__(self, norm: Norm, width: int, groups: int | None = None) -> None:
        super().__init__()
        shape = (width,) if groups is None else (groups, width)
        self.rms, self.affine = norm.kind == "rmsnorm", norm.kind == "affine"
        self.width, self.eps, self.grouped = (width,), norm.eps, groups is not None or norm.kind == "affine"
        self.weight = nn.Parameter(torch.ones(shape)) if norm.scale else None
        self.bias = nn.Parameter(torch.zeros(shape)) if norm.bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same shape."""
        weight, bias = (None, None) if self.grouped else (self.weight, self.bias)
        if self.affine:
            y = x
        elif self.rms:
            y = F.rms_norm(x, self.width, weight, self.eps)
            y = y if bias is None else y + bias
        else:
            y = F.layer_norm(x, self.width, weight, bias, self.eps)
        if self.grouped:
            y = y if self.weight is None else y * self.weight
            y = y if self.bias is None else y + self.bias
        return y


class Convolution(nn.Module):
    """A convolution over positions, as many to either side, and an activation."""

    def __init__(self, plan: projections.Convolution, d_model: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(d_model, d_model, plan.kernel, padding=plan.kernel // 2)
        self.activation, self.dropout = plan.activation, dropout_or_nothing(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) to the same shape."""
        return activate(self.activation, self.dropout(self.conv(x.transpose(1, 2)).transpose(1, 2)))


class GroupedLinear(nn.Conv1d):
    """A linear layer whose columns are made in groups, each of its own share of the input."""

    def __init__(self, d_in: int, d_out: int, groups: int, *, bias: bool) -> None:
        super().__init__(d_in, d_out, 1, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d_in) to (b, n, d_out)."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2).contiguous()


def linear(d_in: int, d_out: int, *, bias: bool, groups: int = 1) -> nn.Linear | GroupedLinear:
    """A linear layer, in groups of columns where there are several."""
    return nn.Linear(d_in, d_out, bias=bias) if groups == 1 else GroupedLinear(d_in, d_out, groups, bias=bias)


# ---------------------------------------------------------------- feed-forward


class Dense(nn.Module):
    """``down(act(up(x)))``, or gated: ``down(act(gate(x)) * up(x))``; also one expert of a mixture."""

    def __init__(
        self, d_model: int, d_ff: int, curve: Curve, gated: bool, bias: DenseBias, dropout: float = 0.0,
        inner_norm: Norm | None = None, groups: DenseGroups = DenseGroups(),  # noqa: B008  immutable
    ) -> None:
        super().__init__()
        self.curve = curve
        self.activation = XIELU() if curve == "xielu" else None
        self.inner_norm = None if inner_norm is None else Normalization(inner_norm, d_ff)
        self.up = linear(d_model, d_ff, bias=bias.up, groups=groups.up)
        self.gate = nn.Linear(d_model, d_ff, bias=bias.gate) if gated else None
        self.down = linear(d_ff, d_model, bias=bias.down, groups=groups.down)
        self.dropout = dropout_or_nothing(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) to (..., d)."""
        up: Tensor = self.up(x)
        hidden = self._activate(up if self.gate is None else self.gate(x))
        hidden = hidden if self.gate is None else hidden * up
        if self.inner_norm is not None:
            hidden = self.inner_norm(hidden)
        return self.dropout(self.down(hidden))

    def _activate(self, x: Tensor) -> Tensor:
        if self.curve != "xielu":
            return activate(self.curve, x)
        return self.activation(x)  # type: ignore[misc]


def dense(plan: layers.Dense, d_model: int, options: Options) -> Dense:
    """The feed-forward that a block has."""
    return Dense(d_model, plan.d_ff, plan.activation, plan.gated, plan.bias, options.dropout, plan.inner_norm,
                 plan.column_groups)


class MixtureOfExperts(nn.Module):
    """Every token goes through its top ``active_experts`` experts, and through the shared ones."""

    def __init__(self, moe: MoE, d_model: int, options: Options) -> None:
        super().__init__()
        self.routing, self.normalize, self.active = moe.routing, moe.normalize, moe.active_experts
        self.router, inner = nn.Linear(d_model, moe.experts, bias=moe.router_bias), moe.latent or d_model
        self.experts = Repeated(lambda: Dense(inner, moe.d_ff, moe.activation, moe.gated, moe.bias), moe.experts)
        self.latent_down = None if moe.latent is None else nn.Linear(d_model, inner, bias=False)
        self.latent_up = None if moe.latent is None else nn.Linear(inner, d_model, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(d_model)) if moe.output_bias else None
        self.output_norm = None if moe.output_norm is None else Normalization(moe.output_norm, d_model)
        width = moe.shared_experts * (moe.shared_d_ff or moe.d_ff)
        self.shared = Dense(d_model, width, moe.activation, moe.gated, moe.bias) if width else None
        self.shared_gate = nn.Linear(d_model, 1, bias=False) if moe.shared_gate else None
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        tokens = x.flatten(0, 1)
        rows = tokens if self.latent_down is None else self.latent_down(tokens)
        out = self._routed(rows, *self._route(self.router(tokens)))
        if self.latent_up is not None:
            out = self.latent_up(out)
        if self.shared is not None:
            shared = self.shared(tokens)
            out = out + (shared if self.shared_gate is None else torch.sigmoid(self.shared_gate(tokens)) * shared)
        out = out.view_as(x)
        out = out if self.output_bias is None else out + self.output_bias
        return self.dropout(out if self.output_norm is None else self.output_norm(out))

    def _routed(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """(tokens, d), and each one's weights and experts, (tokens, active), to (tokens, d)."""
        return through(self.experts, tokens, chosen, weights)

    def _route(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return route(scores, self.active, self.routing, normalize=self.normalize)


class ExpertsApart(MixtureOfExperts):
    """Routed experts on the block's input beside shared ones on the normed input, with norms of their own (Gemma 4)."""

    def __init__(self, moe: MoE, d_model: int, options: Options, norm: Norm) -> None:
        super().__init__(moe, d_model, options)
        self.router_scale = nn.Parameter(torch.ones(d_model))
        self.expert_scale = nn.Parameter(torch.ones(moe.experts))
        self.shared_norm, self.routed_norm = Normalization(norm, d_model), Normalization(norm, d_model)
        self.routed_post_norm, self.eps = Normalization(norm, d_model), norm.eps

    def forward(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        """Map the block norm's output and its input, both (b, n, d), to (b, n, d)."""
        assert given is not None and self.shared is not None
        tokens, d = given.flatten(0, 1), x.shape[-1]
        scores = self.router(F.rms_norm(tokens, (d,), None, self.eps) * self.router_scale * d**-0.5)
        weights, chosen = self._route(scores)
        routed = self._routed(self.routed_norm(tokens), weights * self.expert_scale[chosen], chosen)
        out = self.shared_norm(self.shared(x.flatten(0, 1))) + self.routed_post_norm(routed)
        return self.dropout(out.view_as(x))


def head_norm(norm: HeadNorm | None, heads: int, head_dim: int) -> Normalization | None:
    """The norm of queries or keys, of so many heads."""
    if norm is None or norm.over == "full":
        return None if norm is None else Normalization(norm, heads * head_dim)
    return Normalization(norm, head_dim, groups=heads if norm.over == "heads" else None)
