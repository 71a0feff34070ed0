"""Read a Hugging Face ``config.json`` as a spec: exactly, or not at all."""

from collections.abc import Mapping
from typing import Any, Final

_OWN: Final = frozenset({"architecture", "attention", "feed_forward", "groups", "head"})
_SPEC: Final = frozenset({"name", "d_model", "layers", "context"})
_SIZES: Final = frozenset({"hidden_size", "num_hidden_layers", "num_attention_heads", "n_embd"})
_CLASS: Final = frozenset({"model_type", "architectures", "transformers_version", "peft_type"})


def is_config(data: Mapping[str, Any]) -> bool:
    """Tell whether a mapping looks like a Hugging Face configuration rather than a spec of ours.

    What names the class of a model is one, unless it has every field that a spec must have, or its base; sizes alone
    are one only where no part of a spec stands beside them.
    """
    if _CLASS & data.keys():
        return not (data.keys() >= _SPEC or "base" in data)
    return bool(_SIZES & data.keys()) and not _OWN & data.keys()
