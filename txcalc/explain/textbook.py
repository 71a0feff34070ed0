"""Simplified formulas of textbooks and papers, where they apply, and their error here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import prod
from typing import NamedTuple

from txcalc.count.kv_cache import FORMATS
from txcalc.explain.derive import Run
from txcalc.explain.explanation import QuantityName, Simplification
from txcalc.explain.formula import degree, formula, is_layers, products
from txcalc.explain.polynomial import Poly, added, atomic, poly
from txcalc.spec.facts import is_causal
from txcalc.spec.layers import Attention
from txcalc.spec.model import Model
from txcalc.trace.distances import keeps_inputs
from txcalc.trace.workload import BYTES

Finder = Callable[[Run, Poly], Iterator["Candidate"]]

_MORE_SCORES = ("relative", "decomposed", "continuous", "disentangled", "transformer-xl")
"""Positions whose scores are sums that no flash kernel computes."""

MOST_TERMS = 4
"""A formula of more terms is no simplification."""

_KAPLAN = "arXiv 2001.08361, section 2.1"
_MEGATRON = "arXiv 2104.04473"
_KORTHIKANTI = "arXiv 2205.05198, section 4.1"


class Candidate(NamedTuple):
    """A formula, what it leaves out, its source, and what its own letters stand for. ``of`` overrides the total."""

    poly: Poly
    leaves_out: str
    source: str
    where: str = ""
    values: dict[str, int] = {}  # noqa: RUF012  never changed
    of: str = "total"
    exact: int | None = None
    collected: bool = True


def simplifications(run: Run, quantity: QuantityName, closed: Poly, total: int) -> tuple[Simplification, ...]:
    """Every simplification that applies to this quantity of this model, with its error."""
    find = _FINDERS.get(quantity)
    candidates = find(run, closed) if find else iter(())
    return tuple(_simplification(run, candidate, total) for candidate in candidates)


def _simplification(run: Run, candidate: Candidate, total: int) -> Simplification:
    value = candidate.poly.value(run.values | candidate.values)
    exact = total if candidate.exact is None else candidate.exact
    return Simplification(
        formula=formula(candidate.poly if candidate.collected else products(candidate.poly.terms)),
        where=candidate.where, value=int(value), of=candidate.of, exact=exact, source=candidate.source,
        difference=float(Fraction(value) / exact - 1), leaves_out=candidate.leaves_out,
    )


def _term(factor: int, letters: str) -> Poly:
    return prod(map(atomic, letters.split()), start=poly(factor))


def _sum(*terms: tuple[int, str]) -> Poly:
    return added(_term(factor, letters) for factor, letters in terms)


# ---------------------------------------------------------------- which models


def _one_stack(spec: Model) -> bool:
    """One stack of like layers over tokens, with weights of their own."""
    return (spec.encoder is None and spec.groups is None and spec.tower is None and not spec.share_layers
            and spec.input.kind == "tokens")


def _standard(spec: Model) -> Attention | None:
    return spec.attention if spec.attention is not None and spec.attention.kind == "standard" else None


def _gpt_like(run: Run) -> bool:
    """The block of GPT: as many heads of keys as of queries, a plain feed-forward of 4 d."""
    spec = run.spec
    attention, feed = _standard(spec), spec.feed_forward
    return (
        _one_stack(spec) and attention is not None and feed is not None and feed.kind == "dense" and not feed.gated
        and attention.kv_heads == attention.heads and attention.heads * attention.head_dim == spec.d_model
        and (attention.value_dim, attention.value_norm, attention.value_from) == (None, None, "input")
        and spec.per_layer_embedding is None
        and feed.d_ff == 4 * spec.d_model and spec.norm.kind == "layernorm" and attention.qk_norm is None
        and spec.embedding_dim is None and {"L", "d", "h"} <= set(run.values)
    )


def _reads_tokens(run: Run) -> bool:
    """A model of tokens that are all new: 2 N D counts no cached ones, and each passes every layer."""
    spec = run.spec
    return (spec.encoder is None and spec.tower is None and spec.input.kind == "tokens"
            and not run.workload.past and not spec.share_layers)


# ---------------------------------------------------------------- parameters


def _params(run: Run, closed: Poly) -> Iterator[Candidate]:
    layers = Poly(tuple(term for term in closed.terms if is_layers(term[0]) and degree(term[0]) >= 4))
    tables = Poly(tuple(term for term in closed.terms if not is_layers(term[0]) and degree(term[0]) >= 4))
    if not layers or len(layers.terms) > MOST_TERMS or run.spec.per_layer_embedding is not None:
        return  # a table of every layer is no part of its matrices
    classic = formula(layers).ascii == "12Ld^2"
    source = f"{_KAPLAN} and table 1" if classic else "the terms of two widths in the closed form"
    if len(layers.terms) < len(closed.terms):
        outside = run.totals.params_non_embedding.value
        yield Candidate(layers, _small(run), source, of="non-embedding parameters", exact=outside)
        yield Candidate(layers, _small(run, tables=True), source)
    if tables and len(layers.terms) + len(tables.terms) < len(closed.terms):
        yield Candidate(layers + tables, _small(run), source)
    spec = run.spec
    if (_gpt_like(run) and spec.position.kind == "learned" and {"V", "n"} <= set(run.values)
            and classic and spec.head.kind == "lm" and spec.head.tied):
        poly = _sum((12, "L d d"), (13, "L d"), (1, "V d"), (1, "n d"))
        yield Candidate(poly, "the final norm", f"{_MEGATRON}, its formula for P")


def _small(run: Run, *, tables: bool = False) -> str:
    """The other weights, of one width each."""
    found = [(op.kind.group, name) for op in run.trace.ops for name, _ in op.weights]
    there = {
        "routers": any(kind == "router" for kind, _ in found), "biases": any("bias" in name for _, name in found),
        "norms": any(kind == "norm" for kind, _ in found),
    }
    return _listed([*(["tables"] if tables else []), *(name for name, yes in there.items() if yes)])


def _listed(names: list[str]) -> str:
    *first, last = names or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last


def _active(run: Run, closed: Poly) -> Iterator[Candidate]:
    layers = Poly(tuple(term for term in closed.terms if is_layers(term[0]) and degree(term[0]) >= 4))
    if layers and len(layers.terms) < min(len(closed.terms), MOST_TERMS + 1):
        yield Candidate(layers, _small(run, tables=True), "the terms of two widths in the closed form")


# ---------------------------------------------------------------- FLOPs


def _flops(per_token: int, *, each: bool = False) -> Finder:
    def find(run: Run, closed: Poly) -> Iterator[Candidate]:
        if not _reads_tokens(run):
            return
        t, w = run.totals, run.workload
        outside = t.params_non_embedding.value - (t.params.value - t.params_active.value)
        mixture = t.params_active.value != t.params.value
        kind = "active " if mixture else ""
        letters, tokens = ("N", {}) if each else ("N D", {"D": w.batch * w.seq})
        of = "" if each else f", D = {w.batch * w.seq:,} tokens"
        active = t.params_active.value
        own = _mixing(run)
        yield Candidate(
            _term(per_token, letters), f"{own or 'nothing'}; counts tables that are only looked up",
            f"{_KAPLAN}; arXiv 2203.15556, Table A4", f"N = {active:,} {kind}parameters{of}", {"N": active, **tokens},
        )
        yield Candidate(
            _term(per_token, letters), f"{own}, and the logits" if own else "the logits", _KAPLAN,
            f"N = {outside:,} {kind}non-embedding parameters{of}", {"N": outside, **tokens},
        )
        yield from _with_attention(run, per_token, letters, {"N": t.params_active.value, **tokens}, each=each)

    return find


def _mixing(run: Run) -> str:
    """The products of activations with one another, which parameters do not tell."""
    kinds = {op.kind.group for op in run.trace.ops}
    names = {"core": "attention's own products", "recurrence": "the recurrence's own products"}
    return " and ".join(name for kind, name in names.items() if kind in kinds)


def _with_attention(
    run: Run, per_token: int, letters: str, values: dict[str, int], *, each: bool
) -> Iterator[Candidate]:
    """PaLM's rule: 6 N + 12 L H Q T for a token of training, a third of it forward."""
    spec = run.spec
    if spec.position.kind in _MORE_SCORES:
        return
    if not (_one_stack(spec) and (attention := _standard(spec)) is not None and attention.window is None
            and {"L", "s", "h", "k"} <= set(run.values) and spec.recurrent is None and is_causal(spec)):
        return
    core = _term(2 * per_token, "L h k s" if each else "L h k s D").rewritten(run.symbols.always)
    count = f"N = {values['N']:,} parameters"
    left = "nothing; counts biases, norms and tables that are only looked up"
    source = "arXiv 2204.02311, appendix B"
    yield Candidate(_term(per_token, letters) + core, left, source, count, values, collected=False)


def _megatron(run: Run, closed: Poly) -> Iterator[Candidate]:
    yield from _flops(6)(run, closed)
    if _gpt_like(run) and {"V", "s"} <= set(run.values):
        poly = _sum((72, "b L s d d"), (12, "b L s s d"), (6, "b s V d"))
        note = "nothing for eager attention without recomputation; the flash kernel's backward is 2.5 × its forward"
        yield Candidate(poly, note, f"{_MEGATRON}, its formula for F, without its recomputed forward pass")


# ---------------------------------------------------------------- memory


def _cache(*, per_token: bool) -> Finder:
    def find(run: Run, closed: Poly) -> Iterator[Candidate]:
        spec, w = run.spec, run.workload
        if not (_one_stack(spec) and (attention := _standard(spec)) is not None and spec.recurrent is None
                and attention.value_dim is None
                and {"L", "h", "k"} <= set(run.values)) or keeps_inputs(spec.position):
            return
        form = FORMATS[w.kv_dtype]
        if form.block > 1 or form.extra:
            return
        lengths = [name for name in ("s", "p") if name in run.values]
        width = 2 * form.bytes
        if per_token:
            poly = _term(width, "L h k")
        else:
            poly = _sum(*((width, f"b L {length} h k") for length in lengths))
            if w.seq == 1 and "s" not in run.values:
                poly += _term(width, "b L h k")
        left = "nothing" if attention.kv_heads == attention.heads else "that heads share keys and values"
        if attention.window is not None and not per_token:
            left += ", and the window"
        yield Candidate(poly.rewritten(run.symbols.always), left, "arXiv 2303.06865", "2 tensors × "
                        f"{form.bytes} bytes, every head its own keys and values")

    return find


def _activations(run: Run, closed: Poly) -> Iterator[Candidate]:
    w = run.workload
    if run.spec.position.kind in _MORE_SCORES:
        return
    if not _gpt_like(run) or BYTES[w.dtype] != 2 or w.kernels != "cuda" or not {"b", "s"} <= set(run.values):
        return
    linear, square = (34, 5) if w.dropout else (32, 2)
    kernels = {kernel for kernel, _ in run.trace.kernels}
    if not kernels <= {"eager", "flash"}:
        return
    if w.together:
        return
    if w.recompute == "full":
        yield Candidate(_term(2, "b L s d"), "what is not in a layer", "arXiv 2205.05198, section 5",
                        "the paper's 2sbh per layer: its h is d here")
        return
    selective = w.recompute == "selective"
    eager = "eager" in kernels and not selective
    poly = _sum((linear, "b L s d"), *([(square, "b L h s s")] if eager else []))
    paper = "the paper's sbh(34 + 5as/h) per layer: its h is d here, its a is h"
    if not w.dropout:
        paper += ", and without dropout 34 and 5 are 32 and 2"
    left = "norm statistics, embeddings, final norm, head"
    left += "" if eager or selective else ", the flash kernel's log-sum-exp"
    if w.phase == "training":
        left += ", loss"
    source = "arXiv 2205.05198, section 5" if selective else f"{_KORTHIKANTI}, equation 1"
    yield Candidate(poly, left, source + ("" if eager else " without its 5as/h"), paper)
    if eager:
        yield Candidate(_term(linear, "b L s d"), "also the 5as/h: selective recomputation, or flash attention",
                        "arXiv 2205.05198, section 5")


_FINDERS = {
    "params": _params, "active-params": _active, "flops": _flops(2), "flops-per-token": _flops(2, each=True),
    "flops-backward": _flops(4), "flops-training": _megatron, "activations": _activations,
    "kv-cache": _cache(per_token=False), "kv-cache-per-token": _cache(per_token=True),
}
