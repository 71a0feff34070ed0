"""Every preset counts to what was published, or says in one line why not; and a name leads to the right file."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from pathlib import Path

import pytest

from txcalc.answer.printed import PublishedRow, compare_published, published_value
from txcalc.answer.report import SCHEMA, Totals, count
from txcalc.huggingface.importer import spec_from_config
from txcalc.models import library
from txcalc.models.library import beside
from txcalc.models.load import load, names
from txcalc.models.read import REPORT_SCHEMA
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import architecture_fields
from txcalc.spec.inputs import LearnedPosition, TokenInput
from txcalc.spec.model import Model, Published
from txcalc.spec.yaml import dump_yaml
from txcalc.trace.workload import Workload

ROOT = Path(__file__).parents[1] / "presets"
FILES = {path.stem: path for path in sorted(ROOT.rglob("*.yaml"))}
TINY = "name: tiny\nvocab: 7\nd_model: 6\nlayers: 2\ncontext: 11\nattention: {heads: 3}\n" \
       "feed_forward: {d_ff: 5}\nposition: none\n"

PARAMS = {
    "transformer-base": 63_082_496,
    "transformer-big": 214_245_376,
    "gpt1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-small": 125_226_240,
    "gpt3-medium": 355_871_744,
    "gpt3-large": 760_300_032,
    "gpt3-xl": 1_517_123_584,
    "gpt3-2.7b": 2_651_553_280,
    "gpt3-6.7b": 6_658_404_352,
    "gpt3-13b": 12_936_488_380,
    "gpt3": 174_604_259_328,
    "apertus-8b": 8_053_338_176,
    "apertus-70b": 70_599_864_480,
    "bitnet-b1.58-2b-4t": 2_412_820_480,
    "bloom-560m": 559_214_592,
    "bloom-1b1": 1_065_314_304,
    "bloom-1b7": 1_722_408_960,
    "bloom-3b": 3_002_557_440,
    "bloom-7b1": 7_069_016_064,
    "bloom-176b": 176_247_271_424,
    "codegen-350m": 356_712_448,
    "aya-23-8b": 8_028_033_024,
    "command-r7b": 8_028_033_024,
    "command-r": 34_980_831_232,
    "command-r-plus": 103_810_674_688,
    "dbrx": 131_596_523_520,
    "deepseek-v2-lite": 15_706_484_224,
    "qwen3.5-397b-a17b": 396_802_360_816,
    "qwen3-coder-480b-a35b": 480_154_875_392,
    "qwen3-vl-8b": 8_767_123_696,
    "minimax-m2.5": 228_689_748_992,
    "nemotron-3-nano-30b-a3b": 31_577_937_344,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_404_352,
    "falcon-7b": 6_921_720_704,
    "falcon-40b": 41_303_293_952,
    "falcon-180b": 178_557_088_768,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "gemma-2b": 2_506_172_416,
    "gemma2-2b": 2_614_341_888,
    "gemma3-4b": 3_880_263_168,
    "gemma-7b": 8_537_680_896,
    "gemma2-9b": 9_241_705_984,
    "gemma3-12b": 11_766_034_176,
    "gemma3-27b": 27_009_346_304,
    "gemma4-e2b": 4_628_569_344,
    "gemma4-e4b": 7_463_013_376,
    "gemma4-26b-a4b": 25_233_141_760,
    "gemma4-31b": 30_697_345_280,
    "gemma2-27b": 27_227_128_320,
    "glm4-9b": 9_399_951_360,
    "glm4-9b-0414": 9_400_279_040,
    "glm-4.1v-9b": 10_292_777_472,
    "glm-4.5-air": 106_852_245_504,
    "glm-4.5v": 107_710_927_360,
    "glm-4.5": 352_797_814_784,
    "gpt-neo-125m": 125_198_592,
    "gpt-neo-1.3b": 1_315_575_808,
    "gpt-neo-2.7b": 2_651_307_520,
    "gptj-6b": 6_050_882_784,
    "gpt-neox-20b": 20_554_567_680,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "granite-3.1-1b-a400m": 1_334_628_352,
    "granite-3.1-2b": 2_533_531_648,
    "granite-3.1-3b-a800m": 3_298_793_472,
    "granite-3.1-8b": 8_170_848_256,
    "kimi-k2": 1_026_408_209_408,
    "kimi-k2.5": 1_026_879_353_328,
    "paddleocr-vl": 905_601_648,
    "tinyllama-1.1b": 1_100_048_384,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "llama-7b": 6_738_415_616,
    "llama2-7b": 6_738_415_616,
    "llama3-8b": 8_030_261_248,
    "llama3.1-8b": 8_030_261_248,
    "llama-13b": 13_015_864_320,
    "llama2-13b": 13_015_864_320,
    "llama-30b": 32_528_943_616,
    "codellama-34b": 33_743_970_304,
    "llama-65b": 65_285_660_672,
    "llama2-70b": 68_976_648_192,
    "llama3-70b": 70_553_706_496,
    "llama3.1-70b": 70_553_706_496,
    "llama4-scout": 107_769_861_120,
    "llava-1.5-7b": 7_063_427_072,
    "qwen2.5-vl-7b": 8_292_166_656,
    "llama4-maverick": 400_711_848_960,
    "llama3.1-405b": 405_853_388_800,
    "megatron-530b": 529_600_819_200,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mistral-nemo-12b": 12_247_782_400,
    "mistral-small3-24b": 23_572_403_200,
    "mixtral-8x7b": 46_702_792_704,
    "mistral-large2-123b": 122_610_069_504,
    "mixtral-8x22b": 140_620_634_112,
    "mpt-7b": 6_649_286_656,
    "mpt-30b": 29_957_200_896,
    "minitron-8b": 8_271_699_968,
    "nemotron-4-15b": 15_628_775_424,
    "nemotron-4-340b": 341_029_195_776,
    "olmo-1b": 1_176_764_416,
    "olmo2-1b": 1_484_916_736,
    "olmo-7b": 6_888_095_744,
    "olmoe-1b-7b": 6_919_161_856,
    "olmo2-7b": 7_298_617_344,
    "olmo2-13b": 13_716_198_400,
    "olmo2-32b": 32_234_279_936,
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984,
    "opt-13b": 12_853_473_280,
    "opt-30b": 29_974_540_288,
    "opt-66b": 65_719_701_504,
    "opt-175b": 174_604_468_224,
    "palm-8b": 8_631_877_632,
    "gopher-44m": 43_692_032,
    "gopher-117m": 116_689_920,
    "gopher-417m": 417_404_928,
    "gopher-1.4b": 1_374_699_520,
    "gopher-7.1b": 7_111_835_648,
    "gopher-280b": 279_711_580_160,
    "chinchilla-70b": 70_062_571_520,
    "transformer-xl-enwik8-12l": 41_055_436,
    "transformer-xl-enwik8-24l": 277_231_820,
    "palm-62b": 62_495_129_600,
    "palm-540b": 540_354_281_472,
    "phi-1.5": 1_418_270_720,
    "phi-2": 2_779_683_840,
    "phi3-mini": 3_821_079_552,
    "phi4-mini": 3_836_021_760,
    "phi3-medium": 13_960_238_080,
    "phi-4": 14_659_507_200,
    "phi3.5-moe": 41_873_153_344,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "qwen2.5-0.5b": 494_032_768,
    "qwen3-0.6b": 596_049_920,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen3-1.7b": 1_720_574_976,
    "qwen2.5-3b": 3_085_938_688,
    "qwen3-4b": 4_022_468_096,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen3-14b": 14_768_307_200,
    "qwen2.5-14b": 14_770_033_664,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-32b": 32_762_123_264,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-next-80b-a3b": 79_674_391_296,
    "qwen3-235b-a22b": 235_093_634_560,
    "jamba-v0.1": 51_570_323_328,
    "nanochat-d20": 560_988_160,
    "nemotron-h-8b": 8_100_852_736,
    "minimax-text-01": 456_089_655_296,
    "mamba2-2.7b": 2_702_599_680,
    "mamba-2.8b": 2_768_345_600,
    "falcon-mamba-7b": 7_272_665_088,
    "falcon-h1-0.5b": 521_411_104,
    "granite-4.0-h-tiny": 6_939_037_248,
    "granite-4.0-h-small": 32_207_337_984,
    "lfm2-1.2b": 1_170_340_608,
    "lfm2-8b-a1b": 8_339_929_856,
    "qwen3.5-35b-a3b": 34_660_610_688,
    "kimi-linear-48b-a3b": 49_122_675_072,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "smollm3-3b": 3_075_098_624,
    "stablelm2-1.6b": 1_644_515_328,
    "stablelm2-12b": 12_143_185_920,
    "santacoder": 1_124_886_528,
    "starcoder2-3b": 3_030_371_328,
    "starcoder2-7b": 7_173_923_840,
    "starcoder": 15_517_456_384,
    "starcoder2-15b": 15_957_889_024,
    "universal-transformer": 67_280_896,
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "roberta-base": 124_697_433,
    "roberta-large": 355_412_057,
    "distilbert-base": 66_362_880,
    "albert-base": 11_683_584,
    "electra-base": 109_483_009,
    "deberta-v3-base": 183_831_552,
    "modernbert-base": 149_014_272,
    "modernbert-large": 394_781_696,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "flan-t5-xl": 2_849_757_184,
    "mt5-small": 300_176_768,
    "bart-base": 139_420_416,
    "bart-large": 406_291_456,
    "pegasus-large": 570_797_056,
    "opus-mt-en-de": 74_410_496,
    "nllb-200-600m": 615_073_792,
    "mpnet-base": 109_486_464,
    "esm2-650m": 651_043_254,
    "nomic-embed-text-v1.5": 136_731_648,
    "gte-multilingual-base": 305_368_320,
    "switch-base-128": 7_415_217_408,
    "whisper-tiny": 37_760_640,
    "whisper-small": 241_734_912,
    "whisper-large-v3": 1_543_490_560,
    "vit-b16": 86_567_656,
    "vit-l16": 304_326_632,
    "vit-h14": 632_045_800,
    "deit-base": 86_567_656,
    "deit-base-distilled": 87_338_192,
    "beit-base": 86_530_984,
    "dinov2-base": 86_580_480,
    "clip-vit-b32": 151_277_313,
    "deepseek-v3.2": 671_877_929_216,
    "glm-5": 743_911_199_232,
    "glm-4.7-flash": 29_943_390_976,
    "mimo-v2-flash": 308_778_768_832,
    "minicpm3-4b": 4_073_875_968,
}

# What one token passes in a mixture of experts, both tables and the router counted.
ACTIVE = {
    "gemma4-26b-a4b": 3_822_530_560,
    "dbrx": 36_469_708_800,
    "deepseek-v2-lite": 2_661_150_208,
    "deepseek-v2": 21_375_800_320,
    "deepseek-v3": 37_552_282_624,
    "glm-4.5-air": 13_424_123_904,
    "glm-4.5": 33_632_251_904,
    "glm-4.5v": 14_282_805_760,
    "gpt-oss-20b": 4_187_440_704,
    "gpt-oss-120b": 5_711_982_912,
    "granite-3.1-1b-a400m": 428_658_688,
    "granite-3.1-3b-a800m": 882_874_368,
    "kimi-k2": 32_861_477_888,
    "kimi-k2.5": 33_332_621_808,
    "llama4-scout": 17_172_894_720,
    "llama4-maverick": 17_184_691_200,
    "mixtral-8x7b": 12_879_925_248,
    "switch-base-128": 224_083_200,
    "mixtral-8x22b": 39_152_031_744,
    "olmoe-1b-7b": 1_282_017_280,
    "phi3.5-moe": 6_640_999_744,
    "qwen1.5-moe-a2.7b": 2_689_173_504,
    "qwen3-30b-a3b": 3_353_032_704,
    "qwen3-next-80b-a3b": 3_874_929_408,
    "qwen3-235b-a22b": 22_190_763_520,
    "jamba-v0.1": 12_110_311_296,
    "minimax-text-01": 48_403_306_496,
    "granite-4.0-h-tiny": 1_465_470_528,
    "granite-4.0-h-small": 8_803_121_664,
    "lfm2-8b-a1b": 1_557_740_288,
    "qwen3.5-35b-a3b": 3_454_988_928,
    "qwen3.5-397b-a17b": 17_805_051_376,
    "qwen3-coder-480b-a35b": 35_474_765_312,
    "minimax-m2.5": 11_030_537_216,
    "nemotron-3-nano-30b-a3b": 3_580_073_408,
    "kimi-linear-48b-a3b": 3_484_453_248,
    "deepseek-v3.2": 38_403_807_488,
    "glm-5": 41_784_709_632,
    "glm-4.7-flash": 3_896_763_136,
    "mimo-v2-flash": 15_445_924_288,
}

KV_BYTES_PER_TOKEN = {
    "gpt2": 36_864,
    "llama3-8b": 131_072,
    "llama3.1-405b": 516_096,
    "mistral-7b": 131_072,
    "deepseek-v3": 70_272,
    "gpt-oss-120b": 73_728,
    "gemma4-31b": 901_120,
    "gemma4-e2b": 18_432,
    "deepseek-v3.2": 85_888,
    "mimo-v2-flash": 222_720,
}

# Papers that print no figure for the model.
UNPRINTED = {"universal-transformer", "opus-mt-en-de", "clip-vit-b32", "rnnsearch"}

# The released config.json files, the fields of the architecture alone.
CONFIGS = json.loads(beside("transformers.json"))


@pytest.fixture(autouse=True)
def _no_user_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.DIRECTORY_VARIABLE, "")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own directory of presets."""
    folder = tmp_path / "presets"
    folder.mkdir()
    monkeypatch.setenv(library.DIRECTORY_VARIABLE, str(folder))
    return folder


def totals(model: Model, seq: int = 8) -> Totals:
    lengths = {"seq": seq} if isinstance(model.input, TokenInput) else {}  # an image brings its own
    return count(model, Workload(**lengths)).totals


def params(name: str, *overrides: str) -> int:
    return totals(load(name, overrides).model).params.value


def rows(name: str) -> tuple[PublishedRow, ...]:
    model = load(name).model
    return compare_published(model, totals(model))


def refused(name: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load(name, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---------------------------------------------------------------- all presets


def test_every_file_is_a_preset() -> None:
    assert {info.name for info in names()} == set(FILES)
    assert all(info.origin == "built-in" and info.shadows is None for info in names())


def test_no_name_leads_to_two_presets() -> None:
    called = [name for info in names() for name in (info.name, *info.aliases)]
    folded = [re.sub("[-_]", "", name.casefold()) for name in called]
    assert len(set(folded)) == len(folded)


@pytest.mark.parametrize("name", FILES)
def test_the_file_says_what_it_is(name: str) -> None:
    first, *_ = FILES[name].read_text(encoding="utf-8").splitlines()
    loaded = load(name)
    assert first == "# yaml-language-server: $schema=../preset.schema.json"
    assert loaded.model.name == name
    assert loaded.model.family == FILES[name].parent.name
    assert loaded.source == f"preset {name}"
    assert loaded.model.summary and loaded.model.sources
    assert bool(loaded.model.published) == (name not in UNPRINTED)


def test_listed_as_in_the_files() -> None:
    for info in names():
        model = load(info.name).model
        assert (info.aliases, info.family) == (model.aliases, model.family), info.name


@pytest.mark.parametrize("name", FILES)
def test_published_figures_are_met_or_explained(name: str) -> None:
    for row in rows(name):
        assert row.counted is not None
        assert row.rounds_equal == (row.note is None), f"{row.printed} against {row.counted:,}: {row.note}"
        assert row.note is None or "\n" not in row.note.strip()
        assert row.as_noted == (row.note is not None), f"explained is {row.expected}, counted {row.counted}"


@pytest.mark.parametrize("name", FILES)
def test_resolved_spec_loads_back(name: str) -> None:
    fields = architecture_fields(load(name).model)
    assert architecture_fields(Model.from_data(fields)) == fields


def test_every_preset_counts() -> None:
    assert set(PARAMS) <= set(FILES)
    assert all(params(name) > 0 for name in FILES)


@pytest.mark.parametrize(("name", "expected"), PARAMS.items())
def test_parameters(name: str, expected: int) -> None:
    assert params(name) == expected


@pytest.mark.parametrize(("name", "expected"), ACTIVE.items())
def test_active_parameters(name: str, expected: int) -> None:
    assert totals(load(name).model).params_active.value == expected


def test_only_mixtures_have_fewer_active_parameters() -> None:
    for name in FILES:
        counted = totals(load(name).model)
        assert (counted.params_active.value < counted.params.value) == (name in ACTIVE), name


@pytest.mark.parametrize(("name", "expected"), KV_BYTES_PER_TOKEN.items())
def test_kv_cache_bytes_per_token(name: str, expected: int) -> None:
    cache = totals(load(name).model).kv_cache_bytes_per_token
    assert cache is not None and cache.value == expected


@pytest.mark.parametrize("name", CONFIGS)
def test_the_preset_is_what_its_config_says(name: str) -> None:
    imported = architecture_fields(Model.from_data(spec_from_config(CONFIGS[name], "config.json", name)))
    preset = architecture_fields(load(name).model)
    if preset["position"].get("theta", 0) is None:  # the class has a default, which a released model need not have
        imported["position"] |= {"theta": None, "window_theta": None}
    assert {**preset, "released": None} == {**imported, "family": FILES[name].parent.name}


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": [
    "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}
RELEASED = {
    "deepseek-v3": FP8, "kimi-k2": FP8,
    "gpt-oss-20b": MXFP4, "gpt-oss-120b": MXFP4,
    "mimo-v2-flash": {**FP8, "ignored_layers": ["lm_head", *(f"model.layers.{i}.self_attn.o_proj" for i in range(48))]},
    "bitnet-b1.58-2b-4t": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
}


@pytest.mark.parametrize("name", RELEASED)
def test_the_preset_is_released_as_its_config_says(name: str) -> None:
    """The quantization of the released config.json, read as that of any other file."""
    found = Model.from_data(
        spec_from_config({**CONFIGS[name], "quantization_config": RELEASED[name]}, "config.json", name))
    assert load(name).model.released == found.quantization


def test_what_is_packed_is_named_with_its_source() -> None:
    packed = {name for name in FILES if load(name).model.released is not None}
    assert packed >= {*RELEASED, "deepseek-v3.2", "kimi-k2.5"}
    assert all("released" in load(name).model.sources for name in packed)


def test_gpt2_flops() -> None:
    assert totals(load("gpt2").model, seq=1024).flops_forward.value == 291_648_307_200


# ---------------------------------------------------------------- what the difference lines say


@pytest.mark.parametrize(
    ("layers", "d_model", "d_ff", "head_dim", "printed"),
    [
        (6, 512, 2048, 64, 65),
        (2, 512, 2048, 64, 36),
        (4, 512, 2048, 64, 50),
        (8, 512, 2048, 64, 80),
        (6, 256, 2048, 32, 28),
        (6, 1024, 2048, 128, 168),
        (6, 512, 1024, 64, 53),
        (6, 512, 4096, 64, 90),
    ],
)
def test_transformer_table_3_takes_a_vocabulary_of_41000(
    layers: int, d_model: int, d_ff: int, head_dim: int, printed: int
) -> None:
    """arXiv 1706.03762, Table 3: the base model and rows (C)."""
    sizes = (f"layers={layers}", f"d_model={d_model}", f"feed_forward.d_ff={d_ff}", f"attention.head_dim={head_dim}")
    assert round(params("transformer-base", "vocab=41000", *sizes) / 1e6) == printed


def test_transformer_big_takes_a_vocabulary_of_35800() -> None:
    assert round(params("transformer-big", "vocab=35800") / 1e6) == 213
    assert round(params("transformer-base", "vocab=35800") / 1e6) != 65
    assert round(params("transformer-big", "vocab=41000") / 1e6) != 213


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_gpt2_first_printing_is_the_count_with_the_vocabulary_of_gpt1(name: str) -> None:
    (row,) = (row for row in rows(name) if row.note and "known to be wrong" in row.note)
    value, _ = published_value(row.printed)
    without = params(name, f"vocab={load('gpt1').model.vocab}")
    assert round(without / 1e6) == value / 10**6
    assert row.note is not None and f"{without / 1e6:,.1f} M" in row.note


def test_gpt3_with_consistent_head_sizes() -> None:
    """arXiv 2005.14165: Table D.1's counts are those of heads x head_dim = d_model, unlike Table 2.1's sizes."""
    xl = params("gpt3-xl", "attention.heads=16")
    thirteen = params("gpt3-13b", "d_model=5120", "feed_forward.d_ff=20480")
    assert (xl, round(xl, -7)) == (1_315_723_264, 1_320_000_000)
    assert (thirteen, round(thirteen, -7)) == (12_853_386_240, 12_850_000_000)
    assert all(f"{xl:,}" in (row.note or "") for row in rows("gpt3-xl"))
    assert any(f"{thirteen:,}" in (row.note or "") for row in rows("gpt3-13b"))


def test_palm_540b_leaves_the_weights_of_its_norms_out() -> None:
    assert round(params("palm-540b") / 1e7) == 54_035
    assert round(params("palm-540b", "norm.scale=true") / 1e7) == 54_036


def test_gptj_s_printed_count_is_that_of_eight_shards() -> None:
    """Seven more copies of norms and output biases, and eight biases on the embedding."""
    model = load("gptj-6b").model
    norms, output_biases = 2 * model.d_model * (model.layers + 1), model.d_model * model.layers
    assert params("gptj-6b") + 7 * (norms + output_biases) + 8 * model.d_model == 6_053_381_344


def test_kimi_k2_s_printed_count_has_experts_in_every_layer() -> None:
    dense, mixture = (params("kimi-k2", "layers=62", f"groups.0.blocks.{i}.repeat={n}") for i, n in ((0, 2), (1, 61)))
    assert round((params("kimi-k2") + mixture - dense) / 1e9) == 1043


# ---------------------------------------------------------------- transformers, on meta


@pytest.mark.parametrize("name", ["gpt1", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_parameters_equal_those_of_transformers(name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = load(name).model
    kind = "OpenAIGPT" if name == "gpt1" else "GPT2"
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=model.vocab,
        n_positions=model.context,
        n_embd=model.d_model,
        n_layer=model.layers,
        n_head=model.attention.heads,
    )
    with torch.device("meta"):
        twin = getattr(transformers, f"{kind}LMHeadModel")(config)
    assert sum(math.prod(weight.shape) for weight in twin.parameters()) == params(name)


@pytest.mark.parametrize(("name", "kind"), [("gpt1", "OpenAIGPT"), ("gpt2", "GPT2")])
def test_sizes_are_the_defaults_of_transformers(name: str, kind: str) -> None:
    config = getattr(pytest.importorskip("transformers"), f"{kind}Config")()
    model = load(name).model
    assert model.attention is not None
    ours = (model.vocab, model.context, model.d_model, model.layers, model.attention.heads)
    assert ours == (config.vocab_size, config.n_positions, config.n_embd, config.n_layer, config.n_head)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("gpt3-175b", "gpt3"),
        ("davinci", "gpt3"),
        ("openai-gpt", "gpt1"),
        ("gpt2-small", "gpt2"),
        ("GPT-2", "gpt2"),
        ("GPT3_175B", "gpt3"),
        ("Transformer_Big", "transformer-big"),
        ("gpt3-1.3b", "gpt3-xl"),
    ],
)
def test_aliases_and_spellings(called: str, name: str) -> None:
    assert load(called).model.name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt22", "unknown preset 'gpt22'; did you mean gpt2?"),
        ("tranformer-base", "unknown preset 'tranformer-base'; did you mean transformer-base?"),
        ("gpt2-larg", "unknown preset 'gpt2-larg'; did you mean gpt2-large?"),
        ("", "unknown preset ''; 'txcalc presets' lists them; a file needs its path"),
        ("presets", "unknown preset 'presets'; 'txcalc presets' lists them; a file needs its path"),
        ("..", "unknown preset '..'; 'txcalc presets' lists them; a file needs its path"),
        ("zz\n\0", r"unknown preset 'zz\n\x00'; 'txcalc presets' lists them; a file needs its path"),
    ],
)
def test_unknown_name(name: str, message: str) -> None:
    assert refused(name) == message


def test_unknown_names_stay_short_and_quick() -> None:
    assert len(refused("gpt" * 10_000)) < 200


def test_at_most_three_suggestions() -> None:
    assert refused("gpt5").endswith("did you mean gpt1, gpt2 or gpt3?")


def test_a_name_is_found_without_reading_other_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = library.PresetFile.__dict__["text"].func

    def text(file: library.PresetFile) -> str:
        read.append(file.name)
        found: str = original(file)
        return found

    monkeypatch.setattr(library.PresetFile, "text", property(text))
    load("gpt3")
    assert read == ["gpt3"]


# ---------------------------------------------------------------- a user's own presets


def test_own_preset_comes_first_and_says_so(own: Path) -> None:
    (own / "gpt2.yaml").write_text(TINY, encoding="utf-8")
    loaded = load("gpt2")
    assert loaded.model.name == "tiny"
    assert loaded.source == f"preset gpt2 ({own / 'gpt2.yaml'}, in place of the built-in gpt2)"
    mine, *others = names()
    assert (mine.name, mine.origin, mine.shadows) == ("gpt2", "user", "gpt2")
    assert "gpt2" not in [info.name for info in others]
    assert load("gpt2-small").source == "preset gpt2, asked for as gpt2-small"


def test_own_alias_comes_before_a_built_in_name(own: Path) -> None:
    (own / "tiny.yaml").write_text(f"aliases:\n  - davinci\n  - other\n{TINY}", encoding="utf-8")
    assert load("davinci").model.name == "tiny"
    assert load("gpt3").model.name == "gpt3"
    by_name = {info.name: info for info in names()}
    assert by_name["tiny"].aliases == ("davinci", "other")
    assert by_name["tiny"].shadows == "gpt3"
    assert by_name["gpt3"].aliases == ("gpt3-175b",)


def test_own_preset_in_a_family(own: Path) -> None:
    (own / "mine").mkdir()
    (own / "mine" / "small-one.yml").write_text(TINY, encoding="utf-8")
    assert load("Small_One").source == (
        f"preset small-one ({own / 'mine' / 'small-one.yml'}), asked for as Small_One")
    assert names()[0].family == "mine"


@pytest.mark.parametrize(
    "text", ["", "\0\x01", "aliases: [a, b", "aliases: *x", "aliases: 7", "aliases: [[a]]", "[1, 2]", "- {"]
)
def test_a_broken_preset_does_not_stand_in_the_way(own: Path, text: str) -> None:
    (own / "broken.yaml").write_text(text, encoding="utf-8")
    (own / "folder.yaml").mkdir()
    (own / "latin.yaml").write_bytes(b"aliases: [\xe9]\n")
    assert load("gpt2").source == "preset gpt2"
    assert load("davinci").source == "preset gpt3, asked for as davinci"
    (own / "nowhere.yaml").symlink_to(own / "nothing")
    assert {"broken", "folder", "latin", "nowhere", "gpt2"} <= {info.name for info in names()}
    assert [path for path, size, _ in library.state() if size < 0] == [str(own / "nowhere.yaml")]
    with pytest.raises(SpecError) as caught:
        load("broken")
    assert all(line.startswith(str(own / "broken.yaml")) for line in str(caught.value).splitlines())


def test_two_presets_of_one_name(own: Path) -> None:
    for family in "ab":
        (own / family).mkdir()
        (own / family / "same.yaml").write_text(TINY, encoding="utf-8")
    assert refused("same") == f"preset 'same' could be {own / 'a' / 'same.yaml'} or {own / 'b' / 'same.yaml'}"


def test_a_directory_that_is_not_there_is_an_error(own: Path) -> None:
    own.rmdir()
    assert refused("gpt2") == f"{own}: presets cannot be read: no such file or directory"


def test_default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platformdirs = pytest.importorskip("platformdirs")
    monkeypatch.delenv(library.DIRECTORY_VARIABLE)
    monkeypatch.setattr(platformdirs, "user_config_dir", lambda *_, **__: str(tmp_path))
    assert load("gpt2").source == "preset gpt2"
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "mine.yaml").write_text(TINY, encoding="utf-8")
    assert load("mine").model.name == "tiny"


# ---------------------------------------------------------------- files, stdin, reports


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tiny.yaml", "tiny.json", "tiny", "gpt2"):
        Path(name).write_text(TINY, encoding="utf-8")
    for given in ("tiny.yaml", "tiny.json", "tiny", "./gpt2", str(tmp_path / "tiny")):
        assert load(given).model.name == "tiny"
        assert load(given).source == given
    assert load("gpt2").source == "preset gpt2"  # a name is a preset's before it is a file's
    assert refused("other.yaml") == "other.yaml: no such file"
    assert refused("gpt/gpt2").startswith("gpt/gpt2: no such file and no such preset; hf:gpt/gpt2")
    assert refused(".") == "unknown preset '.'; 'txcalc presets' lists them; a file needs its path"
    assert refused("./") == "./: is a directory, not a file"


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(architecture_fields(load("gpt2").model), indent=2), encoding="utf-8")
    assert params(str(path)) == PARAMS["gpt2"]


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, TINY.encode())
    loaded = load("-", ["layers=3"])
    assert (loaded.model.name, loaded.model.layers, loaded.source) == ("tiny", 3, "stdin")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "stdin:1:1: is empty"),
        (b"\xff\xfe", "stdin: is not UTF-8 text"),
        (b"#" * (2**20 + 1), "stdin: is larger than 1,048,576 bytes"),
        (TINY.replace("heads", "head").encode(), "stdin:6:13: attention.head: unknown field; did you mean heads?"),
    ],
)
def test_bad_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes, message: str) -> None:
    feed(monkeypatch, data)
    assert refused("-") == message


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize("name", ["gpt3-xl", "transformer-base"])
def test_a_report_stands_for_its_model(tmp_path: Path, name: str, suffix: str) -> None:
    model = load(name).model
    report = count(model, Workload(seq=8)).to_data()
    path = tmp_path / f"report.{suffix}"
    path.write_text(dump_yaml(report) if suffix == "yaml" else json.dumps(report), encoding="utf-8")
    again = load(str(path))
    assert architecture_fields(again.model) == architecture_fields(model)
    assert again.source == str(path)
    assert params(str(path), "vocab=9") == params(name, "vocab=9")
    message = f"{path}: schema: this txcalc reads txcalc/report/v2, not 'txcalc/report/v9'"
    path.write_text(path.read_text(encoding="utf-8").replace("report/v2", "report/v9"), encoding="utf-8")
    assert re.sub(r":\d+:\d+", "", refused(str(path))) == message


def test_a_report_without_its_model(tmp_path: Path) -> None:
    path = tmp_path / "report.yaml"
    path.write_text("schema: txcalc/report/v2\nmodel: {name: x}\n", encoding="utf-8")
    assert refused(str(path)) == f"{path}: model.spec: a report holds its model here, as a mapping"


def test_the_schema_is_the_report_s() -> None:
    assert REPORT_SCHEMA == SCHEMA


# ---------------------------------------------------------------- overrides


def test_defaults_follow_an_override() -> None:
    attention = load("gpt2", ["d_model=1024", "attention.heads=32"]).model.attention
    assert attention is not None
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (32, 32, 32)
    position = load("gpt2", ["context=4K"]).model.position
    assert position == LearnedPosition(size=4096)


def test_an_override_reaches_the_encoder_too() -> None:
    model = load("transformer-base", ["attention.kv_heads=2"]).model
    assert model.encoder is not None and model.encoder.attention is not None and model.cross_attention is not None
    assert model.encoder.attention.kv_heads == model.cross_attention.kv_heads == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("vocab=50257", 50257),
        ("vocab = 50_257", 50257),
        ("vocab=128_256", 128256),
        ("vocab=4k", 4000),
        ("vocab=4K", 4096),
        ("vocab=1.5M", 1_500_000),
        ("vocab=0x10", 16),
    ],
)
def test_sizes_in_overrides(text: str, value: int) -> None:
    assert load("gpt2", [text]).model.vocab == value


def test_values_are_yaml() -> None:
    model = load("gpt2", ["head.tied=false", "position={kind: rope, theta: 1e6}", "summary='4K'"]).model
    assert model.head.to_data()["tied"] is False
    position = model.position.to_data()
    assert (position["kind"], position["theta"]) == ("rope", 1e6)
    assert model.summary == "4K"


def test_list_items(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("layers: 2", "groups: [{blocks: [{}, {repeat: 2}]}]"), encoding="utf-8")
    assert load(str(path)).model.layers == 3
    assert load(str(path), ["groups.0.repeat=4", "groups[0].blocks[1].repeat=5"]).model.layers == 24


def test_overrides_are_recorded_and_drop_published_figures() -> None:
    loaded = load("gpt2", ["layers=3", "layers=2"])
    assert loaded.overrides == ("layers=3", "layers=2")
    assert (loaded.model.layers, loaded.model.published) == (2, ())
    assert load("gpt2").model.published


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("attention.kv_head=4", "attention.kv_head: unknown field; did you mean kv_heads?"),
        ("atention.heads=4", "atention: unknown field; did you mean attention?"),
        ("attention.kv_heads=5", "attention.kv_heads: 5 does not divide heads 12; use one of 1, 2, 3, 4, 6, 12"),
        ("d_model=0", "d_model: must be a whole number of at least 1, got 0"),
        ("d_model=big", "d_model: must be a whole number, got 'big'"),
        ("d_model=", "d_model: must be a whole number, got null"),
        ("attention.heads.x=1", "attention.heads: is a single value here, with no x to set"),
        ("attention.bias.q=no", "attention.bias: is a single value here, with no q to set"),
        ("layers", "write it as KEY=VALUE, such as attention.kv_heads=4"),
        ("=4", "write it as KEY=VALUE, such as attention.kv_heads=4"),
        ("attention..heads=4", "write it as KEY=VALUE, such as attention.kv_heads=4"),
        ("layers=!!int 4", "layers: tags ('!') are not read: write the plain value"),
        (f"{'a.' * 99}a=4", "the key has more than 32 parts"),
    ],
)
def test_bad_override(override: str, message: str) -> None:
    assert refused("gpt2", override) == f"--set {override}: {message}"


def test_bad_list_items(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("layers: 2", "groups: [{blocks: [{}, {repeat: 2}]}]"), encoding="utf-8")
    assert refused(str(path), "groups.1.repeat=4").endswith("groups.1: no such item: the list has 1, counted from 0")
    assert refused(str(path), "groups.x=4").endswith("groups: is a list: name an item by its number, not 'x'")


def test_an_override_is_not_a_way_to_set_two_fields() -> None:
    assert "layers" in refused("gpt2", "layers=4\nvocab: 3")


def test_the_last_override_of_a_field_is_to_blame() -> None:
    assert refused("gpt2", "vocab=9", "attention.heads=2", "attention.heads=5").startswith("--set attention.heads=5: ")


def test_a_consequence_elsewhere_names_every_override() -> None:
    assert refused("gpt2", "vocab=9", "d_model=1000").startswith("--set vocab=9 --set d_model=1000: attention.heads: ")


def test_a_mistake_in_the_file_is_not_blamed_on_an_override(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("d_ff: 5", "d_ff: -5"), encoding="utf-8")
    assert refused(str(path), "vocab=9").startswith(f"{path}:7:16: feed_forward.d_ff: must be")


# ---------------------------------------------------------------- printed figures


@pytest.mark.parametrize(
    ("printed", "value", "unit"),
    [
        ("124M", 124_000_000, 10**6),
        ("1.5 B", 1_500_000_000, 10**8),
        ("175.0B", 175 * 10**9, 10**8),
        ("350M", 350_000_000, 10**7),
        ("1,320 M", 1_320_000_000, 10**7),
        ("174,600 M", 174_600_000_000, 10**8),
        ("10 B", 10 * 10**9, 10**9),
        ("100B", 100 * 10**9, 10**10),
        ("0.5B", 5 * 10**8, 10**8),
        ("2.38e21", 238 * 10**19, 10**19),
        ("3.14E+23 FLOPs", 314 * 10**21, 10**21),
        ("36 KiB", 36 * 1024, 1024),
        ("131,072 bytes", 131_072, 1),
        ("~7B", 7 * 10**9, 10**9),
    ],
)
def test_published_value(printed: str, value: int, unit: int) -> None:
    assert published_value(printed) == (value, unit)


@pytest.mark.parametrize("printed", ["", "about 65 M", "65 million", "1.2.3", "-5 M", "1,32 M", "12 X", "1e9999 M"])
def test_not_a_figure(printed: str) -> None:
    with pytest.raises(ValueError, match="is not a figure"):
        published_value(printed)


def test_half_a_unit_still_rounds() -> None:
    model = load("gpt2").model
    figure = Published(quantity="params", printed="124 M", source="test")
    model = model.replaced(published=(figure,))
    base = totals(model)

    def rounds(value: int) -> bool:
        changed = base.replaced(params=base.params.replaced(value=value))
        (row,) = compare_published(model, changed)
        return row.rounds_equal

    assert rounds(124_500_000) and rounds(123_500_000)
    assert not rounds(124_500_001) and not rounds(123_499_999)


def test_a_quantity_that_the_model_does_not_have() -> None:
    model = load("gpt2").model
    figure = Published(quantity="kv_cache_bytes_per_token", printed="36 KiB", source="test")
    model = model.replaced(published=(figure,))
    (row,) = compare_published(model, totals(model))
    assert (row.counted, row.relative_difference, row.rounds_equal) == (36 * 1024, 0.0, True)
    (row,) = compare_published(model, totals(model).replaced(kv_cache_bytes_per_token=None))
    assert (row.counted, row.relative_difference, row.rounds_equal) == (None, None, False)


def test_the_schema_beside_the_presets_is_that_of_the_model() -> None:
    from txcalc.show.schema import json_schema

    assert json.loads(beside("preset.schema.json")) == json_schema("preset"), "run: txcalc schema preset"
