"""Tensors without data: what they hold and on which memory, and the gradients that a backward pass makes of them.

Sizes may be ints, symbols or arrays: nothing looks at a value.
"""

from __future__ import annotations

from enum import Enum
from math import prod
from typing import Any, Literal, NamedTuple

Number = Any  # int, polynomial or float64 array: whatever has + - * //
How = Literal["new", "view", "same", "part", "added"]


class Role(Enum):
    """The role of a tensor, which decides its bytes per element (``Workload.bytes_of``)."""

    ACTIVATION = "activation"
    WEIGHT = "weight"  # in the dtype of the weights that are trained
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    FLOAT8 = "float8"
    STATISTIC = "statistic"
    INDEX = "index"
    COUNT = "count"  # in 32 bits
    BOOL = "bool"
    HOST = "host"  # a number that CUDA's kernels leave in the host's memory
    PARAMETER = "parameter"  # read as an input: its memory exists anyway, so keeping it costs nothing


class Storage(NamedTuple):
    """Memory that one operation allocates, or that is there before the run."""

    id: int
    shape: tuple[Number, ...]
    role: Role = Role.ACTIVATION
    label: str = ""
    scores: bool = False  # grows with queries x keys: the O(N^2) part
    over: int | None = None  # the storage in whose memory this one is written, in place

    @property
    def elements(self) -> Number:
        """Their number."""
        return prod(self.shape)


class Tensor(NamedTuple):
    """A value: a shape on a storage, which views share. ``value`` is what autograd has one gradient of.

    Tensors on one storage are one piece of memory: it is kept once, whoever reads it.
    """

    value: int
    storage: Storage
    shape: tuple[Number, ...]
    grad: bool = True  # whether autograd wants its gradient
    viewed: bool = False  # a reshape of the value: its gradient comes back as a view
    strided: bool = False  # its rows do not lie one after the other: what needs them so copies them

    @property
    def id(self) -> int:
        """The storage's identity, by which memory is counted."""
        return self.storage.id

    @property
    def elements(self) -> Number:
        """Elements of the storage, whatever part of it the shape shows."""
        return self.storage.elements

    @property
    def role(self) -> Role:
        """The storage's role."""
        return self.storage.role

    @property
    def made(self) -> Role:
        """The role of what is computed of it, its gradient too: that of weights where it is a parameter."""
        return Role.WEIGHT if self.storage.role is Role.PARAMETER else self.storage.role

    @property
    def label(self) -> str:
        """A word for a reader."""
        return self.storage.label

    @property
    def scores(self) -> bool:
        """Tell whether it grows with queries x keys."""
        return self.storage.scores

    def view(self, *shape: Number) -> Tensor:
        """The same value under another shape."""
        return Tensor(self.value, self.storage, shape, self.grad, viewed=True)


class Gradient(NamedTuple):
    """A storage that the backward pass of an operation makes, or hands on."""

    # The tensor that was read, the name of a weight (or another operation's by its path); None: a temporary.
    of: Tensor | str | None
    shape: tuple[Number, ...] = ()
    role: Role = Role.ACTIVATION
    # New in memory of its own, as it is or as a view of it, on which nothing is added in place; the same as the
    # output's gradient, or a part of it; or added by its product to what holds a weight's gradients.
    how: How = "new"
    passing: int = 0  # steps that a temporary outlives; all others live until the operation's backward pass is over
    # A temporary that is written to in place, and so becomes the result, unless a dispatch mode watches.
    watched: bool = False
    first: bool = False  # handed on before those made earlier
    summed: bool = False  # over what was broadcast, when the operation's own formula is through
    kept: Tensor | None = None  # it was made in the forward pass and saved, as this
    collective: str = ""  # what ranks of cp do to make a temporary
    own: bool = False  # in its own dtype, whatever the others are computed in

    @property
    def elements(self) -> Number:
        """Elements of the new memory."""
        return prod(self.shape)


Steps = tuple[tuple[Gradient, ...], ...]
