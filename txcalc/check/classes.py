"""Measure transformers' own classes: the storages that autograd keeps, and the bytes that live through a training step.

A class is built from its ``config.json`` with weights that are not initialised, and runs one step on labels as a user
would: ``model(**inputs, labels=labels, use_cache=False).loss.backward()``. Weights and buffers are there before it.
Where tensors have no data (``fake-cuda``) classes are not told so, else they do what they do while they are traced, and
every question is answered with yes: they ask whether all tokens are of one sequence, and whether none is padding.
Experts get equal shares of the tokens. GPT-2 does not look whether to warn of padding, which takes up to 48 bytes
before all else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from txcalc.check.measure import maker
from txcalc.check.measure_kept import Kept, kept_by
from txcalc.check.measure_modes import LiveMode
from txcalc.check.measure_trained import with_float8, with_peft
from txcalc.check.reference.layers import contexts
from txcalc.huggingface.families import FAMILIES
from txcalc.spec.errors import SpecError

Config = Mapping[str, Any]
ONE_LABEL: Final = ("ForSequenceClassification", "ForImageClassification", "ForNextSentencePrediction")
"""Ends of the names of classes with one label to an input; others have one to a position."""


def kept(config: Config, batch: int, seq: int, *, device: str = "cpu", **run: Any) -> list[Kept]:
    """Every storage that autograd keeps for the backward pass of a step, in the order of saving.

    ``run``: as of ``live_bytes``. Weights, buffers and empty storages are left out.
    """
    with maker(device) as at:
        model, forward = _step(config, batch, seq, at, **run)
        return kept_by(model, forward, at_the_end=True)


def live_bytes(
    config: Config, batch: int, seq: int, *, device: str = "cpu", **run: Any
) -> list[tuple[str, int]]:
    """The bytes live after every operation of a training step that allocates or frees. ``lora``: adapters of ``peft``.

    ``seq``: labels of a sequence; ``source_seq``: what an encoder reads, where it reads tokens. ``attention``: eager or
    sdpa; ``experts``: transformers' name for how they run, its own choice where left out. ``dtype``: of weights and
    inputs; ``autocast``: to that dtype. ``dropout``: of every place where the class has one, else as ``config`` says.
    ``recompute``: the class's own gradient checkpointing, of every layer. What was there before (weights, buffers,
    inputs, labels) and what a kernel allocates for itself are not seen.
    """
    with maker(device) as at:
        _, forward = _step(config, batch, seq, at, **run)
        with LiveMode(at) as live, _Yes():
            loss = forward()
            loss.backward()  # type: ignore[no-untyped-call]
        return list(live.events)


def _step(
    config: Config, batch: int, seq: int, device: str, *, source_seq: int | None = None,
    dtype: torch.dtype = torch.float32, attention: str = "sdpa", experts: str | None = None,
    dropout: float | None = None, autocast: torch.dtype | None = None,
    recompute: bool | str = False, float8: bool = False, freeze: Sequence[str] = (),
    lora: Mapping[str, Any] | None = None, dora: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A model, and its forward pass to the loss."""
    from transformers.utils import import_utils

    model = instantiate(config, device, dtype=dtype, attention=attention, experts=experts,
                        dropout=dropout).train()
    for module in model.modules():
        if type(module).__name__.endswith("Experts"):
            module.register_forward_pre_hook(_in_turn)
    if recompute:
        model.activation_checkpointing_enable({"use_reentrant": False} | ({} if recompute is True else {
            "context_fn": contexts("ops")}))
    if float8:
        with_float8(model)
    for name, weight in model.named_parameters():  # some classes freeze their positions themselves
        weight.requires_grad_(weight.requires_grad and not name.startswith(tuple(freeze)))
    if (adapter := lora or dora) is not None:
        with_peft(model, adapter, dora=dora is not None)
    given = _inputs(model, batch, seq, source_seq, device, dtype)
    for module in model.modules():
        module.warn_if_padding_and_no_attention_mask = lambda *_: None

    def forward() -> Tensor:
        cast = torch.autocast(model.device.type, autocast, enabled=autocast is not None)
        with _Yes(), cast, patch.object(import_utils, "is_fake_tensor", lambda _: False):
            loss: Tensor = model(**given).loss
        return loss

    return model, forward


def instantiate(
    config: Config, device: str, *, dtype: torch.dtype = torch.float32, attention: str = "eager",
    experts: str | None = None, dropout: float | None = None,
) -> Any:
    """The class that ``config`` names, as ``from_pretrained`` makes it in that dtype, without initialised weights.

    ``dropout``: in every place where the class has one; left out, as ``config`` says. Raises ``SpecError`` where this
    version of transformers has no such class.
    """
    import transformers
    from transformers.initialization import no_init_weights

    fields = {name: value for name, value in config.items() if name not in ("architectures", "model_type", "auto_map")}
    name = (config.get("architectures") or [next(iter(FAMILIES[config["model_type"]].classes))])[0]
    if not hasattr(transformers, name):
        raise SpecError(f"transformers {transformers.__version__} has no class {name}")
    cls = getattr(transformers, name)
    settings = cls.config_class(**fields)
    for field, value in vars(settings).items():
        if dropout is not None and "drop" in field and "layer" not in field and isinstance(value, int | float):
            setattr(settings, field, dropout)
    settings._experts_implementation = experts
    with torch.device(device), no_init_weights():
        model = cls._from_config(settings, attn_implementation=attention, dtype=dtype)
    model.tie_weights()
    return model


def _in_turn(experts: nn.Module, args: tuple[Tensor, Tensor, Tensor]) -> None:
    """Let tokens choose experts in turn, so that all get equal shares, the first ones a token more."""
    index = args[1]
    if not isinstance(index, FakeTensor):
        with torch.no_grad(), _disable_current_modes():
            turn = torch.arange(index.numel()).view(index.shape)
            index.data.copy_(turn % int(experts.num_experts))  # type: ignore[arg-type]


def _inputs(
    model: Any, batch: int, seq: int, source_seq: int | None, device: str, dtype: torch.dtype
) -> dict[str, Tensor | bool]:
    """Inputs of a class, under its own names."""
    config, ids = model.config, partial(torch.ones, dtype=torch.long, device=device)
    labels = ids(batch) if type(model).__name__.endswith(ONE_LABEL) else ids(batch, seq)
    spans = type(model).__name__.endswith("ForQuestionAnswering")
    given: dict[str, Tensor | bool] = (
        {"start_positions": ids(batch), "end_positions": ids(batch)} if spans else {"labels": labels})
    if model.main_input_name == "pixel_values":
        side = config.image_size
        given["pixel_values"] = torch.zeros(batch, config.num_channels, side, side, dtype=dtype, device=device)
    elif model.main_input_name == "input_features":
        shape = batch, config.num_mel_bins, 2 * config.max_source_positions
        given["input_features"] = torch.zeros(shape, dtype=dtype, device=device)
    else:
        given["input_ids"] = ids(batch, seq if source_seq is None else source_seq)
    return given | ({"use_cache": False} if hasattr(config, "use_cache") else {})


class _Yes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers questions of tensors without data with yes, or with no."""

    def __init__(self, answer: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._answer = answer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return self._answer
        return func(*args, **(kwargs or {}))
