"""Live bytes of generation: a prompt and what follows it, by the reference or by transformers' own classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensor

from txcalc.check import classes
from txcalc.check.measure import Inputs, balance, maker
from txcalc.check.measure_modes import LiveMode
from txcalc.check.measure_trained import build
from txcalc.spec.model import Model


def generation_live_bytes(
    model: Model, batch: int, seq: int, *steps: int, source_seq: int | None = None, dtype: torch.dtype = torch.float32,
    eager: bool = False, device: str = "cpu", packed: str | None = None, absorbed: bool = False,
    images: int | None = None, padded: bool = False,
) -> list[list[tuple[str, int]]]:
    """The bytes live after every operation that allocates or frees, of a prompt and of ``steps`` of so many tokens.

    ``packed``: bitsandbytes' format of the linear layers. ``padded``: the first sequence has one token less.

    Each is run without gradients and hands its cache on to the next; what else it puts out is released before that.
    What was there before (weights, buffers, tokens) and what a kernel allocates for itself are not seen.
    """
    with maker(device) as at, torch.no_grad():
        run = Inputs(model, batch, seq, source_seq, at, images=images, dtype=dtype)
        root = build(model, length=run.length + sum(steps), eager=eager, dtype=dtype, device=at, absorbed=absorbed,
                     trained=None if packed is None else {"packed": packed}).eval()
        balance(root)
        tokens, own = [run.ids(n) for n in steps], list[tuple[torch.Tensor, ...]]()
        for i, n in enumerate((seq, *steps)):
            there = torch.ones(batch, seq + sum(steps[:i]), dtype=torch.long, device=at)
            there[:1, :1] = 0
            hidden = torch.zeros_like(there, dtype=dtype).masked_fill(there == 0, -torch.inf)
            own.append((hidden, (there.cumsum(-1) - there)[:, -n:].clone()) if padded else ())
        with LiveMode(at) as live:
            first, cache = root.prefill(run.tokens, run.source, run.images, own[0])
            found, held = [live.taken()], [first]
            del first
            for each, pads in zip(tokens, own[1:], strict=True):
                held.clear()
                cache = cache.pad(*pads) if pads else cache
                live.taken()
                held.append(root(each, cache=cache))
                found.append(live.taken())
        return found


def class_generation(
    config: classes.Config, batch: int, seq: int, *, steps: Sequence[int] = (), cache: str = "dynamic",
    logits: str = "last", device: str = "cpu", padded: bool = False, source_seq: int | None = None, **how: Any,
) -> list[list[tuple[str, int]]]:
    """The bytes live after every operation that allocates or frees, of a prompt and of ``steps`` of so many tokens.

    As in ``generation_live_bytes``. ``cache``: dynamic, or static:K for K tokens;
    ``logits``: of all positions or the last. ``padded``: the first sequence has one token less, and masks and positions
    are given as ``generate`` makes them. An encoder runs before the prompt, as ``generate`` has it, on ``source_seq``
    tokens where it reads tokens. ``how``: as of ``instantiate``. A class that does not generate has one pass.
    """
    import transformers
    from transformers.utils import import_utils

    with maker(device) as at, torch.no_grad():
        model = classes.instantiate(config, at, **how).eval()
        given: dict[str, Any] = classes._inputs(model, batch, seq, source_seq, at, how.get("dtype", torch.float32))
        for name in ("labels", "use_cache"):
            given.pop(name, None)
        source, name, encodes = given, "input_ids", bool(getattr(model.config, "is_encoder_decoder", False))
        if model.can_generate():
            (kind, _, room), settings = cache.partition(":"), model.config.get_text_config(decoder=True)

            def cached(room: Any) -> Any:
                if kind == "static":
                    return transformers.StaticCache(config=settings, max_cache_len=int(room))
                return transformers.DynamicCache(config=None if encodes else settings)

            kept = cached(room)
            if encodes:
                read_of = model.get_encoder()(**source).last_hidden_state.shape[1]
                kept, name = transformers.EncoderDecoderCache(kept, cached(read_of)), "decoder_input_ids"
                given = {"decoder_input_ids": torch.ones(batch, seq, dtype=torch.long, device=at)}
            given |= {"past_key_values": kept, "use_cache": True}
            given |= {} if encodes else {"logits_to_keep": int(logits == "last")}
        passes = [given, *(given | {name: torch.ones(batch, n, dtype=torch.long, device=at)} for n in steps)]
        for i, n in enumerate((seq, *steps) if padded else ()):
            there = torch.ones(batch, seq + sum(steps[:i]), dtype=torch.long, device=at)
            there[:1, :1] = 0
            at_most = {"attention_mask": there, "position_ids": (there.cumsum(-1) - there)[:, -n:]}
            passes[i] |= {name: x.clone() for name, x in at_most.items()}
        with LiveMode(at) as live, patch.object(import_utils, "is_fake_tensor", lambda _: False):
            found, held, read = [], list[Any](), dict[str, Any]()
            for i, each in enumerate(passes):
                held.clear()
                live.taken()
                # Later a static cache is asked whether it is empty, and a mask of BART's whether it is whole.
                with Answers(not padded and (not i or (encodes and cache == "dynamic")), seq + sum(steps[:i])):
                    if encodes and not i:
                        read = {"encoder_outputs": model.get_encoder()(**source)}
                    held.append(model(**each, **read))
                found.append(live.taken())
        return found


class Answers(classes._Yes):
    """The same, which asked for a number answers with the tokens so far."""

    def __init__(self, answer: bool, tokens: int) -> None:
        super().__init__(answer)
        self._tokens = tokens

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype is torch.long and (
                isinstance(args[0], FakeTensor)):
            return self._tokens
        return super().__torch_dispatch__(func, types, args, kwargs)


def beam_search(
    config: classes.Config, batch: int, seq: int, *, beams: int, new: int, device: str = "cpu",
    source_seq: int | None = None, cache: str = "dynamic", padded: bool = False, **how: Any
) -> list[list[tuple[str, int]]]:
    """The bytes live after every operation of ``generate`` with ``beams``, of the prompt and of every step after it.

    Each ends where the next one begins. The prompt's rows and their positions were there before; an encoder runs, and
    what it makes is repeated for every beam, in the first. ``source_seq``, ``padded``: as of ``class_generation``;
    ``cache``: dynamic, or static; ``how``: as of ``instantiate``. Nothing processes logits: what a class suppresses or
    forces (of BART's last token, of Whisper's first) copies scores.
    """
    from transformers.generation.utils import GenerationMixin
    from transformers.utils import import_utils

    found, inner, expand = list[list[tuple[str, int]]](), GenerationMixin._beam_search, (
        GenerationMixin._expand_inputs_for_generation)
    encode, first, grown = GenerationMixin._maybe_prepare_encoder_kwargs_for_generation, list[tuple[str, int]](), [0]

    def seen(since: int) -> list[tuple[str, int]]:
        return [(name, now - since) for name, now in live.taken()]

    def encoded(*args: Any, **kwargs: Any) -> Any:
        before, _ = live.now, live.taken()
        made = encode(*args, **kwargs)
        first.extend(seen(before))
        grown[0] = live.now - before
        return made

    def expanded(model: Any, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None,
                 encoder_outputs: Any = None, **kwargs: Any) -> Any:
        input_ids, kwargs = expand(model, expand_size, False, input_ids, **kwargs)
        before, _ = live.now - grown[0], live.taken()
        if is_encoder_decoder:
            _, more = expand(model, expand_size, True, None, encoder_outputs=encoder_outputs)
            kwargs |= more
        first.extend(seen(before))
        grown[0] = live.now - before
        return input_ids, kwargs

    def prompted(*_: Any, model_kwargs: dict[str, Any], **__: Any) -> Any:
        return model_kwargs.pop("decoder_input_ids"), model_kwargs  # which begin as the class wants them to

    def search(*args: Any, **kwargs: Any) -> Any:
        asked, before = list[None](), live.now - grown[0]
        live.taken()

        def more(*_: Any, **__: Any) -> bool:
            if asked:
                found.append(seen(before))
            asked.append(None)
            answers._tokens += len(asked) > 1
            return len(asked) <= new

        with patch.object(GenerationMixin, "_has_unfinished_sequences", more):
            return inner(*args, **kwargs)

    with maker(device) as at, torch.no_grad():
        model = classes.instantiate(config, at, **how).eval()
        ids = torch.full((batch, seq), 5, dtype=torch.long, device=at)
        given: dict[str, Any] = {"input_ids": ids}
        if encodes := bool(getattr(model.config, "is_encoder_decoder", False)):
            given = classes._inputs(model, batch, seq, source_seq, at, how.get("dtype", torch.float32))
            given = {name: x for name, x in given.items() if name not in ("labels", "use_cache")}
            given["decoder_input_ids"] = torch.full_like(ids, model.config.decoder_start_token_id)
        if padded:
            given["attention_mask"] = torch.ones_like(ids)
            given["attention_mask"][:1, :1] = 0
        given |= {"cache_implementation": "static"} if cache == "static" else {}
        with (LiveMode(at) as live, Answers(not padded, seq) as answers, patch.multiple(
                GenerationMixin, _beam_search=search, _expand_inputs_for_generation=expanded,
                _get_logits_processor=lambda *_, **__: lambda _, x: x,
                **({"_maybe_prepare_encoder_kwargs_for_generation": encoded,
                    "_prepare_decoder_input_ids_for_generation": prompted} if encodes else {})),
              patch.object(import_utils, "is_fake_tensor", lambda _: False)):
            GenerationMixin.generate(model, **given, num_beams=beams, do_sample=False, max_new_tokens=new,
                                     eos_token_id=0, pad_token_id=0)
    found[:1] = [first + found[0]]
    return found
