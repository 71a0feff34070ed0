"""Encoders, encoder-decoders and image models, varied at random, agree with transformers' own classes."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import pytest
from import_encoder_cases import CASES, NESTED, Values

from txcalc.answer.report import Report, count
from txcalc.huggingface.build import ACTIVATIONS
from txcalc.huggingface.families import FAMILIES
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import layer_order, patches
from txcalc.spec.inputs import FrameInput, PatchInput, TokenInput
from txcalc.spec.layers import Attention
from txcalc.spec.model import Model
from txcalc.trace.workload import Workload

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from classes import on_meta, unique_params  # noqa: E402

torch.set_num_threads(1)

DRAWS = 12
RUNS, BACKWARDS = range(0, DRAWS, 3), range(0, DRAWS, 6)  # which of the draws are run as well
BATCH, SEQ = 2, 5
DERIVED = {"num_decoder_layers": None, "pooler_output_size": None, "num_labels": None, "decoder_vocab_size": None,
           "head_dim": None}
LARGE: dict[str, Any] = {"vision_config": {"image_size": 896, "patch_size": 14}}
CHANGED: dict[str, Any] = {"gemma3": LARGE, "shieldgemma2": LARGE,
                           "big_bird": {"attention_type": "original_full"},
                           "bigbird_pegasus": {"attention_type": "original_full"},
                           "esm": {"vocab_size": 33, "pad_token_id": 1},
                           "blip": {"vision_config": {}, "text_config": {}},
                           "pix2struct": {"vision_config": {}, "text_config": {}},
                           "pp_formulanet": {"vision_config": {}, "text_config": {}},
                           "encoder-decoder": {"encoder": {"model_type": "bert"}, "decoder": {
                               "model_type": "bert", "is_decoder": True, "add_cross_attention": True}},
                           "vision-encoder-decoder": {"encoder": {}, "decoder": {
                               "model_type": "bert", "is_decoder": True, "add_cross_attention": True}}}
"""Where a family's own defaults are refused, missing, or contradict each other (images smaller than their tokens)."""
PREFIXED = ("Gemma3", "ShieldGemma2", "GitM", "GitF")
"""Classes whose images stand before the text, which are compared by themselves."""
REFUSED = {"num_hidden_groups", "use_relative_position_bias", "decoder_vocab_size", "norm_rel_ebd",
           "tie_word_embeddings", "use_mean_pooling"}
"""Fields named where a drawn combination is refused."""


RUNS_ALL = {"nllb-moe"}
"""Whose class looks its experts up in a mask as if it were their numbers: a token passes as many as there are."""


def pick(rng: random.Random, values: Values) -> dict[str, Any]:
    """One value for each field; None stands for a field that the file leaves out."""
    drawn = {name: rng.choice(choices) for name, choices in values.items()}
    return {name: value for name, value in drawn.items() if value is not None or name not in DERIVED}


def draw(model_type: str, seed: int) -> dict[str, Any]:
    rng = random.Random(f"{model_type} {seed}")
    if model_type in CASES:
        fields = pick(rng, CASES[model_type])
    else:
        parts = {name: pick(rng, values) for name, values in NESTED[model_type].items()}
        fields = {**parts.pop(""), **parts}
    if model_type == "marian" and fields["share_encoder_decoder_embeddings"]:
        fields.pop("decoder_vocab_size", None)
    class_name = list(FAMILIES[model_type].classes)[seed % len(FAMILIES[model_type].classes)]
    return {"model_type": model_type, "architectures": [class_name], **fields}


def live(config: Mapping[str, Any], device: str = "meta") -> Any:
    """The class itself in eager attention: without data, or on the CPU where some of them look at their inputs.

    Its experts run as products that the counter sees.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    parsed = CONFIG_MAPPING[config["model_type"]](**fields)
    parsed._attn_implementation, parsed._experts_implementation = "eager", "batched_mm"
    with on_meta() if device == "meta" else torch.device(device):
        model = getattr(transformers, config["architectures"][0])(parsed)
    return model.eval()


def imported(config: Mapping[str, Any]) -> Model:
    return Model.from_data(spec_from_config(config, "config.json", "drawn"))


def read_or_refused(config: Mapping[str, Any]) -> Model | None:
    """None where the combination is one of those that are refused by name."""
    try:
        return imported(config)
    except SpecError as error:
        if error.field not in REFUSED:
            raise
        return None


def source(class_name: str) -> int:
    """A classifier looks for its token at the same place on both sides."""
    return SEQ if class_name.endswith("SequenceClassification") else 7


def batch_of(class_name: str) -> int:
    """Pixtral's class packs its images into one sequence, and multiplies each with all others before masking them."""
    return 1 if class_name == "PixtralVisionModel" else BATCH


def _pixels(seen: PatchInput, class_name: str) -> dict[str, Any]:
    """Images, or their patches behind the row and the column that each stands in."""
    if class_name.startswith("Pix2Struct"):
        return {"flattened_patches": torch.ones(BATCH, patches(seen), 2 + seen.channels * seen.patch**2)}
    return {"pixel_values": torch.zeros(BATCH, seen.channels, seen.image, seen.image)}


def inputs(spec: Model, class_name: str, token: int) -> dict[str, Any]:
    def ids(*shape: int) -> Any:
        return torch.full(shape, token)

    # A decoder alone makes a cache for as many layers as the encoder that it was made of.
    found: dict[str, Any] = {} if spec.unread_memory is None else {"use_cache": False}
    images = spec.input if isinstance(spec.input, PatchInput) else spec.tower.input if spec.tower else None
    if isinstance(images, PatchInput) and not class_name.startswith(PREFIXED):
        found["pixel_values"] = torch.zeros(batch_of(class_name), images.channels, images.image, images.image)
    if isinstance(images, PatchInput) and class_name.startswith("Siglip2"):  # patches, already cut
        side = images.image // images.patch
        found["pixel_values"] = torch.zeros(BATCH, side**2, images.channels * images.patch**2)
        found["spatial_shapes"] = torch.full((BATCH, 2), side)
        found["pixel_attention_mask"] = torch.ones(BATCH, side**2, dtype=torch.long)
    if isinstance(spec.input, PatchInput):
        return found
    if spec.encoder is None:
        shape = (1, BATCH, SEQ) if class_name.endswith("MultipleChoice") else (BATCH, SEQ)
        return found | {"input_ids": ids(*shape), "attention_mask": torch.ones(shape, dtype=torch.long)}
    if isinstance(spec.encoder.input, FrameInput):
        sound = spec.encoder.input
        found["input_features"] = torch.zeros(BATCH, sound.bins, 2 * sound.length)
    elif isinstance(seen := spec.encoder.input, PatchInput):
        found |= _pixels(seen, class_name)
        if class_name.startswith("Blip"):
            return found | {"input_ids": ids(BATCH, SEQ)}
    else:
        found["input_ids"] = ids(BATCH, source(class_name))
    return found | {"decoder_input_ids": ids(BATCH, SEQ)}


def measured(model: Any, given: dict[str, Any], *, backward: bool) -> tuple[int, int]:
    """FLOPs forward and backward by PyTorch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    grouped: list[int] = []
    for module in model.modules():
        if getattr(module, "groups", 1) > 1:
            module.register_forward_hook(lambda conv, _, out: grouped.append(
                2 * out.numel() * math.prod(conv.kernel_size) * (conv.in_channels - conv.in_channels // conv.groups)))
    with FlopCounterMode(display=False) as counter:
        out = model(**given)
    forward = counter.get_total_flops()
    if not backward:
        return forward, 0
    tensors = [value for value in out.values() if isinstance(value, torch.Tensor) and value.requires_grad]
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(tensors, [torch.ones_like(value) for value in tensors])
    # The counter takes the gradient of a convolution's weight for one of a single group.
    return forward, counter.get_total_flops() - sum(grouped)


def counted(spec: Model, class_name: str) -> Report:
    lengths: dict[str, Any] = {} if isinstance(spec.input, PatchInput) else {"seq": SEQ}
    if spec.encoder is not None and isinstance(spec.encoder.input, TokenInput):
        lengths["source_seq"] = source(class_name)
    return count(spec, Workload(phase="training", batch=batch_of(class_name), attention="eager", **lengths))


def through_all(spec: Model) -> Model:
    """The same with every token through every expert."""
    def every(part: Any) -> Any:
        if isinstance(part, dict):
            own = {"active_experts": part["experts"]} if part.get("kind") == "moe" else {}
            return {name: every(value) for name, value in part.items()} | own
        return [every(each) for each in part] if isinstance(part, list) else part
    return Model.from_data(every(spec.to_data()))


def unread(config: dict[str, Any], model_type: str) -> int:
    """FLOPs backward through PEGASUS-X's last global tokens, whose class keeps them apart: nothing reads them."""
    if model_type != "pegasus_x":
        return 0
    g, d, w = config["num_global_tokens"], config["d_model"], config["block_size"]
    staggered = config["stagger_local_blocks"] and config["encoder_layers"] % 2 == 0
    keys = g - (-source("") // w) * w + staggered * w
    return 8 * BATCH * g * d * (config["encoder_ffn_dim"] + d + keys)


@pytest.mark.grid(9)
@pytest.mark.parametrize("model_type", [*CASES, *NESTED])
def test_parameters_and_flops_equal_the_class(model_type: str) -> None:
    compared = 0
    for seed in range(DRAWS):
        config = draw(model_type, seed)
        class_name = config["architectures"][0]
        spec = read_or_refused(config)
        if spec is None:
            continue
        model = live(config, "cpu" if seed in RUNS else "meta")
        totals = counted(spec, class_name).totals
        as_run = counted(through_all(spec), class_name).totals if model_type in RUNS_ALL else totals
        assert totals.params.value == unique_params(model), config
        compared += 1
        # A span's head is built with any number of labels, and runs with two; FlauBERT's class fails with pre_norm.
        runs = ("QuestionAnswering" not in class_name or model.config.num_labels == 2) and not config.get("pre_norm")
        if seed not in RUNS or not runs:
            continue
        token = getattr(model.config, "eos_token_id", None)
        given = inputs(spec, class_name, token if isinstance(token, int) and token < 100 else 3)
        forward, backward = measured(model, given, backward=seed in BACKWARDS)
        assert as_run.flops_forward.value == forward, config
        if backward:
            assert as_run.flops_backward is not None
            assert as_run.flops_backward.value - unread(config, model_type) == backward, config
    assert compared >= DRAWS // 2


@pytest.mark.parametrize("model_type", [name for name, values in CASES.items() if "is_decoder" in values])
def test_what_can_decode_caches_keys_and_values(model_type: str) -> None:
    for seed in range(4):
        config = draw(model_type, seed) | {"is_decoder": True}
        config["architectures"] = list(FAMILIES[model_type].classes)[:1]
        spec = imported(config)
        given = inputs(spec, config["architectures"][0], 3)
        cache = live(config, "cpu")(**given, use_cache=True).past_key_values
        cache = getattr(cache, "self_attention_cache", cache)  # some classes always hold a pair of caches
        held = sum(x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values))
        found = count(spec, Workload.prefill(seq=SEQ, batch=BATCH, dtype="fp32")).totals.kv_cache_bytes
        assert found is not None
        assert found.value == held
        assert count(imported(config | {"is_decoder": False}), Workload(seq=SEQ)).totals.kv_cache_bytes is None


@pytest.mark.parametrize("model_type", [name for name, values in CASES.items() if "decoder_layers" in values])
def test_encoder_decoders_cache_what_both_attentions_read(model_type: str) -> None:
    for seed in range(4):
        config = draw(model_type, seed)
        config["architectures"] = list(FAMILIES[model_type].classes)[:1]
        spec = read_or_refused(config)
        if spec is None:
            continue
        given = inputs(spec, config["architectures"][0], 3) | {"use_cache": True}
        cache = live(config, "cpu")(**given).past_key_values
        caches = (cache,) if spec.encoder is None else (cache.self_attention_cache, cache.cross_attention_cache)
        held = sum(x.numel() * x.element_size() for both in caches for layer in both.layers
                   for x in (layer.keys, layer.values))
        lengths = {} if spec.encoder is None or isinstance(spec.encoder.input, FrameInput) else {"source_seq": 7}
        found = count(spec, Workload.prefill(seq=SEQ, batch=BATCH, dtype="fp32", **lengths)).totals.kv_cache_bytes
        assert found is not None
        assert found.value == held


@pytest.mark.parametrize("model_type", ["bart", "led", "longt5", "pegasus_x", "prophetnet", "umt5"])
def test_a_token_after_a_prompt_costs_what_the_class_runs(model_type: str) -> None:
    """Its encoder has run before: also one with global tokens, or in blocks, which it would be padded to."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers.modeling_outputs import BaseModelOutput

    for seed in range(4):
        config = draw(model_type, seed)
        class_name = config["architectures"] = list(FAMILIES[model_type].classes)[:1]
        spec, model = imported(config), live(config, "cpu")
        first = model(**inputs(spec, class_name[0], 3), use_cache=True)
        with FlopCounterMode(display=False) as counter:
            model(decoder_input_ids=torch.full((BATCH, 1), 3), past_key_values=first.past_key_values, use_cache=True,
                  encoder_outputs=BaseModelOutput(first.encoder_last_hidden_state))
        found = count(spec, Workload.decode(past=SEQ, batch=BATCH, source_seq=7, attention="eager")).totals
        assert found.flops_forward.value == counter.get_total_flops(), config


def test_what_a_class_does_otherwise_is_no_exact_figure() -> None:
    """PEGASUS-X does not go back through its last global tokens, and multiplies a single one in no product."""
    config = draw("pegasus_x", 0)
    found = count(imported(config), Workload.training(seq=SEQ, source_seq=7)).totals
    assert found.flops_backward is not None
    assert (found.flops_forward.kind, found.flops_backward.kind) == ("exact", "estimate")
    for name in ("block_size", "num_global_tokens"):
        with pytest.raises(SpecError, match="more than 1") as caught:
            imported({**config, "stagger_local_blocks": False, name: 1})
        assert caught.value.field == name


def test_streams_of_a_prompt_of_one_token_multiply_value_by_value() -> None:
    """As ``torch.einsum`` does over one key, which is no product of matrices."""
    for seed in range(3):
        config = draw("prophetnet", seed) | {"architectures": ["ProphetNetModel"]}
        given = {"input_ids": torch.full((BATCH, 7), 3), "decoder_input_ids": torch.full((BATCH, 1), 3)}
        workload = Workload.training(seq=1, batch=BATCH, source_seq=7, attention="eager")
        found = count(imported(config), workload).totals
        assert found.flops_backward is not None
        assert (found.flops_forward.value, found.flops_backward.value) == measured(
            live(config, "cpu"), given, backward=True), config


@pytest.mark.parametrize("model_type", [*CASES, *NESTED])
def test_a_terse_configuration_means_the_class_defaults(model_type: str) -> None:
    class_name = next(iter(FAMILIES[model_type].classes))
    config: dict[str, Any] = {"model_type": model_type, "architectures": [class_name]}
    config |= CHANGED.get(model_type, {})
    spec = imported(config)
    report = count(spec, Workload() if isinstance(spec.input, PatchInput) else Workload(seq=3))
    assert report.totals.params.value == unique_params(live(config))


@pytest.mark.parametrize("model_type", [*CASES, *NESTED])
def test_a_field_that_is_not_understood_is_refused(model_type: str) -> None:
    with pytest.raises(SpecError, match="mtp_layer_types: not understood"):
        imported({"model_type": model_type, **CHANGED.get(model_type, {}), "mtp_layer_types": 3})


@pytest.mark.parametrize(("config", "field"), [
    ({"model_type": "bert", "architectures": ["BertModel"], "add_cross_attention": True}, "add_cross_attention"),
    ({"model_type": "bert", "architectures": ["BertModel"], "position_embedding_type": "relative_key"},
     "position_embedding_type"),
    ({"model_type": "bert", "is_decoder": 1}, "is_decoder"),
    ({"model_type": "albert", "is_decoder": True}, "is_decoder"),
    ({"model_type": "deberta-v2", "is_decoder": True}, "is_decoder"),
    ({"model_type": "bert", "architectures": ["BertForJokes"]}, "architectures"),
    ({"model_type": "bert-generation", "add_cross_attention": True}, "add_cross_attention"),
    ({"model_type": "m2m_100", "architectures": ["M2M100ForCausalLM"]}, "architectures"),
    ({"model_type": "big_bird"}, "attention_type"),
    ({"model_type": "esm", "vocab_size": 33, "pad_token_id": 1, "is_folding_model": True}, "is_folding_model"),
    ({"model_type": "esm", "vocab_size": 33, "pad_token_id": 1, "is_decoder": True}, "is_decoder"),
    ({"model_type": "fsmt", "tie_word_embeddings": True, "tgt_vocab_size": 7}, "tie_word_embeddings"),
    ({"model_type": "mvp", "use_prompt": True}, "use_prompt"),
    ({"model_type": "rembert", "tie_word_embeddings": True}, "tie_word_embeddings"),
    ({"model_type": "switch_transformers", "feed_forward_proj": "gated-gelu"}, "feed_forward_proj"),
    ({"model_type": "switch_transformers", "encoder_sparse_step": -1}, "encoder_sparse_step"),
    ({"model_type": "t5gemma", "encoder": {"hidden_size": 16}}, "encoder.hidden_size"),
    ({"model_type": "t5gemma", "decoder": {"mtp_layer_types": 1}}, "decoder.mtp_layer_types"),
    ({"model_type": "t5gemma", "decoder": {"model_type": "gemma2"}}, "decoder.model_type"),
    ({"model_type": "xlm", "asm": True}, "asm"),
    ({"model_type": "xlm", "architectures": ["XLMForSequenceClassification"], "summary_activation": "tanh"},
     "summary_activation"),
    ({"model_type": "deberta-v2", "conv_kernel_size": 4}, "conv_kernel_size"),
    ({"model_type": "deberta-v2", "conv_kernel_size": 3, "conv_groups": 2}, "conv_groups"),
    ({"model_type": "deberta-v2", "conv_kernel_size": 3, "conv_act": "swoosh"}, "conv_act"),
    ({"model_type": "deberta", "talking_head": True}, "talking_head"),
    ({"model_type": "deberta", "pos_att_type": "p2p", "relative_attention": True}, "pos_att_type"),
    ({"model_type": "electra", "architectures": ["ElectraForMultipleChoice"], "summary_type": "mean"}, "summary_type"),
    ({"model_type": "t5", "feed_forward_proj": "gated-swoosh"}, "feed_forward_proj"),
    ({"model_type": "t5", "is_gated_act": "yes"}, "is_gated_act"),
    ({"model_type": "t5", "dense_act_fn": "swoosh"}, "dense_act_fn"),
    ({"model_type": "vit", "image_size": [224, 192]}, "image_size"),
    ({"model_type": "vit", "architectures": ["ViTForMaskedImageModeling"]}, "architectures"),
    ({"model_type": "clip", "text_config": {"model_type": "bert"}}, "text_config.model_type"),
    ({"model_type": "clip", "vision_config": [1]}, "vision_config"),
    ({"model_type": "clip", "vision_config": {"mtp_layer_types": 1}}, "vision_config.mtp_layer_types"),
    ({"model_type": "roberta", "pad_token_id": 600}, "pad_token_id"),
    ({"model_type": "siglip", "vision_config": {"vision_use_head": False}}, "vision_config.vision_use_head"),
    ({"model_type": "siglip", "architectures": ["SiglipForJokes"]}, "architectures"),
    ({**draw("pp_formulanet", 1), "vision_config": {**draw("pp_formulanet", 1)["vision_config"],
                                                    "decoder_hidden_size": 13}}, "vision_config.decoder_hidden_size"),
    ({"model_type": "siglip2", "vision_config": {"num_patches": 250}}, "vision_config.num_patches"),
    ({"model_type": "dinov3_vit", "num_attention_heads": 64}, "num_attention_heads"),
    ({"model_type": "dinov2_with_registers", "num_register_tokens": -1}, "num_register_tokens"),
    ({"model_type": "internvl_vision", "norm_type": "rms_norm", "use_mean_pooling": False}, "use_mean_pooling"),
])
def test_what_is_not_understood_is_refused_by_name(config: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        imported(config)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", ["t5", "mt5", "umt5", "longt5"])
@pytest.mark.parametrize("derived", ["gelu", "gated-gelu"])
@pytest.mark.parametrize("given", [{"is_gated_act": True}, {"is_gated_act": False, "dense_act_fn": "relu"}])
def test_what_t5_derives_may_be_said_otherwise(model_type: str, derived: str, given: dict[str, Any]) -> None:
    config = {**draw(model_type, 0), "feed_forward_proj": derived, **given}
    spec = imported(config)
    assert counted(spec, config["architectures"][0]).totals.params.value == unique_params(live(config))
    act = live(config).config.dense_act_fn
    assert {block.feed_forward.activation for _, block in layer_order(spec)} == {ACTIVATIONS[act]}


def test_the_older_form_of_a_nested_configuration_wins() -> None:
    config = {"model_type": "clip", "architectures": ["CLIPModel"], "text_config": {"hidden_size": 24},
              "text_config_dict": {"num_hidden_layers": 3}, "vision_config_dict": None}
    assert count(imported(config), Workload(seq=3)).totals.params.value == unique_params(live(config))


def test_an_image_brings_its_own_length() -> None:
    spec = imported({"model_type": "vit", "architectures": ["ViTForImageClassification"], "num_labels": 1000})
    report = count(spec, Workload())
    assert report.workload.seq == 197
    assert report.totals.params.value == 86_567_656
    assert count(spec, Workload(seq=197)).totals == report.totals
    with pytest.raises(SpecError, match="197 positions") as caught:
        count(spec, Workload(seq=512))
    assert caught.value.field == "seq"


def test_sound_brings_its_own_length() -> None:
    spec = imported({"model_type": "whisper"})
    assert count(spec, Workload(seq=3)).workload.source_seq == 1500
    with pytest.raises(SpecError) as caught:
        count(spec, Workload(seq=3, source_seq=7))
    assert caught.value.field == "source_seq"


def test_tokens_need_a_length() -> None:
    with pytest.raises(SpecError) as caught:
        count(imported({"model_type": "bert"}), Workload())
    assert caught.value.field == "seq"


def test_a_context_is_what_can_be_used_of_a_table() -> None:
    spec = imported({"model_type": "roberta", "max_position_embeddings": 514})
    count(spec, Workload(seq=512))
    with pytest.raises(SpecError, match="512 learned positions"):
        count(spec, Workload(seq=513))


def test_images_run_through_the_tower_as_often_as_asked() -> None:
    config = draw("gemma3", 0)
    spec = imported(config)
    none, two, four = (count(spec, Workload(seq=16, images=n)).totals for n in (0, 2, 4))
    assert count(spec, Workload(seq=16)).totals == none
    assert none.params == two.params
    grown = two.flops_forward.value - none.flops_forward.value
    assert grown > 0
    assert four.flops_forward.value - none.flops_forward.value == 2 * grown
    with pytest.raises(SpecError, match="no second stack"):
        count(imported({"model_type": "bert"}), Workload(seq=3, images=1))


@pytest.mark.parametrize("model_type", ["gemma3", "git"])
def test_images_before_the_text_equal_the_class(model_type: str) -> None:
    config = draw(model_type, 1)
    model, spec = live(config), imported(config)
    tower = spec.tower
    assert tower is not None
    assert isinstance(tower.input, PatchInput)
    image = torch.zeros(BATCH, tower.input.channels, tower.input.image, tower.input.image, device="meta")
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        if model_type == "git":
            base = getattr(model, "git", model)
            base.visual_projection(base.image_encoder(image).last_hidden_state)
        else:
            model.get_image_features(image)
    with_images, without = (count(spec, Workload(seq=31, batch=BATCH, attention="eager", images=n)).totals
                            for n in (BATCH, 0))
    assert with_images.flops_forward.value - without.flops_forward.value == counter.get_total_flops()


def test_t5gemma_windows_reach_as_far_ahead_as_back_in_the_encoder() -> None:
    from transformers.masking_utils import sliding_window_bidirectional_overlay

    config = draw("t5gemma", 0) | {"architectures": ["T5GemmaModel"]}
    layers = {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]}
    config["encoder"] |= layers | {"sliding_window": 3}
    config["decoder"] |= layers | {"sliding_window": SEQ}
    spec, n = imported(config), 11
    assert spec.encoder is not None
    attention = spec.encoder.attention
    assert isinstance(attention, Attention)
    sees = sliding_window_bidirectional_overlay(3)
    skipped = sum(not sees(0, 0, q, k) for q in range(n) for k in range(n))
    totals = count(spec, Workload(seq=1, source_seq=n)).totals
    assert totals.flops_skipped is not None
    assert totals.flops_forward.value - totals.flops_skipped.value == 4 * skipped * attention.heads * attention.head_dim


def test_what_an_image_leaves_is_what_a_decoder_goes_on_to_read() -> None:
    """Merged patches are cached as that, in a prompt and after it."""
    spec = imported(draw("pp_formulanet", 1))
    prompt, after = (count(spec, Workload(phase=phase, seq=seq, past=3 - seq, dtype="fp32")).totals.kv_cache_bytes
                     for phase, seq in (("prefill", 3), ("decode", 1)))
    assert prompt is not None and after is not None
    assert prompt.value == after.value == 1792


@pytest.mark.parametrize("seed", range(6))
def test_of_a_switch_each_token_uses_one_expert(seed: int) -> None:
    config = draw("switch_transformers", seed) | {"architectures": ["SwitchTransformersForConditionalGeneration"]}
    spec = imported(config)
    one = live(config | {"num_experts": 1})
    routers = [weight for name, weight in live(config).named_parameters() if "router" in name]
    alone = [weight for name, weight in one.named_parameters() if "router" in name]
    further = sum(w.numel() for w in routers) - sum(w.numel() for w in alone)
    assert count(spec, Workload(seq=SEQ, source_seq=7)).totals.params_active.value == unique_params(one) + further
