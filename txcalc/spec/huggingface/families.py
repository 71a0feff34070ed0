"""Every ``model_type`` that can be read, with the classes that carry it."""

from __future__ import annotations

from typing import Final

from txcalc.spec.huggingface import decoders, experts
from txcalc.spec.huggingface.importer import Family, decoder_classes

_GPT2 = {"GPT2LMHeadModel": "lm", "GPT2Model": "none", "GPT2ForSequenceClassification": "sequence",
         "GPT2ForTokenClassification": "token", "GPT2ForQuestionAnswering": "span"}

FAMILIES: Final[dict[str, Family]] = {
    "llama": Family(decoders.llama, decoder_classes("Llama")),
    "mistral": Family(decoders.mistral, decoder_classes("Mistral")),
    "qwen2": Family(decoders.qwen2, decoder_classes("Qwen2")),
    "qwen3": Family(decoders.qwen3, decoder_classes("Qwen3")),
    "gemma": Family(decoders.gemma, decoder_classes("Gemma")),
    "gemma2": Family(decoders.gemma2, decoder_classes("Gemma2")),
    "gemma3_text": Family(decoders.gemma3, decoder_classes("Gemma3") | {"Gemma3TextModel": "none"}),
    "olmo": Family(decoders.olmo, decoder_classes("Olmo")),
    "olmo2": Family(decoders.olmo2, decoder_classes("Olmo2")),
    "olmo3": Family(decoders.olmo3, decoder_classes("Olmo3")),
    "granite": Family(decoders.llama, decoder_classes("Granite")),
    "cohere": Family(decoders.cohere, decoder_classes("Cohere")),
    "cohere2": Family(decoders.cohere2, decoder_classes("Cohere2")),
    "glm": Family(decoders.glm, decoder_classes("Glm")),
    "glm4": Family(decoders.glm4, decoder_classes("Glm4")),
    "phi": Family(decoders.phi, decoder_classes("Phi")),
    "phi3": Family(decoders.phi3, decoder_classes("Phi3")),
    "stablelm": Family(decoders.stablelm, decoder_classes("StableLm")),
    "starcoder2": Family(decoders.starcoder2, decoder_classes("Starcoder2")),
    "nemotron": Family(decoders.nemotron, decoder_classes("Nemotron")),
    "smollm3": Family(decoders.smollm3, decoder_classes("SmolLM3")),
    "gpt2": Family(decoders.gpt2, _GPT2),
    "openai-gpt": Family(decoders.openai_gpt, {"OpenAIGPTLMHeadModel": "lm", "OpenAIGPTModel": "none"}),
    "gpt_bigcode": Family(decoders.gpt_bigcode, decoder_classes("GPTBigCode")),
    "gpt_neo": Family(decoders.gpt_neo, decoder_classes("GPTNeo")),
    "gptj": Family(decoders.gptj, decoder_classes("GPTJ")),
    "codegen": Family(decoders.gptj, decoder_classes("CodeGen")),
    "gpt_neox": Family(decoders.gpt_neox, decoder_classes("GPTNeoX")),
    "opt": Family(decoders.opt, decoder_classes("OPT")),
    "bloom": Family(decoders.bloom, decoder_classes("Bloom")),
    "mpt": Family(decoders.mpt, decoder_classes("Mpt")),
    "falcon": Family(decoders.falcon, decoder_classes("Falcon")),
    "mixtral": Family(experts.mixtral, decoder_classes("Mixtral")),
    "qwen2_moe": Family(experts.qwen2_moe, decoder_classes("Qwen2Moe")),
    "qwen3_moe": Family(experts.qwen3_moe, decoder_classes("Qwen3Moe")),
    "olmoe": Family(experts.olmoe, decoder_classes("Olmoe")),
    "granitemoe": Family(experts.granitemoe, decoder_classes("GraniteMoe")),
    "phimoe": Family(experts.phimoe, decoder_classes("Phimoe")),
    "dbrx": Family(experts.dbrx, decoder_classes("Dbrx")),
    "gpt_oss": Family(experts.gpt_oss, decoder_classes("GptOss")),
    "deepseek_v2": Family(experts.deepseek, decoder_classes("DeepseekV2")),
    "deepseek_v3": Family(experts.deepseek, decoder_classes("DeepseekV3")),
    "kimi_k2": Family(experts.deepseek, decoder_classes("DeepseekV3")),
    "glm4_moe": Family(experts.glm4_moe, decoder_classes("Glm4Moe")),
    "llama4_text": Family(experts.llama4, decoder_classes("Llama4")),
    "qwen3_next": Family(experts.qwen3_next, decoder_classes("Qwen3Next")),
}
