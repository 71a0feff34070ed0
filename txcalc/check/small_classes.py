"""Training steps of transformers' own classes against traces of their code, on a small class of the same features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from json import dumps, loads
from typing import Any, Final

from txcalc.answer.validation import Device, Row
from txcalc.check import classes, fake_cuda, measure
from txcalc.check.live import NAMES, compared_events, dtypes
from txcalc.count import activations
from txcalc.count.lifetimes import live_bytes
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import positions
from txcalc.spec.model import Model
from txcalc.trace.implementations import features
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

SMALL: Final = {
    "vocab_size": 101, "n_positions": 64, "max_position_embeddings": 64, "intermediate_size": 41, "n_inner": 41,
    "head_dim": 8, "num_hidden_layers": 2, "n_layer": 2, "image_size": 12, "patch_size": 4, "num_labels": 5,
    "sliding_window": 5, "d_ff": 41, "d_kv": 8, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 3,
    "encoder_ffn_dim": 41, "decoder_ffn_dim": 43, "num_mel_bins": 7, "max_source_positions": 11,
}
SPARSE: Final = {"num_local_experts": 5, "num_experts": 7, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                 "intermediate_size": 40, "n_routed_experts": 6, "n_group": 3, "topk_group": 2, "q_lora_rank": 11,
                 "kv_lora_rank": 13, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 10,
                 "first_k_dense_replace": 1}
"""Sizes that a ``config.json`` gets, unless they are smaller; heads and widths follow below. ``SPARSE``: of one
with experts, whose widths are multiples of 8."""

RUNS: Final[tuple[dict[str, Any], ...]] = (
    {"attention": "eager", "dtype": "fp32", "dropout": 0.1}, {"attention": "eager", "dtype": "bf16", "dropout": 0.0},
    {"attention": "sdpa", "dtype": "fp32", "dropout": 0.0}, {"attention": "sdpa", "dtype": "bf16", "dropout": 0.1},
    {"attention": "eager", "dtype": "bf16", "dropout": 0.1, "precision": "amp"},
    {"attention": "sdpa", "dtype": "bf16", "dropout": 0.0, "precision": "amp"},
)
BATCH, SEQ, SOURCE = 2, 7, 5


def small(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same class in small: heads in the same kind of groups, 8 columns each."""
    sizes = SMALL | (SPARSE if "num_experts_per_tok" in config else {})
    found = {name: min(value, sizes[name]) if name in sizes and isinstance(value, int) else value
             for name, value in config.items()}
    stacks = [name for name in ("num_heads", "encoder_attention_heads", "decoder_attention_heads") if name in config]
    if stacks:
        tokens = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
        return found | dict.fromkeys(stacks, 3) | {"d_model": 24} | dict.fromkeys(tokens, 0)
    heads = "n_head" if "n_head" in config else "num_attention_heads"
    kv_heads = config.get("num_key_value_heads", config[heads])
    shared = min(kv_heads, 2) if kv_heads != config[heads] else 3
    found[heads] = shared * min(config[heads] // kv_heads, 3)
    if "num_key_value_heads" in config:
        found["num_key_value_heads"] = shared
    width = "n_embd" if "n_embd" in config else "hidden_size"
    return found | {width: 8 * found[heads]} | {name: 0 for name in config if name.endswith("_token_id")}


def steps(spec: Model, config: Mapping[str, Any], device: Device) -> tuple[list[Row], str]:
    """A row for every run, of what is kept and of what lives, and why there is none."""
    try:
        rows, why = _rows(dumps(small(config), sort_keys=True), frozenset(features(spec)), device)
    except SpecError as error:
        return [], str(error)
    return list(rows), why


@cache
def _rows(config: str, wanted: frozenset[str], device: Device) -> tuple[tuple[Row, ...], str]:
    given = loads(config)
    spec = Model.from_data(spec_from_config(given, "config.json", "small"))
    if features(spec) != wanted:
        raise SpecError("no small class has the same features")
    rows, why = list[Row](), ""
    for run in RUNS:
        try:
            rows += _compared(spec, given, run, device)
        except SpecError as error:
            why = why or str(error)
    return tuple(rows), why


def _compared(spec: Model, config: Mapping[str, Any], run: dict[str, Any], device: Device) -> Iterator[Row]:
    source = None if spec.encoder is None else positions(spec.encoder.input, SOURCE)
    w = Workload(phase="training", batch=BATCH, seq=positions(spec.input, SEQ), source_seq=source,
                 implementation="transformers",
                 kernels="cpu" if device == "cpu" else "cuda", **run)
    t, name = trace(spec, w), ", ".join([w.attention, w.precision or w.dtype, f"dropout {w.dropout:g}"])
    kept = Counter(storage[-1] for storage in _measured("kept", config, w, device))
    yield _kept(t, kept, f"kept for backward, transformers, {NAMES[device]}: {name}", f"small, {device}")
    theirs = _measured("live_bytes", config, w, device)
    yield compared_events(live_bytes(t, in_place=False), theirs,
                          f"live bytes of a training step, transformers, {NAMES[device]}: {name}", f"small, {device}")


def _measured(what: str, config: Mapping[str, Any], w: Workload, device: Device) -> list[Any]:
    run = {"attention": w.attention, "dropout": w.dropout}
    if "d_model" in config and "num_mel_bins" not in config:
        run["source_seq"] = SOURCE
    if device == "fake-cuda":
        return list(fake_cuda.ask(what, config, BATCH, SEQ, **run, **dtypes(w)))
    read = {name: measure.DTYPES[dtype] for name, dtype in dtypes(w).items()}
    return list(getattr(classes, what)(config, BATCH, SEQ, device=device, **run, **read))


def _kept(t: Trace, real: Counter[int], quantity: str, how: str) -> Row:
    """Storages of one size, as many as there are of it."""
    ours: Counter[int] = Counter()
    for entry in activations.kept(t):
        ours[entry.value // entry.times] += entry.times
    only = [f"only {who}: {times} of {size:,} B" for who, sizes in (("counted", ours - real), ("measured", real - ours))
            for size, times in sizes.items()]
    counted, measured = (sum(size * times for size, times in sizes.items()) for sizes in (ours, real))
    return Row.of(quantity, counted, measured, how, only)
