"""Memory of an engine on a card beside its pool: weights of a rank, tables, working memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from txcalc.answer.devices import MIB
from txcalc.answer.engines import GIB, Engine, Setup
from txcalc.answer.report import Kind
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import located_blocks
from txcalc.spec.ggml import MIXES
from txcalc.spec.model import Model
from txcalc.spec.weight_formats import RELEASED, WHOLE
from txcalc.trace.record import Op, Trace
from txcalc.trace.workload import BYTES
from txcalc.trace.workload_defaults import DTYPE


class Amount(NamedTuple):
    """Bytes that an engine holds on a card beside its pool."""

    what: str
    bytes: int
    source: str
    kind: Kind = "exact"


def loaded(of: Engine, given: Mapping[str, Any], own: str | None) -> dict[str, Any]:
    """The way weights are stored where that is not given: as a checkpoint is, of whose ``own`` method, if the engine
    loads that, else whole. Raises ``SpecError`` for a format that it does not load."""
    name = given.get("weights")
    what = own if name in (None, RELEASED) else name
    loads = what is None or "weights" not in of.rules or what in (*MIXES, *WHOLE, *of.value("weights"))
    if name is not None and not loads:
        raise SpecError(f"{of.title} reads GGUF files, which have no {what}: q8_0, q4_k_m or their like would do",
                        field="weights")
    return {} if what is None or given.keys() & {"dtype", "weights"} else {"weights": RELEASED if loads else DTYPE}


def on_rank(op: Op, t: Trace, size: int, tp: int) -> Fraction:
    """Bytes of an operation's weights on one rank: matrices are split, by heads where they are key heads'; vectors,
    routers and what makes latents are on every one."""
    if tp == 1 or not op.matrix or op.kind.group == "router" or op.part in ("q_down", "kv_down"):
        return Fraction(size)
    if op.part in ("k", "v"):
        kv = next((int(each.cache.rows[0][0]) for each in t.ops
                   if each.cache is not None and each.within.layer == op.within.layer and each.cache.rows), tp)
        return Fraction(size * max(1, kv // tp), kv)
    return Fraction(size, tp)


def work(t: Trace, of: Engine, setup: Setup, masked: int = 0) -> Iterator[Amount]:
    """Working memory and what is outside PyTorch. ``masked``: cells that masks are of."""
    if "logits of a pass" in of.rules:
        rule = of.rules["logits of a pass"]
        yield Amount("compute buffer", compute_buffer(t, of, setup, masked), rule.source, "estimate")
    if "rotary tables" in of.rules:
        yield Amount("rotary tables", rotary_tables(t), of.rules["rotary tables"].source)
    if setup.loras:
        yield Amount("slots of adapters", lora_slots(t, of, setup), of.rules["ranks of adapters"].source, "estimate")
    if "bytes of a sampled logit" in of.rules:
        users = setup.users or of.of_memory("sequences of a pass", setup.memory)
        yield Amount("activation peak", activation_peak(t, of, setup.chunk, users, setup.tp),
                     of.rules["bytes of a sampled logit"].source, "estimate")
    if "outside PyTorch" in of.rules:
        rule = of.rules["outside PyTorch"]
        more = of.value("outside PyTorch, several ranks") if setup.tp > 1 else 0
        yield Amount("outside PyTorch", (rule.value + more) * MIB, rule.source, "estimate")


def lora_slots(t: Trace, of: Engine, setup: Setup) -> int:
    """Bytes of factors for every matrix of attention and feed-forward layers: an estimate, as some classes have more
    for embeddings and the head, or one factor for what is projected together. Raises ``SpecError`` for other layers."""
    ranks = of.value("ranks of adapters")
    if setup.rank not in ranks:
        raise SpecError(f"{of.called} takes {', '.join(map(str, ranks))}", field="max_lora_rank")
    blocks = [block for _, block in located_blocks(t.model)]
    if any(b.recurrent or getattr(b.attention, "kind", "") == "mla" or getattr(b.feed_forward, "kind", "") == "moe"
           for b in blocks):
        raise SpecError(f"what {of.title} sets aside for adapters of {t.model.name}'s layers is not known",
                        field="max_loras")
    size = Fraction(0)
    for op, often in t.placed:
        if op.kind.name == "linear" and op.matrix and op.within.layer:
            rows, columns = dict(op.weights)["weight"]
            by_row = op.part in ("attention output", "down")
            parts = (Fraction(columns, setup.tp), rows) if by_row else (columns, on_rank(op, t, rows, setup.tp))
            size += int(often.calls) * sum(parts, Fraction(0))
    return -int(-size * setup.loras * setup.rank * BYTES[t.workload.dtype] // 1)


def rotary_tables(t: Trace) -> int:
    """Bytes of cosines and sines of all positions, one table for all layers whose keys turn alike."""
    position = t.model.position
    if position.kind != "rope":
        return 0
    found = set()
    for _, block in located_blocks(t.model):
        each = block.attention
        if each is not None and each.kind == "mla":
            found.add((each.rope_dim, False))
        elif each is not None and getattr(each, "rope", True):
            found.add((position.dim or each.head_dim, bool(each.window and position.window_theta)))
    return sum(t.model.context * size * BYTES[t.workload.dtype] for size, _ in found)


def activation_peak(t: Trace, of: Engine, chunk: int, users: int, tp: int = 1) -> int:
    """An estimate of the most that a profiling run adds: the sampler over all sequences, or a feed-forward layer."""
    model, width = t.model, BYTES[t.workload.dtype]
    hidden = chunk * model.d_model * width
    sampler = Fraction(str(of.value("bytes of a sampled logit"))) * users * (model.vocab or 0)
    return int(max(sampler + hidden, 3 * chunk * _inner(model, tp) * width + 4 * hidden))


def compute_buffer(t: Trace, of: Engine, setup: Setup, masked: int) -> int:
    """An estimate of llama.cpp's buffer for a micro-batch in fp32: logits and hidden states, an attention layer while
    its masks are made, or a feed-forward layer beside them."""
    rows, d = min(setup.chunk, setup.context), t.model.d_model
    every = of.value("logits of a pass") == "of every token"
    logits = (rows if every else setup.users or of.value("sequences")) * (t.model.vocab or 0)
    inner, hidden = of.value("feed-forward of a pass")
    heads = max((block.attention.heads * getattr(block.attention, "head_dim", 0)
                 for _, block in located_blocks(t.model) if block.attention is not None), default=0)
    return int(max(4 * (logits + rows * d), rows * (masked * of.value("masks of a pass") + 4 * (2 * heads + 3 * d)),
                   rows * (2 * masked + 4 * (inner * _inner(t.model) + hidden * d))))


def _inner(model: Model, tp: int = 1) -> int:
    """Elements of a token inside the widest feed-forward layer."""
    found = [block.feed_forward for _, block in located_blocks(model) if block.feed_forward is not None]
    return max((-(-each.d_ff // tp) * (each.active_experts if each.kind == "moe" else 1) for each in found), default=0)


def part_used(of: Engine, setup: Setup, memory: int) -> float:
    """The part of a card for weights and cache: all but MiB for a pass, graphs and ranks.

    SGLang's ``mem_fraction_static`` where none is given (0.5.3, ``sglang/srt/server_args.py``).
    """
    graphs = of.of_memory("graphs" if setup.tp < 4 else "graphs, four ranks or more", memory)
    aside = 512 + 1.5 * max(setup.chunk, 2048) + 2 * graphs + setup.tp / 8 * 1024
    if memory > 60 * GIB:
        aside = max(aside, 10 * 1024)
    return round((memory / MIB - aside) / (memory / MIB), 3)
