"""No total and no breakdown of any preset moves unseen."""

from tests.golden import PATH, WORKLOADS, lines


def test_totals_of_every_preset_are_what_they_were() -> None:
    written = PATH.read_text(encoding="utf-8").splitlines()
    assert len(written) >= 235 * len(WORKLOADS)
    moved = [(old, new) for old, new in zip(written, lines(), strict=True) if old != new]
    assert not moved, f"{len(moved)} moved, the first: {moved[0]}"
