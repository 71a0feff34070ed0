"""Options and commands that other tools have and people type here: what is meant, or that there is no such thing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final


def _each(table: Mapping[str, str]) -> dict[str, str]:
    """``{"ctx context-length": "--seq"}`` with an entry for every word."""
    return {word: meant for words, meant in table.items() for word in words.split()}


OPTIONS: Final = _each({
    "ctx ctx-size context-length n-ctx max-model-len": "--context --seq",
    "max-seq-len max-seq-length max-length max-position-embeddings sequence-length seq-length length tokens num-tokens "
    "prompt-len prompt-length input-len isl prompt": "--seq",
    "bs mbs micro-batch-size per-device-train-batch-size per-device-batch-size num-seqs max-num-seqs": "--batch",
    "num-beams beam-size": "--beams",
    "cached kv-len kv-length prefix-len past-len past-length": "--past",
    "src-seq encoder-seq source-len": "--source-seq",
    "num-images": "--images",
    "mode train training inference prefill decode generate": "--phase",
    "torch-dtype compute-dtype fp16 bf16 fp32 half": "--dtype",
    "amp mixed-precision autocast": "--precision",
    "kv-cache-dtype cache-type-k kv-type": "--kv-dtype",
    "cache-type-v": "--v-dtype --kv-dtype",
    "ngl n-gpu-layers num-gpu-layers": "--gpu-layers",
    "cpu-moe n-cpu-moe override-tensor cpu-offload cpu-offload-gb": "--offload",
    "page-size block-size kv-block-size": "--kv-block",
    "attn attn-implementation attention-backend flash flash-attention sdpa use-flash-attn": "--attention",
    "causal skip-masked": "--masked",
    "optim": "--optimizer",
    "global-batch-size gbs": "--global-batch",
    "gradient-accumulation-steps grad-accum accumulation": "--accumulate",
    "max-grad-norm grad-clip gradient-clipping": "--clip",
    "recomputation checkpointing gradient-checkpointing activation-checkpointing checkpoint-activations "
    "recompute-granularity selective": "--recompute",
    "qlora peft rank lora-r lora-rank adapter": "--lora",
    "frozen freeze-layers": "--freeze",
    "quantize quantization quant bits load-in-4bit load-in-8bit gguf awq gptq nf4 weight-dtype": "--weights",
    "gpu card accelerator hardware": "--device",
    "gpu-memory-utilization mem-fraction-static": "--utilization --reserve",
    "vllm sglang backend": "--engine",
    "tensor-parallel tensor-parallel-size tensor-model-parallel-size": "--tp",
    "pipeline-parallel pipeline-parallel-size pipeline-model-parallel-size": "--pp",
    "data-parallel data-parallel-size": "--dp",
    "expert-parallel expert-parallel-size expert-model-parallel-size": "--ep",
    "expert-tensor-parallel-size": "--etp",
    "context-parallel context-parallel-size": "--cp",
    "sequence-parallel": "--sp",
    "zero-stage deepspeed": "--zero",
    "max-num-batched-tokens ubatch-size n-ubatch chunked-prefill-size": "--chunk",
    "num-gpu-blocks-override kv-cache-memory-bytes": "--pool",
    "max-new-tokens max-tokens output-len osl n-predict": "--new",
    "compare-with reference": "--against",
    "out file save": "--output",
    "figure chart svg png": "--plot",
    "csv yaml html md table": "--format",
    "detail detailed breakdown modules per-module": "--by-module",
})
"""Options of ours by what other tools call them."""

FIELDS: Final = _each({
    "layers num-layers n-layers n-layer num-hidden-layers depth": "layers",
    "hidden-size hidden-dim d-model n-embd dim width": "d_model",
    "heads n-heads n-head num-heads num-attention-heads": "attention.heads",
    "kv-heads n-kv-heads num-kv-heads num-key-value-heads num-query-groups": "attention.kv_heads",
    "head-dim": "attention.head_dim",
    "window sliding-window": "attention.window",
    "d-ff ffn-dim ffn-size intermediate-size ffn-hidden-size": "feed_forward.d_ff",
    "experts num-experts n-experts": "feed_forward.experts",
    "active-experts top-k experts-per-token": "feed_forward.active_experts",
    "vocab vocab-size": "vocab",
})
"""Fields of a model by what their options are called elsewhere."""

ABSENT: Final = _each({
    "gpus num-gpus n-gpus ngpu devices world-size nodes nnodes nproc-per-node":
        "--tp, --pp, --cp and --dp are the ranks of every axis; all together are the devices",
    "speculative draft": "one token at a time is decoded; --batch counts sequences",
    "tokens-per-second throughput latency mfu bandwidth price cost": "time is not counted yet; FLOPs and bytes are",
    "model config preset name m": "the model stands by itself, without an option",
})
"""Behaviours without an option, and what is counted instead."""

COMMANDS: Final = _each({
    "params parameters": "txcalc explain MODEL params",
    "flops": "txcalc explain MODEL flops",
    "kv kv-cache cache": "txcalc explain MODEL kv-cache",
    "weights": "txcalc explain MODEL weights",
    "list ls models": "txcalc presets",
    "search": "txcalc presets --search TEXT",
    "show info": "txcalc presets show NAME",
    "check verify test": "txcalc validate MODEL",
    "convert load": "txcalc import CONFIG",
    "curve": "txcalc attention MODEL",
    "plot figure": "txcalc count MODEL --plot FILE",
    "calc run estimate summary": "txcalc count MODEL",
    "vram train": "txcalc memory MODEL",
    "gpus": "txcalc devices",
    "time latency throughput": "txcalc count MODEL: FLOPs and bytes are counted, time is not yet",
})
"""Commands of ours by what is typed for them."""

LISTING: Final = _each({"list ls": "txcalc presets", "search": "txcalc presets --search TEXT"})
"""Those under ``txcalc presets``."""


def hint(name: str, own: Iterable[str], others: Mapping[str, Iterable[str]]) -> str:
    """Advice on an option that a command does not have; empty where nothing is known.

    ``own``: the command's options; ``others``: those of every command.
    """
    from txcalc.spec.errors import nearest

    word, own = name.lstrip("-").casefold().replace("_", "-"), list(own)
    if word in FIELDS and "--set" in own:
        return f"--set {FIELDS[word]}=N changes that of the model"
    named = OPTIONS.get(word, name).split()
    meant = next((each for each in named if each in own), named[0])
    if meant in own or meant != name:
        return f"did you mean {meant}?" if meant in own else _elsewhere(meant, others) or "there is nothing like it yet"
    if word in ABSENT or word in FIELDS:
        return ABSENT.get(word, "")
    if swapped := next((each for each in own if sorted(each) == sorted(name)), None):
        return f"did you mean {swapped}?"
    close = nearest(name, own)
    return _elsewhere(name, others) or (f"did you mean {close}?" if close else "")


def _elsewhere(name: str, others: Mapping[str, Iterable[str]]) -> str:
    takers = [command for command, options in others.items() if name in options]
    return f"{name} is an option of txcalc {', '.join(takers)}" if takers else ""


def options_of(command: Any, ctx: Any) -> list[str]:
    """The long options that a command's help lists."""
    return [option for param in command.get_params(ctx) if not getattr(param, "hidden", False)
            for option in param.opts if option.startswith("--")]
