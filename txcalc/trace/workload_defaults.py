"""What a run is like where nothing is said of it."""

from typing import Final

SEQ: Final = 2048
"""Tokens of a sequence, where the model's context is not shorter."""

DTYPE: Final = "bf16"
"""What is computed in, and how weights are stored."""
