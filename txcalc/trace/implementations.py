"""Implementations, the code that runs a model: rows of data that choose the operations of a trace.

What autograd keeps, and what is alive for a moment, is a choice of the code and no fact of the model. The ``torch`` row
is plain PyTorch as our reference calls it; those of ``transformers`` are its modelling files, read and measured in
version 5.23 (``txcalc.check.classes``). That of ``megatron`` is Megatron-LM core 0.14 (23e00ed) on TransformerEngine
2.11, read, and measured as totals (``simumax`` of ``txcalc reproduce``). Weights, FLOPs and caches are those of the
model in every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

from txcalc.spec.base import Activation, Gelu, Spec
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import BIBLIOGRAPHY, STORAGE, located_blocks
from txcalc.spec.words import form
from txcalc.trace.layout import WHOLE

if TYPE_CHECKING:
    from txcalc.spec.model import Model
    from txcalc.trace.workload import Workload


class Code(NamedTuple):
    """Choices of one code."""

    # PyTorch's own, or composed of other operations; its weight multiplies in fp32 (wide), or is an offset from one.
    rms_norm: Literal["kernel", "composed", "wide", "offset", "narrow"] = "kernel"
    # PyTorch's functions on what lies position by position; heads in front, and keys repeated for every query; on parts
    # of one product, which one kernel turns (``trace.megatron``), or which lie in copies (``trace.nanotron``).
    attention: Literal["positions", "heads", "fused", "copied"] = "positions"
    gate_first: bool = False  # a gate is activated before the up projection runs
    makes_tables: bool = False  # positions, masks and rotary tables are made in every run
    masks: Literal["one", "full first"] = "one"  # of a window if layers have one; or of all positions, then of a window
    # Attention's last product is made within its call, or after it, and lives on until the norm behind it has run.
    output: Literal["with attention", "apart"] = "with attention"
    types_first: bool = False  # the types of tokens are added before their positions
    # Dropout beside attention's probabilities: in a sublayer's call, after it, where it is added; or of embeddings.
    drops: Literal["inside", "outside", "residual", "no"] = "inside"
    # Of what logits, or in place of them, or the softmax of an fp32 copy, in place of which the gradient is written.
    loss: Literal["fp32", "plain", "in place", "softmax"] = "fp32"
    shifts_labels: bool = False  # the loss is of what comes next
    # Weights as outputs by inputs, or by columns; or each layer whose columns are split gathers positions by itself.
    linear: Literal["rows", "columns", "parallel"] = "rows"
    vocab_multiple: int = 1  # rows of tables on a rank
    holds_outputs: bool = True  # hidden states and logits, until the loss is there
    holds_sent: bool = True  # what one stage of a pipeline sends to the next, until it has been back
    receives_at_once: bool = True  # memory for what comes of all micro-batches is made at once
    adds_gradients: bool = False  # a product adds the gradient of its weight to what holds it
    workspaces: bool = False  # products have some of their own
    rotary_buffers: bool = False  # each layer has rotary tables
    sums_shared: bool = False  # shared experts are summed over ranks by themselves
    zero_buffers: bool = True  # those that DeepSpeed's ZeRO sets aside
    totals_only: bool = False  # no live bytes of it are measured
    positions_first: bool = False  # are the first axis, so that what ranks gather and scatter takes no copy
    # Three products, or parts of one, split, sliced or split head by head.
    qkv: Literal["apart", "together", "sliced", "by head"] = "apart"
    gate_up: Literal["apart", "together", "fused"] = "apart"  # two, parts of one, or those that one kernel multiplies
    # Columns that are not rotated, be there none, are joined to those that are, of queries and keys each or together.
    joins_rotated: Literal["", "each", "together"] = ""
    # Of attention: in fp32 or in its input's dtype, and then cast to that of queries or of values.
    softmax: Literal["fp32", "own", "as values"] = "fp32"
    gelu_tanh: Literal["kernel", "composed"] = "kernel"
    batch_axis: bool = False  # tables of positions and class tokens have one
    holds_inputs: bool = True  # embeddings are alive until the last layer ends, or what is made of them
    holds_sublayers: Literal["", "sublayer", "layer"] = ""  # what one puts out is alive until it ends, or its layer
    sublayers_first: bool = False  # parallel ones are added to each other
    scales_table: Literal["", "if scaled", "always"] = ""  # embeddings, as they are looked up; always: by one
    rebinds: bool = False  # what is capped or normed again takes the name of what it was made of, which is freed
    sdpa: bool = True  # has it
    rotary: Literal["own", "fp32"] = "own"  # tables in the dtype of what they rotate, or in fp32
    rotary_of_windows: bool = False  # one for each window
    norms_after: bool = False  # queries and keys are normed when all projections are made
    reuses_names: bool = False  # what a feed-forward layer has read is freed
    # An encoder-decoder's are made of labels, before all else or when the source has been read.
    targets: Literal["", "first", "after source"] = ""
    pads: bool = False  # a mask of padding is made, and positions are offset in it; else they are rows at an index
    views_last: bool = False  # keys and values get heads when both are projected
    copies_heads: bool = False  # queries, which are scaled first, keys and values are copied with heads in front
    feeds_inline: bool = False  # feed-forward layers are no calls
    drops_widened: bool = False  # dropout of what is activated
    drops_last: bool = False  # and of what a stack puts out
    # And of what a classifier reads ``of`` this; at this rate, whatever others have.
    drops_head: frozenset[str] = frozenset()
    head_dropout: float | None = None
    seeks_last: bool = False  # the last position that is no padding is read of a classifier of every position
    classifies: Literal["fp32", "plain"] = "fp32"  # of what logits of positions the loss is
    widens: bool = False  # what is activated is cast to the dtype of the weights
    scales_hidden: bool = False  # what a tied head reads
    shifts_logits: bool = False  # by a buffer
    # One product for the rows of all experts, whose weights are in fp32 (wide), in the dtype of the router's product,
    # or in fp32 as all of the router is, which chooses among groups first; or ranks exchange rows (dispatched).
    router: Literal["", "wide", "narrow", "groups", "dispatched"] = ""
    returns_hidden: bool = False  # a pass puts hidden states out beside logits
    has: frozenset[str] = frozenset()  # the ``features`` of the models that it is proved for
    needs: frozenset[str] = frozenset()  # those that all of them have

    def having(self, *features: str, **choices: Any) -> Code:
        """The same for models that have more ``features``, and with other ``choices``."""
        return self._replace(has=self.has.union(features), **choices)


TORCH: Final = Code(returns_hidden=True)
"""Plain PyTorch."""

PROJECTED: Final = frozenset(f"attention.bias.{name}" for name in "qkvo")
WIDENED: Final = frozenset(f"feed_forward.bias.{name}" for name in ("up", "gate", "down"))
CURVES: Final = frozenset({*(f"gelu {each}" for each in get_args(Gelu)),
                          *(f"feed_forward.activation {each}" for each in get_args(Activation))})
COMMON: Final = PROJECTED | WIDENED | CURVES | {
    "input.kind tokens", "attention", "attention.kind standard", "feed_forward.kind dense", "head.kind lm"}
"""Features that all here have in common."""

MASKED_LM: Final = frozenset({
    "architecture encoder-only", "embedding_norm", "no final_norm", "norm.placement post", "token_types", "head.bias",
    "head.transform"})
"""Features of BERT that no decoder has."""

DECODER: Final = COMMON | {"position.kind rope", "norm.kind rmsnorm", "no norm.bias", "feed_forward.gated"}
"""Features of Llama and its like."""

LAST: Final = frozenset({"head.kind classifier", "head.labels", "head.of last", "no head.bias", "head.padded"})
"""Features of a decoder that classifies sequences."""
EACH: Final = LAST | {"head.of all"}
"""And of one that classifies tokens, too."""
HEADS: Final = EACH | {"head.of span"}
"""And of one that finds spans, too."""

LLAMA: Final = Code("composed", "heads", gate_first=True, makes_tables=True, drops="no", shifts_labels=True,
                    drops_head=frozenset({"all"}), head_dropout=0.1, seeks_last=True, has=DECODER)

QK_NORM: Final = ("attention.qk_norm", "attention.qk_norm.kind rmsnorm", "no attention.qk_norm.bias")
GEMMA: Final = LLAMA.having(
    "attention.window", "embedding_scale", "norm.placement sandwich",
    rms_norm="offset", masks="full first", scales_table="if scaled", rebinds=True)

PHI3: Final = LLAMA._replace(
    qkv="sliced", gate_up="together", joins_rotated="each", drops="residual",
    has=DECODER - PROJECTED - WIDENED | {"attention.window", "position.dim"})

GPT2: Final = Code(
    attention="heads", makes_tables=True, shifts_labels=True, linear="columns", qkv="together", softmax="as values",
    gelu_tanh="composed", holds_sublayers="layer", reuses_names=True, needs=PROJECTED | WIDENED,
    drops_head=frozenset({"all"}), head_dropout=0.1, seeks_last=True, classifies="plain",
    has=COMMON | HEADS | {"position.kind learned", "position.size", "norm.kind layernorm"})

GPT_NEOX: Final = Code(
    attention="heads", makes_tables=True, shifts_labels=True, qkv="by head", joins_rotated="together",
    sublayers_first=True, drops="outside", reuses_names=True, needs=WIDENED,
    drops_head=frozenset({"all"}), seeks_last=True, has=COMMON | HEADS | {
        "position.kind rope", "position.dim", "norm.kind layernorm", "residual parallel"})

BERT: Final = Code(
    attention="heads", softmax="own", output="apart", loss="plain", types_first=True, drops="outside",
    holds_inputs=False, reuses_names=True, needs=PROJECTED | WIDENED | MASKED_LM,
    drops_head=frozenset({"first", "all"}), classifies="plain", has=COMMON | MASKED_LM | HEADS - LAST | {
        "head.kind classifier", "head.labels", "head.undropped", "pooler", "pooler.kind dense",
        "norm.kind layernorm", "position.kind learned", "position.size",
        *(f"head.transform.activation {each}" for each in get_args(Activation))})

VIT: Final = Code(
    attention="heads", loss="plain", drops="outside", holds_inputs=False, batch_axis=True,
    reuses_names=True, needs=WIDENED | {"attention.bias.o", "architecture encoder-only"},
    has=COMMON | {"architecture encoder-only", "head.kind classifier", "head.labels", "input.image",
                  "input.kind patches", "input.patch", "input.channels", "norm.kind layernorm",
                  "position.kind learned", "position.size"})

MIXTURE: Final = LLAMA.has - {"feed_forward.kind dense"} | {"feed_forward.kind moe"}
"""Features of Mixtral and its like."""

PAIR: Final = PROJECTED | WIDENED | CURVES | {
    "attention", "attention.kind standard", "feed_forward.kind dense"}
"""Features of both stacks of encoder-decoders."""


def _pair(*features: str, without: tuple[str, ...] = ()) -> frozenset[str]:
    """These of both stacks."""
    return frozenset(each for stack in ("", "encoder.") for each in (
        *(f"{stack}{name}" for name in features), *(f"no {stack}{name}" for name in without)))


CROSSED: Final = frozenset({"architecture encoder-decoder", "encoder", "cross_attention",
                            "cross_attention.kind standard", *(f"cross_attention.bias.{name}" for name in "qkvo")})

BART: Final = Code(
    attention="heads", softmax="own", loss="plain", drops="outside", reuses_names=True, targets="first", pads=True,
    scales_table="always", shifts_logits=True, drops_widened=True, feeds_inline=True, views_last=True,
    needs=_pair(*PROJECTED, *WIDENED),
    has=CROSSED | {"embedding_scale"} | _pair(
        *PAIR, "norm.kind layernorm", "norm.placement post", "embedding_norm", "position.kind learned",
        "position.size", without=("final_norm",)))

T5: Final = Code(
    rms_norm="narrow", attention="heads", softmax="own", gelu_tanh="composed", gate_first=True, loss="plain",
    drops="outside", reuses_names=True, holds_sublayers="sublayer", targets="after source", drops_widened=True,
    drops_last=True, widens=True, scales_hidden=True,
    has=CROSSED | {"head.kind lm"} | _pair(
        *PAIR - PROJECTED - WIDENED, "norm.kind rmsnorm", "position.kind relative", "feed_forward.gated",
        without=("norm.bias",)))

WHISPER: Final = Code(
    attention="heads", softmax="own", loss="plain", drops="outside", reuses_names=True, targets="first",
    drops_widened=True, feeds_inline=True, copies_heads=True, needs=_pair(*WIDENED),
    has=(CROSSED | _pair(*PAIR, "norm.kind layernorm", "position.size") | {
        "position.kind learned", "encoder.input.kind frames", "encoder.input.bins", "encoder.input.length",
        "encoder.position.kind sinusoidal", "encoder.position.stored"}) - {"gelu erf"})

TRANSFORMERS: Final[Mapping[str, Code]] = MappingProxyType({
    "llama": LLAMA.having(*HEADS),
    "mistral": LLAMA.having(*HEADS, "attention.window"),
    "qwen2": LLAMA.having(*HEADS, "attention.window", masks="full first"),
    "qwen3": LLAMA.having(*HEADS, *QK_NORM, "attention.window", masks="full first"),
    "gemma2": GEMMA.having(*EACH, "attention.softcap", "head.softcap", sdpa=False),
    "gemma3_text": GEMMA.having(*LAST, *QK_NORM, "position.window_theta", rotary_of_windows=True, norms_after=True),
    "olmo2": LLAMA.having(*LAST, *QK_NORM, "attention.qk_norm.over full", "norm.placement res-post", rms_norm="wide",
                          rotary="fp32"),
    "phi3": PHI3.having(*EACH),
    "mixtral": LLAMA.having(*HEADS, *MIXTURE, "attention.window", router="wide"),
    "qwen3_moe": LLAMA.having(*HEADS, *MIXTURE, *QK_NORM, "attention.window", "no feed_forward.normalize",
                              router="narrow"),
    "deepseek_v3": LLAMA.having(
        *EACH, *MIXTURE,
        *(f"attention.{name}" for name in ("bias", "q_rank", "kv_rank", "nope_dim", "rope_dim", "value_dim")),
        "attention.kind mla", "no attention.interleaved", "feed_forward.shared_experts", "feed_forward.shared_d_ff",
        "feed_forward.routing sigmoid-topk", "no feed_forward.normalize", router="groups",
        needs=frozenset({"feed_forward.shared_experts", "attention.kind mla"})),
    "gpt2": GPT2, "gpt_neox": GPT_NEOX, "bert": BERT, "vit": VIT, "bart": BART, "whisper": WHISPER,
    "t5": T5, "mt5": T5.having(scales_hidden=False),
})
"""The rows of its classes, by ``Model.modeling``; the first that fits runs a model that does not say."""

TRAINER: Final = Code(positions_first=True, holds_sent=False, receives_at_once=False, zero_buffers=False,
                      totals_only=True, returns_hidden=True)
"""Features common to frameworks that only train."""

MEGATRON: Final = TRAINER._replace(
    attention="fused", linear="parallel", gate_up="fused", router="dispatched", sums_shared=True,
    adds_gradients=True, workspaces=True, loss="in place", vocab_multiple=128,
    has=(COMMON | LLAMA.having(*MIXTURE, *QK_NORM).has | TRANSFORMERS["deepseek_v3"].has) - CURVES - EACH | {
        *(f"feed_forward.activation {each}" for each in ("silu", "gelu", "gelu_tanh")), "position.kind none",
        "position.kind learned", "position.size", "position.dim", "norm.kind layernorm",
        "feed_forward.routing topk-softmax", "feed_forward.routing softmax-topk", "head.bias"})
"""Megatron-LM's ``GPTModel``, of layers of TransformerEngine."""

NANOTRON: Final = TRAINER._replace(
    attention="copied", rotary_buffers=True, loss="softmax", holds_outputs=False,
    has=DECODER - CURVES | {"feed_forward.activation silu"})
"""nanotron's ``LlamaForTraining``, read at 3c35611 (July 2024)."""

TRAINERS: Final[Mapping[str, tuple[Code, str]]] = MappingProxyType(
    {"megatron": (MEGATRON, "Megatron-LM"), "nanotron": (NANOTRON, "nanotron")})
"""Their rows, by implementation, and what they are called."""

_SIZES: Final = ("name", "family", "modeling", "vocab", "d_model", "layers", "repeat", "context", "heads", "kv_heads",
                 "head_dim", "d_ff", "experts", "active_experts", "expert_groups", "active_groups",
                 "eps", "scale", "theta", "tied", *BIBLIOGRAPHY,
                 *STORAGE)
"""Fields that choose no operation."""


def code(spec: Model, workload: Workload) -> Code:
    """The row that runs a model. Raises ``SpecError`` where there is none, or where nothing proves it for this run."""
    layout = workload.layout or WHOLE
    if layout.experts_tp < layout.tp and not (layout.sp and workload.implementation == "megatron"):
        raise SpecError("experts that tensor parallelism does not split are counted in Megatron-LM's code: with --sp "
                        "and --implementation megatron", field="etp")
    if workload.implementation == "torch":
        return TORCH
    wanted, name, head = features(spec), spec.modeling, spec.head
    if workload.implementation in TRAINERS:
        return _trainer(wanted, workload)
    rows = list(TRANSFORMERS.values()) if name is None else [TRANSFORMERS[name]] if name in TRANSFORMERS else []
    if head.kind == "classifier":  # which has a loss of its own, and whose classes have no other head
        rows = [row._replace(needs=row.needs - {"head.bias", "head.transform"}, shifts_labels=False,
                             loss=row.classifies if head.of == "all" else "plain") for row in rows]
    row = next((row for row in rows if row.needs <= wanted <= row.has), None)
    if row is None:
        if name is not None and rows and wanted <= rows[0].has:
            raise _not_yet(f"{name} without {min(rows[0].needs - wanted)}")
        beyond = min((sorted(wanted - row.has) for row in rows), key=len, default=[])
        if name is None:
            lacks = min((sorted(row.needs - wanted) for row in rows if wanted <= row.has), key=len, default=[])
            raise _not_yet(f"{beyond[0] if beyond else f'a model without {lacks[0]}'} in classes of transformers")
        raise _not_yet(f"{beyond[0]} in {name}" if rows else f"{name} of transformers")
    if workload.attention not in ("eager", "sdpa"):
        raise SpecError(f"transformers runs eager or sdpa, not {workload.attention}", field="attention")
    if workload.loss not in (None, row.loss):
        what = "casts logits to fp32" if row.loss == "fp32" else "leaves logits as they are"
        raise SpecError(f"transformers' own loss {what}: leave it out", field="loss")
    if head.kind == "classifier" and spec.input.kind == "tokens":
        for what, there in {"a regression's loss, of one label,": head.labels == 1 and workload.phase == "training",
                            "a classifier of a first position without a pooler": head.of == "first" and not spec.pooler,
                            "a bias of a last position, or none of others,": head.bias == (head.of == "last")}.items():
            if there:
                raise _not_yet(f"{what} in classes of transformers")
    if row.targets and workload.dtype == "fp16":
        raise _not_yet("what encoder-decoders of transformers clamp in fp16")
    return row


def _trainer(wanted: set[str], workload: Workload) -> Code:
    """The row of a framework that only trains."""
    row, name = TRAINERS[workload.implementation]
    for what in sorted(wanted - row.has):
        raise _not_yet(f"{what} in {name}")
    for field, there, what in (
        ("implementation", not workload.keeps, f"a {workload.phase} pass of {name}"),
        ("loss", workload.loss is not None, f"another loss than its own in {name}"),
        ("freeze", workload.freezes, f"a part of the weights that is trained in {name}"),
        ("kernels", workload.kernels == "cpu", f"{name} on the CPU"),
        ("zero", workload.layout is not None and workload.layout.zero > 1, f"a stage of ZeRO above 1 in {name}"),
        ("recompute", form(workload.recompute or "") == "ops", f"PyTorch's policy of operations in {name}"),
        ("attention", workload.attention not in ("eager", "flash"), f"{workload.attention} attention in {name}"),
    ):
        if there:
            raise SpecError(f"{what} is not counted yet; torch is", field=field)
    if workload.precision not in (None, "mixed"):
        raise SpecError(f"{name} has an fp32 master beside 16-bit weights: mixed", field="precision")
    return row


def _not_yet(what: str) -> SpecError:
    return SpecError(f"{what} is not counted yet; torch is", field="implementation")


def features(spec: Model) -> set[str]:
    """The fields that choose operations and differ from their defaults, with what they say where that is a word."""
    return set(_features(spec, "")) | {each for _, block in located_blocks(spec) for each in _features(block, "")}


def _features(part: Spec, path: str) -> Iterator[str]:
    for name in part.names():
        value = getattr(part, name)
        if name in _SIZES or isinstance(value, tuple) or (name != "kind" and value == part.default(name)):
            continue
        if isinstance(value, Spec):
            if part.default(name) is None:
                yield f"{path}{name}"
            yield from _features(value, f"{path}{name}.")
        elif isinstance(value, str):
            yield f"{path}{name} {value}"
        else:
            yield f"no {path}{name}" if value is False else f"{path}{name}"
