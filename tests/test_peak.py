"""Peaks: what is found on a few turns of a repeat is what all turns come to."""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest

from txcalc.count import replay
from txcalc.count.entries import Entry
from txcalc.count.lifetimes import follow, live_bytes, moments
from txcalc.count.moments import Mode, every
from txcalc.count.peak import alive, peak
from txcalc.count.turns import count
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

GPT = {
    "name": "gpt", "vocab": 101, "d_model": 24, "layers": 7, "context": 19, "position": {"kind": "learned"},
    "attention": {"heads": 3, "head_dim": 8, "bias": True},
    "feed_forward": {"d_ff": 40, "activation": "gelu_tanh", "bias": True},
}
ATTENTION = {"heads": 6, "kv_heads": 2, "head_dim": 4}
FEED_FORWARD = {"d_ff": 41, "activation": "silu", "gated": True}
LLAMA = {
    "name": "llama", "vocab": 101, "d_model": 22, "layers": 7, "context": 19, "position": {"kind": "rope"},
    "norm": {"kind": "rmsnorm"}, "attention": ATTENTION, "feed_forward": FEED_FORWARD, "head": {"tied": False},
}
WINDOWS = {key: value for key, value in LLAMA.items() if key not in ("attention", "feed_forward")} | {
    "layers": 5 * (6 + 1) + 3,
    "groups": [
        {"repeat": 5, "blocks": [
            {"repeat": 6, "attention": ATTENTION | {"window": 3}, "feed_forward": FEED_FORWARD},
            {"attention": ATTENTION, "feed_forward": FEED_FORWARD},
        ]},
        {"blocks": [{"repeat": 3, "attention": ATTENTION, "feed_forward": {"d_ff": 90, "activation": "relu"}}]},
    ],
}
SHARED = WINDOWS | {"groups": [WINDOWS["groups"][0] | {"shared": True}, WINDOWS["groups"][1]]}  # type: ignore[index]
MODELS: dict[str, dict[str, Any]] = {
    "gpt": GPT, "llama": LLAMA, "shared": GPT | {"share_layers": True}, "one": GPT | {"layers": 1},
    "two": GPT | {"layers": 2}, "three": GPT | {"layers": 3}, "four": GPT | {"layers": 4}, "five": GPT | {"layers": 5},
    "experts": LLAMA | {"feed_forward": {"kind": "moe", "experts": 13, "active_experts": 4, "d_ff": 17}},
    "windows": WINDOWS, "shared-windows": SHARED, "wide-vocabulary": LLAMA | {"vocab": 5003},
}


def step(given: dict[str, Any], **run: Any) -> Trace:
    workload = {"phase": "training", "batch": 2, "seq": 11, "kernels": "cpu"} | run
    return trace(Model.from_data(given), Workload(**workload))


@pytest.mark.grid(11)
@pytest.mark.parametrize("run", [
    {}, {"attention": "eager"}, {"kernels": "cuda", "dropout": 0.1}, {"phase": "forward"}, {"phase": "prefill"},
    {"phase": "decode", "seq": 2, "past": 5}, {"recompute": "full"},
    {"recompute": "full", "attention": "eager", "dropout": 0.1}, {"recompute": "selective", "attention": "eager"},
], ids=["training", "eager", "cuda", "forward", "prefill", "decode", "recompute", "recompute-eager", "selective"])
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("name", list(MODELS))
def test_a_few_turns_stand_for_all(name: str, in_place: bool, run: dict[str, Any]) -> None:
    t = step(MODELS[name], **run)
    every = live_bytes(t, in_place=in_place, unroll=True)
    assert live_bytes(t, in_place=in_place) == every
    found = peak(t, in_place=in_place)
    first = max(every, key=lambda event: event.live)
    assert (found.bytes, found.phase, found.path) == (first.live, first.phase, first.path)
    there = list(alive(t, found.where, in_place=in_place))
    assert sum(each.value for each in there) == first.live
    assert all(each.value > 0 for each in there)


@pytest.mark.grid(11)
@pytest.mark.parametrize("together", [2, 3, 4, 5, 7, 9])
@pytest.mark.parametrize("name", ["gpt", "llama", "shared", "one", "three", "five", "experts", "wide-vocabulary"])
def test_layers_that_are_recomputed_together(name: str, together: int) -> None:
    for layers in (7, 23):
        t = step(MODELS[name] | {"layers": layers}, recompute=f"full:{together}", attention="eager")
        every = moments(t, in_place=True, unroll=True)
        first = max(every, key=lambda moment: moment.live)
        found = peak(t)
        assert (found.bytes, found.path, found.turns) == (first.live, first.path, first.turns)
        assert live_bytes(t) == live_bytes(t, unroll=True)


def test_the_turn_of_a_peak() -> None:
    """Activations grow to the last layer; a gradient of logits is above them where the vocabulary is large."""
    every_turn = moments(step(LLAMA), in_place=True, unroll=True)
    highest = max(every_turn, key=lambda moment: moment.live)
    assert peak(step(LLAMA)).turns == highest.turns


def test_a_hundred_layers_cost_as_much_as_four() -> None:
    def steps(layers: int) -> int:
        run = moments(step(LLAMA | {"layers": layers}), in_place=True)
        return sum(1 if not hasattr(each, "moments") else len(each.moments) for each in run)

    assert steps(120) - steps(4) == 0


@pytest.mark.parametrize(("name", "run", "others"), [
    ("gpt", {}, [{"batch": 3, "seq": 13}, {"seq": 17}]),
    ("llama", {"attention": "eager"}, [{"batch": 3, "seq": 13}]),
    ("llama", {"recompute": "full"}, [{"batch": 3, "seq": 13}]),
    ("wide-vocabulary", {}, [{"batch": 5}, {"seq": 19}]),
    ("windows", {"phase": "prefill"}, [{"batch": 3, "seq": 17}]),
    ("llama", {"phase": "decode", "seq": 1, "past": 40}, [{"batch": 7}, {"past": 90}]),
])
def test_a_peak_as_a_formula(name: str, run: dict[str, Any], others: list[dict[str, Any]]) -> None:
    """Where a peak is, is decided on numbers; what is alive there, read on symbols, holds at all sizes that agree."""
    from txcalc.explain.derive import Run

    spec = Model.from_data(MODELS[name])
    first = Run(spec, step(MODELS[name], **run).workload)
    found = peak(first.counted)
    assert peak(first.trace) == found
    formula = list(alive(first.trace, found.where))
    assert by_maker(formula, first.values).total() == found.bytes
    for sizes in others:
        t = step(MODELS[name], **run | sizes)
        other = peak(t)
        assert other.where == found.where
        letters = {"batch": "b", "seq": "s", "past": "p"}
        values = first.values | {letters[key]: value for key, value in sizes.items()}
        assert by_maker(formula, values) == by_maker(alive(t, other.where))


def by_maker(found: Iterable[Entry], values: dict[str, int] | None = None) -> Counter[tuple[str, str, str]]:
    """Bytes of what is alive, of like storages together."""
    from txcalc.explain.polynomial import poly

    bytes_of = Counter[tuple[str, str, str]]()
    for each in found:
        bytes_of[each.op.path, each.what, each.part] += int(poly(each.value).value(values or {}))
    return bytes_of


@pytest.mark.grid(3)
@pytest.mark.parametrize("run", [
    {}, {"attention": "eager", "kernels": "cuda", "dropout": 0.1}, {"recompute": "full"}, {"phase": "prefill"},
    {"precision": "amp", "dtype": "bf16", "kernels": "cuda"},
    {"layout": {"pp": 2}},
], ids=["training", "eager", "recompute", "prefill", "amp", "ranks"])
@pytest.mark.parametrize("name", ["gpt", "llama", "experts", "windows"])
def test_a_run_is_followed_once_for_all_sizes(
    name: str, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is added up for other sizes is what following that trace alone comes to, moment by moment."""
    followed: list[Trace] = []
    monkeypatch.setattr(replay, "follow", lambda t, **more: followed.append(t) or follow(t, **more))
    replay._noted.cache_clear()
    wide = {"layers": 8} if "layout" in run else {}
    for model, sizes in (({}, {"batch": 2, "seq": 12}), ({"d_model": 48}, {"batch": 3, "seq": 16}),
                         ({"vocab": 222}, {"batch": 5, "seq": 10})):
        given = MODELS[name] | (model | wide if name != "windows" else {})
        t = step(given | {"vocab": 102} | {key: model[key] for key in model if key == "vocab"}, **run | sizes)
        for mode in (Mode(), Mode(accumulates=t.workload.keeps)):
            ours = replay.on_ints(t, in_place=True, mode=mode, rounded=_blocks)
            alone = moments(t, in_place=True, mode=mode, number=partial(count, t),
                            amount=lambda memory: _blocks(memory.bytes))
            assert list(every(t, ours, 0)) == list(every(t, alone, 0))
    assert len(followed) <= (2 if name != "experts" else 6)  # of how many experts run depends on the tokens


def _blocks(size: int) -> int:
    return -(-size // 512) * 512
