"""Results of comparing a model with PyTorch, with other classes or with printed figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, Self, get_args

from txcalc.document import Part

Device = Literal["cpu", "cuda", "fake-cuda"]
DEVICES: Final[tuple[Device, ...]] = get_args(Device)
"""The devices that the reference runs on."""

Verdict = Literal["equal", "rounds to it", "explained", "DIFFERS"]


class Row(Part):
    """One comparison. ``how`` says on what it was measured; ``differences`` name what disagrees, one by one.

    ``printed``: the figure as somebody printed it, to which a count rounds that has more digits.
    """

    quantity: str
    counted: int | None
    measured: int | None
    printed: str | None = None
    verdict: Verdict
    how: str
    differences: tuple[str, ...] = ()

    @classmethod
    def of(cls, quantity: str, counted: int, measured: int, how: str, differences: Iterable[str] = ()) -> Self:
        """Two numbers that must be equal, without any differences."""
        found = tuple(differences)
        return cls(quantity=quantity, counted=counted, measured=measured, how=how, differences=found,
                   verdict="DIFFERS" if found or counted != measured else "equal")


class Validation(Part):
    """All comparisons of one model. ``agrees``: nothing of what is compared differs; None where nothing is.

    ``left_out`` says what was not compared, and why.
    """

    model: str
    against: str
    device: str | None
    rows: tuple[Row, ...]
    left_out: tuple[str, ...] = ()
    agrees: bool | None

    @classmethod
    def of(cls, model: str, against: str, rows: Iterable[Row], *, device: str | None = None,
           left_out: tuple[str, ...] = ()) -> Validation:
        """These comparisons, and what follows from them."""
        rows = tuple(rows)
        agrees = all(row.verdict != "DIFFERS" for row in rows) if rows else None
        return cls(model=model, against=against, device=device, rows=rows, left_out=left_out, agrees=agrees)


class Validations(Part):
    """The document of ``txcalc validate``. ``agrees``: every model does of which anything is compared."""

    schema: Literal["txcalc/validation/v1"] = "txcalc/validation/v1"
    agrees: bool | None
    models: tuple[Validation, ...]

    @classmethod
    def of(cls, models: Sequence[Validation]) -> Validations:
        """These, and what follows from them."""
        said = [each.agrees for each in models if each.agrees is not None]
        return cls(agrees=all(said) if said else None, models=tuple(models))
