"""Checks that the layers of a model fit onto one another: what each reads, and what it hands on.

Most layers keep the width of their stack. A recurrent cell and a convolution have one of their own, which a stack
takes on where there is no residual connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.spec.errors import FieldError, Loc
from txcalc.spec.facts import (
    ahead,
    embedding_width,
    global_tokens,
    is_causal,
    located_blocks,
    positions,
    projects_by_experts,
    unpatched,
)
from txcalc.spec.facts import side as side_of
from txcalc.spec.facts import width as stack_width
from txcalc.spec.inputs import PatchInput
from txcalc.spec.projections import check_shared_blocks
from txcalc.spec.rnn import RecurrentCell

if TYPE_CHECKING:
    from txcalc.spec.inputs import Projector
    from txcalc.spec.layers import Recurrent
    from txcalc.spec.model import Model, SideTower, Stack, Sublayers
    from txcalc.spec.rnn import ImageConvolutions


def check(model: Model) -> None:
    """Raises ``FieldError`` where a layer does not fit what is below it, or looks at what it cannot see."""
    check_shared_blocks(model, located_blocks(model))
    memory = None
    if model.encoder is not None:
        memory = _stack(model.encoder, stack_width(model, model.encoder), ("encoder",))
        memory = model.d_model if model.encoder.projection else memory
        _sees(model.encoder, ("encoder",), causal=model.encoder.causal_mask, encoder=None)
        if not any(_reads(block) for _, block in located_blocks(model)):
            raise FieldError(("encoder",), "nothing reads it: the decoder needs cross_attention, or a recurrent cell "
                             "with attends or initial")
    if model.tower is not None:
        for tower, path in ((model.tower, ("tower",)), (model.tower.second, ("tower", "second"))):
            if tower is None:
                continue
            width = _stack(tower, tower.d_model, path)
            if width != tower.d_model and (tower.pooler is not None or tower.projector is None):
                raise FieldError((*path, "residual"), "a tower that is pooled keeps its width")
            _sees(tower, path, causal=tower.causal_mask, encoder=None)
            _projected(model, tower, width, path)
    if model.encoder is not None and model.input.kind == "tokens" and model.input.mask_token:
        raise FieldError(("input", "mask_token"), "only in a stack that stands alone")
    out = _stack(model, model.d_model, (), memory)
    _sees(model, (), causal=is_causal(model) or model.causal_mask, encoder=model.encoder)
    _head(model, out)


def _projected(model: Model, tower: SideTower, width: int, path: Loc) -> None:
    """Raise ``FieldError`` where a projector without a last layer is not as wide as the main stack."""
    own = tower.projector
    if own is None:
        return
    merged = (own.merge or 1) ** (2 if tower.input.kind == "patches" else 1)
    first = own.patchwise[-1].width if own.patchwise else width * (1 + len(own.feature_layers))
    width = own.hidden[-1].width + own.hidden[-1].padding if own.hidden else first * merged
    if (reader := getattr(tower, "resampler", None)) is not None:
        for at, block in located_blocks(reader):
            each, here = block.cross_attention, ("tower", "resampler", *at, "cross_attention")
            if each is not None and each.joined and width != reader.d_model:
                raise FieldError((*here, "joined"), f"queries of {reader.d_model} columns and what they read, of "
                                 f"{width}, must be as wide")
        _stack(reader, reader.d_model, ("tower", "resampler"), width)
        width = own.behind[-1].width if own.behind else reader.d_model
    elif own.behind:
        raise FieldError((*path, "projector", "behind"), "needs a resampler")
    if not own.dense and width != model.d_model:
        raise FieldError((*path, "projector", "dense"), f"{width} columns are not the main stack's {model.d_model}")


def _head(model: Model, width: int) -> None:
    """A head that is tied to the token table reads what is as wide as the table."""
    head, table = model.head, model.embedding_dim
    if head.kind == "lm" and head.widened and (
            table is None or table >= model.d_model or head.transform is None or head.copies > 1 or head.softcap):
        raise FieldError(("head", "widened"), "needs a transform, and embedding_dim less than d_model")
    if head.kind != "lm" or not head.tied or head.transform is not None:
        return
    if head.maxout is not None:
        width = head.maxout.width
    elif model.embedding_dim is not None and (model.embedding_projection == "tokens" or head.widened):
        return
    if width != embedding_width(model) and width == model.d_model:
        raise FieldError(("head", "tied"), "with embedding_dim it needs head.transform to come back to its width")
    if width != embedding_width(model):
        raise FieldError(("head", "tied"), f"the head reads {width} columns, and the token table has "
                         f"{embedding_width(model)}")


def _stack(stack: Stack, d: int, path: Loc, memory: int | None = None) -> int:
    """The width that the last layer hands on; the first one reads ``d``."""
    width = d
    if stack.groups is None:
        width = _block(stack, d, memory, path)
        _repeats(stack.layers, d, width, (*path, "layers"))
    for g, group in enumerate(stack.groups or ()):
        before = width
        for b, block in enumerate(group.blocks):
            at = (*path, "groups", g, "blocks", b)
            after = _block(block, width, memory, at)
            _repeats(block.repeat, width, after, (*at, "repeat"))
            width = after
        _repeats(group.repeat, before, width, (*path, "groups", g, "repeat"))
    _positions(stack, width == d, (*path, "position"))
    return width


def _positions(stack: Stack, one_width: bool, path: Loc) -> None:
    if stack.position.kind == "disentangled" and not one_width:
        raise FieldError(path, "a table of positions for every layer needs layers of one width")
    if stack.position.kind == "disentangled" and any(projects_by_experts(block) for _, block in located_blocks(stack)):
        raise FieldError(path, "a table of positions is projected as queries are, which no expert does")
    for _, block in located_blocks(stack) if stack.streams is not None else ():
        scaled = stack.layer_scale or block.tanh_gates or block.adapter or block.convolution or getattr(
            block.attention, "blocks", None) or getattr(stack, "per_layer_embedding", None)
        normed = ("pre", "sandwich", *(() if stack.mix_rank is None else ("none",)))
        if scaled or block.residual != "sequential" or block.norm.placement not in normed:
            raise FieldError((*path[:-2], "streams"), "each sublayer reads a mix of them through a norm, and adds to "
                             "each: residual sequential, norm.placement pre or sandwich, and nothing beside")
    for name in ("sinkhorn", "mix_rank"):
        if getattr(stack, name) is not None and (stack.streams is None or (name == "mix_rank" and stack.sinkhorn)):
            raise FieldError((*path[:-2], name), f"needs streams{', which nothing balances' if name[0] == 'm' else ''}")
    if stack.residual_scale and (stack.streams is not None or any(
            block.residual != "sequential" or block.bottleneck for _, block in located_blocks(stack))):
        raise FieldError((*path[:-2], "residual_scale"), "needs residual: sequential everywhere, and no streams")
    by_distance = stack.position.kind in ("disentangled", "transformer-xl")
    if by_distance and any(getattr(block.attention, "differential", False) for _, block in located_blocks(stack)):
        raise FieldError(path, "differential attention has no scores of queries and distances")
    if all(block.attention is None for _, block in located_blocks(stack)):
        if stack.position.kind == "relative":
            raise FieldError(path, "relative positions are a bias on the scores of attention, and there is none")
        if stack.position.kind == "rope" and stack.position.size is not None:
            raise FieldError(path, "a table of sines is as wide as a head of attention, and there is none")
    if stack.position.kind == "relative" and stack.input.kind == "patches" and stack.input.registers:
        raise FieldError(path, "registers stand at no distance from a patch")


def _repeats(times: int, before: int, after: int, path: Loc) -> None:
    if times > 1 and before != after:
        raise FieldError(path, f"what reads {before} columns and hands on {after} is not like what comes after it: "
                         "list groups, with the first layer alone")


def _block(block: Sublayers, width: int, memory: int | None, path: Loc) -> int:
    layer = block.recurrent
    _groups(block, width, path)
    if layer is None:
        return width
    if layer.kind == "image-convolutions":
        for i, own in enumerate(layer.layers):
            before = layer.layers[i - 1].channels if i else width
            if before % own.groups or own.channels % own.groups:
                raise FieldError((*path, "recurrent", "layers", i, "groups"), f"{own.groups} do not divide {before} "
                                 f"and {own.channels} channels")
    if layer.kind == "patch-merging" and layer.heads is not None and width % layer.heads:
        raise FieldError((*path, "recurrent", "heads"), f"{layer.heads} does not divide {width} columns")
    after = _handed_on(layer, width, memory)
    if block.residual != "none" and after != width:
        name = "channels" if layer.kind == "convolution" else "hidden"
        raise FieldError((*path, "recurrent", name), f"{after} columns cannot be added to {width}: make them as many, "
                         "or say residual: none")
    if block.convolution is not None and after != width:
        raise FieldError((*path, "convolution"), f"its {width} columns cannot be added to {after}")
    return after


def _stands_beside(stack: Stack, block: Sublayers, path: Loc, *, causal: bool) -> None:
    """Raise ``FieldError`` for an adapter, groups of columns or a convolution of values that has no place here."""
    adapter, attention = block.adapter, block.attention
    if block.bottleneck is not None:
        bare = (block.recurrent, block.cross_attention, adapter, block.convolution)
        feed = block.feed_forward
        if attention is None or attention.kind != "standard" or feed is None or feed.kind != "dense" or any(bare) or (
                block.norm.placement != "post" or block.residual != "sequential" or causal or stack.layer_scale):
            raise FieldError((*path, "bottleneck"), "only in an encoder of standard attention and dense feed_forward, "
                             "with norms after both")
        if stack.position.kind not in ("none", "learned", "sinusoidal") or attention.value_from == "key" or (
                attention.span_convolution is not None or attention.output_gate or attention.kv_shared):
            raise FieldError((*path, "bottleneck"), "takes plain attention, whose positions are in the embeddings")
    if adapter is not None:
        if block.feed_forward is None or block.residual == "parallel":
            raise FieldError((*path, "adapter"), "stands behind a feed_forward, in no parallel block")
        if adapter.norm == "again" and (
                block.norm.kind != "layernorm" or block.norm.placement not in ("pre", "post")):
            raise FieldError((*path, "adapter", "norm"), "again: only a layernorm before or behind the feed_forward")
        if adapter.norm == "none" and adapter.normed_residual:
            raise FieldError((*path, "adapter", "normed_residual"), "needs a norm")
    if attention is not None and attention.kind == "compressed":
        own, dim = attention.compression, getattr(stack.position, "dim", None) or 0
        most = own.indexer.head_dim if own is not None and own.indexer is not None else dim
        if not causal or stack.position.kind not in ("none", "rope") or dim > min(attention.head_dim, most):
            raise FieldError((*path, "attention", "kind"), "compressed: only in a decoder that rotates no more columns "
                             "than a head has, or an indexer's, or has no positions")
    if attention is None or attention.kind != "standard":
        return
    if attention.value_convolution is not None and causal:
        raise FieldError((*path, "attention", "value_convolution"), "it sees what comes after: only in an encoder")
    tokens = attention.blocks.global_tokens if attention.blocks is not None else 0
    if tokens != global_tokens(stack) or (tokens and block.norm.placement != "pre"):
        raise FieldError((*path, "attention", "blocks", "global_tokens"), "must be as many in every layer, whose norm "
                         "before attention is pre")
    if ahead(stack) != (0 if attention.ahead is None else attention.ahead.streams):
        raise FieldError((*path, "attention", "ahead"), "must be as many streams in every layer")
    plain = {"kind", "heads", "kv_heads", "head_dim", "bias", "scale", "ahead"}
    for name in sorted({*attention.names()} - plain) if attention.ahead is not None else ():
        if getattr(attention, name) != attention.default(name):
            raise FieldError((*path, "attention", name), "streams that predict ahead have plain attention")
    if attention.ahead is not None and (
            not causal or stack.position.kind not in ("none", "learned") or attention.kv_heads != attention.heads
            or stack.streams or block.residual != "sequential" or block.recurrent
            or getattr(stack, "per_layer_embedding", None) or getattr(stack, "pooler", None)
            or getattr(getattr(stack, "head", None), "kind", "lm") not in ("lm", "none")):
        raise FieldError((*path, "attention", "ahead"), "only in a decoder with keys of every head, learned positions "
                         "or none, residual: sequential, a language model's head or none, and nothing beside")
    dim = (getattr(stack.position, "dim", None) or attention.head_dim) // 2 * 2 if stack.position.kind == "rope" else 0
    if attention.indexer is not None and (not causal or dim > attention.indexer.head_dim):
        raise FieldError((*path, "attention", "indexer"), "only in a decoder; heads no narrower than what is rotated")
    seen = ("kept_keys", "indexer")
    for name in ("similarity", "blocks", *seen):
        scored = stack.position.kind in ("alibi", "relative", "disentangled", "transformer-xl")
        if attention.blocks is not None and attention.blocks.reach == "three" and stack.groups is None:
            scored = scored and (stack.position.kind != "relative" or stack.position.per_layer)
        if getattr(attention, name) != attention.default(name) and (scored or (causal and name not in seen)):
            where = "a stack" if name in seen else "an encoder"
            raise FieldError((*path, "attention", name), f"only in {where} whose positions are not in its scores")
    if attention.blocks is not None and stack.position.kind == "rope":
        raise FieldError((*path, "attention", "blocks"), "positions that are filled up to blocks are not rotated")
    spans = attention.span_convolution is not None
    if spans and (causal or stack.position.kind in ("rope", "disentangled", "transformer-xl")):
        raise FieldError((*path, "attention", "span_convolution"), "only in an encoder whose queries have no positions")
    for name in ("value_convolution", "column_groups"):
        if stack.position.kind in ("disentangled", "transformer-xl") and (
                getattr(attention, name) != attention.default(name)):
            raise FieldError((*path, "attention", name), f"{stack.position.kind} positions do without")


def _groups(block: Sublayers, width: int, path: Loc) -> None:
    """Groups of columns divide what a projection reads and what it makes."""
    attention, feed = block.attention, block.feed_forward
    if attention is not None and attention.kind == "standard":
        values = attention.head_dim if attention.value_dim is None else attention.value_dim
        made = {"q": attention.heads * attention.head_dim, "k": attention.kv_heads * attention.head_dim,
                "v": attention.kv_heads * values, "o": attention.heads * values}
        for name, columns in made.items():
            if columns % (groups := getattr(attention.column_groups, name)) or width % groups:
                raise FieldError((*path, "attention", "column_groups", name), f"{groups} do not divide {columns} and "
                                 f"{width} columns")
    if feed is not None and feed.kind == "dense":
        for name in ("up", "down"):
            if width % (groups := getattr(feed.column_groups, name)) or feed.d_ff % groups:
                raise FieldError((*path, "feed_forward", "column_groups", name), f"{groups} do not divide {width} and "
                                 f"{feed.d_ff} columns")


def _handed_on(layer: Recurrent, width: int, memory: int | None) -> int:
    if layer.kind == "patch-merging":
        return width if layer.skipped else layer.width
    if layer.kind == "image-convolutions":
        return layer.layers[-1].channels if layer.layers else width
    if layer.kind == "convolution":
        return width if layer.channels is None else layer.channels
    if isinstance(layer, RecurrentCell):
        if layer.attends is None:
            return layer.hidden * (1 + layer.bidirectional)
        parts = {"state": layer.hidden, "previous": layer.hidden, "input": width, "context": memory or 0}
        return sum(parts[name] for name in layer.attends.readout)
    return width


def _sees(stack: Stack, path: Loc, *, causal: bool, encoder: Stack | None) -> None:
    """Check that every recurrent layer knows what it reads: the past, the future, an encoder's output."""
    for at, block in located_blocks(stack):
        layer, here = block.recurrent, (*path, *at, "recurrent")
        _stands_beside(stack, block, (*path, *at), causal=causal)
        _of_images(stack, block, (*path, *at))
        if layer is not None and layer.kind == "fourier" and causal:
            raise FieldError(here, "it mixes all positions: a stack that sees nothing ahead cannot have it")
        if layer is not None and layer.kind == "patch-merging" and not layer.skipped:
            _merges(stack, block, layer.merge, here)
        if layer is not None and layer.kind == "image-convolutions":
            _convolves(stack, block, layer, here)
        if layer is not None and layer.kind == "short-convolution" and layer.image and (
                layer.conv % 2 == 0 or not isinstance(stack.input, PatchInput) or unpatched(stack.input)):
            raise FieldError((*here, "image"), "needs an odd number of patches, and an image of patches alone")
        if not isinstance(layer, RecurrentCell):
            continue
        if layer.bidirectional and causal:
            raise FieldError((*here, "bidirectional"), "a stack that sees nothing ahead runs in one direction")
        if layer.attends is not None and encoder is None:
            raise FieldError((*here, "attends"), "needs the output of an encoder: architecture: encoder-decoder")
        if layer.initial is not None:
            _starts(layer.initial.of, encoder, (*here, "initial"))


def _stands_once(stack: Stack, block: Sublayers, path: Loc, *, once: bool = True) -> None:
    """Only an image of patches and nothing else has sides; ``once``: that change, in a block which stands once."""
    image = stack.input if isinstance(stack.input, PatchInput) and not unpatched(stack.input) else None
    if image is None or (once and (stack.groups is None or getattr(block, "repeat", 1) > 1 or any(
            group.repeat > 1 and block in group.blocks for group in stack.groups))):
        raise FieldError(path, "merges an image of patches and nothing else, in groups and blocks that stand once")


def _convolves(stack: Stack, block: Sublayers, layer: ImageConvolutions, path: Loc) -> None:
    side = side_of(stack, block)
    changes = layer.side(side) != side or layer.positions or layer.class_tokens > 0
    _stands_once(stack, block, path, once=changes)
    if changes and (block.residual != "none" or block.attention or block.feed_forward):
        raise FieldError(path, "changes the sides of an image: alone in its block, with residual: none")
    if layer.side(side) < 1:
        raise FieldError((*path, "layers"), f"leaves nothing of an image's {side} x {side} positions")


def _of_images(stack: Stack, block: Sublayers, path: Loc) -> None:
    """Refuse what has sides, but in images."""
    if getattr(block.recurrent, "kind", "") == "additive-attention":
        _stands_once(stack, block, (*path, "recurrent"), once=False)
    own = [name for name in ("image_reduction", "image_convolution") if getattr(block.attention, name, None)]
    if own and not isinstance(stack.input, PatchInput):
        raise FieldError((*path, "attention", own[0]), "only an image has sides")


def _merges(stack: Stack, block: Sublayers, merge: int, path: Loc) -> None:
    _stands_once(stack, block, path)
    if block.residual != "none" or block.norm.placement != "none" or block.attention or block.feed_forward:
        raise FieldError(path, "stands alone in its block, with residual: none and norm.placement: none")
    if (side := side_of(stack, block)) % merge:
        raise FieldError((*path, "merge"), f"squares of {merge} do not divide an image's {side} x {side} patches")


def _reads(block: Sublayers) -> bool:
    """Tell whether the encoder's output is an input of this block."""
    layer = block.recurrent
    if block.cross_attention is not None:
        return True
    return isinstance(layer, RecurrentCell) and (layer.attends is not None or layer.initial is not None)


def _starts(of: str, encoder: Stack | None, path: Loc) -> None:
    last = None if encoder is None else located_blocks(encoder)[-1][1]
    layer = None if last is None or last.feed_forward is not None else last.recurrent
    if not isinstance(layer, RecurrentCell) or layer.bidirectional != (of == "reverse"):
        kind = "a bidirectional" if of == "reverse" else "a one-directional"
        raise FieldError((*path, "of"), f"{of} needs an encoder that ends in {kind} rnn, lstm or gru")


def check_squares(stack: Stack, squares: int, block: Sublayers, path: Loc) -> None:
    """Each square is computed by itself, so they must be alike, and nothing may stand beside them."""
    if stack.input.kind != "patches" or unpatched(stack.input):
        raise FieldError(path, "only an image of patches and nothing else is cut into squares")
    if (side := side_of(stack, block)) % squares and not getattr(block.attention, "window_border", False):
        raise FieldError(path, f"squares of {squares} do not divide an image's {side} x {side} patches")
    own = stack.position.kind in ("none", "learned", "rope", "decomposed", "continuous")
    if not own and not getattr(stack.position, "per_layer", False):
        raise FieldError(path, f"a square has no {stack.position.kind} positions of its own")


def check_sides(stack: Stack, rows: int) -> None:
    """Two tables need an image of patches, and a row for each along its side."""
    if stack.input.kind != "patches" or unpatched(stack.input):
        raise FieldError(("position", "both_ways"), "needs an image of patches, and nothing beside them")
    side = stack.input.image // stack.input.patch
    if rows < side:
        raise FieldError(("position", "size"), f"{rows} is less than the {side} patches along an image")


def check_projector(tower: SideTower, projector: Projector, at: Loc) -> None:
    """Refuse a projector that reads what its tower has not, or puts out other positions than it says."""
    image = tower.input if isinstance(tower.input, PatchInput) else None
    merge, extra = projector.merge or 1, 0
    if projector.unpatched:
        extra = unpatched(image) if image is not None else 0
        if not extra or merge > 1 or projector.average:
            raise FieldError((*at, "unpatched"), "needs class tokens or registers, and patches that stay apart")
    along = side_of(tower) // merge
    given = positions(tower.input) // merge if image is None else along**2 + extra
    resampler = getattr(tower, "resampler", None)
    if resampler is not None and at[-1] == "projector":
        given = resampler.input.length
    elif projector.newlines and image is not None:
        given = given + along + 2
    if projector.tokens > given or (projector.tokens != given and not projector.average):
        raise FieldError((*at, "tokens"), f"{projector.tokens}, but the projector reads {given} positions: "
                         "leave it out, or average them")
    read = (("feature_layers", after) for after in projector.feature_layers)
    for name, skips in (("unused_layers", projector.unused_layers), *read):
        if skips and (tower.groups is not None or skips >= tower.layers):
            raise FieldError((*at, name), "must leave layers to read, all of them alike")
