"""Which fields of its configuration a class asks for while it is built and run, and from which file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_defaults import NAMED_OTHERWISE

Reads = set[tuple[str, Path]]
CHECKS_ALL = "validate_token_ids"
"""Looks at every field there is for the ends of their names, and warns."""


@contextmanager
def recorded() -> Iterator[Reads]:
    """Every name that is asked of any configuration, there or not, with the file that asks."""
    from transformers import PreTrainedConfig

    real = PreTrainedConfig.__getattribute__
    found: Reads = set()

    def ask(self: Any, name: str) -> Any:
        asks = sys._getframe(1).f_code
        if asks.co_name != CHECKS_ALL:
            found.add((name, Path(asks.co_filename)))
        return real(self, name)

    PreTrainedConfig.__getattribute__ = ask
    try:
        yield found
    finally:
        PreTrainedConfig.__getattribute__ = real


def reads_of_building(config: Mapping[str, Any], run: Callable[[Any], object] | None = None) -> tuple[Any, Reads]:
    """The shapes of all weights of the class on meta, by name, and what it asked for on the way."""
    import torch
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    model_type = config["model_type"]
    with recorded() as reads, torch.device("meta"):
        parsed = CONFIG_MAPPING[NAMED_OTHERWISE.get(model_type, model_type)](**fields)
        model = getattr(transformers, config["architectures"][0])(parsed).eval()
        if run is not None:
            run(model)
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}, reads
