"""The options of the command line, each declared once: rows of what a run takes, and groups that all commands share.

``expanded`` turns ``def count(call: Call, ..., run: Run)`` into a function whose signature has every option as a
parameter of its own, which is what typer reads.
"""

from __future__ import annotations

import copy
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, NamedTuple

import typer

from txcalc import units
from txcalc.cli.parallel import PARALLEL
from txcalc.show.writers import FORMATS
from txcalc.spec import words
from txcalc.spec.training import OPTIMIZERS
from txcalc.spec.weight_formats import NAMES
from txcalc.trace import workload_defaults

Run = dict[str, Any]
"""Values given for a command's rows, read: the fields of a workload and what else the command takes."""


def complete(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Shell completion by these names. Completion never fails."""

    def completed(incomplete: str) -> list[str]:
        from txcalc.spec.errors import SpecError

        try:
            return sorted(name for name in names() if name.startswith(incomplete))
        except SpecError:
            return []

    return completed


def _models() -> Iterable[str]:
    from txcalc.models.load import names

    return [name for info in names() for name in (info.name, *info.aliases)]


def device_names() -> Iterable[str]:
    """Every accelerator's name."""
    from txcalc.answer.devices import devices

    return [device.name for device in devices()]


def option(metavar: str | None, text: str, *names: str, **more: Any) -> Any:
    """An option whose default its help says."""
    return typer.Option(*names, metavar=metavar, help=text, show_default=False, **more)


complete_model: Final = complete(_models)


def model_argument(metavar: str, text: str) -> Any:
    """An argument that is a model, or several."""
    return typer.Argument(metavar=metavar, help=text, autocompletion=complete_model, show_default=False)


ModelArgument = Annotated[str, model_argument(
    "MODEL", "A preset, a YAML file, a config.json, a GGUF or safetensors file, or - for stdin.")]
SetOption = Annotated[list[str], option(
    "KEY=VALUE", "Change a field, such as attention.kv_heads=4. Repeatable.", "--set", default_factory=list)]
RanksOption = Annotated[bool, option(None, "What every rank has, alike ones in one line.", "--ranks")]
FileOption = Annotated[str | None, option("FILE", "Write to a file, whole or not at all.", "--output", "-o")]
ForceOption = Annotated[bool, option(None, "Let --output replace a file.", "--force")]


# ---------------------------------------------------------------- rows of what a run takes


def _number(raw: str) -> float:
    try:
        return float(raw)
    except ValueError:
        raise ValueError(f"must be a number, got {raw!r}") from None


def _yes(raw: str) -> bool:
    if raw not in ("yes", "no"):
        raise ValueError(f"must be yes or no, got {raw!r}")
    return raw == "yes"


def _size(raw: str) -> int:
    found = units.parse_count(raw)
    if found < 1:
        raise ValueError("must be at least 1")
    return found


_READS: Final[Mapping[str, Callable[[str], Any]]] = {
    "N": units.parse_count, "RANGE": units.parse_range, "yes|no": _yes}


class Row(NamedTuple):
    """An option of a run."""

    metavar: str | None  # none: a flag
    help: str
    reads: Callable[[str], Any] | None = None  # how its text is, if not as the metavar says
    names: tuple[str, ...] = ()
    complete: Callable[[str], list[str]] | None = None
    old: bool = False  # read for one release, and not listed
    several: bool = False  # it may be given more than once, and is read as a list


RUN: Final[Mapping[str, Row]] = {
    "batch": Row("N", "Sequences at a time. Default 1.", names=("--batch", "-b")),
    "seq": Row("N", f"New tokens. Default: the model's context or {workload_defaults.SEQ:,}, whichever is shorter; 1 "
               "in decoding. k is 1,000, K is 1,024."),
    "lengths": Row("N,N", "Tokens of each sequence of a batch, such as 4K,1K,300, in place of --batch and --seq: "
                   "padded to the longest, or apart in an engine's pool.", units.parse_lengths),
    "past": Row("N", "Tokens already in the KV cache. Default 0; in decoding as many as leave room."),
    "source_seq": Row("N", "Tokens that an encoder-decoder's encoder reads. Default: as many as the decoder."),
    "images": Row("N", "Images of a model's tower; their tokens are part of --seq. Default 0, or one to a text."),
    "audio": Row("TIME", "Sound that a tower hears, in place of --images: 30s, 2m.", units.parse_seconds),
    "phase": Row("PHASE", "forward, training, prefill or decode. Default forward."),
    "dtype": Row("DTYPE", f"What is computed in: fp32, fp16 or bf16. Default {workload_defaults.DTYPE}."),
    "weights": Row("FORMAT", f"How weights are stored: {', '.join(NAMES)} (as the model's own files); @0.43 "
                   "and @0.41: by bitsandbytes before 0.43.2 and 0.42. Default: as its checkpoint, else --dtype."),
    "kv_dtype": Row("DTYPE", "The KV cache's own dtype: fp8, int8, int4, q8_0, q5_1, q5_0, q4_1, q4_0. Default: "
                    "--dtype."),
    "kv_block": Row("N", "Tokens in a block of a paged engine's KV cache, such as 16: adds what it allocates."),
    "attention": Row("KIND", "eager, flash, efficient, math, or sdpa: what PyTorch chooses. Default flash, sdpa in "
                     "transformers; what runs in its place is named."),
    "dropout": Row("P", "Dropout probability, from 0 to below 1. Default 0.", _number),
    "masked": Row("RULE", "Masked (query, key) pairs are counted or skipped. Default counted."),
    "kernels": Row("KIND", "cuda or cpu: whose operators run, which decides what is kept. Default cuda."),
    "device": Row("KIND", "", old=True),
    "implementation": Row("NAME", "Whose code calls the operators: torch, transformers, which runs eager or sdpa, "
                          "megatron (Megatron-LM on TransformerEngine) or nanotron. Default torch."),
    "cache": Row("KIND", "How transformers' classes cache keys: dynamic (joined to a copy in each step), static "
                 "(memory for all that will come) or static:K (for K tokens). Default dynamic."),
    "logits": Row("WHICH", "all or last: positions of a prompt that the head reads. Default all."),
    "beams": Row("N", "Beams of each sequence in transformers' generate. Default: none.", str),
    "latents": Row("HOW", "absorbed or expanded: how cached latents (MLA) are read. Default absorbed in decoding, but "
                   "in transformers' classes, else expanded."),
    "recipe": Row("NAME", "Training state: adam-mixed, adam-mixed-fp32-grads, adam-fp32 or sgd-momentum-fp32. Default "
                  "adam-mixed."),
    "precision": Row("HOW", "In training: amp (autocast over fp32 weights), bf16, mixed (an fp32 master), fp32, float8 "
                     "(bf16 with torchao's linear layers), or none, as if it were not given. Default: amp in memory "
                     "and fit, or bf16 with a note where autocast is not proved; in all other commands, and beside "
                     "another --dtype, --weights, --fsdp or --gpus, as these say."),
    "loss": Row("HOW", "In training, cross-entropy of the logits as they are (plain), of a copy in fp32, of a copy of "
                "each of N chunks (chunked:N; by torch.compile: compiled:N), or fused with the head. Default fp32."),
    "recompute": Row("WHAT", "In training, what the backward pass runs once more in place of keeping it: none, "
                     "full (every layer), full:K (every K together), selective (attention's core), ops (of every "
                     "layer all but fused attention and products) or ops:K (every K-th of these too). Default none."),
    "lora": Row("r=N,...", "Train low-rank adapters alone: r=16,targets=attention|all|q,v,...,dropout=P,dtype=bf16."
                " Default targets attention, dtype fp32."),
    "dora": Row("r=N,...", "The same, which learn the length of every row of a weight as well (DoRA)."),
    "freeze": Row("PATH", "Train all but this part of the breakdown, such as encoder or token_embedding. Repeatable.",
                  list, several=True),
}
"""Options of a run."""
TOGETHER: Final = {name: Row(*row) for name, row in PARALLEL.items()}
"""Devices that a run is spread over."""
COUNT: Final = {**RUN, **TOGETHER}


def _some(*names: str, **changed: Row) -> dict[str, Row]:
    return {name: changed.get(name) or RUN[name] for name in names} | changed


CURVE: Final = _some(
    "seq", "past", "batch", "source_seq", "phase", "dtype", "kv_dtype", "dropout", "masked", "kernels", "device",
    seq=Row("RANGE", "Lengths: 1K..1M doubles, 1K,3K lists. Default 1K..128K; of an image model, its own and larger "
            "images."),
    past=Row("RANGE", "In decoding, in place of --seq: tokens already in the cache, to which one new token looks "
             "back."),
    phase=Row("PHASE", "forward, training, prefill or decode (one new token at the end of each --past). Default "
              "forward."),
    dtype=Row("DTYPE", f"fp32, fp16 or bf16. Default {workload_defaults.DTYPE}."),
    kv_dtype=Row("DTYPE", "The KV cache's own dtype. Default: --dtype."),
    kernels=Row("KIND", "cuda or cpu: whose operators run. Default cuda."),
    device=Row("NAME", "What it has to fit into, such as a100-40gb or 24GB. Default h100-80gb; none with --kernels "
               "cpu.", complete=complete(device_names)),
    sram=Row("BYTES", "On-chip memory of FlashAttention's blocks. Default: the device's.",
             lambda raw: max(units.parse_count(raw), 1)),
    reserve=Row("SIZE", "What of the device no tensor can have, such as 1GiB or 5%. Default 0.92GiB, a CUDA context."),
)
"""The lengths of a curve, and what the model is run on."""

FRAMEWORK: Final = {"framework": Row(
    "NAME", "A framework for training, which sets what is not given: megatron, torchtitan, deepspeed, nanotron or "
    "fsdp2. Default none.")}
"""A framework for training."""

ENGINE: Final = {
    "engine": Row("NAME", "An inference engine, with @ before a version: transformers, vllm, sglang or llama.cpp. "
                  "Default none: plain PyTorch."),
    "utilization": Row("PART", "Of a card, what an engine takes of it: 0.9. Default: the engine's.", _number),
    "context": Row("N", "The longest request that an engine admits. Default: the model's context."),
    "pool": Row("SIZE", "An engine's KV pool, such as 53.29GiB, in place of what a card leaves.", units.parse_bytes),
    "kv_block": RUN["kv_block"]._replace(help="Tokens in a block of an engine's KV cache. Default: the engine's."),
    "chunk": Row("N", "Tokens that an engine reads in one pass. Default: the engine's.", _size),
    "swa_full": Row("yes|no", "llama.cpp's --swa-full: windows are cached as long as the context. Default no."),
    "v_dtype": Row("DTYPE", "llama.cpp's --cache-type-v. Default: --kv-dtype, which then is of keys."),
    "gpu_layers": Row("N", "llama.cpp's -ngl: the last layers that are on the card, the head one of them. Default: "
                      "all.", names=("--gpu-layers", "-ngl")),
    "drafter": Row("N", "Layers of a drafter, whose keys and values are in an engine's pool too. Default 0."),
    "max_loras": Row("N", "vLLM's slots of adapters. Default: 1 if --max-lora-rank is given, else 0."),
    "max_lora_rank": Row("N", "The rank of each. Default 16."),
}
"""An inference engine, and how it is started."""

MEMORY: Final = ENGINE | FRAMEWORK | TOGETHER | _some(
    "batch", "seq", "lengths", "new", "past", "source_seq", "images", "audio", "phase", "dtype", "weights", "kv_dtype",
    "attention", "dropout", "precision", "optimizer", "optimizer_kernel", "accumulate", "global_batch", "clip",
    "in_backward", "recompute", "offload", "loss", "lora", "dora", "freeze", "kernels", "implementation", "cache",
    "logits", "beams", "latents", "device", "reserve",
    seq=Row("N", "Tokens of a sequence: of the prompt, or of a training step. Default: the model's context or "
            f"{workload_defaults.SEQ:,}, whichever is shorter, with room for --new. k is 1,000, K is 1,024."),
    new=Row("N", "Tokens generated after the prompt. Default 1."),
    phase=Row("PHASE", "inference (a prompt, then --new tokens), training or decode (one step). Default inference, or "
              "training where an option is given that only training has."),
    device=Row("NAME", "What it has to fit into: a card such as h100-80gb, or bytes such as 24GB or 24GiB. Default "
               "none.", complete=complete(device_names)),
    optimizer=Row("NAME", f"{', '.join(OPTIMIZERS)}; or bytes of a parameter: weights=2,master=4,gradients=2,states=8. "
                  "Default adamw."),
    optimizer_kernel=Row("KIND", "foreach, fused or loop: how torch.optim steps. Default foreach."),
    accumulate=Row("N", "Micro-batches of one optimizer's step. Default 1."),
    global_batch=Row("N", "Sequences of one optimizer's step; --accumulate follows."),
    clip=Row("yes|no", "Clip the gradients' norm or not. Default no."),
    in_backward=Row("yes|no", "Update each weight, and free its gradient, in the backward pass or not. Default no."),
    offload=Row("WHAT", "What is kept in the CPU's memory: yes, with --recompute full what layers start from; with "
                "--engine llama.cpp experts, experts:N (of the first N layers) or layers:N. Default no.",
                   lambda raw: raw == "yes" if raw in ("yes", "no") else raw),
    reserve=CURVE["reserve"],
)
"""Options of a run, and of the device that its memory has to fit."""

FIT: Final = {name: row for name, row in MEMORY.items() if name != "lengths"} | _some(
    "batch", "seq",
    gpus=Row("N", "Devices: which layouts of them fit, and how far. All else is of the first.", _size),
    over=Row("FIELD", "What is searched in place of batch and length: a field of the model, such as layers, or "
             "d_model=64 in steps of 64."),
    device=MEMORY["device"]._replace(help="What it has to fit into: a card such as h100-80gb, or bytes such as 24GB. "
                                     "Needed."),
)
"""Options of a run, of the device that it has to fit, and of the search."""

LAYERS: Final = _some(
    "d", "seq", "heads", "kernel", "window", "state", "batch", "dtype", "kv_dtype", "masked",
    d=Row("N", "Width of the layers. Default 512.", _size),
    seq=Row("RANGE", "Lengths: 1K..64K doubles, 1K,3K lists. Default 1K..64K."),
    heads=Row("N", "Attention heads. Default 8 where that divides the width, else 1.", _size),
    kernel=Row("N", "Width of the convolution. Default 3.", _size),
    window=Row("N", "Keys that the sliding window holds. Default 512.", _size),
    state=Row("N", "State dimension of Mamba-2. Default 128.", _size),
    dtype=CURVE["dtype"],
    kv_dtype=Row("DTYPE", "The state's dtype. Default: --dtype."),
)
"""Sizes of layers side by side, and what they are run on."""


def read(rows: Mapping[str, Row], texts: Mapping[str, Any]) -> Run:
    """Options that were given, under the fields' own names. Raises ``SpecError`` for what cannot be read."""
    from txcalc.spec.errors import all_of
    from txcalc.trace.workload import plain

    given = words.fields({name: raw for name, raw in texts.items() if raw is not None and raw != []})
    values = all_of(partial(_read, name, rows[name], raw) for name, raw in given.items())
    return plain(dict(zip(given, values, strict=True)))


def _read(name: str, row: Row, raw: Any) -> Any:
    from txcalc.spec.errors import SpecError

    try:
        return (row.reads or _READS.get(row.metavar or "", str))(raw)
    except units.SeveralError as error:
        taker = "; txcalc attention MODEL --seq takes a list" if name in ("seq", "past") else ""
        raise SpecError(f"{error}{taker}", field=name) from None
    except ValueError as error:
        raise SpecError(str(error), field=name) from None


# ---------------------------------------------------------------- what all commands share


class OutputOptions(NamedTuple):
    """The destination of the answer, and its format."""

    format: Annotated[str | None, option("FORMAT", "", "--format", "-f")] = None
    json: Annotated[bool, option(None, "Same as --format json.", "--json")] = False
    markdown: Annotated[bool, option(None, "Same as --format md.", "--markdown")] = False
    output: FileOption = None
    force: ForceOption = False


class PlotOptions(NamedTuple):
    """The answer as a figure, beside what is printed."""

    plot: Annotated[str | None, option(
        "FILE", "Draw a figure as well: .svg, .png or .pdf. Needs matplotlib.", "--plot")] = None


class CommonOptions(NamedTuple):
    """Options that may stand before the command and after it."""

    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, metavar="", show_default=False, help="")] = 0
    quiet: Annotated[bool, option(None, "", "--quiet", "-q")] = False
    no_color: Annotated[bool, option(None, "No colours.", "--no-color")] = False
    strict: Annotated[bool, option(None, "Refuse what a config.json holds and no class reads.", "--strict")] = False
    debug: Annotated[bool, option(None, "Errors with a traceback.", "--debug")] = False

    def joined(self, other: CommonOptions) -> CommonOptions:
        """Both: an option counts wherever it stands."""
        return CommonOptions(self.verbose + other.verbose, *(a or b for a, b in zip(self[1:], other[1:], strict=True)))


class Offer(NamedTuple):
    """Options of a command beside its own parameters: rows of a run, and groups that commands share.

    ``verbose``, ``quiet``: what -v adds and -q leaves; an empty one hides an option that would do nothing.
    """

    rows: Mapping[str, Row] = {}
    groups: Sequence[type] = (OutputOptions, CommonOptions)
    verbose: str = ""
    quiet: str = "No notes beside the answer."

    @property
    def texts(self) -> dict[str, str]:
        """The help of options that differs between commands."""
        *most, last = FORMATS
        return {"format": f"{', '.join(most)} or {last}. Default: from the suffix of --output, else table.",
                "verbose": self.verbose, "quiet": self.quiet}


def expanded(
    command: Callable[..., None], offer: Offer, begin: Callable[..., Any]
) -> Callable[..., None]:
    """The command as typer reads it: every option a parameter, what it shares with others behind its own.

    ``begin`` makes the command's first argument of the context, the offer's groups and what was read of its rows.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    own = [each.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
           for name, each in inspect.signature(command).parameters.items() if name not in ("call", "run")]
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *own, *_rows(offer.rows), *(each for group in offer.groups
                                                       for each in _group(group, offer.texts))]

    def call(ctx: typer.Context, **given: Any) -> None:
        texts = {name: given.pop(name) for name in _named(offer.rows)}
        groups = {group: group(**{name: given.pop(name) for name in group._fields})  # type: ignore[attr-defined]
                  for group in offer.groups}
        begun = begin(ctx, groups)
        if ctx.invoked_subcommand is None:
            command(begun, **given, **({"run": read(offer.rows, texts)} if offer.rows else {}))

    call.__doc__, call.__name__ = command.__doc__, command.__name__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _named(rows: Mapping[str, Row]) -> list[str]:
    """The rows' names, and others of theirs: read alike, and not listed."""
    return [*rows, *(other for other, name in words.FIELDS.items() if name in rows)]


def _rows(rows: Mapping[str, Row]) -> list[inspect.Parameter]:
    hidden = Row("", "", old=True)
    found = []
    for name in _named(rows):
        row = rows.get(name, hidden)
        names = row.names or ((f"--{name}",) if row.metavar is None else ())
        made = option(row.metavar, row.help, *names, hidden=row.old, autocompletion=row.complete)
        kind = list[str] | None if row.several else bool | None if row.metavar is None else str | None
        found.append(_parameter(name, None, Annotated[kind, made]))
    return found


def _group(group: Any, texts: Mapping[str, str]) -> list[inspect.Parameter]:
    found = []
    for name, hint in typing.get_type_hints(group, include_extras=True).items():
        kind, made = typing.get_args(hint)
        if name in texts:
            made = copy.copy(made)
            made.help, made.hidden = texts[name], not texts[name]
        found.append(_parameter(name, group._field_defaults[name], Annotated[kind, made]))
    return found


def _parameter(name: str, default: object, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
