"""Break the counters one at a time: validate must catch every one, and nothing else.

Each mutation is a mistake that a calculator has really made, or could.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

pytest.importorskip("torch")

from txcalc.check import validate as check
from txcalc.spec.model import Model
from txcalc.trace import attention, ops
from txcalc.trace import record as trace_record
from txcalc.trace.record import Trace
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


@pytest.fixture(autouse=True)
def _quick_and_fresh(monkeypatch: Patch) -> Iterator[None]:
    monkeypatch.setattr(check, "CURVE", (16, 32, 64, 128, 256))
    check._SEEN.clear()
    yield
    check._SEEN.clear()


def test_unbroken_counters_agree() -> None:
    result = check.validate(SPEC)
    assert result.agrees, [row for row in result.rows if row.verdict != "equal"]


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda f: f.__name__)
def test_a_broken_counter_is_caught(mutate: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    result = check.validate(SPEC)
    assert not result.agrees
    assert any(row.differences or row.counted != row.measured for row in result.rows)
