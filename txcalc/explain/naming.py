"""What people call a module of the trace: ``decoder.layers.cross_attention`` is the cross-attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from txcalc.spec.facts import located_blocks

if TYPE_CHECKING:
    from txcalc.spec.model import Model, Stack, Sublayers

NAMES: Final = {
    "cross_attention": "cross-attention", "mla": "latent attention", "feed_forward": "feed-forward",
    "moe": "MoE feed-forward", "lm": "lm head", "layernorm": "layernorm", "rmsnorm": "rmsnorm",
    "per_layer_embedding": "per-layer embedding", "per_layer_input": "per-layer input",
}
"""What people call a module, or one of a kind; any other is called what its path says."""

RECURRENT: Final = {
    "mamba2": "Mamba-2", "gated-delta": "gated DeltaNet", "mamba": "Mamba", "lightning": "lightning attention",
    "kimi-delta": "Kimi delta attention", "short-convolution": "gated short convolution",
    "rnn": "RNN", "lstm": "LSTM", "gru": "GRU", "convolution": "convolution",
}
"""The kinds of layers that stand where ``recurrent`` does."""


class Name(NamedTuple):
    """``plain`` tells apart what a reader expects apart; ``detail`` is added where that is not enough."""

    plain: str
    detail: str

    @property
    def full(self) -> str:
        """Both."""
        return f"{self.plain} ({self.detail})" if self.detail else self.plain


def name(spec: Model, path: str) -> Name:
    """The name of a component at this path."""
    first, *rest = path.split(".")
    pair = spec.encoder is not None and first in ("encoder", "decoder")
    tower = first == "tower"
    where = rest if pair or tower else [first, *rest]
    stack: Stack = spec
    if pair and first == "encoder" and spec.encoder is not None:
        stack = spec.encoder
    elif tower and spec.tower is not None:
        stack = spec.tower
    found = Name(NAMES.get(spec.head.kind, "head"), "") if where == ["head"] else _called(stack, where)
    of = "images" if tower else first if pair and where[-1] == "attention" else ""
    if pair:
        found = found._replace(detail=" ".join(filter(None, (first, found.detail))))
    if pair and found.plain == "attention":
        found = found._replace(plain="self-attention")
    return found._replace(plain=f"{found.plain}, {of}") if of else found


def _called(stack: Stack, where: list[str]) -> Name:
    last = where[-1]
    block = _block(stack, where)
    detail = ".".join(where[1:-1])
    if last.endswith("norm"):
        return Name(NAMES[stack.norm.kind], last.replace("_", " "))
    if where[0] == "deepstack":
        return Name(where[0], "")
    if last == "attention":
        latent = block.attention is not None and block.attention.kind == "mla"
        told_apart = ", ".join(filter(None, (_reach(stack, block), _sharing(block))))
        return Name(NAMES["mla"] if latent else "attention", told_apart or detail)
    if last == "recurrent" and block.recurrent is not None:
        return Name(RECURRENT[block.recurrent.kind], detail)
    if last == "feed_forward":
        mixed = block.feed_forward is not None and block.feed_forward.kind == "moe"
        return Name(NAMES["moe" if mixed else last], detail)
    return Name(NAMES.get(last, last.replace("_", " ")), detail)


def _reach(stack: Stack, block: Sublayers) -> str:
    found = [_limit(each) for _, each in located_blocks(stack)]
    return _limit(block) or ("full" if any(found) else "")


def _limit(block: Sublayers) -> str:
    attention = block.attention
    if attention is not None and attention.kind == "standard":
        if attention.window is not None:
            return f"window {attention.window:,}"
        if attention.chunk is not None:
            return f"chunk {attention.chunk:,}"
    return ""


def _sharing(block: Sublayers) -> str:
    attention = block.attention
    return "shared keys" if attention is not None and attention.kind == "standard" and attention.kv_shared else ""


def _block(stack: Stack, where: list[str]) -> Sublayers:
    """The block that a path such as layers.0.1.attention leads to."""
    if stack.groups is not None and where[0] == "layers" and len(where) > 3:
        return stack.groups[int(where[1])].blocks[int(where[2])]
    return stack
