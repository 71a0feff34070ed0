"""The workload of a run: tokens, phase, dtypes and framework policy.

What autograd keeps is a choice of the framework, not a fact of the model. The choices made here are PyTorch's,
measured on torch 2.13 (``kernels: cpu``) or read from its CUDA kernels (``kernels: cuda``); every report prints them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, Literal, Self, get_args

from txcalc.document import Part
from txcalc.spec import adapters, older, words
from txcalc.spec.errors import SpecError, all_of, not_one_of, shown, unknown_field
from txcalc.spec.training import OPTIMIZERS, Held, beside_master, check_optimizer, check_precision
from txcalc.spec.weight_formats import NAMES, PACKED
from txcalc.trace import workload_defaults
from txcalc.trace.layout import Layout
from txcalc.trace.tensors import Role

Phase = Literal["forward", "training", "prefill", "decode"]
DType = Literal["fp32", "fp16", "bf16"]
KvDType = Literal["fp32", "fp16", "bf16", "fp8", "int8", "int4", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
AttentionKernel = Literal["eager", "flash", "efficient", "math", "sdpa"]
Masked = Literal["counted", "skipped"]
Latents = Literal["absorbed", "expanded"]
Implementation = Literal["torch", "transformers", "megatron", "nanotron"]
Kernels = Literal["cuda", "cpu"]
Precision = Literal["amp", "bf16", "mixed", "fp32", "float8"]
Recipe = Literal["adam-mixed", "adam-mixed-fp32-grads", "adam-fp32", "sgd-momentum-fp32"]
OptimizerKernel = Literal["foreach", "fused", "loop"]
BYTES: dict[DType, int] = {"fp32": 4, "fp16": 2, "bf16": 2}

_WIDTHS: Final = {Role.FLOAT32: 4, Role.STATISTIC: 4, Role.INDEX: 8, Role.COUNT: 4, Role.HOST: 8, Role.BOOL: 1,
                  Role.PARAMETER: 0, Role.FLOAT64: 8, Role.FLOAT8: 1}

RECOMPUTE: Final = ("none", "full", "full:K", "selective", "ops", "ops:K")
"""Parts that the backward pass reruns: nothing, every layer, every K layers together, attention's core, or of every
layer all but fused attention and products with weights (every K-th, too), whose outputs are saved."""

LOSSES: Final = ("plain", "fp32", "chunked:N", "compiled:N", "fused")
"""Cross-entropy of logits as they are; of a copy in fp32, which is what our reference does; of N chunks of them, a copy
of each (torchtune's ``CEWithChunkedOutputLoss``), maybe compiled; or fused with the head (liger-kernel 0.8.5)."""

CACHES: Final = ("dynamic", "static", "static:K")
"""Form of transformers' cache: by joining new keys to a copy, or in memory for all that will come, or for K of it."""

LOGITS: Final = ("all", "last")
"""Positions that a head reads."""

CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "phase": get_args(Phase), "dtype": get_args(DType), "kv_dtype": get_args(KvDType), "weights": NAMES,
    "attention": get_args(AttentionKernel), "masked": get_args(Masked), "kernels": get_args(Kernels),
    "latents": get_args(Latents), "implementation": get_args(Implementation),
    "recipe": get_args(Recipe), "loss": LOSSES, "recompute": RECOMPUTE, "precision": get_args(Precision),
    "optimizer": OPTIMIZERS, "optimizer_kernel": get_args(OptimizerKernel), "cache": CACHES, "logits": LOGITS,
}
"""The fields that are one of a few words."""

LEAST: Final = {"batch": 1, "seq": 1, "past": 0, "source_seq": 1, "images": 0, "kv_block": 1, "accumulate": 1}
"""The fields that are whole numbers, and the smallest of each."""

FILLED: Final = ("seq", "kv_dtype", "attention")
"""The fields that follow from others where they are left out, so that every run has one."""

TRAINED: Final[Mapping[str, Callable[[object], Any]]] = {
    "lora": adapters.Adapter.read, "dora": adapters.Adapter.read, "freeze": adapters.paths,
}
"""The fields that say which weights are trained, and how each is read."""

STEP: Final = ("optimizer", "optimizer_kernel", "accumulate", "clip", "in_backward")
"""The fields of a whole training step."""

_OF_A_STEP: Final = {"recompute": "recomputes nothing", "loss": "has no loss",
                    **dict.fromkeys(STEP, "updates no weights")}

PASS: Final = ("cache", "logits", "lengths", "beams")
"""The fields of a pass that generates."""

GIVEN: Final = ("loss", "recompute", *TRAINED, *STEP, "precision", "offload", *PASS, "layout")
"""The fields that a document has only where they were given."""

PRECISIONS: Final[Mapping[str, Precision]] = {"megatron": "mixed", "nanotron": "mixed"}  # they train in one alone
GRADIENTS: Final = {"megatron": 4, "nanotron": 4}  # bytes of each, beside a master; 2 in any other

_MAY_BE_MISSING: Final = (*GIVEN, "latents", "weights", "seq", "source_seq", "images", "kv_block")


class Workload(Part):
    """One run of a model.

    ``seq`` tokens are new; ``past`` tokens are already in the KV cache. An encoder-decoder also reads
    ``source_seq`` tokens, which its encoder has already processed when the phase is ``decode``.
    ``dtype`` is what is computed in. ``weights`` is how weights are stored, one of ``weight_formats.NAMES``;
    none: as the model's own checkpoint if its spec says how, else in ``dtype``. ``kv_block`` is the page of a paged
    engine's cache, in tokens. ``images`` run through a second stack, where a model has one.
    ``kernels`` are those of PyTorch's operators, ``implementation`` is the code that calls them.
    ``latents``: cached latents are expanded to keys and values of all heads, or the projections that would do so are
    absorbed into queries and outputs; left out, absorbed in decoding, but not by transformers.
    ``forward`` is a pass over a whole sequence; ``training`` adds the loss and the backward pass.
    ``precision``: ``amp`` is autocast to ``dtype`` over fp32 weights; in the others all is in ``dtype``; ``mixed``,
    which megatron and nanotron are in, has an fp32 master and states beside.
    ``loss``: the code of the cross-entropy of a head's logits, one of ``LOSSES``; none: as the implementation has it.
    ``recompute``: what the backward pass runs once more, so that only its inputs are kept; none: nothing.
    ``offload``: the CPU's memory keeps the inputs of what is run once more.
    ``optimizer``: one of ``OPTIMIZERS``, or bytes of a parameter as ``Held`` has them; none: adamw. ``accumulate``
    micro-batches go into a step; ``clip``: the gradients' norm is clipped; ``in_backward``: each weight is updated, and
    its gradient freed, as soon as that is there.
    ``lengths``: of a batch's sequences, tokens of each, which are padded to the longest, ``seq``. ``cache``: one of
    ``CACHES``; none: as the implementation has it. ``logits``: of all positions that are read, or of the last one
    alone; none: of all. ``beams``: of a search, and the tokens that it starts with and adds, as ``4:4096+512``; then
    ``batch`` are its sequences. ``layout``: the devices it is spread over; none: it is on one.
    Raises ``SpecError`` that names the field.
    """

    phase: Phase = "forward"
    batch: int = 1
    seq: int = None  # type: ignore[assignment]  # none: an image's or a sound's own length
    past: int = 0
    source_seq: int | None = None
    images: int | None = None
    dtype: DType = workload_defaults.DTYPE
    weights: str | None = None
    kv_dtype: KvDType = None  # type: ignore[assignment]  # none: the same as dtype
    kv_block: int | None = None
    attention: AttentionKernel = None  # type: ignore[assignment]  # none: flash, or sdpa in transformers
    dropout: float = 0.0
    masked: Masked = "counted"
    kernels: Kernels = "cuda"
    implementation: Implementation = "torch"
    latents: Latents | None = None
    recipe: Recipe = "adam-mixed"
    loss: str | None = None
    recompute: str | None = None
    offload: bool | None = None
    lora: adapters.Adapter | None = None
    dora: adapters.Adapter | None = None
    freeze: tuple[str, ...] | None = None
    optimizer: str | None = None
    optimizer_kernel: OptimizerKernel | None = None
    accumulate: int | None = None
    clip: bool | None = None
    in_backward: bool | None = None
    precision: Precision | None = None
    cache: str | None = None
    logits: str | None = None
    lengths: tuple[int, ...] | None = None
    beams: str | None = None
    layout: Layout | None = None

    def __post_init__(self) -> None:
        if (packed := _packed(self.dtype)) in PACKED:
            raise SpecError(f"nothing is computed in {packed}; --weights {packed} stores weights so, and --kv-dtype "
                            "has formats of the cache", field="dtype")
        for name, reads in (*TRAINED.items(), ("layout", Layout.read), *words.READS.items()):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, _read(name, reads, given))
        if self.kv_dtype is None:
            object.__setattr__(self, "kv_dtype", self.dtype)
        if self.attention is None:
            object.__setattr__(self, "attention", "sdpa" if self.implementation == "transformers" else "flash")
        if self.precision is None and self.keeps and self.updates in OPTIMIZERS:
            object.__setattr__(self, "precision", PRECISIONS.get(self.implementation))
        for name, options in CHOICES.items():
            if name not in _MAY_BE_MISSING or getattr(self, name) is not None:
                object.__setattr__(self, name, words.word(name, getattr(self, name), options))
        follows = {"kv_dtype"} if self.kv_dtype == self.dtype else set()  # what is wrong with it is said of the dtype
        all_of(_checks({name: value for name, value in self.__dict__.items() if name not in follows}))
        if self.attention == "efficient" and self.kernels == "cpu":
            raise SpecError("the memory-efficient kernel is CUDA's; the CPU has flash and math", field="attention")
        if self.recompute in ("none", "full:1"):
            object.__setattr__(self, "recompute", {"none": None}.get(self.recompute, "full"))
        for name, lacks in _OF_A_STEP.items():
            if self.phase != "training" and getattr(self, name) is not None:
                raise SpecError(f"a {self.phase} pass {lacks}; use phase training", field=name)
        for name in PASS:
            if self.keeps and getattr(self, name) is not None:
                raise SpecError(f"a {self.phase} pass generates nothing; use phase prefill or decode", field=name)
        for name in ("cache", "beams", *["lengths"] * (self.implementation != "torch")):
            if getattr(self, name) is not None and self.implementation != "transformers":
                raise SpecError("is of transformers' classes; give --implementation transformers", field=name)
        if self.beams is not None:
            words.check_beams(self.phase, self.logits, *self.search, self.past + self.seq)
            object.__setattr__(self, "logits", "last")
        words.with_lengths({name: getattr(self, name) for name in ("phase", "batch", "seq", "past", "lengths")})
        if self.precision is not None:
            check_precision(self)
        if self.held is not None and self.weights is not None:
            raise SpecError(f"the bytes of weights are given twice, by --weights {self.weights} too", field="optimizer")
        if self.past and self.keeps:
            raise SpecError(f"a {self.phase} pass starts without a cache; use phase decode or prefill", field="past")
        all_of(_checks_of_training(self))

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """From names and values. Raises ``SpecError``, also for a name that is no field, or a field with no value."""
        fields = plain({older.FIELDS.get(name, name): value for name, value in fields.items()})
        if "phase" not in fields and any(fields.get(name) is not None for name in TRAINED):
            fields["phase"] = "training"
        if (flat := {name: fields.pop(name) for name in Layout.names() if name in fields}):
            fields["layout"] = Layout.of({**vars(Layout.read(fields.get("layout")) or Layout()), **flat})
        known = (partial(_check_known, name, value, cls.names()) for name, value in fields.items())
        all_of(chain(known, _checks({name: value for name, value in fields.items() if value is not None})))
        if fields.get("precision") == "fp32":
            fields.setdefault("dtype", "fp32")
        return cls(**fields)

    def to_data(self) -> dict[str, Any]:
        """The fields as plain data in their own order, those of ``GIVEN`` where they were."""
        return {name: value for name, value in super().to_data().items() if name not in GIVEN or value is not None}

    @classmethod
    def prefill(cls, *, seq: int, **rest: Any) -> Self:
        """Read a prompt of ``seq`` tokens into an empty cache."""
        return cls(phase="prefill", seq=seq, **rest)

    @classmethod
    def decode(cls, *, past: int, seq: int = 1, **rest: Any) -> Self:
        """Generate ``seq`` tokens, at once, after ``past`` cached ones."""
        return cls(phase="decode", seq=seq, past=past, **rest)

    @classmethod
    def training(cls, *, seq: int, **rest: Any) -> Self:
        """One training step: forward, loss, backward."""
        return cls(phase="training", seq=seq, **rest)

    @property
    def adapter(self) -> adapters.Adapter | None:
        """The adapters that are trained in place of the model's own weights."""
        return self.lora or self.dora

    @property
    def freezes(self) -> bool:
        """Tell whether some weights are not trained."""
        return self.adapter is not None or self.freeze is not None

    @property
    def updates(self) -> str:
        """The optimizer's name, where it has one."""
        return self.optimizer or OPTIMIZERS[0]

    @property
    def held(self) -> Held | None:
        """Bytes of a parameter, where they are given in place of an optimizer's name, or there is a master."""
        if self.updates not in OPTIMIZERS:
            return Held.of(self.updates)
        return beside_master(self.updates, GRADIENTS.get(self.implementation, 2)) if self.precision == "mixed" else None

    @property
    def source_new(self) -> int:
        """Source tokens that the encoder processes in this run: none once decoding."""
        return 0 if self.phase == "decode" or self.source_seq is None else self.source_seq

    @property
    def source_past(self) -> int:
        """Source tokens whose cross-attention keys and values are already cached."""
        return self.source_seq if self.phase == "decode" and self.source_seq is not None else 0

    @property
    def keeps(self) -> bool:
        """Tell whether kept activations are asked for: a run that nobody would differentiate keeps nothing."""
        return self.phase in ("forward", "training")

    @property
    def drops(self) -> bool:
        """Tell whether dropout runs."""
        return self.dropout > 0 and self.keeps

    @property
    def together(self) -> int | None:
        """Layers that the backward pass runs once more at a time, where they are several."""
        return words.number(self.recompute) if words.form(self.recompute or "") == "full" else None

    @property
    def padded(self) -> bool:
        """True where some sequences are shorter than others."""
        return len({*(self.lengths or ())}) > 1

    @property
    def search(self) -> tuple[int, int, int]:
        """Beams, tokens of the prompt, and of what follows at most."""
        return words.searched(self.beams, self.past + (self.seq or 0))

    @property
    def rows(self) -> int:
        """Sequences of a pass, each once for every beam."""
        return self.batch * self.search[0]

    @property
    def room(self) -> int | None:
        """Tokens that a static cache has room for, where it is one."""
        return None if self.cache in (None, "dynamic") else words.number(self.cache) or self.past + self.seq

    @property
    def absorbs(self) -> bool:
        """Latent attention reads cached latents themselves."""
        own = self.phase == "decode" and self.implementation != "transformers"
        return own if self.latents is None else self.latents == "absorbed"

    @property
    def weight_dtype(self) -> DType:
        """The dtype of weights that are trained, and of their gradients."""
        return "fp32" if self.precision == "amp" else self.dtype

    @property
    def fused_norms(self) -> bool:
        """CUDA has one RMSNorm kernel; the CPU composes it from fp32 steps, and autograd keeps those."""
        return self.kernels == "cuda"

    def bytes_of(self, role: Role) -> int:
        """Bytes per element. LayerNorm's statistics are fp32 on CUDA and in the input's dtype on the CPU;
        a dropout mask is one byte on CUDA and as wide as its input on the CPU (measured, torch 2.13)."""
        if role is Role.WEIGHT or (role is Role.STATISTIC and self.kernels != "cuda"):
            return BYTES[self.weight_dtype]
        if role is Role.ACTIVATION:
            return BYTES[self.dtype]
        return _WIDTHS[role]


def plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """A workload's fields under their own names and words. Raises ``SpecError`` for one that is given twice."""
    fields = words.with_lengths(words.fields(given))
    return {name: words.word(name, value, CHOICES[name]) if name in CHOICES else value
            for name, value in fields.items() if (name, value) != ("precision", "none")}


def _checks(fields: Mapping[str, Any]) -> Iterator[partial[None]]:
    """A check of every field, whatever the others are."""
    for name, value in fields.items():
        if (value is None and name in _MAY_BE_MISSING) or (name == "dtype" and _packed(value) in PACKED):
            continue
        if name == "optimizer":
            yield partial(check_optimizer, value)
        elif name in CHOICES:
            yield partial(_check_choice, name, value)
        elif name in ("clip", "in_backward", "offload") and not isinstance(value, bool):
            yield partial(_raise, f"must be true or false, got {shown(value)}", name)
        elif name in LEAST or name == "dropout":
            yield partial(_check_number, name, value)


def _read(name: str, reads: Callable[[object], Any], given: object) -> Any:
    try:
        return reads(given)
    except SpecError as error:
        raise SpecError(error.message, field=name) from None


def _checks_of_training(w: Workload) -> Iterator[partial[None]]:
    """Check fields of training alone, and those that exclude each other."""
    for name in TRAINED:
        if getattr(w, name) is not None and w.phase != "training":
            yield partial(_raise, f"is of a training step; the phase is {w.phase}", name)
    if w.lora is not None and w.dora is not None:
        yield partial(_raise, "give lora or dora, not both", "dora")
    if w.adapter is not None and w.adapter.dtype not in (None, "fp32", w.weight_dtype):
        name, own = "lora" if w.lora is not None else "dora", w.adapter.dtype
        yield partial(_raise, f"adapters are in fp32 or as the weights, in {w.weight_dtype}, not in {own}", name)
    if w.offload and w.recompute != "full":
        yield partial(_raise, "is of what layers that run once more start from: needs recompute full", "offload")
    for name, there in (("accumulate", (w.accumulate or 1) > 1), ("clip", w.clip)) if w.in_backward else ():
        if there:
            yield partial(_raise, f"there is no {name} where weights are updated in the backward pass", name)
    if w.adapter is not None and w.freeze:
        yield partial(_raise, "with adapters everything else is frozen already", "freeze")


def _raise(message: str, field: str) -> None:
    raise SpecError(message, field=field)


def _packed(dtype: object) -> Any:
    return words.word("weights", dtype, PACKED)


def _check_known(name: str, value: object, known: Sequence[str]) -> None:
    if name not in known:
        raise SpecError(unknown_field(name, known), field=name)
    if value is None and name in FILLED:
        raise SpecError(f"must be given or left out, got {shown(value)}", field=name)


def _check_choice(name: str, value: object) -> None:
    forms = {each.replace(":N", ":K") for each in CHOICES[name]}
    if value not in CHOICES[name] and re.sub(r":[1-9][0-9]*$", ":K", str(value)) not in forms:
        raise SpecError(not_one_of(CHOICES[name], value), field=name)


def _check_number(name: str, value: object) -> None:
    least, fraction = LEAST.get(name, 0), name == "dropout"
    what, found = "a number" if fraction else "a whole number", f", got {shown(value)}"
    if isinstance(value, bool) or not isinstance(value, int | float if fraction else int):
        raise SpecError(f"must be {what}{found}", field=name)
    if not value >= least:
        raise SpecError(f"must be {what} of at least {least}{found}", field=name)
    if fraction and not value < 1:
        raise SpecError(f"must be {what} below 1{found}", field=name)
