"""Defaults of a run: its length and its dtype."""

from typing import Final

SEQ: Final = 2048
"""Tokens of a sequence, where the model's context is not shorter."""

DTYPE: Final = "bf16"
"""Data type of computation, and of weights as stored."""
