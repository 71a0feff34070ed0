"""Every ``model_type`` that can be read, with the classes that carry it, as the files of this folder list them."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Final

from txcalc import huggingface
from txcalc.huggingface import (
    gemma4,
    glm_vl,
    multimodal,
    qwen_vl,
    vision,
)
from txcalc.huggingface.multimodal import seeing_classes
from txcalc.huggingface.rows import Family, Rows
from txcalc.huggingface.vision import image_classes

_TABLE: Final[dict[str, Family]] = {
    "gemma4_text": Family(gemma4.gemma4, {"Gemma4ForCausalLM": "lm", "Gemma4TextModel": "none"}),
    "vit": Family(vision.vit, image_classes("ViT")),
    "deit": Family(vision.deit, image_classes("DeiT") | {"DeiTForImageClassificationWithTeacher": "teacher"}),
    "beit": Family(vision.beit, image_classes("Beit")),
    "data2vec-vision": Family(vision.data2vec, image_classes("Data2VecVision")),
    "vit_msn": Family(vision.vit_msn, image_classes("ViTMSN")),
    "ijepa": Family(vision.ijepa, image_classes("IJepa")),
    "dinov2": Family(vision.dinov2, image_classes("Dinov2")),
    "dinov2_with_registers": Family(vision.dinov2_with_registers, image_classes("Dinov2WithRegisters")),
    "dinov3_vit": Family(vision.dinov3, {"DINOv3ViTModel": "none"}),
    "siglip_vision_model": Family(vision.siglip_vision, {"SiglipVisionModel": "none"}),
    "siglip_text_model": Family(vision.siglip_text, {"SiglipTextModel": "none"}),
    "siglip": Family(vision.siglip, {"SiglipModel": "contrastive", "SiglipForImageClassification": "image"}),
    "siglip2_vision_model": Family(vision.siglip2_vision, {"Siglip2VisionModel": "none"}),
    "siglip2_text_model": Family(vision.siglip_text, {"Siglip2TextModel": "none"}),
    "siglip2": Family(vision.siglip2, {"Siglip2Model": "contrastive", "Siglip2ForImageClassification": "image"}),
    "clip": Family(vision.clip, {"CLIPModel": "contrastive", "CLIPForImageClassification": "image"}),
    "clip_text_model": Family(vision.clip_text, {"CLIPTextModel": "none", "CLIPTextModelWithProjection": "projection"}),
    "clip_vision_model": Family(vision.clip_vision, {"CLIPVisionModel": "none",
                                                     "CLIPVisionModelWithProjection": "projection"}),
    "metaclip_2": Family(vision.metaclip_2, {"MetaClip2Model": "contrastive",
                                             "MetaClip2ForImageClassification": "image"}),
    "metaclip_2_text_model": Family(vision.clip_text, {"MetaClip2TextModel": "none",
                                                       "MetaClip2TextModelWithProjection": "projection"}),
    "metaclip_2_vision_model": Family(vision.clip_vision, {"MetaClip2VisionModel": "none",
                                                           "MetaClip2VisionModelWithProjection": "projection"}),
    "pixtral": Family(multimodal.pixtral_vision, {"PixtralVisionModel": "none"}),
    "internvl_vision": Family(multimodal.internvl_vision, {"InternVLVisionModel": "none"}),
    "idefics3_vision": Family(multimodal.idefics3_vision, {"Idefics3VisionTransformer": "none"}),
    "smolvlm_vision": Family(multimodal.idefics3_vision, {"SmolVLMVisionTransformer": "none"}),
    "gemma4": Family(gemma4.gemma4_seeing, seeing_classes("Gemma4")),
    "gemma3": Family(multimodal.gemma3, seeing_classes("Gemma3")),
    "llava": Family(multimodal.llava, seeing_classes("Llava")),
    "vipllava": Family(multimodal.vipllava, seeing_classes("VipLlava")),
    "mistral3": Family(multimodal.mistral3, seeing_classes("Mistral3")),
    "paligemma": Family(multimodal.paligemma, seeing_classes("PaliGemma")),
    "aya_vision": Family(multimodal.aya_vision, seeing_classes("AyaVision")),
    "cohere2_vision": Family(multimodal.cohere2_vision, seeing_classes("Cohere2Vision")),
    "internvl": Family(multimodal.internvl, seeing_classes("InternVL")),
    "idefics3": Family(multimodal.idefics3, seeing_classes("Idefics3")),
    "smolvlm": Family(multimodal.smolvlm, seeing_classes("SmolVLM")),
    "qwen2_vl": Family(qwen_vl.qwen2_vl, seeing_classes("Qwen2VL")),
    "qwen2_5_vl": Family(qwen_vl.qwen2_5_vl, seeing_classes("Qwen2_5_VL")),
    "qwen3_vl": Family(qwen_vl.qwen3_vl, seeing_classes("Qwen3VL")),
    "qwen3_vl_moe": Family(qwen_vl.qwen3_vl_moe, seeing_classes("Qwen3VLMoe")),
    "qwen3_5": Family(qwen_vl.qwen3_5, seeing_classes("Qwen3_5")),
    "qwen3_5_moe": Family(qwen_vl.qwen3_5_moe, seeing_classes("Qwen3_5Moe")),
    "deepseek_vl": Family(multimodal.deepseek_vl, seeing_classes("DeepseekVL")),
    "lfm2_vl": Family(multimodal.lfm2_vl, seeing_classes("Lfm2Vl")),
    "lighton_ocr": Family(multimodal.lighton_ocr, seeing_classes("LightOnOcr")),
    "glm4v": Family(glm_vl.glm4v, seeing_classes("Glm4v")),
    "glm4v_moe": Family(glm_vl.glm4v_moe, seeing_classes("Glm4vMoe")),
    "glm46v": Family(glm_vl.glm46v, seeing_classes("Glm46V")),
    "glm_ocr": Family(glm_vl.glm_ocr, seeing_classes("GlmOcr")),
    "exaone4_5": Family(glm_vl.exaone4_5, seeing_classes("Exaone4_5_")),
    "kimi_k25": Family(glm_vl.kimi_k25, seeing_classes("Kimi_K25") | {"KimiK25ForConditionalGeneration": "lm"}),
    "paddleocr_vl": Family(glm_vl.paddleocr_vl, seeing_classes("PaddleOCRVL")),
    "llama4": Family(multimodal.llama4, {"Llama4ForConditionalGeneration": "lm"}),
}

_NAMES: Final = [module.name for module in iter_modules(huggingface.__path__, f"{huggingface.__name__}.")]
_MODULES: Final = [import_module(name) for name in _NAMES if name != __name__]
FAMILIES: Final[Rows] = _TABLE | {
    name: row for module in _MODULES for name, row in getattr(module, "ROWS", {}).items()}
PARTS: Final = [name for module in _MODULES for name in getattr(module, "PARTS", ())]
"""Types of configuration that stand only within another."""
