"""The passes whose memory is counted: of a training step, of a step of decoding, or of a prompt and what follows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from txcalc.answer.fit import fill, fit, heard
from txcalc.count import step
from txcalc.count.schedules import least
from txcalc.count.turns import Turns
from txcalc.count.unproved import unproved
from txcalc.spec.errors import SpecError, not_one_of
from txcalc.spec.facts import is_causal
from txcalc.spec.model import Model
from txcalc.spec.words import form
from txcalc.trace.layout import WHOLE, Layout
from txcalc.trace.model import trace
from txcalc.trace.rank import local
from txcalc.trace.record import Trace
from txcalc.trace.workload import PRECISIONS, Workload, plain
from txcalc.trace.workload_defaults import DTYPE

TRAINING: Final = ("precision", "optimizer", "optimizer_kernel", "recompute", "loss", "lora", "dora", "freeze",
                   "accumulate", "global_batch", "clip", "in_backward", "offload", "zero", "fsdp", "schedule")
"""Fields of a workload that only a training step has."""


class Passes(NamedTuple):
    """The passes, each a trace; ``new``: tokens after a prompt. ``defaults``: sizes that were filled in."""

    traces: tuple[Trace, ...]
    asked: Workload
    new: int | None = None
    defaults: frozenset[str] = frozenset()

    @property
    def workload(self) -> Workload:
        """That of the first of them."""
        return self.traces[0].workload


def of_rank(spec: Model, workload: Workload, rank: int) -> Trace:
    """The pass of all stages of a rank of a pipeline."""
    return trace(spec, workload, rank=rank)


def passes(
    spec: Model, given: Mapping[str, Any], rounded: Callable[[int], int] = int,
    made: Callable[[Model, Workload, int], Trace] = of_rank,
) -> Passes:
    """The passes of a run with these fields of a workload, and ``new``. Raises ``SpecError`` for what does not fit.

    Without a phase it is inference, unless there is a field that only training has. A prompt whose length is left out
    leaves room for what follows it. ``rounded``: bytes of a storage, by which the rank of a pipeline with the highest
    peak is found; ``made``: makes the pass of each.
    """
    given = plain(heard([spec], given))
    own = [name for name in TRAINING if name in given]
    phase = given.setdefault("phase", "training" if own else "prefill")
    if given.get("kv_dtype", given.get("dtype", DTYPE)) != given.get("dtype", DTYPE):
        if not is_causal(spec):
            raise SpecError(f"{spec.name} is an encoder and caches no keys", field="kv_dtype")
        raise SpecError("plain PyTorch caches in what it computes in; engines have other formats: give --engine",
                        field="kv_dtype")
    if phase not in ("training", "prefill", "decode"):
        raise SpecError(not_one_of(("inference", "training", "decode"), phase), field="phase")
    if phase != "training" and own:
        raise SpecError("only a training step has it; give --phase training", field=own[0])
    if phase == "prefill":
        return _inference(spec, given)
    if "new" in given:
        raise SpecError("only inference generates; give --phase inference, or --past to decode", field="new")
    given = _accumulated(given)
    workload, defaults = fill([spec], given)
    return Passes((highest(spec, fit(spec, workload), rounded, made),), workload, None, defaults)


def highest(
    spec: Model, workload: Workload, rounded: Callable[[int], int] = int,
    made: Callable[[Model, Workload, int], Trace] = of_rank,
) -> Trace:
    """The pass on one device, or on the rank of a pipeline whose peak is the highest, of equal ones the first."""
    layout = workload.layout
    if layout is None or workload.phase != "training":
        return trace(spec, workload)
    own = [[local(spec, layout, [stage]) for stage in layout.stages_of(rank)] for rank in range(layout.pp)]
    first = (rank for rank in range(layout.pp) if own.index(own[rank]) == rank)  # has most waiting of its like
    found = [made(spec, workload, rank) for rank in first]
    if len(found) == 1:
        return found[0]
    return max(found, key=lambda t: max(each.peak_bytes for each in step.phases(t, rounded=rounded)))


def assumed(spec: Model, given: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields with a precision where a training step does not say its own, and a note on one that is not amp.

    That is autocast over fp32 weights, or all of it in bf16 where autocast is not proved. What says its own: other
    formats than bf16 (``dtype``), of weights that are stored, and bytes of a parameter in place of an optimizer.
    """
    given = plain(given)
    trains = given["phase"] == "training" if "phase" in given else any(name in given for name in TRAINING)
    given = _accumulated(given) if trains else given
    if not trains or laid_out(given).shards or says_precision(given):
        return given, ()
    try:
        why = unproved(passes(spec, {**given, "precision": "amp"}).traces[0])
    except SpecError as error:
        why = error.message
    if not why:
        return {**given, "precision": "amp"}, ()
    return {**given, "precision": "bf16"}, (f"all is in bf16, where amp is usual: {why}",)


def says_precision(given: Mapping[str, Any]) -> bool:
    """True where a field says in what a training step computes and updates its weights."""
    return any(given.get(name) is not None for name in ("precision", "weights")) or given.get(
        "implementation") in PRECISIONS or given.get("dtype", DTYPE) != DTYPE or "=" in str(given.get("optimizer"))


def laid_out(given: Mapping[str, Any]) -> Layout:
    """The devices of a run, of which a saved answer says all together."""
    whole = Layout.read(given.get("layout")) or WHOLE
    return Layout.of({**vars(whole), **{name: given[name] for name in Layout.names() if name in given}}) or WHOLE


def _accumulated(given: dict[str, Any]) -> dict[str, Any]:
    """With the micro-batches that a step's sequences come to on a data-parallel rank; in a pipeline at least as many as
    it has stages. Raises ``SpecError`` where they are not whole, or too few."""
    layout = laid_out(given)
    whole, batch = given.pop("global_batch", None), given.get("batch", 1)
    together, ranks = batch * layout.dp, f" on {layout.dp:,} ranks" if layout.dp > 1 else ""
    if whole is not None and (whole < 1 or batch < 1 or whole % together):
        raise SpecError(f"{whole:,} sequences are no whole micro-batches of {batch:,}{ranks}", field="global_batch")
    if whole is not None and given.get("accumulate", whole // together) != whole // together:
        raise SpecError(f"{whole:,} sequences in micro-batches of {batch:,}{ranks} are {whole // together:,} of them",
                        field="accumulate")
    if whole is None and "accumulate" not in given and layout.pp == 1:
        return given
    want = least(layout) if layout.pp > 1 else 1
    count = given.get("accumulate", max(want, layout.pp)) if whole is None else whole // together
    if count < want:
        raise SpecError(f"{layout.order} wants at least as many micro-batches as stages: {want}, not {count}, or gpipe",
                        field="accumulate" if whole is None else "global_batch")
    if given.get("in_backward") and count > 1 and "accumulate" not in given:
        raise SpecError(f"{count} micro-batches add up gradients before weights are updated", field="in_backward")
    return given | {"accumulate": count}


def _inference(spec: Model, given: dict[str, Any]) -> Passes:
    """A prompt, and of the tokens that follow it the last, which looks back furthest; of an encoder its one pass."""
    asked = given.pop("new", None)
    if not is_causal(spec):
        if asked is not None:
            raise SpecError(f"{spec.name} is an encoder and does not generate", field="new")
        workload, defaults = fill([spec], given | {"phase": "forward"})
        return Passes((trace(spec, fit(spec, workload).replaced(phase="prefill")),), workload, None, defaults)
    new = 1 if asked is None else asked
    given |= {"beams": form(str(given["beams"]))} if given.get("beams") is not None else {}
    workload, defaults = fill([spec], given)
    room = spec.context - workload.past - new
    if "seq" in defaults and workload.seq > room >= 1:
        workload = workload.replaced(seq=room)
    elif asked is None and workload.seq > room:
        new = 0
    read = new
    if workload.beams is not None:  # the last of its tokens is read by no pass
        given["beams"], read = f"{workload.beams}:{workload.past + workload.seq}+{max(new, 1)}", max(new - 1, 0)
        workload = workload.replaced(beams=given["beams"])
    if workload.cache == "static":  # for the last token too
        given["cache"] = f"static:{workload.past + workload.seq + read}"
        workload = workload.replaced(cache=given["cache"])
    prompt = trace(spec, fit(spec, workload))
    if not read:
        return Passes((prompt,), workload, new, defaults)
    after = given | {"phase": "decode", "seq": 1, "past": workload.past + workload.seq + read - 1}
    last = trace(spec, fit(spec, Workload.of(after)))
    return Passes((prompt, last), workload, new, defaults)


def placed(path: str, turns: Turns) -> str:
    """A path as the modules of a real model have it, with the index of every layer: ``layers.31.attention.q``."""
    for repeat, turn in sorted(turns, key=lambda each: -len(each[0])):
        if path.startswith(f"{repeat}."):
            path = f"{repeat}.{turn}{path.removeprefix(repeat)}"
    return path


def options(run: Mapping[str, Any]) -> str:
    """Fields of a run as options of the command line; none of those that are None."""
    texts = {name: "" if name == "sp" else " yes" if value is True else f" {value}"
             for name, value in run.items() if value is not None}
    return " ".join(f"--{name.replace('_', '-')}{text}" for name, text in texts.items())
