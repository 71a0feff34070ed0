"""The memory of a run, and the most that fits: in plain PyTorch, or in the engine that is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from txcalc.answer import capacity as of_run
from txcalc.answer.engine_fit import engine_fit
from txcalc.answer.engine_memory import engine_memory
from txcalc.answer.engines import BUNDLES, names, of_file
from txcalc.answer.memory import MemoryView, memory
from txcalc.answer.serving import is_own
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import is_causal
from txcalc.trace.workload import plain

if TYPE_CHECKING:
    from txcalc.answer.capacity import CapacityView, Make
    from txcalc.spec.model import Model


def needed(spec: Model, given: Mapping[str, Any], **more: Any) -> MemoryView:
    """The memory of a run with these fields. Raises ``SpecError``."""
    given = _unbundled(spec, _of_file(spec, given))
    return engine_memory(spec, given, **more) if _served(given) else memory(spec, given, **more)


def capacity(
    spec: Model, given: Mapping[str, Any], card: str | None, *, make: Make | None = None, **more: Any
) -> CapacityView:
    """The most that fits into a card of a run with these fields. Raises ``SpecError``."""
    given = _unbundled(spec, _of_file(spec, given))
    return engine_fit(spec, given, card, **more) if _served(given) else of_run.capacity(
        spec, given, card, make=make, **more)


def _of_file(spec: Model, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the engine whose own file the model was read from, where a longest request is given and no engine."""
    found = of_file(spec.stored.method) if spec.stored is not None else None
    return given if found is None or "engine" in given or "context" not in given else {**given, "engine": found}


def _unbundled(spec: Model, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """With what an engine that sets nothing aside stands for, where that is named."""
    called, _, version = str(given.get("engine")).partition("@")
    if called not in BUNDLES:
        return given
    if version not in ("", "5.23"):
        raise SpecError(f"the classes of {called} are followed in version 5.23, not in {version}", field="engine")
    if plain(given).get("phase") == "training":
        raise SpecError(f"is for inference; give --implementation {called}", field="engine")
    stands = {name: value for name, value in BUNDLES[called].items() if name != "logits" or is_causal(spec)}
    return {**stands, **{name: value for name, value in given.items() if name != "engine"}}


def _served(given: Mapping[str, Any]) -> bool:
    """Whether an engine is named. Raises ``SpecError`` for what only an engine has."""
    if given.get("engine") is not None:
        return True
    for name, value in given.items():
        if name != "tp" and (is_own(name, value) or name == "kv_block"):
            raise SpecError(f"is of an engine: give --engine {', '.join(names())}", field=name)
    return False
