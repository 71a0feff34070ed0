"""Read the default of every configuration field from transformers' classes. Run: python tests/huggingface_defaults.py

A config.json leaves out what equals its class's default, so an importer must know these facts. A test checks that
the committed table still equals the installed classes.
"""

import json
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent.parent / "txcalc" / "spec" / "huggingface" / "defaults.json"


def read_defaults(model_types: list[str]) -> dict[str, dict[str, Any]]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from txcalc.spec.huggingface.config import IRRELEVANT

    found = {}
    for model_type in model_types:
        cls = CONFIG_MAPPING[model_type]
        # The class attribute, not the instance's: an instance has already derived kv heads from heads.
        found[model_type] = {
            name: value for name in sorted(cls().to_dict())
            if name not in IRRELEVANT and isinstance(value := getattr(cls, name, {}), int | float | str | list | None)
        }
    return found


def main() -> None:
    types = sorted(json.loads(TABLE.read_text()))
    TABLE.write_text(json.dumps(read_defaults(types), indent=1) + "\n")


if __name__ == "__main__":
    main()
