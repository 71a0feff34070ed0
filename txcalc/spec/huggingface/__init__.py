"""Read a Hugging Face ``config.json`` as a spec: exactly, or not at all."""

from collections.abc import Mapping
from typing import Any, Final

_OWN: Final = frozenset({"architecture", "attention", "feed_forward", "groups", "head"})
_THEIRS: Final = frozenset({"model_type", "architectures", "transformers_version", "hidden_size", "num_hidden_layers",
                            "num_attention_heads", "n_embd"})


def is_config(data: Mapping[str, Any]) -> bool:
    """Whether a mapping looks like a Hugging Face configuration rather than a spec of ours."""
    return not _OWN & data.keys() and bool(_THEIRS & data.keys())
