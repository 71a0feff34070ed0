"""Yardsticks of a model: our reference, a class of transformers, printed figures, or a file of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from txcalc.answer.validation import DEVICES, Validation, Validations
from txcalc.check.processes import cores, in_processes
from txcalc.models.store import Loaded
from txcalc.spec.errors import MissingPackage, SpecError, nearest, not_one_of

if TYPE_CHECKING:
    from txcalc.models.header import Checkpoint


def compared(
    load: Callable[[], Sequence[Loaded]], against: str, on: str, jobs: int | None = None, *,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Validations:
    """Compare models in so many processes, once it is clear with what.

    Raises ``SpecError`` for something that there is not, ``MissingPackage`` for what is not installed.
    """
    checkpoint = _checked(against, on)
    loaded = load()
    compare = partial(_compared, against=against, on=on, checkpoint=checkpoint, one_of_many=len(loaded) > 1)
    live = against in ("reference", "transformers") and on != "cuda"
    groups = _alike(loaded) if live else [dict(enumerate(loaded))]
    found: dict[int, Validation] = {}
    progress(0, len(loaded))
    for number, result in in_processes(compare, groups, min(jobs or cores(), len(groups))):
        found[number] = result
        progress(len(found), len(loaded))
    return Validations.of([found[number] for number in range(len(loaded))])


def _checked(against: str, on: str) -> Checkpoint | None:
    """The checkpoint to compare with, if it is one. Raises as ``compared`` does."""
    if on not in DEVICES:
        raise SpecError(not_one_of(DEVICES, on), field="on")
    if against == "published":
        return None
    if against in ("reference", "transformers"):
        if find_spec("torch") is None:
            raise MissingPackage("validation needs PyTorch", "torch")
        if against == "transformers" and find_spec("transformers") is None:
            raise MissingPackage("--against transformers needs transformers", "transformers")
        if against == "reference" and on == "cuda" and not import_module("torch").cuda.is_available():
            raise SpecError("this PyTorch sees no CUDA device", field="on")
        return None
    if not any(mark in against for mark in ("/", ".")):
        close = nearest(against, ("reference", "transformers", "published"))
        hint = f"; did you mean {close}?" if close else ""
        raise SpecError(f"must be reference, transformers, published or a file, got {against!r}{hint}", field="against")
    from txcalc.models.checkpoints import read_checkpoint

    return read_checkpoint(against)


def _alike(loaded: Sequence[Loaded]) -> list[dict[int, Loaded]]:
    """Numbered models by their small sibling, which is compared once for all that have it; the largest group first."""
    from txcalc.check.sibling import sibling, structure

    groups: dict[str, dict[int, Loaded]] = {}
    for number, item in enumerate(loaded):
        groups.setdefault(structure(sibling(item.model)), {})[number] = item
    return sorted(groups.values(), key=len, reverse=True)


def _compared(
    loaded: Loaded, against: str, on: Any, checkpoint: Checkpoint | None, *, one_of_many: bool
) -> Validation:
    from txcalc.check import third_party

    spec = loaded.model
    if checkpoint is not None:
        from txcalc.check.checkpoint import compare_checkpoint

        return Validation.of(spec.name, against, compare_checkpoint(spec, None, checkpoint))
    if against == "published":
        return third_party.against_published(spec)
    if against == "reference":
        from txcalc.check.validate import validate

        return validate(spec, device=on, one_of_many=one_of_many)
    config = None if loaded.overrides else third_party.known_config(spec)
    if config is None:
        return Validation.of(spec.name, "transformers", (),
                             left_out=("no class of the same architecture is known for it",))
    return third_party.against_transformers(spec, config, "cpu" if on == "cuda" else on)
