"""Changes that make room for more requests in an engine, each counted anew."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from txcalc.answer.serving import Gain, Serving, serving, tokens_of
from txcalc.spec.errors import SpecError

if TYPE_CHECKING:
    from txcalc.spec.model import Model


def gains(spec: Model, card: str | None, made: Serving) -> Iterator[Gain]:
    """Changes that make room for more requests of the same length, each counted anew."""
    cards = made.cards * 2 if made.of.splits else made.cards + 1
    rows: list[tuple[dict[str, Any], str | None, str, str]] = [
        ({field: value}, card, f"--{field.replace('_', '-')} {value}", _WHY[field])
        for field, value in made.of.fewer_bits.items() if getattr(made.trace.workload, field) != value]
    if made.device is not None and made.given is None:
        more = f"{cards}x{made.device.name}"
        rows.append(({"tp": None}, more, f"--device {more}", "more cards"))
    before = made if made.setup.shared == 1 else serving(spec, made.asked, card, made.reserve, shared=False)
    if made.of.pool == "cells" and not before.fits and not made.asked.keys() & {"offload", "gpu_layers"}:
        most = _on_card(spec, card, made)
        if most:
            rows.append(({"gpu_layers": most}, card, f"--gpu-layers {most}", "other layers in the CPU's memory"))
    if made.of.pool == "cells" and not made.asked.keys() & {"offload", "gpu_layers"}:
        rows.append(({"offload": "experts"}, card, "--offload experts", "routed experts in the CPU's memory"))
    for changes, on, option, why in rows:
        fields = {key: value for key, value in {**made.asked, **changes}.items() if value is not None}
        try:
            then = serving(spec, fields, on, made.reserve, shared=False)
        except SpecError:
            continue
        if then.most() > before.most():
            yield Gain(option=option, note=why, tokens=tokens_of(then, then.most()), requests=then.most())


def _on_card(spec: Model, card: str | None, made: Serving) -> int:
    """The most of the last layers, and the head, that fit with the requests."""
    def too_many(count: int) -> bool:
        return not serving(spec, {**made.asked, "gpu_layers": count}, card, made.reserve, shared=False).fits

    return bisect_left(range(1, spec.layers + 2), True, key=too_many)


_WHY: Final = {"kv_dtype": "a cache of fewer bits", "weights": "weights in 4 bits"}
