"""What the functions of ``import txcalc`` share: models by name, and workloads from keyword arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypedDict

from pydantic import ValidationError

from txcalc.answer.defaults import workload as fill
from txcalc.spec import presets
from txcalc.spec.explain import explain_validation
from txcalc.spec.model import Model
from txcalc.trace.workload import DType, Phase, Recipe, Workload


class Run(TypedDict, total=False):
    """The fields of a ``Workload``, each of which may be left out: see there, and ``txcalc count --help``.

    ``batch``, ``images``: how many; ``seq``, ``past``, ``source_seq``, ``kv_block``: tokens.
    """

    phase: Phase
    batch: int
    seq: int
    past: int
    source_seq: int
    images: int
    dtype: DType
    kv_dtype: DType
    kv_block: int
    attention: Literal["eager", "flash"]
    dropout: float
    masked: Literal["counted", "skipped"]
    device: Literal["cuda", "cpu"]
    recipe: Recipe


class Found(NamedTuple):
    """A model and what a report says of where it came from."""

    spec: Model
    source: str


def find(model: Model | str) -> Found:
    """The model itself, or the one that a name or a path means. Raises ``SpecError``."""
    if isinstance(model, Model):
        return Found(model, "python")
    loaded = presets.load(model)
    return Found(loaded.model, loaded.source)


def workload(models: Sequence[Model], run: Mapping[str, Any]) -> Workload:
    """The workload of these fields, lengths filled in as on the command line. Raises ``SpecError`` for a bad field."""
    with one_line():
        return fill(models, dict(run))[0]


@contextmanager
def one_line() -> Iterator[None]:
    """Pydantic's complaint about a workload becomes a ``SpecError``."""
    try:
        yield
    except ValidationError as error:
        raise explain_validation(error, None, None, Workload) from None
