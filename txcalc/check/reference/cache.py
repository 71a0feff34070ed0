"""State of the reference's layers between steps: keys and values, latents, states."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


class Remembered:
    """Tensors, and what remembers some."""

    def bytes(self) -> int:
        """Bytes of all tensors."""
        parts = tree_leaves([*vars(self).values()])
        return sum(x.bytes() if isinstance(x, Remembered) else x.nbytes for x in parts
                   if isinstance(x, Remembered | Tensor))


@dataclass
class KeyValues(Remembered):
    """One attention's cache: keys and values of (b, kv, t, hd)."""

    key: Tensor | None = None
    value: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor, reach: int | None) -> tuple[Tensor, Tensor]:
        """Append keys and give those that some query of this step sees; the last ``reach`` stay for the next."""
        new = key.shape[2]
        if self.key is not None and self.value is not None:
            key, value = torch.cat((self.key, key), dim=2), torch.cat((self.value, value), dim=2)
        keep = key.shape[2] if reach is None else reach
        self.key, self.value = key[:, :, -keep:].clone(), value[:, :, -keep:].clone()
        seen = keep + new - 1  # the oldest key that the first of the new queries can see, and all after it
        return key[:, :, -seen:], value[:, :, -seen:]


@dataclass
class Growing(Remembered):
    """Tensors of (b, t, width) that grow by the tokens of every step: MLA's latents and keys, a layer's inputs."""

    parts: tuple[Tensor, ...] = ()

    def extend(self, *new: Tensor, reach: int | None = None) -> tuple[Tensor, ...]:
        """The cached tokens and the new ones, part by part; of them the last ``reach`` stay for the next step."""
        old, n = self.parts, new[0].shape[1]
        whole = tuple(torch.cat(pair, dim=1) for pair in zip(old, new, strict=True)) if old else new
        if reach is None:
            self.parts = whole
            return whole
        self.parts = tuple(part[:, -reach:].clone() for part in whole)
        return tuple(part[:, -(reach + n - 1) :] for part in whole)


@dataclass
class State(Remembered):
    """The state of a recurrence: the last inputs of its convolution (b, channels, conv), and its state in float32.

    ``cells``: the states of a cell, (b, hidden). ``source``: the encoder's output and its projection, where it attends.
    """

    inputs: Tensor | None = None
    state: Tensor | None = None
    cells: tuple[Tensor, ...] = ()
    source: tuple[Tensor, ...] = ()


@dataclass
class Sums(Remembered):
    """The state of a compressor: its sums (b, made, width), and rows (b, t, columns) that are none yet or again."""

    sums: Tensor | None = None
    waiting: tuple[Tensor, ...] = ()
    overlap: tuple[Tensor, ...] = ()


@dataclass
class LayerCache(Remembered):
    """The caches of one run of one block. ``padding`` (b, t) is added to the scores of keys: of some it is -inf."""

    attention: KeyValues = field(default_factory=KeyValues)
    latents: Growing = field(default_factory=Growing)
    index: Growing = field(default_factory=Growing)
    sums: Sums = field(default_factory=Sums)
    index_sums: Sums = field(default_factory=Sums)
    recurrent: State = field(default_factory=State)
    feed_forward: State = field(default_factory=State)
    cross_attention: KeyValues = field(default_factory=KeyValues)
    padding: Tensor | None = None

    def hides(self, mask: Tensor) -> Tensor:
        """A mask (..., n, t) of every sequence, in which its padding is hidden as well."""
        return mask if self.padding is None else mask + self.padding[:, None, None, -mask.shape[-1]:]
