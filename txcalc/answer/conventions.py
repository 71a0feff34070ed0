"""Every choice on which experts differ, as data: what was chosen, and the flag that chooses otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from txcalc.count import weights
from txcalc.count.states import RECIPES
from txcalc.document import Part
from txcalc.spec import words
from txcalc.spec.facts import chooses_keys
from txcalc.spec.ggml import MIXES, READ_AT
from txcalc.spec.inputs import Projector
from txcalc.spec.model import Model, Tower
from txcalc.spec.quantization import StoredTensors
from txcalc.spec.weight_formats import FORMATS, HELD, PACKED, RELEASED
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

Rule = tuple[str, str, str | None]


class Convention(Part):
    """One choice. ``flag`` is the option that changes it, if there is one."""

    id: str
    text: str
    flag: str | None = None


def conventions(spec: Model, t: Trace) -> tuple[Convention, ...]:
    """The choices behind a report on this model and its trace, in the order of its totals; none about what it lacks."""
    workload = t.workload
    attends = any(op.kind.group == "core" for op in t.ops)
    rows: list[Rule] = [
        ("flops", "1 multiply-accumulate = 2 FLOPs; matrix products are counted, "
                  "softmax, norms, activations and additions are not", None),
        *([("training", _TRAINING, None)] if workload.phase == "training" else []),
        ("logits", "logits are computed at every position", None),
        *_recurrence(t),
        *([("masked", _MASKED[workload.masked], "--masked")] if attends else []),
        ("non-embedding", "non-embedding parameters leave out the token, position and type tables "
                          "and the output head", None),
        ("active", "active parameters: each token's top experts, and everything that is always on", None),
        *_cached(t),
        *_latents(t),
        *_attention(t),
        ("kept", _LIBRARY.get(workload.implementation, _KEPT[workload.kernels]), "--kernels"),
        ("dropout", _dropout(t), "--dropout"),
        *([("precision", _PRECISION[workload.precision], "--precision")] if workload.precision else []),
        ("loss", _loss(t), "--phase" if workload.loss is None else "--loss"),
        *_recomputed(workload),
        *_weights(t),
        *_frozen(workload),
    ]
    if workload.kv_block is not None:
        rows.append(("kv-block", f"a paged engine's cache: whole blocks of {workload.kv_block} tokens that hold one "
                                 "still needed, for each sequence and layer; recurrent states are not paged",
                     "--kv-block"))
    if spec.tower is not None and spec.tower.projector is not None and workload.images:
        rows.append(("images", _images(spec.tower, spec.tower.projector), None))
    if chooses_keys(spec):
        rows.append(("indexer", "an indexer scores every key for each query, without a gradient; the keys that it "
                                "passes over are masked", None))
    if any(stack is not None and stack.position.kind == "transformer-xl" for stack in (spec, spec.encoder)):
        rows.append(("distances", "the sinusoids of all distances are projected in every run, once for all sequences",
                     None))
    return tuple(Convention(id=i, text=text, flag=flag) for i, text, flag in rows)


def _recurrence(t: Trace) -> Iterator[Rule]:
    if any(op.kind.group == "recurrence" for op in t.ops):
        yield "recurrence", recurrence(t.workload), None


def recurrence(workload: Workload) -> str:
    """The reason why the totals of linear recurrences are estimates."""
    kept = ", and the state of every step is kept for backward" if workload.keeps else ""
    return f"a linear recurrence is counted step by step{kept}; fused kernels do otherwise, so its totals are estimates"


def _cached(t: Trace) -> Iterator[Rule]:
    caches = [op.cache for op in t.ops if op.cache is not None]
    width = t.workload.kv_dtype
    names = {cache.name for cache in caches}
    if names - {"state", "inputs"}:
        yield "kv-cache", f"keys and values in {width}; a sliding window holds at most its window", "--kv-dtype"
    if "inputs" in names:
        yield ("inputs", f"the input of every layer is cached in {width}, and its keys and values are computed again",
               "--kv-dtype")
    states = {cache.role for cache in caches if cache.kind == "state"}
    if states == {"kv"}:
        yield "states", f"recurrent states in {width}", "--kv-dtype"
    elif states:
        others = f", those of cells and convolutions in {width}" if "kv" in states else ""
        yield "states", f"states of linear recurrences in fp32{others}", "--kv-dtype" if others else None


def _latents(t: Trace) -> Iterator[Rule]:
    if any(op.cache is not None and op.cache.name == "latent" for op in t.ops):
        yield "latents", _LATENTS["absorbed" if t.workload.absorbs else "expanded"], "--latents"


def _attention(t: Trace) -> Iterator[Rule]:
    """A rule for every kernel that runs, with why it is not the one that was asked for."""
    asked = "flash" if t.workload.attention == "sdpa" else t.workload.attention
    for kernel, why in t.kernels:
        yield "attention", _ATTENTION[kernel] + (f"; not {asked}: {why}" if why else ""), "--attention"


def _images(tower: Tower, projector: Projector) -> str:
    """The size of one image or sound, which towers of images of any size leave open."""
    given = tower.input
    what = f"an image of {given.image:,} x {given.image:,} pixels" if given.kind == "patches" else "a sound"
    return f"{what} is {projector.tokens:,} of the text's positions, masked like all others"


_MASKED = {
    "counted": "masked (query, key) pairs are counted, as PyTorch's FlopCounterMode counts them",
    "skipped": "only the (query, key) pairs that the mask keeps are counted",
}
_TRAINING = (
    "MFU is from model FLOPs, those of the forward and the backward pass; HFU is from hardware FLOPs, which are also "
    "those that the backward pass computes again"
)
_ATTENTION = {
    "eager": "attention is eager: scores and softmax are N x N tensors",
    "flash": "attention is a flash kernel: no N x N tensor is kept; its backward pass computes the scores again",
    "efficient": "attention is CUDA's memory-efficient kernel: no N x N tensor is kept, but a copy of grouped keys and "
                 "values for every head; its backward pass computes the scores again",
    "math": "attention is PyTorch's math fallback: scores and softmax are N x N tensors in fp32, as are its copies of "
            "queries, keys and values",
}
_KEPT = {
    "cuda": "kept activations follow PyTorch's CUDA kernels: fused norms with fp32 statistics, 1-byte dropout masks",
    "cpu": "kept activations follow PyTorch on the CPU: RMSNorm composed in fp32, dropout masks as wide as their "
           "input",
}

_LIBRARY = {
    "transformers": "kept activations follow the modelling code of transformers 5.23: norms and softmax composed in "
                    "fp32",
    "megatron": "kept activations follow Megatron-LM core 0.14 on TransformerEngine 2.11: a gated activation keeps its "
                "input, a linear layer its part of the positions, and the vocabulary is padded to 128 rows a rank",
    "nanotron": "kept activations follow nanotron's Llama of July 2024: queries, keys and values in copies",
}


_LATENTS = {
    "absorbed": "cached latents are read as they are: the projections that would expand them are absorbed into queries "
                "and outputs, as engines do when they decode",
    "expanded": "cached latents are expanded to keys and values of all heads in every run",
}


_PRECISION = {
    "amp": "weights are fp32 and products run on 16-bit copies of them, as torch.autocast makes and keeps them; norms, "
           "softmax and sums are in fp32 where PyTorch's lists for these kernels say so",
    "bf16": "weights, activations and gradients are all in bf16",
    "float8": "as in bf16, but linear layers cast what they multiply to float8, with a scale of each tensor, as "
              "torchao 0.18 does without torch.compile",
    "mixed": "weights, activations and gradients are in 16 bits, beside an fp32 master of the weights",
    "fp32": "weights, activations and gradients are all in fp32",
}
_LOSS = {
    "plain": "log-probabilities of every position, in the logits' own dtype",
    "fp32": "fp32 log-probabilities of every position",
    "chunked": "fp32 log-probabilities of every position, of chunks of logits (torchtune's CEWithChunkedOutputLoss)",
    "compiled": "chunks of logits in their own dtype, and two numbers of each row, as torch.compile keeps them",
    "softmax": "the softmax of an fp32 copy of logits, over which their gradient is written (nanotron's)",
    "in place": "logits, over which their gradient is written (TransformerEngine's)",
    "fused": "the gradients of the head and of its input, made with it (LigerFusedLinearCrossEntropyLoss 0.8.5)",
}


def _loss(t: Trace) -> str:
    if t.workload.phase != "training":
        return "kept activations are those of the model, without a loss"
    how = _LOSS[words.form(t.workload.loss or t.code.loss)]
    return f"kept activations of a training step include the loss: {how}"


_RECOMPUTED = {
    "full": "every layer keeps its input alone",
    "full:K": "layers keep the input of several alone",
    "ops": ("every layer keeps its input, and what its products with weights and fused attention put out "
            "(create_selective_checkpoint_contexts with a list of them; of ops:K all but every K-th product)"),
    "selective": "attention's core keeps queries, keys and values alone (arXiv 2205.05198, section 5)",
}


def _recomputed(workload: Workload) -> Iterator[Rule]:
    if workload.recompute:
        what = _RECOMPUTED["full:K" if workload.together else words.form(workload.recompute)]
        yield ("recompute", f"{what}; the backward pass runs it once more, up to the last "
                            "tensor that it needs (torch.utils.checkpoint, without reentrant autograd)", "--recompute")


def _dropout(t: Trace) -> str:
    if not t.workload.dropout:
        return "no dropout"
    if t.code.drops == "no":
        return "dropout on the attention probabilities"
    return "dropout on the embeddings, the attention probabilities and the output of every sublayer"


def _frozen(workload: Workload) -> Iterator[Rule]:
    if workload.adapter is not None:
        gathered = workload.layout is not None and workload.layout.shards
        dtype = workload.dtype if gathered else workload.adapter.dtype or "fp32"
        yield "adapters", (f"adapters are those of peft, with weights and copies of their inputs in {dtype}; all other "
                           "weights are frozen, and a layer without a trained weight before it keeps nothing"), "--lora"
        if workload.dora is not None:
            yield "row-norms", ("DoRA: BA is multiplied out for the norms of the rows of W + BA in every forward pass; "
                                "with dropout, W is multiplied once more"), "--dora"
        if workload.weights in PACKED:
            yield "unpacked", ("each packed layer's weight is made anew in the dtype in the forward pass and in the "
                               "backward pass, as bitsandbytes does beyond 1,536 rows"), "--weights"
        if workload.weights in HELD:
            yield "held-inputs", "bitsandbytes before 0.43.2: every 4-bit layer keeps its input", "--weights"
    if workload.freeze:
        yield "frozen", ("frozen parts have no gradients and no optimizer state, and keep nothing where nothing before "
                         "them is trained"), "--freeze"


def _weights(t: Trace) -> Iterator[Rule]:
    if not weights.is_known(t):
        return
    packing = weights.stored(t).packing
    if not weights.is_packed(t):
        recipe = t.workload.recipe
        yield "training-state", f"{recipe}: {RECIPES[recipe].apart} bytes per parameter", "--recipe"
    else:
        yield "training-state", "no training state: nothing trains packed weights", "--weights"
    if isinstance(packing, StoredTensors):
        yield "weights", f"weights as the tensors of its {packing.method} file have them", "--weights"
    if packing is None or isinstance(packing, StoredTensors):
        return
    rest = f"what is not packed in {t.workload.dtype}"
    if t.workload.weights == RELEASED:
        rest = "what is not packed in 16 bits"
    if packing.method in MIXES:
        rest = f"types by llama.cpp's rules ({READ_AT}); norms, biases, routers and positions in fp32"
    sure = "" if weights.certainty(t) == "exact" else "; some bytes are left open, so they are an estimate"
    if (known := FORMATS.get(packing.method)) is not None and known.unpacks is not None and not t.workload.keeps:
        sure += f"; a matrix is made whole for products of {known.unpacks:,} rows and more"
    yield ("weights", f"weights packed as {packing.method} stores them, with scales and all that belongs to them; "
                      f"{rest}{sure}", "--weights")
