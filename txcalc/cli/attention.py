"""``txcalc attention MODEL``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from txcalc.cli import plot
from txcalc.cli.options import (
    BATCH,
    CommonOptions,
    ModelArgument,
    Offer,
    OutputOptions,
    RunOptions,
    SetOption,
    grouped,
)

if TYPE_CHECKING:
    from txcalc.answer.devices import Device
    from txcalc.answer.limits import Reserve

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)


def _text(metavar: str, text: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, show_default=False)


def complete_device(incomplete: str) -> list[str]:
    """Accelerators, for shell completion."""
    from txcalc.answer.devices import devices

    return [device.name for device in devices() if device.name.startswith(incomplete)]


class CurveOptions(NamedTuple):
    """The lengths, and what the model is run on. None: not given."""

    seq: Annotated[str | None, _text("RANGE", "Lengths: 1K..1M doubles, 1K,3K lists. Default 1K..128K; of an image "
                                     "model, its own and larger images.")] = None
    past: Annotated[str | None, _text("RANGE", "In decoding, in place of --seq: tokens already in the cache, to which "
                                      "one new token looks back.")] = None
    batch: Annotated[str | None, _text("N", "Sequences at a time. Default 1.", *BATCH)] = None
    source_seq: Annotated[str | None, _text("N", "Tokens that an encoder-decoder's encoder reads. "
                                            "Default: as many as the decoder.")] = None
    phase: Annotated[str | None, _text("PHASE", "forward, training, prefill or decode (one new token at the end of "
                                       "each --past). Default forward.")] = None
    dtype: Annotated[str | None, _text("DTYPE", "fp32, fp16 or bf16. Default bf16.")] = None
    kv_dtype: Annotated[str | None, _text("DTYPE", "The KV cache's own dtype. Default: --dtype.")] = None
    dropout: Annotated[str | None, _text("P", "Dropout probability, from 0 to below 1. Default 0.")] = None
    masked: Annotated[str | None, _text("RULE", "Masked (query, key) pairs are counted or skipped. "
                                        "Default counted.")] = None
    kernels: Annotated[str | None, _text("KIND", "cuda or cpu: whose operators run. Default cuda.")] = None
    device: Annotated[str | None, typer.Option(metavar="NAME", show_default=False, autocompletion=complete_device,
                                               help="What it has to fit into, such as a100-40gb or t4. Default "
                                               "h100-80gb; none with --kernels cpu.")] = None
    sram: Annotated[str | None, _text("BYTES", "On-chip memory of FlashAttention's blocks. Default: the "
                                      "device's.")] = None
    reserve: Annotated[str | None, _text("SIZE", "What of the device no tensor can have, such as 1GiB or 5%. "
                                         "Default 0.92GiB, a CUDA context.")] = None

    def given(self) -> dict[str, Any]:
        """The workload's fields that were given, without the lengths. Raises ``SpecError`` for what is no number."""
        names = ("batch", "source_seq", "phase", "dtype", "kv_dtype", "dropout", "masked", "kernels")
        kinds = self.device if self.device in ("cuda", "cpu") else None
        return RunOptions(**{name: getattr(self, name) for name in names}, device=kinds).given()

    def lengths(self, phase: str) -> tuple[int, ...] | None:
        """Positions of every point: those of one pass, or in decoding the cached ones and a new one.

        Raises ``SpecError`` for the wrong one of the two, and for what is no range of lengths.
        """
        from txcalc.spec.errors import SpecError

        decoding = phase == "decode"
        if decoding and self.seq is not None:
            raise SpecError("decodes one token at a time; --past RANGE is the lengths of the cache", field="seq")
        if not decoding and self.past is not None:
            raise SpecError("needs --phase decode; --seq RANGE is the lengths of a pass", field="past")
        found = _read("past" if decoding else "seq", self.past if decoding else self.seq)
        return tuple(length + 1 for length in found) if decoding and found is not None else found

    def card(self, kernels: str) -> str | None:
        """What it has to fit into: a card's name, or None for no limits."""
        from txcalc.answer.devices import DEFAULT

        if self.device in (None, "cuda", "cpu"):
            return DEFAULT if kernels == "cuda" else None
        return self.device


OFFER: Final = Offer(verbose="What is kept, memory traffic, the whole model, every rule.", quiet="The numbers alone.")


@app.command()
@grouped(OFFER)
def attention(
    ctx: typer.Context,
    model: ModelArgument,
    *,
    set_: SetOption = [],  # noqa: B006  typer copies it
    curve: CurveOptions,
    plot_: plot.PlotOption = None,
    output: OutputOptions,
    common: CommonOptions,
) -> None:
    """Draw the O(N²) curve: what attention costs.

    What it keeps and moves, eager with its score matrix and flash without, and where each stops fitting a device.

    Example: txcalc attention gpt2 --seq 1K..64K --device a100-40gb
    """
    from txcalc.answer.curves import Origin, attention_curve
    from txcalc.answer.devices import device
    from txcalc.cli import write
    from txcalc.cli.models import load
    from txcalc.cli.progress import progress
    from txcalc.trace.workload import Workload

    common = ctx.obj.common.joined(common)
    write.check_target(output)
    plot.check(plot_, output)
    form = write.chosen_format(output, OFFER.formats)
    workload = Workload(seq=1, **curve.given())
    lengths, sram = curve.lengths(workload.phase), _read("sram", curve.sram)
    card = curve.card(workload.kernels)
    accelerator = None if card is None else device(card)
    loaded = load(model, set_, common, dtype=None)
    with progress("lengths") as tell:
        found = attention_curve(
            loaded.model, workload, lengths, accelerator, sram[0] if sram else None,
            reserve=_reserve(curve.reserve, accelerator),
            origin=Origin(loaded.source, tuple(loaded.overrides), ctx.obj.command), progress=tell,
        )
    write.answer("attention", found, form, output, common, figure=plot_)
    if form == "table" and not (common.quiet or common.verbose):
        write.note("more: -v (what is kept, memory traffic, the whole model, rules), --json")


def _reserve(raw: str | None, device: Device | None) -> Reserve:
    """What is set aside: bytes, or per cent of the device. Raises ``SpecError``."""
    from txcalc import units
    from txcalc.answer.limits import DEFAULT_RESERVE, Reserve
    from txcalc.spec.errors import SpecError

    if raw is None:
        return DEFAULT_RESERVE
    if device is None:
        raise SpecError("needs a --device that it is a part of", field="reserve")
    try:
        part = re.fullmatch(r"(\d{1,2})(?:\.(\d{1,9}))?%", raw.strip())
        if part is None:
            size = units.parse_bytes(raw)
        else:
            digits = part[2] or ""
            size = int(part[1] + digits) * device.memory_bytes // 10 ** (2 + len(digits))
    except ValueError as error:
        raise SpecError(f"{error}, or 5%", field="reserve") from None
    if size >= device.memory_bytes:
        raise SpecError(f"{units.memory(size)} leave nothing of {device.title}", field="reserve")
    return Reserve(bytes=size, source=f"--reserve {raw.strip()}")


def _read(name: str, raw: str | None) -> tuple[int, ...] | None:
    """Lengths, or one number of bytes. Raises ``SpecError``."""
    from txcalc import units
    from txcalc.spec.errors import SpecError

    if raw is None:
        return None
    try:
        return units.parse_range(raw) if name in ("seq", "past") else (max(units.parse_count(raw), 1),)
    except ValueError as error:
        raise SpecError(str(error), field=name) from None
