"""Break the counters one at a time: validate must catch every one, and nothing else.

Each mutation is a mistake that a calculator has really made, or could.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

pytest.importorskip("torch")

from tests import test_live as live
from txcalc.answer.validation import Row
from txcalc.check import fake_cuda, measure
from txcalc.check import live as check_live
from txcalc.check import validate as check
from txcalc.check.whole_step import runs_on
from txcalc.count import lifetimes, optimizers, step, turns
from txcalc.spec.model import Model
from txcalc.trace import attention, autocast, losses, ops
from txcalc.trace import record as trace_record
from txcalc.trace.record import Op, Trace
from txcalc.trace.tensors import Role, Storage, Tensor

SPEC = Model.from_data({
    "name": "small", "vocab": 53, "d_model": 22, "layers": 3, "context": 41,
    "attention": {"heads": 6, "kv_heads": 2, "head_dim": 5, "bias": True, "window": 7},
    "feed_forward": {"kind": "moe", "d_ff": 13, "experts": 5, "active_experts": 2, "bias": True},
    "norm": {"kind": "layernorm"}, "position": {"kind": "learned"}, "head": {"tied": True},
})
Patch = pytest.MonkeyPatch


def change_op(patch: Patch, change: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
    """Record every operation with its details changed."""
    real = Trace.op

    def op(self: Trace, name: str, kind: Any, **details: Any) -> Tensor:
        return real(self, name, kind, **change(name, details))

    patch.setattr(Trace, "op", op)


def missing_bias(patch: Patch) -> None:
    change_op(patch, lambda name, d: d | {"weights": {k: v for k, v in (d.get("weights") or {}).items() if k != "bias"}}
              if name == "k" else d)


def saved_once_per_reader(patch: Patch) -> None:
    fresh = iter(range(10**6, 10**7))

    def own(x: Tensor) -> Tensor:
        return x._replace(storage=x.storage._replace(id=next(fresh)))

    change_op(patch, lambda name, d: d | {"saves": tuple(map(own, d.get("saves", ())))}
              if name in ("q", "k", "v") else d)


def cache_of_all_heads(patch: Patch) -> None:
    patch.setattr(attention, "_kv_rows", lambda spec: 2 * ((spec.heads, spec.head_dim),))


def flash_recomputes_nothing(patch: Patch) -> None:
    change_op(patch, lambda name, d: d | {
        "products": tuple(each._replace(recomputed=0) for each in d["products"])} if name == "flash" else d)


def untied_head(patch: Patch) -> None:
    real = ops.linear
    patch.setattr(ops, "linear", lambda *a, tied=False, **k: real(*a, tied=False, **k))


def all_experts_run(patch: Patch) -> None:
    real = Trace.scope

    def scope(self: Trace, name: str, **k: Any) -> AbstractContextManager[None]:
        if name == "experts":
            k["calls"] = k["copies"]
        return real(self, name, **k)

    patch.setattr(Trace, "scope", scope)


def window_ignored_in_cache(patch: Patch) -> None:
    patch.setattr(attention, "least", lambda a, b: a)


def mask_pairs_off_by_one(patch: Patch) -> None:
    real = check.visible_pairs
    patch.setattr(check, "visible_pairs", lambda n, past, **k: real(n, past, **k) + 1)


def norm_keeps_no_statistics(patch: Patch) -> None:
    change_op(patch, lambda name, d: d | {"saves": tuple(x for x in d.get("saves", ()) if x.role != Role.STATISTIC)})


def one_byte_masks_on_the_cpu(patch: Patch) -> None:
    real = trace_record.Trace.tensor
    patch.setattr(trace_record.Trace, "tensor", lambda self, *shape, **d: real(
        self, *shape, **d | ({"role": Role.BOOL} if d.get("label") == "dropout mask" else {})))


def embedding_counted_per_layer(patch: Patch) -> None:
    patch.setattr(trace_record.Op, "params", property(lambda op: sum(
        shape[0] * (shape[1] if len(shape) > 1 else 1) + (op.kind.group == "embedding") for _, shape in op.weights)))


def flash_stores_the_scores(patch: Patch) -> None:
    scores = Tensor(10**8, Storage(10**8, (2, 6, 13, 13)), (13, 13))
    change_op(patch, lambda name, d: d | {key: (*d[key], scores) for key in ("writes", "saves")}
              if name == "flash" else d)


MUTATIONS = [
    missing_bias, saved_once_per_reader, cache_of_all_heads, flash_recomputes_nothing, untied_head, all_experts_run,
    window_ignored_in_cache, mask_pairs_off_by_one, norm_keeps_no_statistics, one_byte_masks_on_the_cpu,
    embedding_counted_per_layer, flash_stores_the_scores,
]


GPT, LLAMA = Model.from_data(live.GPT), Model.from_data(live.LLAMA | {"position": {"kind": "rope", "dim": 2}})


def saved_to_the_end(patch: Patch) -> None:
    real = turns.Schedule._op
    patch.setattr(turns.Schedule, "_op", lambda self, *a: real(self, *a)._replace(frees=()))


def locals_freed_at_once(patch: Patch) -> None:
    patch.setattr(Trace, "hold", lambda self, x, *_: x)


def gradients_made_anew_for_every_micro_batch(patch: Patch) -> None:
    patch.setattr(step.Step, "adds", lambda self, mode: mode._replace(accumulates=False))


def one_logits_copy(patch: Patch, copies: int) -> None:
    real = ops.cast

    def cast(t: Trace, name: str, x: Tensor, role: Role, **k: Any) -> Tensor:
        made = [t.hold(real(t, name, x, role, **k)) for _ in range(copies if k.get("kind") == "loss" else 1)]
        return made[-1] if made else x

    patch.setattr(ops, "cast", cast)


def logits_not_copied_to_fp32(patch: Patch) -> None:
    one_logits_copy(patch, 0)


def logits_copied_twice(patch: Patch) -> None:
    one_logits_copy(patch, 2)


def chunks_of_labels_are_views(patch: Patch) -> None:
    patch.setattr(losses, "several", lambda *_: False)


def fused_loss_in_one_chunk(patch: Patch) -> None:
    patch.setattr(losses, "chunk_rows", lambda t, rows, width, classes: rows)


def weights_are_not_cast(patch: Patch) -> None:
    without_an_operator(patch, "linear")


def attention_is_not_cast(patch: Patch) -> None:
    without_an_operator(patch, "attention")


def parts_are_not_widened(patch: Patch) -> None:
    without_an_operator(patch, "cat")


def without_an_operator(patch: Patch, operator: str) -> None:
    patch.setattr(autocast, "LISTS", {kernels: {name: role for name, role in each.items() if name != operator}
                                      for kernels, each in autocast.LISTS.items()})


def casts_without_a_gradient(patch: Patch) -> None:
    change_kind(patch, lambda kind, d: (kind, d | {"backward": ()} if kind == "cast" else d))


def casts_are_not_cached(patch: Patch) -> None:
    change_kind(patch, lambda kind, d: ("elementwise" if kind == "cast" else kind, d))


def change_kind(patch: Patch, change: Callable[[str, dict[str, Any]], tuple[Any, dict[str, Any]]]) -> None:
    real = Trace.op

    def op(self: Trace, name: str, kind: Any, **details: Any) -> Tensor:
        kind, details = change(kind, details)
        return real(self, name, kind, **details)

    patch.setattr(Trace, "op", op)


def again(patch: Patch, saves: Callable[[Op, tuple[Any, ...]], tuple[Tensor, ...]]) -> None:
    patch.setattr(trace_record.Again, "__new__", lambda cls, op, body: tuple.__new__(
        cls, (op._replace(saves=saves(op, body)), body)))


def what_layers_start_from_is_not_kept(patch: Patch) -> None:
    again(patch, lambda op, body: ())


def one_tensor_more_of_each_layer_is_kept(patch: Patch) -> None:
    again(patch, lambda op, body: (*op.saves, next(
        x for each, _ in trace_record.operations(body) for x in each.writes)))


def nothing_is_recomputed(patch: Patch) -> None:
    patch.setattr(Trace, "again", lambda self, what=None, *given: self.frame())


def steps_go_one_by_one(patch: Patch) -> None:
    patch.setattr(optimizers, "kernel_of", lambda name, kernel: optimizers.OPTIMIZERS[name].kernels[-1])


def clipping_allocates_nothing(patch: Patch) -> None:
    patch.setattr(optimizers, "_CLIP", ())


def numbers_of_steps_are_on_the_card(patch: Patch) -> None:
    own = optimizers.OPTIMIZERS["adamw"]
    rules = tuple(rule._replace(states=tuple(each._replace(host=False) for each in rule.states)) for rule in own.rules)
    patch.setitem(optimizers.OPTIMIZERS, "adamw", own._replace(rules=rules))


WHOLE_STEPS: dict[Callable[[Patch], None], tuple[Model, str, int | None]] = {
    **dict.fromkeys((saved_to_the_end, locals_freed_at_once, gradients_made_anew_for_every_micro_batch,
                     logits_not_copied_to_fp32, logits_copied_twice, chunks_of_labels_are_views, weights_are_not_cast,
                     casts_without_a_gradient, casts_are_not_cached,
                     what_layers_start_from_is_not_kept, one_tensor_more_of_each_layer_is_kept, nothing_is_recomputed,
                     steps_go_one_by_one, clipping_allocates_nothing), (GPT, "cpu", None)),
    attention_is_not_cast: (LLAMA, "cpu", 4), parts_are_not_widened: (LLAMA, "cpu", 4),
    fused_loss_in_one_chunk: (GPT, "fake-cuda", 8), numbers_of_steps_are_on_the_card: (GPT, "fake-cuda", 0),
}
"""The model, where it runs, and which of its steps, if not every one."""

KNOWN: dict[tuple[str, str], Any] = {}
"""What was measured, by what: no mutation of a counter changes it."""


def remembered(patch: Patch, module: Any, name: str) -> None:
    real = getattr(module, name)

    def once(*given: Any, **more: Any) -> Any:
        key = name, repr((given, more))
        if key not in KNOWN:
            KNOWN[key] = real(*given, **more)
        return KNOWN[key]

    patch.setattr(module, name, once)


@pytest.fixture(autouse=True)
def _quick_and_fresh(monkeypatch: Patch) -> Iterator[None]:
    monkeypatch.setattr(check, "CURVE", (16, 32, 64, 128, 256))
    for name in ("shapes", "module_paths", "flops", "cache_bytes", "attention_memory", "visible"):
        remembered(monkeypatch, measure, name)
    for module in (check, check_live):
        remembered(monkeypatch, module, "measured")
    check._SEEN.clear()
    yield
    check._SEEN.clear()


@pytest.fixture
def without_steps(monkeypatch: Patch) -> None:
    monkeypatch.setattr(check, "PARTS", {name: part for name, part in check.PARTS.items() if name != "whole steps"})


def test_unbroken_counters_agree(without_steps: None) -> None:
    result = check.validate(SPEC)
    assert result.agrees, [row for row in result.rows if row.verdict != "equal"]


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda f: f.__name__)
def test_a_broken_counter_is_caught(
    mutate: Callable[[Patch], None], monkeypatch: Patch, without_steps: None
) -> None:
    mutate(monkeypatch)
    result = check.validate(SPEC)
    assert not result.agrees
    assert any(row.differences or row.counted != row.measured for row in result.rows)


def step_rows(spec: Model, device: Any, turn: int | None = None) -> Iterator[Row]:
    try:
        yield from check.PARTS["whole steps"].rows(spec, device, turn)
    except fake_cuda.NotRun as reason:
        pytest.skip(f"not run: {reason}")


@pytest.mark.parametrize("device", ["cpu", pytest.param("fake-cuda", marks=pytest.mark.slow)])
def test_unbroken_steps_agree(device: str) -> None:
    """Each optimizer with each kernel, among them every form of the loss, casts and recomputation."""
    rows = list(step_rows(GPT, device))
    assert not [row for row in rows if row.verdict != "equal"]
    for said in ("loss plain", "loss chunked", "amp", "recompute full:2", "recompute selective", "clipped"):
        assert any(said in row.quantity for row in rows), said


@pytest.mark.parametrize("mutate", WHOLE_STEPS, ids=lambda f: f.__name__)
def test_a_broken_step_is_caught(mutate: Callable[[Patch], None], monkeypatch: Patch) -> None:
    spec, device, turn = WHOLE_STEPS[mutate]
    mutate(monkeypatch)
    monkeypatch.setattr(lifetimes, "check", lambda _: None)
    assert any(row.verdict == "DIFFERS" for row in step_rows(spec, device, turn))


@pytest.mark.parametrize("name", [name for name, each in optimizers.OPTIMIZERS.items()
                                  if not each.unmeasured and runs_on(name, "cpu")])
def test_every_state_and_temporary_of_an_optimizer_counts(name: str, monkeypatch: Patch) -> None:
    """Each of them left out is a difference of a row."""
    own, w = optimizers.OPTIMIZERS[name], check.CASES[0].workload(GPT, "cpu")
    mutants = [(own.kernels[0], r, rule._replace(states=left)) for r, rule in enumerate(own.rules)
               for left in without_one(rule.states)]
    mutants += [(kernel, r, rule._replace(steps={**rule.steps, kernel: left})) for r, rule in enumerate(own.rules)
                for kernel, makes in (rule.steps or {}).items() for left in without_one(makes)]
    assert mutants or name == "sgd"
    for kernel, r, mutant in mutants:
        rules = (*own.rules[:r], mutant, *own.rules[r + 1:])
        monkeypatch.setitem(optimizers.OPTIMIZERS, name, own._replace(rules=rules))
        row = check_live.whole_step(GPT, w.replaced(optimizer=name, optimizer_kernel=kernel), "cpu", "")
        assert row.verdict == "DIFFERS", mutant


def without_one(parts: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """All but one, for each that is something by itself."""
    return [(*parts[:i], *parts[i + 1:]) for i, part in enumerate(parts) if getattr(part, "operation", True)]
