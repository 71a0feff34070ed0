"""Predicted beside measured on a card: what autograd keeps, and what a training step has allocated at its peaks.

Run where there is one, within some minutes: python tests/gpu.py tests/data/gpu/CARD-reference.json [--seconds 300]
The file holds facts: what the reference kept and allocated there. tests/test_gpu.py compares every later count with
them, on machines without a card.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from txcalc.answer.validation import Row
from txcalc.check import measure
from txcalc.check.reference.transformer import build
from txcalc.check.sibling import sibling
from txcalc.check.validate import CASES, FULL_SIZE, SMALL_ENOUGH, Case, attention_memory, keeps_exactly, kept
from txcalc.count.params import params
from txcalc.models.library import names
from txcalc.models.load import load
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STEPS: dict[str, dict[str, Any]] = {
    "gpt": {
        "vocab": 5003, "d_model": 384, "layers": 5, "context": 512, "position": {"kind": "learned"},
        "attention": {"heads": 6, "bias": True},
        "feed_forward": {"d_ff": 1544, "activation": "gelu_tanh", "bias": True},
    },
    "llama": {
        "vocab": 5003, "d_model": 448, "layers": 4, "context": 512, "position": {"kind": "rope"},
        "norm": {"kind": "rmsnorm"}, "attention": {"heads": 7, "kv_heads": 1}, "head": {"tied": False},
        "feed_forward": {"d_ff": 1192, "activation": "silu", "gated": True},
    },
    "llama, as many heads of keys": {
        "vocab": 5003, "d_model": 448, "layers": 4, "context": 512, "position": {"kind": "rope"},
        "norm": {"kind": "rmsnorm"}, "attention": {"heads": 7}, "head": {"tied": False},
        "feed_forward": {"d_ff": 1192, "activation": "silu", "gated": True},
    },
    "encoder": {
        "architecture": "encoder-only", "vocab": 5003, "d_model": 384, "layers": 3, "context": 512,
        "position": {"kind": "learned"}, "norm": {"placement": "post"}, "embedding_norm": True,
        "attention": {"heads": 6, "bias": True}, "feed_forward": {"d_ff": 1544, "bias": True},
        "head": {"kind": "lm"},
    },
    "encoder-decoder": {
        "architecture": "encoder-decoder", "vocab": 5003, "d_model": 384, "layers": 3, "context": 512,
        "position": {"kind": "sinusoidal"}, "norm": {"placement": "post"},
        "attention": {"heads": 6, "bias": True}, "feed_forward": {"d_ff": 1544, "activation": "relu", "bias": True},
    },
    "t5": {
        "architecture": "encoder-decoder", "vocab": 5003, "d_model": 384, "layers": 3, "context": 512,
        "position": {"kind": "relative"}, "norm": {"kind": "rmsnorm"}, "attention": {"heads": 6, "scale": 1.0},
        "feed_forward": {"d_ff": 1032, "activation": "gelu_tanh", "gated": True}, "head": {"tied": False},
    },
    "vit": {
        "architecture": "encoder-only", "d_model": 384, "layers": 3,
        "input": {"kind": "patches", "image": 224, "patch": 14}, "position": {"kind": "learned"},
        "attention": {"heads": 6, "bias": True}, "feed_forward": {"d_ff": 1544, "activation": "gelu", "bias": True},
        "head": {"kind": "classifier", "labels": 101},
    },
    "mixtral": {
        "vocab": 5003, "d_model": 384, "layers": 3, "context": 512, "position": {"kind": "rope"},
        "norm": {"kind": "rmsnorm"}, "attention": {"heads": 6, "kv_heads": 2}, "head": {"tied": False},
        "feed_forward": {"kind": "moe", "experts": 7, "active_experts": 2, "d_ff": 520, "routing": "topk-softmax"},
    },
    "deepseek": {
        "vocab": 5003, "d_model": 384, "layers": 3, "context": 512, "position": {"kind": "rope"},
        "norm": {"kind": "rmsnorm"}, "head": {"tied": False},
        "attention": {"kind": "mla", "heads": 6, "kv_rank": 128, "q_rank": 192, "nope_dim": 64, "rope_dim": 32,
                      "value_dim": 64},
        "feed_forward": {"kind": "moe", "experts": 7, "active_experts": 2, "d_ff": 264, "shared_experts": 1,
                         "shared_d_ff": 264, "routing": "sigmoid-topk"},
    },
}
RUNS = (
    {"dtype": "fp32", "attention": "eager"}, {"dtype": "bf16", "attention": "eager", "dropout": 0.1},
    {"dtype": "bf16", "attention": "flash"}, {"dtype": "bf16", "attention": "flash", "dropout": 0.1},
    {"dtype": "fp32", "attention": "math"},
)
BATCH, SEQ, SOURCE = 3, 320, 192


def models() -> Iterator[Model]:
    """The presets, each with another structure than those before."""
    for info in names():
        yield load(info.name).model


def kept_rows(end: float) -> Iterator[dict[str, Any]]:
    """Everything that autograd keeps of small models of every preset's structure, and of presets that are small."""
    seen = set()
    for spec in models():
        small = sibling(spec)
        whole = repr(small.replaced(name="", family=None))
        if whole in seen or not keeps_exactly(small):
            continue
        seen.add(whole)
        runs = [(small, "sibling", case) for case in CASES]
        if params(trace(spec, Workload(seq=7, source_seq=7 if spec.encoder else None))) <= SMALL_ENOUGH:
            runs += [(spec, "full size", case) for case in FULL_SIZE]
        for model, size, case in runs:
            if time.monotonic() > end:
                return
            for row in told(partial(one, model, case)):
                yield {"model": spec.name, "size": size, "case": case._asdict(), **row}
        for row in told(partial(attention_memory, small, "cuda")):
            yield {"model": spec.name, "size": "attention", **row}


def one(model: Model, case: Case) -> list[Row]:
    """What one model keeps in one way of running."""
    return [kept(model, case, "cuda", "")]


def told(run: Callable[[], Iterable[Row]]) -> Iterator[dict[str, Any]]:
    """What was measured, what was counted where that is something else, or why neither was."""
    try:
        for row in run():
            found = {"quantity": row.quantity, "measured": row.measured}
            yield found if row.verdict == "equal" else {
                **found, "counted": row.counted, "differences": row.differences[:3]}
    except Exception as error:
        yield {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def step(given: dict[str, Any], run: dict[str, Any]) -> tuple[dict[str, int], list[list[int]]]:
    """Bytes of a training step above what was there before, its second run on fresh gradients: allocated in blocks,
    and as they were asked for. Also what was asked for and given back, forward and backward, in order."""
    spec = Model.from_data({"name": "step", **given})
    inputs = measure.Inputs(spec, BATCH, SEQ, SOURCE if spec.encoder else None, "cuda", dtype=DTYPES[run["dtype"]])
    root = build(spec, length=inputs.length, eager=run["attention"] == "eager", attention=run["attention"],
                 dropout=run.get("dropout", 0.0), dtype=DTYPES[run["dtype"]], device="cuda")
    measure.balance(root)
    once(root, inputs)  # leaves cuBLAS its workspaces
    root.zero_grad(set_to_none=True)
    found = once(root, inputs)
    root.zero_grad(set_to_none=True)
    torch.cuda.memory._record_memory_history("all", context=None, stacks="python", max_entries=1_000_000)
    events: list[list[int]] = []
    once(root, inputs, events)
    torch.cuda.memory._record_memory_history(enabled=None)
    live = 0
    for phase, sizes in zip(("forward", "backward"), events, strict=True):
        lives = [live := live + size for size in sizes]
        found |= {f"requested_after_{phase}": live, f"requested_peak_{phase}": max(lives)}
    return found, events


def once(root: Any, inputs: Any, events: list[list[int]] | None = None) -> dict[str, int]:
    """One forward and backward pass."""
    gc.collect()
    torch.cuda.empty_cache()
    base = torch.cuda.memory_allocated()
    found: dict[str, int] = {}
    past = len(asked()) if events is not None else 0
    for phase in ("forward", "backward"):
        torch.cuda.reset_peak_memory_stats()
        if phase == "forward":
            loss, = measure.all_ends(root, inputs, loss=True)
        else:
            torch.autograd.backward(loss)
            del loss
        found |= {f"after_{phase}": torch.cuda.memory_allocated() - base,
                  f"peak_{phase}": torch.cuda.max_memory_allocated() - base}
        if events is not None:
            sizes = asked()
            events.append(sizes[past:])
            past = len(sizes)
    return found


def asked() -> list[int]:
    """Bytes that were asked for, or, negative, given back, since the history began."""
    signs = {"alloc": 1, "free_requested": -1}
    return [signs[each["action"]] * each["size"] for each in torch.cuda.memory._snapshot()["device_traces"][0]
            if each["action"] in signs]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--events", type=Path, help="where the order of allocations goes")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    info = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "batch": BATCH, "seq": SEQ,
            "source_seq": SOURCE}
    rows: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for name, given in STEPS.items():
        for run in RUNS:
            try:
                found, order = step(given, run)
                rows.append({"step": name, "run": run, "measured": found})
                events.append({"step": name, "run": run, "events": order})
            except Exception as error:
                rows.append({"step": name, "run": run, "error": f"{type(error).__name__}: {str(error)[:300]}"})
            print(rows[-1], flush=True)
    for row in kept_rows(end):
        rows.append(row)
        if "error" in row or row.get("differences"):
            print(row, flush=True)
    if options.events is not None:
        options.events.write_text(json.dumps(events), "utf-8")
    options.out.write_text(json.dumps({"info": info, "rows": rows}, indent=0), "utf-8")
    print(f"{len(rows)} rows, {sum('error' in row for row in rows)} errors, "
          f"{sum(bool(row.get('differences')) for row in rows)} differ")


if __name__ == "__main__":
    main()
