"""Yardsticks of a model: our reference, a class of transformers, printed figures, or a file of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from txcalc.answer.validation import DEVICES, Validation, Validations
from txcalc.check.processes import cores, in_processes
from txcalc.models.store import Loaded
from txcalc.spec.errors import MissingPackage, SpecError, nearest, not_one_of


def compared(
    load: Callable[[], Sequence[Loaded]], against: str, on: str, jobs: int | None = None, *,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Validations:
    """Compare models in so many processes, once it is clear with what.

    Raises ``SpecError`` for something that there is not, ``MissingPackage`` for what is not installed.
    """
    compare = _comparison(against, on)
    loaded = load()
    if against == "reference":
        compare = partial(_with_reference, on=on, one_of_many=len(loaded) > 1)
    live = against in ("reference", "transformers") and on != "cuda"
    groups = _alike(loaded) if live else [dict(enumerate(loaded))]
    found: dict[int, Validation] = {}
    progress(0, len(loaded))
    for number, result in in_processes(compare, groups, min(jobs or cores(), len(groups))):
        found[number] = result
        progress(len(found), len(loaded))
    return Validations.of([found[number] for number in range(len(loaded))])


def _comparison(against: str, on: str) -> Callable[[Loaded], Validation]:
    if on not in DEVICES:
        raise SpecError(not_one_of(DEVICES, on), field="on")
    if against == "published":
        return _with_published
    if against in ("reference", "transformers"):
        if find_spec("torch") is None:
            raise MissingPackage("validation needs PyTorch", "torch")
        if against == "transformers":
            if find_spec("transformers") is None:
                raise MissingPackage("--against transformers needs transformers", "transformers")
            return partial(_with_transformers, on=on)
        return _on(on)
    if not any(mark in against for mark in ("/", ".")):
        close = nearest(against, ("reference", "transformers", "published"))
        hint = f"; did you mean {close}?" if close else ""
        raise SpecError(f"must be reference, transformers, published or a file, got {against!r}{hint}", field="against")
    from txcalc.check.checkpoint import compare_checkpoint
    from txcalc.models.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(against)
    return lambda loaded: Validation.of(
        loaded.model.name, against, compare_checkpoint(loaded.model, None, checkpoint))


def _alike(loaded: Sequence[Loaded]) -> list[dict[int, Loaded]]:
    """Numbered models by their small sibling, which is compared once for all that have it; the largest group first."""
    from txcalc.check.sibling import sibling, structure

    groups: dict[str, dict[int, Loaded]] = {}
    for number, item in enumerate(loaded):
        groups.setdefault(structure(sibling(item.model)), {})[number] = item
    return sorted(groups.values(), key=len, reverse=True)


def _on(device: str) -> Callable[[Loaded], Validation]:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise SpecError("this PyTorch sees no CUDA device", field="on")
    return partial(_with_reference, on=device)


def _with_published(loaded: Loaded) -> Validation:
    from txcalc.check.third_party import against_published

    return against_published(loaded.model)


def _with_reference(loaded: Loaded, on: Any, *, one_of_many: bool = False) -> Validation:
    from txcalc.check.validate import validate

    return validate(loaded.model, device=on, one_of_many=one_of_many)


def _with_transformers(loaded: Loaded, on: Any) -> Validation:
    from txcalc.check.third_party import against_transformers, known_config

    config = None if loaded.overrides else known_config(loaded.model)
    if config is None:
        return Validation.of(loaded.model.name, "transformers", (),
                             left_out=("no class of the same architecture is known for it",))
    return against_transformers(loaded.model, config, "cpu" if on == "cuda" else on)
