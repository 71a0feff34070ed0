"""Models that see, varied at random, agree with transformers' own classes: text, tower and projector."""

from __future__ import annotations

import copy
import inspect
import random
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from multimodal_cases import ALONE, CASES, NESTED, SAME_LENGTHS, SOUNDS, tower_of
from test_import_encoders import BATCH, DRAWS, imported, live, measured, pick, unique_params
from test_import_experts import cache_bytes
from test_import_fields import FLOOR, changes, counted
from test_import_fields import live as live_params

from txcalc.answer.report import Totals, count
from txcalc.huggingface.families import FAMILIES
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import image_positions, is_causal, positions
from txcalc.spec.inputs import FrameInput, PatchInput, eighth
from txcalc.spec.model import Model
from txcalc.trace.workload import Workload

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from txcalc.check.measure_modes import FORMULAS  # noqa: E402  needs torch

torch.set_num_threads(1)

SEQ = 3
GROUPED = {torch.ops.aten.convolution_backward: FORMULAS[torch.ops.aten.convolution_backward]}
"""The library's own counter forgets the groups in half of a convolution's way back."""
setattr(next(iter(GROUPED.values())), "_get_raw", True)  # noqa: B010  it is given tensors, not shapes
ONE_BY_ONE = {"mistral3", "lighton_ocr"}
"""Whose class packs all images into one sequence, and multiplies each with all others before masking them."""
RUNS_ALL = {"llama4_text"}
"""Texts of which the library runs all experts on every token."""
HYBRIDS = {"minicpmv4_6", "minicpmv4_7", "minicpm_ocr", "qwen3_5", "qwen3_5_moe", "qwen4_exp", "lfm2_vl", "lfm3_vl"}
"""Whose text has recurrent layers; these are run, beside their own class, in test_import_hybrids."""
AVERAGES = {"gemma4"}
"""Whose class takes averages by multiplying with a matrix of them, which is as much work as it has patches."""
ALWAYS_SEE = {"kosmos-2": "text_model", "kosmos-2.5": "text_model", **dict.fromkeys(
    ("blip-2", "instructblip", "instructblipvideo"), "language_model")}
"""Whose class runs on no text alone, and what of it does."""
LENT = {"kosmos-2": "Kosmos2Model", "blip-2": "Blip2ForConditionalGeneration",
        "instructblip": "InstructBlipForConditionalGeneration",
        "instructblipvideo": "InstructBlipVideoForConditionalGeneration"}
"""Whose method runs the tower and the projector, of which another class of theirs has none."""
FLAT = {"qwen2_vl", "qwen2_5_vl", "paddleocr_vl"}
"""Whose older files have the fields of the text beside the tower."""
BY_DEFAULT = {"gemma4_unified", "minimax_m3_vl"}
"""Whose parts may be left out."""
TILES = {"llava_next", "llava_next_video", "llava_onevision"}
"""Whose images are cut, with a newline behind every row of all tiles together."""
SQUARE_PATCHES = {"kimi_k25", "paddleocr_vl"}
"""Whose patches are given as squares, and not as rows of numbers."""
PART_TYPES = {name: f"{name}_vision" for name in (
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen4_exp", "glm4v", "glm4v_moe",
    "glm_ocr", "gemma4", "exaone4_5", "kimi_k25", "paddleocr_vl", "cosmos3_edge", "cohere_compass", "video_llama_3",
    "gemma4_unified", "minimax_m3_vl", "ovis2", "minicpmv4_6", "minicpmv4_7", "minicpm_ocr", "lfm3_vl",
    "hunyuan_vl", "got_ocr2", "pp_chart2table", "muse_glimmer", "granite_docling")} | {
    "step3p7": "step3p5_vision",
    "qwen2_5_omni_thinker": "qwen2_5_omni_vision_encoder", "janus": "janus_vision_model",
    "qwen3_omni_moe_thinker": "qwen3_omni_moe_vision_encoder",
    **{name: f"{name}_encoder" for name in SOUNDS}, "moss_transcribe_diarize": "moss_transcribe_diarize_audio",
    "idefics2": "idefics2_vision", "kosmos-2": "kosmos_2_vision_model", "kosmos-2.5": "kosmos_2_5_vision_model",
    "llama4": "llama4_vision_model", "musicflamingo": "audioflamingo3_encoder",
    "cosmos3_omni": "qwen3_vl_vision", "glmga": "glm4v_vision"}
TEXT_PARTS = {"qwen3_omni_moe_thinker": "qwen3_omni_moe_text", "qwen2_5_omni_thinker": "qwen2_5_omni_text",
              "cosmos3_omni": "qwen3_vl_text", "step3p7": "step3p5",
              "voxtral_realtime": "mistral", "kosmos-2": "kosmos_2_text_model", "kosmos-2.5": "kosmos_2_5_text_model"}


def draw(model_type: str, seed: int) -> dict[str, Any]:
    rng = random.Random(f"{model_type} {seed}")
    if model_type in NESTED:
        return {"model_type": model_type, "architectures": [next(iter(FAMILIES[model_type].classes))], **_nested(
            rng, model_type, seed)}
    texts, towers, beside = CASES[model_type]
    first, *others = (name for name in FAMILIES[model_type].classes if hasattr(transformers, name))
    return {
        "model_type": model_type,
        "architectures": [others[seed // 3 % len(others)] if seed % 3 == 2 and others else first],
        "text_config": pick(rng, rng.choice(texts)), **_within(tower_of(model_type), pick(rng, rng.choice(towers))),
        **pick(rng, beside),
    }


def _nested(rng: random.Random, model_type: str, seed: int) -> dict[str, Any]:
    thinker = f"{model_type}_thinker"
    config: dict[str, Any] = {"thinker_config": draw(thinker, 3 * seed)} if thinker in CASES else {}
    for path, values in NESTED[model_type].items():
        at = config
        for name in path.split(".") if path else ():
            at = at.setdefault(name, {})
        at |= pick(rng, values)
        for name, others in SAME_LENGTHS.items():
            long = len(at.get(name, ())) if model_type == "qwen2_5_omni" else 0
            at |= {other: [rng.choice((2, 3, 5)) for _ in range(long)] for other in others if long}
    return config


def _within(name: str, tower: dict[str, Any]) -> dict[str, Any]:
    return {name: tower} if name else tower


def features(model: Any, spec: Model, images: int) -> list[Any]:
    """The projected positions of so many images, and what is added to the text's first layers, as the class has it."""
    base = getattr(model, "model", model)
    assert spec.tower is not None
    if isinstance(spec.tower.input, FrameInput):
        return [sound_features(base, spec.tower.input, images)]
    assert isinstance(spec.tower.input, PatchInput)
    side = spec.tower.input.image
    pixels = torch.ones(images, spec.tower.input.channels, side, side)
    name, sizes = model.config.model_type, {}
    if name == "llama4":
        return [model.multi_modal_projector(model.get_image_features(pixels).last_hidden_state)]
    if name in ("idefics2", "idefics3", "smolvlm", "modernvbert", "ultravbert", "granite_docling"):
        pixels = pixels[:, None]
    grid, patch = side // spec.tower.input.patch, spec.tower.input.patch
    if name == "lfm2_vl":
        pixels = pixels.view(images, grid**2, -1)
        sizes = {"spatial_shapes": torch.full((images, 2), grid),
                 "pixel_attention_mask": torch.ones(images, grid**2, dtype=torch.long)}
    if name in ("gemma4", "gemma4_unified"):
        at = torch.arange(grid)
        pixels = pixels.view(images, grid**2, -1)
        sizes = {"image_position_ids": torch.cartesian_prod(at, at).flip(-1).expand(images, -1, -1)}
    if name == "instructblipvideo":  # films of one frame
        pixels = pixels[:, None]
    if name == "fuyu":
        pixels = torch.ones(images, grid**2, spec.tower.input.channels * patch**2)
    if name == "kosmos-2.5":  # rows of patches, behind the row and the column that each stands in
        rows = torch.ones(images, grid**2, 2 + spec.tower.input.channels * patch**2)
        return [base.image_to_text_projection(base.vision_model(rows).last_hidden_state)[0]]
    lent = getattr(transformers, LENT.get(name, ""), type(base))
    find = partial(getattr(lent, "get_image_features", None) or lent.get_video_features, base)
    asked = inspect.signature(find).parameters
    if name in ONE_BY_ONE:
        sizes = {"image_sizes": torch.tensor([[side, side]] * images)}
    if name in TILES:  # the whole image, and one tile of it
        model.config.image_grid_pinpoints = [[side, side]]
        pixels, sizes = pixels[None], {"image_sizes": torch.tensor([[side, side]])}
    if "image_grid_thw" in asked:  # patches, already cut
        pixels = torch.ones(images * grid**2, spec.tower.input.channels, patch, patch)
        pixels = pixels if name in SQUARE_PATCHES else pixels.flatten(1)
        sizes = {"image_grid_thw": torch.tensor([[1, grid, grid]] * images)}
    if name == "granite_docling":
        sizes = {"pixel_attention_mask": torch.ones(images, 1, dtype=torch.bool)}
    if "target_sizes" in asked:  # all patches in a row, as one image
        pixels = pixels.unflatten(2, (grid, -1))[..., :patch, :grid * patch].permute(1, 3, 0, 2, 4).flatten(2)[None]
        sizes["target_sizes"] = torch.full((images, 2), grid)
    if "qformer_input_ids" in asked:  # an instruction of no words
        sizes["qformer_input_ids"] = torch.zeros(images, 0, dtype=torch.long)
    if "image_merge_sizes" in asked:
        sizes["image_merge_sizes"] = torch.ones(images, dtype=torch.long)
    out = find(pixels, **sizes)
    found = out.last_hidden_state if name == "fuyu" else out.pooler_output
    return [torch.cat(list(found)) if isinstance(found, list | tuple) else found,
            *(torch.cat(list(deep)) for deep in getattr(out, "deepstack_features", None) or ())]


def sound_features(base: Any, sound: FrameInput, number: int) -> Any:
    """The projected positions of so many sounds, each as long as the tower's."""
    grid = sound.grid
    frames = 2 * sound.length if grid is None else sound.length // eighth(grid.frames) * grid.frames
    if not hasattr(base, "get_audio_features"):
        heard = base.audio_tower(torch.ones(number, sound.bins, frames)).last_hidden_state
        return base.multi_modal_projector(heard)
    asked, given = inspect.signature(base.get_audio_features).parameters, dict[str, Any]()
    if "input_ids" in asked:  # which tell the times of what is heard
        given["input_ids"] = torch.full((number, sound.length // 2 + 1), base.config.audio_token_id)
        given["input_ids"][:, -1] = 0
    if "input_features_mask" in asked:
        given["input_features_mask"] = torch.ones(number, frames, dtype=torch.long)
    if "padding_mask" in asked:
        given["padding_mask"] = torch.ones(number, frames, dtype=torch.long)
    return base.get_audio_features(torch.ones(number, sound.bins, frames), **given).pooler_output


def averages(spec: Model, images: int) -> int:
    """FLOPs of averages that are a product with a matrix of (positions of the text, patches)."""
    assert spec.tower is not None
    assert spec.tower.projector is not None
    tokens, given = spec.tower.projector.tokens, positions(spec.tower.input)
    return 2 * images * tokens * given * spec.tower.d_model


def totals(spec: Model, images: int, phase: str = "training", **more: Any) -> Totals:
    fields = {"phase": phase, "batch": BATCH, "seq": SEQ, "images": images, "attention": "eager", **more}
    return count(spec, Workload(**fields)).totals


def room(spec: Model) -> dict[str, int]:
    """A text that has room for two images, whether they are there or not."""
    return {"seq": max(SEQ, image_positions(spec, 2, BATCH))}


@pytest.mark.grid(7)
@pytest.mark.parametrize("model_type", CASES)
def test_parameters_equal_the_class(model_type: str) -> None:
    for seed in range(2 * DRAWS):
        config = draw(model_type, seed)
        assert totals(imported(config), 0).params.value == unique_params(live(config)), config


@pytest.mark.grid(11)
@pytest.mark.parametrize("model_type", CASES)
def test_an_image_costs_what_the_class_runs(model_type: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    images = 1 if model_type in ONE_BY_ONE else 2
    for seed in range(DRAWS // 2):
        config = draw(model_type, seed)
        spec, model = imported(config), live(config, "cpu")
        with FlopCounterMode(display=False) as forward:
            seen = features(model, spec, images)
        with FlopCounterMode(display=False, custom_mapping=GROUPED) as backward:
            sum(each.sum() for each in seen).backward()
        assert spec.tower is not None
        assert spec.tower.projector is not None
        image = spec.tower.input
        newlines = image.image // image.patch if model_type in TILES and isinstance(image, PatchInput) else 0
        assert seen[0].numel() == (images * spec.tower.projector.tokens + newlines) * spec.d_model
        assert len(seen) == 1 + len(spec.tower.deepstack)
        with_images, without = (totals(spec, n, **room(spec)) for n in (images, 0))
        averaged = averages(spec, images) if model_type in AVERAGES else 0
        assert with_images.flops_forward.value - without.flops_forward.value + averaged == forward.get_total_flops()
        assert with_images.flops_backward is not None
        assert without.flops_backward is not None
        assert with_images.flops_backward.value - without.flops_backward.value + averaged == backward.get_total_flops()


@pytest.mark.grid(11)
@pytest.mark.parametrize("model_type", [name for name in CASES if name not in HYBRIDS])
def test_text_and_cache_are_those_of_the_class(model_type: str) -> None:
    for seed in range(0, DRAWS, 2):
        config = draw(model_type, seed)
        spec, model = imported(config), live(config, "cpu")
        model = getattr(model, ALWAYS_SEE.get(model_type, ""), model)
        given = {"input_ids": torch.full((BATCH, SEQ), 3), "attention_mask": torch.ones(BATCH, SEQ, dtype=torch.long)}
        if model_type == "voxtral_realtime":  # hears something in every run, here silence that no tower has run for
            given["encoder_inputs_embeds"] = torch.zeros(BATCH, SEQ, model.config.text_config.hidden_size)
            heard = SimpleNamespace(
                pooler_output=given["encoder_inputs_embeds"], past_key_values=None, padding_cache=None)
            getattr(model, "model", model).get_audio_features = lambda heard=heard, **_: heard
        if config["text_config"].get("model_type", model_type) not in RUNS_ALL:
            assert totals(spec, 0).flops_forward.value == measured(model, given, backward=False)[0], config
        if not is_causal(spec):
            continue
        cache = model(**given, use_cache=True).past_key_values
        found = totals(spec, 0, phase="prefill", dtype="fp32").kv_cache_bytes
        assert found is not None
        assert found.value == cache_bytes(cache), config


@pytest.mark.grid(11)
@pytest.mark.parametrize("model_type", CASES)
def test_a_changed_field_changes_the_count_as_it_does_the_class(model_type: str) -> None:
    config = next(c for seed in range(DRAWS) if live_params(c := draw(model_type, seed)) is not None)
    assert counted(config) == live_params(config)
    parts: list[tuple[str | None, dict[str, Any]]] = [(None, config)]
    part_of = tower_of(model_type)
    text = config["text_config"]
    if part_of:
        parts.append((part_of, {"model_type": PART_TYPES.get(model_type), **config[part_of]}))
    if text.get("model_type", f"{model_type}_text") not in FAMILIES:  # those are changed by themselves
        parts.append(("text_config", {"model_type": TEXT_PARTS.get(model_type, f"{model_type}_text"), **text}))
    compared = 0
    for name, part in parts:
        for field, value in changes(part):
            changed = {**config, field: value} if name is None else {**config, name: {**config[name], field: value}}
            ours = counted(changed)
            theirs = live_params(changed) if ours is not None else None
            if theirs is not None:
                assert ours == theirs, (name, field, value, changed)
                compared += 1
    assert compared >= FLOOR


@pytest.mark.parametrize("model_type", CASES)
def test_a_field_that_is_not_understood_is_refused_wherever_it_stands(model_type: str) -> None:
    config, more = draw(model_type, 0), {"mtp_layer_types": 3}
    for part in ("", "text_config", tower_of(model_type)):
        with pytest.raises(SpecError, match="not understood for model_type") as caught:
            imported({**config, part: {**config[part], **more}} if part else {**config, **more})
        assert caught.value.field == f"{part}.mtp_layer_types".strip(".")
        named = part and model_type not in BY_DEFAULT
        if named and (part == tower_of(model_type) or model_type not in FLAT | ALONE):
            with pytest.raises(SpecError, match="required field is missing"):
                imported({name: value for name, value in config.items() if name != part})


@pytest.mark.grid(2)
@pytest.mark.parametrize("model_type", NESTED)
def test_what_no_run_has_is_counted_as_the_class_has_it(model_type: str) -> None:
    config, compared = draw(model_type, 0), 0
    assert counted(config) == live_params(config)
    for path in NESTED[model_type]:
        for field, old in _at(config, path).items():
            if not isinstance(old, bool | int):
                continue
            changed = copy.deepcopy(config)
            _at(changed, path)[field] = not old if isinstance(old, bool) else 2 * old
            ours = counted(changed)
            theirs = live_params(changed) if ours is not None else None
            if theirs is not None:
                assert ours == theirs, (path, field)
                compared += 1
    assert compared >= FLOOR


def test_codes_of_sound_cost_what_the_class_runs_on_them() -> None:
    config = draw("kyutai_speech_to_text", 0)
    spec, given = imported(config), torch.zeros(BATCH, 13, 1 + config["num_codebooks"], dtype=torch.long)
    found = count(spec, Workload(phase="prefill", batch=BATCH, seq=13, attention="eager", dtype="fp32")).totals
    assert found.kv_cache_bytes is not None
    model = live(config, "cpu")
    assert found.flops_forward.value == measured(model, {"input_ids": given}, backward=False)[0]
    cache = model(input_ids=given, use_cache=True).past_key_values
    assert found.kv_cache_bytes.value == sum(4 * (layer.keys.numel() + layer.values.numel()) for layer in cache.layers)


def _at(config: dict[str, Any], path: str) -> dict[str, Any]:
    for name in path.split(".") if path else ():
        config = config[name]
    return config


@pytest.mark.parametrize(("model_type", "change", "field"), [
    ("llava", {"vision_feature_layer": [-1, True]}, "vision_feature_layer"),
    ("llava", {"vision_feature_layer": []}, "vision_feature_layer"),
    ("vipllava", {"vision_feature_layer": [-2, -9]}, "vision_feature_layer"),
    ("vipllava", {"vision_config": {"model_type": "siglip_vision_model"}}, "vision_config"),
    ("llava", {"vision_feature_layer": -9}, "vision_feature_layer"),
    ("llava", {"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy"),
    ("llava", {"text_config": {"model_type": "bert"}}, "text_config.model_type"),
    ("llava", {"text_config": {"model_type": "t5"}}, "text_config.model_type"),
    ("llava", {"text_config": {"model_type": "brand-new"}}, "text_config.model_type"),
    ("llava", {"text_config": {"model_type": 3}}, "text_config.model_type"),
    ("llava", {"text_config": 3}, "text_config"),
    ("llava", {"vision_config": {"model_type": "llama"}}, "vision_config.model_type"),
    ("llava", {"vision_config": {"model_type": "deit"}}, "vision_config"),
    ("paligemma", {"projection_dim": 7}, "projection_dim"),
    ("paligemma", {"vision_config": {"model_type": "clip_vision_model"}}, "vision_config.model_type"),
    ("mistral3", {"vision_feature_layer": [-1]}, "vision_feature_layer"),
    ("lfm2_vl", {"vision_feature_layer": -2}, "vision_feature_layer"),
    ("lfm2_vl", {"tie_word_embeddings": True, "tie_embedding": False}, "tie_embedding"),
    ("lfm2_vl", {"vision_config": {"model_type": "siglip_vision_model"}}, "vision_config.model_type"),
    ("aya_vision", {"downsample_factor": 3}, "downsample_factor"),
    ("cohere2_vision", {"alignment_intermediate_size": 15}, "alignment_intermediate_size"),
    ("internvl", {"downsample_ratio": 0.3}, "downsample_ratio"),
    ("qwen2_vl", {"vision_config": {"num_heads": 3}}, "vision_config.num_heads"),
    ("qwen2_vl", {"vision_config": {"hidden_size": 31}}, "vision_config.hidden_size"),
    ("qwen2_5_vl", {"vision_config": {"window_size": 3}}, "vision_config.window_size"),
    ("qwen2_5_vl", {"vision_config": {"fullatt_block_indexes": ["3"]}}, "vision_config.fullatt_block_indexes"),
    ("qwen3_vl", {"vision_config": {"num_position_embeddings": 2305}}, "vision_config.num_position_embeddings"),
    ("qwen3_vl", {"vision_config": {"deepstack_visual_indexes": [1, 1]}}, "vision_config.out_hidden_size"),
    ("qwen3_vl_moe", {"text_config": {"norm_topk_prob": False}}, "text_config.norm_topk_prob"),
    ("idefics3", {"vision_config": {"model_type": "siglip_vision_model"}}, "vision_config.model_type"),
    ("qwen3_omni_moe", {"enable_audio_output": True, "code2wav_config": {
        name: value for name, value in draw("qwen3_omni_moe", 0)["code2wav_config"].items()
        if name != "num_key_value_heads"}}, "code2wav_config.num_key_value_heads"),
])
def test_what_is_not_understood_is_refused_by_name(model_type: str, change: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        imported({**draw(model_type, 0), **change})
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("model_type", "fields"), [
    ("phi4_multimodal", {"num_hidden_layers": 1, "audio_config": {"time_reduction": 4, "num_blocks": 1}}),
    ("kyutai_speech_to_text", {"num_hidden_layers": 1, "codec_config": {"model_type": "mimi", "frame_rate": 25.0}})])
def test_what_the_library_works_out_and_saves_is_read(model_type: str, fields: dict[str, Any]) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    saved = CONFIG_MAPPING[model_type](**fields).to_dict() | {"architectures": [next(iter(
        FAMILIES[model_type].classes))]}
    assert count(imported(saved), Workload(seq=SEQ)).totals.params.value == unique_params(live(saved))


@pytest.mark.parametrize("model_type", sorted(FLAT))
def test_older_files_have_the_text_beside_the_tower(model_type: str) -> None:
    config = draw(model_type, 0)
    text = {name: value for name, value in config["text_config"].items() if name != "tie_word_embeddings"}
    nested = {**config, "text_config": text}
    flat = {**text, **{name: value for name, value in config.items() if name != "text_config"}}
    assert imported(flat) == imported(nested)
    assert totals(imported(flat), 2, **room(imported(flat))) == totals(imported(nested), 2, **room(imported(nested)))
    assert unique_params(live(flat)) == unique_params(live(nested))


def test_an_image_of_another_size_has_as_many_positions_as_fit() -> None:
    data = imported(draw("qwen2_vl", 0)).to_data()
    side = data["tower"]["input"]["patch"] * (data["tower"]["projector"]["merge"] or 1)
    data["tower"]["input"]["image"] = 5 * side
    del data["tower"]["projector"]["tokens"]
    tower = Model.from_data(data).tower
    assert tower is not None
    assert tower.projector is not None
    assert tower.projector.tokens == 25


@pytest.mark.parametrize(("version", "tied"), [("4.50.0.dev0", False), ("5.23.0", True), ("10.0", True), (None, None)])
def test_a_file_that_does_not_say_whether_its_head_is_tied(version: str | None, tied: bool | None) -> None:
    """As Mistral Small 3.1's and InternVL 3's do not: the library read them otherwise before its fifth version."""
    config = {name: value for name, value in draw("mistral3", 0).items() if name != "tie_word_embeddings"}
    config |= {"architectures": ["Mistral3ForConditionalGeneration"]}
    if version is None:
        with pytest.raises(SpecError, match="versions of the library differ"):
            imported(config)
        return
    assert imported({**config, "transformers_version": version}) == imported({**config, "tie_word_embeddings": tied})
    if tied:
        assert totals(imported({**config, "transformers_version": version}), 0).params.value == unique_params(
            live(config))


def test_a_file_of_the_text_that_names_the_class_of_the_whole_is_read_as_the_text() -> None:
    text, notes = draw("qwen3_5", 0)["text_config"] | {"model_type": "qwen3_5_text"}, list[str]()
    spec = spec_from_config({"architectures": ["Qwen3_5ForConditionalGeneration"], **text}, "c", "n", notes=notes)
    assert spec == spec_from_config({"architectures": ["Qwen3_5ForCausalLM"], **text}, "c", "n")
    assert any("of which this file is one: counted as Qwen3_5ForCausalLM" in note for note in notes)
    with pytest.raises(SpecError, match="class 'CLIPModel' is not known"):
        spec_from_config({"architectures": ["CLIPModel"], **text}, "c", "n")
