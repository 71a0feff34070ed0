"""Facts that follow from a spec's fields, read off a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from txcalc.spec.inputs import Head, Input, PatchInput
    from txcalc.spec.layers import AnyAttention, Attention
    from txcalc.spec.model import Model, Stack, Sublayers
    from txcalc.spec.projections import Blocks

BIBLIOGRAPHY = ("aliases", "summary", "sources", "published")
"""The fields of a model that say nothing about its architecture."""

STORAGE = ("fused", "gguf", "quantization", "released", "stored", "unknown_quantization")
"""The fields that say how its weights are stored, of which nothing runs."""


def located_blocks(stack: Stack) -> list[tuple[tuple[str | int, ...], Sublayers]]:
    """Every distinct block with its place in the spec; the stack itself when its layers are all alike."""
    if stack.groups is None:
        return [((), stack)]
    return [
        (("groups", g, "blocks", b), block)
        for g, group in enumerate(stack.groups)
        for b, block in enumerate(group.blocks)
    ]


def layer_order(stack: Stack) -> Iterator[tuple[str, Sublayers]]:
    """Every single layer in its order: the path of its weights, which like layers share, and its block."""
    if stack.groups is None:
        yield from [("layers", stack)] * stack.layers
        return
    for g, group in enumerate(stack.groups):
        for _ in range(group.repeat):
            for b, block in enumerate(group.blocks):
                yield from [(f"layers.{g}.{b}", block)] * block.repeat


def attentions(stack: Stack) -> Iterator[AnyAttention]:
    """The attention of every distinct block that has one."""
    yield from (block.attention for _, block in located_blocks(stack) if block.attention is not None)


def shares_keys(stack: Stack) -> bool:
    """Tell whether some layer reads the keys and values of another."""
    return any(each.kind == "standard" and each.kv_shared for each in attentions(stack))


def skipped(block: Sublayers) -> bool:
    """Tell whether nothing of a block runs where there is no output of an encoder for it to read (Llama 3.2 Vision)."""
    return block.cross_attention is not None and block.attention is None and block.recurrent is None


def chooses_keys(stack: Stack) -> bool:
    """Tell whether an indexer chooses the keys of some layer."""
    return any(getattr(each, "indexer", None) is not None for each in attentions(stack))


def has_latents(stack: Stack) -> bool:
    """Some layer caches latents in place of keys and values."""
    return any(each.kind == "mla" for each in attentions(stack))


def mask_kind(attention: Attention) -> str:
    """The kind of a layer's mask in a word: layers share keys and values with those of their own kind."""
    return "window" if attention.window is not None else "chunk" if attention.chunk is not None else "full"


def first_attention(stack: Stack) -> AnyAttention:
    """The first attention in the stack, after whose heads go the weights that all of its layers share."""
    return next(attentions(stack))


def side(stack: Stack, before: Sublayers | None = None) -> int:
    """Positions along an image in the end, or before this block; 0 of what is no image."""
    found = stack.input.image // stack.input.patch if stack.input.kind == "patches" else 0
    for _, block in located_blocks(stack):
        if block is before:
            return found
        layer = block.recurrent
        found = layer.side(found) if layer and layer.kind in ("patch-merging", "image-convolutions") else found
    return found


def block_multiple(stack: Stack, value: Callable[[Any], Any] = int) -> int | None:
    """Positions that a stack is padded to a multiple of, for attention in blocks or pairs of them; none: it is not.

    ``value``: of sizes that may be symbols.
    """
    found = [own.length * (1 + (own.reach == "chunks")) for own in _blocks(stack) if own.reach != "three"]
    return max(found, key=value, default=None)


def global_tokens(stack: Stack) -> int:
    """Learned vectors that stand before a stack's positions, the same in every layer."""
    return next((own.global_tokens for own in _blocks(stack)), 0)


def ahead(stack: Stack) -> int:
    """Streams that predict tokens further ahead, beside a stack's positions."""
    found = (own.ahead for own in attentions(stack) if own.kind == "standard")
    return next((own.streams for own in found if own is not None), 0)


def _blocks(stack: Stack) -> list[Blocks]:
    return [own.blocks for own in attentions(stack) if own.kind == "standard" and own.blocks is not None]


def patches(image: PatchInput) -> int:
    """Patches of one image; a border too narrow for a whole patch is left out, as a convolution does."""
    return (image.image // image.patch) ** 2


def positions(given: Input, tokens: int = 1) -> int:
    """Positions of one input: an image or a sound has its own number, whatever is asked for of ``tokens``."""
    if given.kind == "tokens":
        return tokens
    return patches(given) + unpatched(given) if given.kind == "patches" else given.length


def outputs(stack: Stack) -> int:
    """Positions of one image or sound that come out of a stack, which may have merged some."""
    if stack.input.kind != "patches":
        return positions(stack.input)
    added = (getattr(block.recurrent, "class_tokens", 0) for _, block in located_blocks(stack))
    return side(stack) ** 2 + unpatched(stack.input) + sum(added)


def image_positions(model: Model, images: int, sequences: int) -> int:
    """Positions of one of ``sequences`` texts that ``images`` become where they are spread over all, at most."""
    if model.tower is None or model.tower.projector is None:
        return 0
    return -(-images // sequences) * model.tower.projector.tokens


def unread(head: Head) -> bool:
    """Tell whether nothing on top reads the pooled vector, where there is one."""
    of_all = (head.kind == "classifier" and head.of != "first") or (head.kind == "projection" and head.of == "mean")
    return of_all or (head.kind == "lm" and not head.pair_labels)


def unpatched(image: PatchInput) -> int:
    """Positions of one image that are no patch of it."""
    return image.class_tokens + image.registers


def embedding_width(model: Model) -> int:
    """Columns of the token table."""
    return model.d_model if model.embedding_dim is None else model.embedding_dim


def width(model: Model, stack: Stack) -> int:
    """Columns of what a stack's first layer reads."""
    return getattr(stack, "d_model", None) or model.d_model


def is_causal(model: Model) -> bool:
    """Tell whether the model's own stack masks the future (its encoder, if any, never does)."""
    return model.architecture != "encoder-only"


def architecture_fields(model: Model) -> dict[str, Any]:
    """The resolved spec without its bibliography, as plain data."""
    return {name: value for name, value in model.to_data().items() if name not in BIBLIOGRAPHY}


def frozen_parts(model: Model, parts: Sequence[str]) -> tuple[str, ...]:
    """The paths that are frozen with these: to an encoder belongs what its frames go through before it."""
    frames = model.encoder is not None and model.encoder.input.kind == "frames" and "encoder" in parts
    return (*parts, *(("frame_conv1", "frame_conv2", "frame_conv3", "frame_projection") if frames else ()))


def projects_by_experts(block: Sublayers) -> bool:
    """True where experts project the queries of an attention."""
    return any(getattr(each, "query_experts", None) for each in (block.attention, block.cross_attention))
