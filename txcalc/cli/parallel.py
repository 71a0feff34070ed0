"""Rows of the command line about several devices: each option's metavar, its help, and how its text is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from txcalc import units

PARALLEL: Final[dict[str, tuple[str | None, str, Callable[[Any], Any]]]] = {
    "tp": ("N", "Ranks that split heads, widths and the vocabulary (tensor parallelism). Default 1.",
           units.parse_count),
    "pp": ("N", "Stages of a pipeline, which split layers. Default 1.", units.parse_count),
    "cp": ("N", "Ranks that split each sequence (context parallelism). Default 1.", units.parse_count),
    "cp_comm": ("NAME", "How they meet each other's keys: ring, all-gather, or all-to-all (heads are split, as Ulysses "
                "does it). Default ring.", str),
    "dp": ("N", "Data-parallel ranks. Default 1.", units.parse_count),
    "ep": ("N", "Ranks among dp and cp that share experts. Default 1.", units.parse_count),
    "etp": ("N", "Ranks that split each expert: as many as --tp (default), or 1.", units.parse_count),
    "sp": (None, "Split by position what --tp leaves whole (sequence parallelism).", bool),
    "zero": ("STAGE", "ZeRO over dp: 1 shards optimizer states, 2 gradients too, 3 weights too. Default 0.",
             units.parse_count),
    "fsdp": ("yes|KEY=...", "PyTorch's fully_shard over dp: yes, or unit=layer|model, reshard=yes|no, params=bf16, "
             "reduce=fp32|bf16, replicas=N, offload=yes|no. Default no.", str),
    "schedule": ("NAME", "Of a pipeline: gpipe, 1f1b, interleaved:V (V stages to a rank), looped:V, zb, zb:V, zbv "
                 "or dualpipe. Default 1f1b.", str),
}
