"""Read every configuration field's default and other names from transformers' classes.

Run: python tests/huggingface_defaults.py

A config.json leaves out what equals its class's default, and may call a field by its other name, so an importer must
know these facts. A test checks that the committed tables still equal the installed classes.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "txcalc" / "huggingface"
DEFAULTS, ALIASES, THETAS = FOLDER / "defaults.json", FOLDER / "aliases.json", FOLDER / "thetas.json"
THETA_NAMES = ("rope_theta", "rotary_emb_base", "global_rope_theta", "rope_local_base_freq", "local_rope_theta",
               "swa_rope_theta")
NAMED_OTHERWISE = {"kimi_k2": "deepseek_v3"}
"""Types whose class is another's: the library has none of their name."""
UNREAD_PARTS = ["t5_gemma_module"]
"""Types that only stand inside another's configuration."""
PLAIN = int | float | str | list | tuple | None


def read_types() -> list[str]:
    """Every type of configuration that is read, alone or within another."""
    from txcalc.huggingface import hub
    from txcalc.huggingface.families import FAMILIES, PARTS

    return sorted({*FAMILIES, *PARTS, *UNREAD_PARTS} - {*hub.ROWS})


def read_defaults(model_types: list[str]) -> dict[str, dict[str, Any]]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from txcalc.huggingface.config import IRRELEVANT

    found = {}
    for model_type in model_types:
        cls = CONFIG_MAPPING[NAMED_OTHERWISE.get(model_type, model_type)]
        # The class attribute, not the instance's: an instance has already derived kv heads from heads.
        found[model_type] = {
            name: value for name in sorted({*cls().to_dict(), *(field.name for field in fields(cls))})
            if isinstance(value := getattr(cls, name, {}), PLAIN) and (
                name not in IRRELEVANT or (name == "pad_token_id" and value is not None))
        }
    return found


def read_thetas(model_types: list[str]) -> dict[str, dict[str, Any]]:
    """Bases of the rotary frequencies: those of a configuration without any, and the fields that change them."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    found = {}
    for model_type in model_types:
        cls = CONFIG_MAPPING[NAMED_OTHERWISE.get(model_type, model_type)]
        usual = thetas(cls())
        given = {name: thetas_with(cls, name) for name in THETA_NAMES}
        entry = {kind: {"default": theta, "names": [name for name in THETA_NAMES if given[name][kind] == 54321.0]}
                 for kind, theta in usual.items() if theta is not None}
        if entry:
            found[model_type] = entry
    return found


def thetas_with(cls: Any, name: str) -> dict[str, float | None]:
    """Where this field is given; of a class that takes no number for it, those that it has anyway."""
    try:
        return thetas(cls(**{name: 54321.0}))
    except TypeError:
        return thetas(cls())


def thetas(settings: Any) -> dict[str, float | None]:
    """Of layers that see everything, and of those with a window."""
    parameters = getattr(settings, "rope_parameters", None) or {}
    return {"full": (parameters.get("full_attention", parameters) or {}).get("rope_theta"),
            "window": (parameters.get("sliding_attention") or {}).get("rope_theta")}


def read_aliases(model_types: list[str]) -> dict[str, dict[str, str]]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    found = {name: CONFIG_MAPPING[NAMED_OTHERWISE.get(name, name)].attribute_map for name in model_types}
    return {name: dict(sorted(aliases.items())) for name, aliases in found.items() if aliases}


def as_text(table: dict[str, Any]) -> str:
    return json.dumps(table, indent=1) + "\n"


def main() -> None:
    types = read_types()
    DEFAULTS.write_text(as_text(read_defaults(types)))
    ALIASES.write_text(as_text(read_aliases(types)))
    THETAS.write_text(as_text(read_thetas(types)))


if __name__ == "__main__":
    main()
