"""``quantization`` of a configuration that MLX wrote: which matrices are packed, and how.

Measured with mlx 0.32 and mlx-lm 0.32 (tests/mlx_files.py): every module that can be packed is, embeddings, heads,
routers and shared gates too, wherever whole groups fill its rows; the others are not named. A row of codes fills
32-bit words. ``affine``: a scale and an offset ("biases") for each group, both in the dtype of the weight;
``mxfp4``, ``mxfp8`` and ``nvfp4``: a scale of one byte. Modules that are packed otherwise have an entry under their
name, which without a mode is affine, whatever the rest is.

Where the configuration does not settle what is packed, the bytes are an estimate. mlx-lm's releases before 0.18.2 wrote
no ``quantization_config`` beside ``quantization``, and those before 0.10 packed neither embeddings nor matrices of
eight outputs. And a file may hold the codes of another method as they were, with nothing besides packed and nothing
named: AWQ's and GPTQ's, of 4 bits and without a mode, compressed-tensors' in groups of 32, any float mode. What a
predicate of one's own leaves alone, mlx-lm does not write down since 0.27: ``validate --against`` the file tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from txcalc.huggingface import modules
from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.spec.errors import shown
from txcalc.spec.facts import layer_order
from txcalc.spec.inputs import LMHead
from txcalc.spec.layers import MLA, MoE
from txcalc.spec.model import Model

Layout = tuple[tuple[str, int], ...]

FIELD: Final = "quantization"
SIZES: Final = frozenset({"group_size", "bits", "mode"})
OTHER_FIELD: Final = "quantization_config"


class Family(NamedTuple):
    """Names in MLX's class for the modules that are not as in ``modules.FAMILIES``.

    ``router`` is None where it is a bare weight, which is not packed. ``split``: what raises keys and values from
    their latent is kept as two stacks of matrices, one for each, of which the first is turned over. ``tied``: whether
    the class uses the token table as its head; None where the file decides. ``published``: the mode in which the
    family itself publishes its experts: files in that mode have them so, and name all else that is packed.
    """

    layers: str = "model.layers"
    tokens: str = "model.embed_tokens"
    positions: str = ""
    head: str = "lm_head"
    experts: str = "mlp.switch_mlp"
    router: str | None = None
    split: bool = False
    tied: bool | None = None
    published: str = ""


class Packed(NamedTuple):
    """Matrices of one module of the file: their path in the trace, and how many."""

    path: str
    copies: int


_PLAIN: Final = Family()
_ROUTED: Final = Family(router="mlp.gate")
_BLOCK_SPARSE: Final = Family(experts="block_sparse_moe.switch_mlp", router="block_sparse_moe.gate")

FAMILIES: Final[Mapping[str, Family]] = {
    **dict.fromkeys((
        "llama", "mistral", "qwen2", "qwen3", "gemma3_text", "olmo2", "olmo3", "granite", "glm", "phi3", "starcoder2",
        "nemotron", "smollm3", "ernie4_5", "seed_oss", "hunyuan_v1_dense", "exaone4", "ministral3", "internlm3",
        "apertus", "iquestcoder", "exaone_moe", "minicpm3",
    ), _PLAIN),
    **dict.fromkeys(("gemma", "gemma2", "cohere", "cohere2"), _PLAIN._replace(tied=True)),
    **dict.fromkeys(("glm4", "phi", "stablelm", "helium", "deepseek_v2", "glm4_moe", "solar_open"),
                    _PLAIN._replace(tied=False)),
    **dict.fromkeys(("deepseek_v3", "kimi_k2", "glm4_moe_lite"), _PLAIN._replace(tied=False, split=True)),
    **dict.fromkeys(("qwen3_moe", "olmoe", "mellum", "qwen3_next"), _ROUTED),
    "qwen2_moe": _ROUTED._replace(tied=False),
    **dict.fromkeys(("mixtral", "minimax_m2"), _BLOCK_SPARSE),
    "phimoe": _BLOCK_SPARSE._replace(tied=False),
    "dots1": Family(experts="mlp.experts"),
    **dict.fromkeys(("granitemoe", "granitemoehybrid"),
                    _BLOCK_SPARSE._replace(router="block_sparse_moe.router.layer")),
    "lfm2": _PLAIN._replace(tied=True),
    "lfm2_moe": Family(experts="feed_forward.switch_mlp", router="feed_forward.gate", tied=True),
    "gpt_oss": Family(experts="mlp.experts", router="mlp.router", tied=False, published="mxfp4"),
    "gpt2": Family("model.h", "model.wte", "model.wpe", tied=True),
    "gpt_bigcode": Family("transformer.h", "transformer.wte", "transformer.wpe"),
    "gptj": Family("model.h", "model.wte", tied=False),
    "gpt_neox": Family("model.h", "model.embed_in", head="model.embed_out", tied=False),
}

TIED_UNLESS_SAID: Final = frozenset(
    {"llama", "mistral", "qwen2", "granite", "granitemoe", "granitemoehybrid", "glm", "seed_oss", "ministral3",
     "iquestcoder"}
)
"""Classes that drop the head of a file without ``tie_word_embeddings``, of which transformers' takes false."""

_SPLIT: Final = re.compile(r"\.(?:embed_q|unembed_out)$")
_WHOLE: Final = ("norm", ".ln_1", ".ln_2", ".ln_f", ".rope", ".activation", ".act_fn", ".conv1d", ".mlp.gate")
"""Last parts of modules' names that nothing packs. Files of some releases list them all the same."""

_AFFINE: Final = {(group, bits) for group in (32, 64, 128) for bits in (2, 3, 4, 5, 6, 8)}
MODES: Final = {"affine": _AFFINE, "mxfp4": {(32, 4)}, "mxfp8": {(32, 8)}, "nvfp4": {(16, 4)}}


def read_mlx(c: Config, model: Model) -> Data:
    """The ``quantization`` of a spec for a ``model`` that was read from the same configuration.

    Raises ``SpecError`` naming a mode, size, field or module that is not understood, and a family whose class in MLX
    was not measured.
    """
    q = c.section(FIELD, "")
    family = FAMILIES.get(c.model_type)
    if family is None:
        raise c.error(FIELD, f"MLX's checkpoints of model_type {c.model_type} are not understood")
    other = c.data.get(OTHER_FIELD)
    for name in (OTHER_FIELD, "compression_config"):
        if c.data.get(name) and c.data[name] != q.data:
            raise c.error(name, f"contradicts {FIELD}")
    if not isinstance(model.head, LMHead) or family.tied not in (None, model.head.tied):
        raise c.error(FIELD, f"MLX's class of model_type {c.model_type} has no such head")
    if c.model_type in TIED_UNLESS_SAID and "tie_word_embeddings" not in c.data:
        raise c.error("tie_word_embeddings", "must be given with MLX's quantization: its class takes another default")
    theirs = modules.FAMILIES.get(c.model_type) or modules.MLX[c.model_type]
    rest, found = _layout(q), _modules(theirs, family, model)
    left, mixed = _entries(q, rest, found, family)
    if family.published == rest["mode"]:
        left += [matrix for name, matrices in found.items() if name not in q.data
                 for matrix in matrices if ".experts." not in matrix.path]
    if family.router is None:
        left += [router for _, router in _routers(model)]
    if family.split:
        _check_split(q, model, rest["group"])
    optional: Data = {
        "left": _counted(left),
        "mixed": [{**dict(layout), "matrices": _counted(matrices)} for layout, matrices in mixed.items()],
        "exact": (bool(other) or "mode" in q.data) and _settled(q, rest, family),
    }
    return {"method": "mlx" if rest["mode"] == "affine" else f"mlx {rest['mode']}", **_sizes(rest),
            "word_bits": 32, "weights": "all",
            **{name: value for name, value in optional.items() if value or name == "exact"}}


def _settled(q: Config, rest: Data, family: Family) -> bool:
    """Tell whether the packed weights are certain: see the module's docstring."""
    named = q.data.keys() - SIZES
    if family.published == rest["mode"]:
        return not named or family.tokens in named
    own = rest["bits"] != 4 or rest["group"] == 64 or (rest["group"] == 128 and "mode" in q.data)
    return bool(named) or (rest["mode"] == "affine" and own)


def _sizes(layout: Data) -> Data:
    return {name: value for name, value in layout.items() if name != "mode"}


def _layout(q: Config) -> Data:
    mode = q.choice("mode", {mode: mode for mode in MODES}, default="affine")
    group, bits = q.size("group_size"), q.size("bits")
    if (group, bits) not in MODES[mode]:
        raise q.error("bits", f"{bits} bits in groups of {group} are not known of mode {mode}")
    scale = {"offsets": True} if mode == "affine" else {"scale_bytes": 1}
    return {"mode": mode, "bits": bits, "group": group, **scale}


def _entries(
    q: Config, rest: Data, found: Mapping[str, list[Packed]], family: Family
) -> tuple[list[Packed], dict[Layout, list[Packed]]]:
    """Weights that are left alone, and those that are packed otherwise than the rest, by their layout."""
    latent = found.keys() if family.split else ()
    left: list[Packed] = []
    mixed: dict[Layout, list[Packed]] = {}
    for name, value in q.data.items():
        if name in SIZES:
            continue
        q.ignore(name)
        own = _entry(q, name, value, rest)
        if name not in found:
            if (own is None and name.endswith(_WHOLE)) or (own == rest and _SPLIT.sub(".kv_b_proj", name) in latent):
                continue
            raise q.error(name, "names no module of this model that txcalc knows")
        if own is None:
            left += found[name]
        elif own != rest:
            mixed.setdefault(tuple(_sizes(own).items()), []).extend(found[name])
    q.finish()
    return left, mixed


def _entry(q: Config, name: str, value: object, rest: Data) -> Data | None:
    """The layout of one module; None where it is left alone."""
    if isinstance(value, bool):
        return rest if value else None
    if not isinstance(value, Mapping):
        raise q.error(name, f"must be true, false or sizes, got {shown(value)}")
    sizes = q.part(name, value, "")
    own = _layout(sizes)
    sizes.finish()
    return own


def _modules(theirs: modules.Family, family: Family, model: Model) -> dict[str, list[Packed]]:
    """Everything that can be packed, by its name in the file."""
    found = {family.tokens: [Packed("token_embedding", 1)]}
    if family.positions:
        found[family.positions] = [Packed("position_embedding", 1)]
    if not (isinstance(model.head, LMHead) and model.head.tied):
        found[family.head] = [Packed("head", 1)]
    for matrix in modules.matrices(theirs, model):
        name = matrix.module.removeprefix(theirs.layers)
        if ".experts." in matrix.path:
            name = f".{name.split('.')[1]}.{family.experts}.{matrix.path.rpartition('.')[2]}_proj"
        found.setdefault(family.layers + name, []).append(Packed(f"{matrix.layer}.{matrix.path}", matrix.copies))
    if family.router is not None:
        found |= {f"{family.layers}.{i}.{family.router}": [router] for i, router in _routers(model)}
    return found


def _routers(model: Model) -> list[tuple[int, Packed]]:
    """With the numbers of their layers."""
    return [(i, Packed(f"{prefix}.feed_forward.router", 1)) for i, (prefix, block) in enumerate(layer_order(model))
            if isinstance(block.feed_forward, MoE)]


def _check_split(q: Config, model: Model, group: int) -> None:
    """Check that groups fill the rows of both stacks, or of neither: then they weigh what the one matrix would."""
    for _, block in layer_order(model):
        a = block.attention
        if isinstance(a, MLA) and (a.nope_dim % group == 0) != (a.kv_rank % group == 0):
            raise q.error("group_size", f"{group} divides one of qk_nope_head_dim and kv_lora_rank alone: "
                          "such a checkpoint is not understood")


def _counted(matrices: list[Packed]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for path, copies in matrices:
        counted[path] = counted.get(path, 0) + copies
    return counted
