"""The spread of a run over devices: the ranks of each axis of a mesh, and what they split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import gcd
from typing import Any, Final, Literal, Self, get_args

from txcalc.document import Part
from txcalc.spec import words
from txcalc.spec.errors import SpecError, not_one_of, shown, unknown_field

Axis = Literal["tp", "pp", "cp", "dp", "ep", "etp"]
AXES: Final[tuple[Axis, ...]] = get_args(Axis)
SCHEDULES: Final = ("gpipe", "1f1b", "interleaved:V", "looped:V", "zb", "zb:V", "zbv", "dualpipe")
"""Of a pipeline; ``V``: stages of each rank."""
FOLDED: Final = ("zbv", "dualpipe")
"""Schedules of two stages to a rank, of which the last rank has neighbours and the first one both ends."""
DTYPES: Final = ("bf16", "fp16", "fp32")
CP: Final = ("ring", "all-gather", "all-to-all")
"""Ways in which ranks that split each sequence meet all keys: these are passed around (arXiv 2310.01889), or gathered
and then taken in turns, or heads are split in place of positions (arXiv 2309.14509)."""


class Fsdp(Part):
    """PyTorch's ``fully_shard``: fp32 weights are sharded over dp, and gathered unit by unit, or all at once.

    ``reshard``: gathered weights are freed after the forward pass, but the root's beside layers, which are not where a
    ``unit`` is the model and nothing is given. ``params``, ``reduce``: the dtypes of gathered weights and of reduced
    gradients (``MixedPrecisionPolicy``). ``replicas``: groups of ranks that have the same shards, and sum gradients
    over each other (hybrid sharding). ``offload``: shards, their gradients and the optimizer's states are in the CPU's
    memory (``CPUOffloadPolicy``).
    """

    unit: Literal["layer", "model"] = "layer"
    reshard: bool | None = None
    params: Literal["bf16", "fp16", "fp32"] = "bf16"
    reduce: Literal["bf16", "fp16", "fp32"] = "fp32"
    replicas: int = 1
    offload: bool = False

    @classmethod
    def read(cls, given: object) -> Self | None:
        """From its fields, a text such as ``reshard=no,reduce=bf16``, or yes and no. Raises ``SpecError``."""
        if given is None or isinstance(given, cls):
            return given
        if isinstance(given, bool) or given in ("yes", "no"):
            return cls() if given in (True, "yes") else None
        if isinstance(given, str):
            given = words.settings(given)
        if not isinstance(given, Mapping):
            raise SpecError(f"must be yes or like unit=layer,reshard=no, got {shown(given)}", field="fsdp")
        choices: dict[str, tuple[Any, ...]] = {
            "unit": ("layer", "model"), "reshard": ("yes", "no"), "offload": ("yes", "no"),
            "params": DTYPES, "reduce": DTYPES}
        fields: dict[str, Any] = {}
        for name, value in given.items():
            if name not in cls.names():
                raise SpecError(unknown_field(str(name), cls.names()), field=f"fsdp.{name}")
            if (name, value) == ("reshard", None):  # as PyTorch has it
                continue
            if name == "replicas":
                if not str(value).isdecimal() or not int(value):
                    raise SpecError(f"must be a whole number of at least 1, got {shown(value)}", field="fsdp.replicas")
                fields[name] = int(value)
                continue
            value = {True: "yes", False: "no"}[value] if isinstance(value, bool) else words.word("dtype", value, DTYPES)
            if value not in choices[name]:
                raise SpecError(not_one_of(choices[name], value), field=f"fsdp.{name}")
            fields[name] = value == "yes" if name in ("reshard", "offload") else value
        return cls(**fields)


class Layout(Part):
    """Ranks of every axis: tensor, pipeline, context and data parallel, together ``world`` of them.

    ``cp_comm``: one of ``CP``; none: the first. ``ep``: ranks among dp and cp that share experts, among those of tp too
    where these do not split them; ``etp``: their tensor parallelism, tp or 1; none: tp. ``sp``: what tensor parallelism
    leaves whole is split by position (arXiv 2205.05198).
    ``zero``: the stage of ZeRO (arXiv 1910.02054).
    Raises ``SpecError`` that names the field.
    """

    tp: int = 1
    pp: int = 1
    cp: int = 1
    dp: int = 1
    ep: int = 1
    etp: int | None = None
    sp: bool = False
    zero: int = 0
    fsdp: Fsdp | None = None
    schedule: str | None = None
    cp_comm: str | None = None

    def __post_init__(self) -> None:
        for name in AXES:
            value = getattr(self, name)
            if (name, value) != ("etp", None) and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise SpecError(f"must be a whole number of at least 1, got {shown(value)}", field=name)
        if not isinstance(self.sp, bool):
            raise SpecError(f"must be true or false, got {shown(self.sp)}", field="sp")
        if isinstance(self.zero, bool) or self.zero not in range(4):
            raise SpecError(f"must be a stage, 0 to 3, got {shown(self.zero)}", field="zero")
        if self.zero and self.fsdp is not None:
            raise SpecError("shards by itself: give one of --fsdp and --zero", field="fsdp")
        if self.fsdp is not None and self.dp % self.fsdp.replicas:
            raise SpecError(f"{self.fsdp.replicas} groups do not divide dp, {self.dp}; " + either(
                nearest(self.fsdp.replicas, lambda n: self.dp % n == 0)), field="fsdp.replicas")
        if self.etp not in (None, 1, self.tp):
            raise SpecError(f"experts are split over all tp ranks or over none: must be 1 or {self.tp}, got {self.etp}",
                            field="etp")
        if self.with_experts % self.ep:
            raise SpecError(f"{self.ep} ranks do not divide {'tp · ' * (self.experts_tp < self.tp)}dp · cp, "
                            f"{self.with_experts}; {either(nearest(self.ep, lambda n: self.with_experts % n == 0))}",
                            field="ep")
        if self.shards % self.ep:
            raise SpecError(f"{self.ep} ranks do not divide the {self.shards} that shard weights", field="ep")
        if self.cp_comm not in (None, *CP):
            raise SpecError(not_one_of(CP, self.cp_comm), field="cp_comm")
        given = words.number(self.schedule)
        if self.order + bool(given) * ":V" not in SCHEDULES:
            raise SpecError(not_one_of(SCHEDULES, self.schedule), field="schedule")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self | None:
        """From names and values, or None where nothing is split. Raises ``SpecError``."""
        for name in fields:
            if name not in cls.names():
                raise SpecError(unknown_field(name, cls.names()), field=name)
        reads: Mapping[str, Callable[[Any], Any]] = {
            "fsdp": Fsdp.read, "cp_comm": lambda value: words.word("cp_comm", value, CP),
            "schedule": lambda value: words.numbered("schedule", value, SCHEDULES)}
        given: dict[str, Any] = {
            name: reads[name](value) if name in reads else value for name, value in fields.items() if value is not None}
        found = cls(**given)
        return None if found == cls() else found

    @classmethod
    def read(cls, given: object) -> Self | None:
        """A layout as it is, or of its fields. Raises ``SpecError``."""
        if given is None or isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise SpecError(f"must be a mapping such as tp: 8, got {shown(given)}", field="layout")
        return cls.of(given)

    def to_data(self) -> dict[str, Any]:
        """The fields that are not as they usually are, as plain data."""
        return {name: value for name, value in super().to_data().items() if value != getattr(type(self), name)}

    @property
    def world(self) -> int:
        """All ranks."""
        return self.tp * self.pp * self.cp * self.dp

    @property
    def alike(self) -> int:
        """Ranks that have the same weights, but for experts: of dp and of cp."""
        return self.dp * self.cp

    @property
    def by_head(self) -> int:
        """Ranks that split heads in attention, and positions everywhere else."""
        return self.cp if self.cp_comm == "all-to-all" else 1

    @property
    def chunks(self) -> int:
        """Parts of a sequence over cp, of which each rank of a ring has two, so that all have as many pairs."""
        return self.cp if self.cp in (1, self.by_head) else 2 * self.cp

    @property
    def order(self) -> str:
        """The pipeline's schedule by its name alone."""
        return words.form(self.schedule or "1f1b")

    @property
    def per_rank(self) -> int:
        """Stages of each rank of a pipeline."""
        if self.pp == 1:
            return 1
        return 2 if self.order in FOLDED else words.number(self.schedule) or 1

    @property
    def stages(self) -> int:
        """All stages of the pipeline."""
        return self.pp * self.per_rank

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """The stages that a rank of the pipeline has, in the order of the model."""
        return (rank, 2 * self.pp - 1 - rank) if self.order in FOLDED else tuple(range(rank, self.stages, self.pp))

    def rank_of(self, stage: int) -> int:
        """The rank of the pipeline that has a stage."""
        return min(stage, 2 * self.pp - 1 - stage) if self.order in FOLDED else stage % self.pp

    @property
    def shards(self) -> int:
        """Ranks that ``fully_shard`` spreads weights over, those of cp among them, or 0."""
        return 0 if self.fsdp is None or self.alike == 1 else self.alike // self.fsdp.replicas

    @property
    def offloads(self) -> bool:
        """True where shards are in the CPU's memory."""
        return bool(self.shards and self.fsdp and self.fsdp.offload)

    @property
    def experts_tp(self) -> int:
        """Ranks that split each expert."""
        return self.tp if self.etp is None else self.etp

    @property
    def with_experts(self) -> int:
        """Ranks that have experts, those that split one counted once: of dp, of cp, and of tp where none are split."""
        return self.tp * self.alike // self.experts_tp

    @property
    def by_position(self) -> int:
        """Ranks that split positions where tensor parallelism splits nothing, beside those of cp."""
        return self.tp if self.sp else 1

    def __str__(self) -> str:
        parts = [f"{name} {getattr(self, name)}" for name in AXES if getattr(self, name) not in (
            (None, self.tp) if name == "etp" else (1,))]
        parts += ["sp"] * self.sp + [f"zero {self.zero}"] * bool(self.zero) + ["fsdp"] * (self.fsdp is not None)
        return ", ".join([*parts, *(each for each in (self.schedule, self.cp_comm) if each)])


WHOLE: Final = Layout()
"""Everything on one device."""


def nearest(asked: int, works: Any) -> list[int]:
    """The numbers of ranks next to the one that was asked for that work, the lower one first."""
    below = next((n for n in range(asked - 1, 0, -1) if works(n)), None)
    above = next((n for n in range(asked + 1, 4 * asked + 2) if works(n)), None)
    return [n for n in (below, above) if n is not None]


def either(found: list[int]) -> str:
    """Numbers that work, in words."""
    return f"{' or '.join(map(str, found))} would do" if found else "none does"


def shares(size: int, ranks: int) -> Iterator[int]:
    """The sizes of ``torch.chunk``: alike as long as there is enough, the last ones shorter, or nothing."""
    each = -(-size // ranks)
    return (max(0, min(each, size - rank * each)) for rank in range(ranks))


def divides(ranks: int, size: int) -> bool:
    """Tell whether so many ranks share a size evenly, or each part of it is on as many ranks."""
    return gcd(ranks, size) in (ranks, size)
