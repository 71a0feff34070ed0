"""Optimizers as data: the states of every parameter, and what a step allocates for a moment, kernel by kernel.

Read from the code of ``torch.optim`` (2.13), bitsandbytes (0.50.2), torchao (0.18), lion-pytorch (0.2.5) and Adam-mini
(1.1.1). Those of ``torch.optim``, and Lion, are proved against their objects: states tensor by tensor, a step by the
events that a dispatch mode sees. Of the others, ``unmeasured``, the states of bitsandbytes and torchao are; their
steps, what is paged and all of Adam-mini were read and compared with nothing yet. With their own defaults; from the
step on in which RAdam rectifies, which is the sixth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple, get_args

from txcalc.count.entries import Entry
from txcalc.count.parameter import (
    Elements,
    Parameter,
    columns,
    every,
    fixed,
    heads,
    matrices,
    one,
    outputs,
    per,
    rows,
    square,
)
from txcalc.spec.errors import SpecError
from txcalc.trace.workload import OptimizerKernel, Workload

STATE: Final = "optimizer state"
"""The category of states."""


class State(NamedTuple):
    """A tensor that is kept for a parameter."""

    name: str
    elements: Elements = every
    width: int | None = None  # bytes of an element, where they are not the parameter's
    host: bool = False  # in the CPU's memory, however the parameter is placed, unless the kernel is fused
    # From so many elements on in memory that CUDA moves between the two, and PyTorch does not count.
    paged: int | None = None


class Make(NamedTuple):
    """An operation of a step, and the local that holds its result until it gets the next one, or the step returns."""

    operation: str  # none: nothing is made
    local: str = ""  # none: the result is freed at once
    elements: Elements = every
    width: int | None = None
    frees: tuple[str, ...] = ()  # locals that are done with then
    takes: str = ""  # the local gets what this one held
    each: bool = False  # for one parameter after another, also where a kernel goes over lists
    cast: bool = False  # nothing is made of what has that ``width`` already
    once: bool = False  # for all together


KERNELS: Final[tuple[OptimizerKernel, ...]] = get_args(OptimizerKernel)
Steps = Mapping[OptimizerKernel, tuple[Make, ...]]


class Rule(NamedTuple):
    """The rule of an optimizer for some parameters. ``steps``: none, what its step allocates is not known. ``apart``:
    an optimizer of its own, whose step is over before the next one's.
    """

    states: tuple[State, ...]
    steps: Steps | None
    of: Callable[[Parameter], bool] = lambda _: True
    apart: bool = False


class Optimizer(NamedTuple):
    """An optimizer: a parameter goes by the first rule that takes it. ``shared``: bytes that all parameters share.
    ``unmeasured``: its step was read in its package's code, and compared with nothing. ``at_once``: states are made
    with it, also of weights that get no gradient. ``reads``: how often its foreach or looped step reads a gradient, and
    sums it anew where each rank has a part of the sum (measured on DTensors)."""

    rules: tuple[Rule, ...]
    reads: int = 1
    shared: int = 0
    unmeasured: bool = False
    at_once: bool = False

    @property
    def kernels(self) -> tuple[OptimizerKernel, ...]:
        """The kernels it has; all of them where its steps are not known."""
        return tuple(each for each in KERNELS if any(each in (rule.steps or KERNELS) for rule in self.rules))


def _is_matrix(p: Parameter) -> bool:
    return len(p.shape) > 1


def _is_hidden(p: Parameter) -> bool:
    return len(p.shape) == 2 and bool(p.name) and p.op.kind.group in ("linear", "router")


def _is_query_or_key(p: Parameter) -> bool:
    return _is_matrix(p) and p.op.part in ("q", "k")


def _is_large(p: Parameter) -> bool:
    return p.elements >= 4096


def _in_blocks(size: int) -> Callable[[Parameter], bool]:
    return lambda p: _is_large(p) and p.elements % size == 0


def _then(*frees: str) -> Make:
    return Make("", frees=frees)


_IN_PLACE: Final[Steps] = {"foreach": (), "fused": (), "loop": ()}
_STEP: Final = State("step", one, 4, host=True)
_MOMENTS: Final = (State("exp_avg"), State("exp_avg_sq"))
_ROOT: Final = (Make("_foreach_sqrt", "denominator"),)
_ADAM: Final[Steps] = {
    "foreach": _ROOT, "fused": (),
    "loop": (Make("sqrt", "root"), Make("div", "denominator", frees=("root",))),
}
_ADAMW: Final = Rule((_STEP, *_MOMENTS), _ADAM)
_RADAM: Final = (
    Make("div", "corrected"), Make("mul", "scaled"), Make("sqrt", "root"), Make("reciprocal", "inverse"),
    Make("mul", "rate", frees=("inverse", "root")), Make("mul", "product", frees=("scaled", "rate")),
    Make("mul", frees=("product",)),
)
_SCALAR: Final = Make("norm", elements=one, each=True)
_FACTORED: Final[Steps] = {
    "foreach": (
        _SCALAR, Make("norm", "row means", rows, each=True), _then("row means"),
        Make("norm", "column means", columns, each=True), _then("column means"), Make("mm", "estimates", each=True),
        Make("mean", "means", matrices, each=True), _then("means"), Make("", "updates", takes="estimates"), _SCALAR,
    ),
    "loop": (
        _SCALAR, Make("norm", "row mean", rows), Make("norm", "column mean", columns), Make("mm", "estimate"),
        Make("mean", elements=matrices), Make("", "update", takes="estimate"), _SCALAR,
    ),
}
_UNFACTORED: Final[Steps] = {
    "foreach": (_SCALAR, Make("_foreach_mul", "squares"), _then("squares"), Make("clone", "estimates", each=True),
                Make("", "updates", takes="estimates"), _SCALAR),
    "loop": (_SCALAR, Make("mul", "square"), Make("clone", "estimate"), Make("", "update", takes="estimate"), _SCALAR),
}
_NEWTON_SCHULZ: Final = (Make("mm", "gram", square, 2), Make("addmm", "gram update", square, 2),
                         Make("addmm", "orthogonal", width=2))
_MUON: Final[Steps] = {"loop": (
    Make("lerp", "update"), Make("_to_copy", "orthogonal", width=2, cast=True), Make("norm", "norm", one, 2),
    Make("clamp", elements=one, width=2, frees=("norm",)), *(5 * _NEWTON_SCHULZ), _then("gram", "gram update"),
    Make("", "update", takes="orthogonal"),
)}


def _mini(state: Elements, *mean: Make) -> Rule:
    """Adam-mini's, with one second moment for each of some parts of a parameter."""
    return Rule((State("m"), State("vmean", state)), {"loop": (
        Make("mul", "squares"), *mean, Make("sqrt", "root", state), Make("div", "h", state, frees=("root",)),
        Make("reciprocal", "inverse", state), Make("mul", "stepsize", state, frees=("inverse",)),
        Make("mul", "update"), Make("neg"),
    )})


def _mini_mean(elements: Elements) -> Make:
    return Make("mean", "mean", elements, frees=("squares",))


def _eight_bit(codes: Elements, block: int, table: int = 0, *, paged: int | None = None) -> tuple[State, ...]:
    """Two moments as codes, a scale for each block of them, and a table of what codes mean, if each has its own."""
    return tuple(state for moment in ("exp_avg", "exp_avg_sq") for state in (
        State(f"codes of {moment}", codes, 1, paged=paged), State(f"scales of {moment}", per(block), 4),
        *([State(f"table of {moment}", fixed(table), 4)] if table else [])))


def _bitsandbytes(paged: int | None = None) -> Optimizer:
    whole = tuple(State(name, every, 4, paged=paged) for name in ("exp_avg", "exp_avg_sq"))
    return Optimizer((Rule(_eight_bit(every, 256, paged=paged), {"loop": ()}, _is_large), Rule(whole, {"loop": ()})),
                     shared=2 * 256 * 4, unmeasured=True)


def _torchao(block: int, codes: Elements = every, table: int = 0) -> Optimizer:
    return Optimizer((Rule((_STEP, *_eight_bit(codes, block, table)), None, _in_blocks(block)),
                      Rule((_STEP, *_MOMENTS), None)), unmeasured=True)


OPTIMIZERS: Final[Mapping[str, Optimizer]] = {
    "adamw": Optimizer((_ADAMW,), reads=3),
    "adam": Optimizer((_ADAMW,), reads=3),
    "adamw-amsgrad": Optimizer((Rule((*_ADAMW.states, State("max_exp_avg_sq")), _ADAM),), reads=3),
    "nadam": Optimizer((Rule((_STEP, State("mu_product", one, 4, host=True), *_MOMENTS), {
        "foreach": _ROOT, "loop": (
            Make("div", "quotient"), Make("sqrt", "denominator", frees=("quotient",)))}),), reads=4),
    "radam": Optimizer((Rule((_STEP, *_MOMENTS), {"foreach": _ROOT, "loop": _RADAM}),), reads=3),
    "adagrad": Optimizer((Rule((_STEP, State("sum")), {
        "foreach": (Make("_foreach_sqrt", "root"), Make("_foreach_mul", "numerator")), "fused": (),
        "loop": (Make("sqrt", "root"),)}),), reads=3, at_once=True),
    "rmsprop": Optimizer((Rule((_STEP, State("square_avg")), {
        "foreach": _ROOT, "loop": (Make("sqrt", "root"),)}),), reads=3),
    "sgd": Optimizer((Rule((), _IN_PLACE),)),
    "sgd-momentum": Optimizer((Rule((State("momentum_buffer"),), _IN_PLACE),)),
    "adafactor": Optimizer((
        Rule((_STEP, State("row_var", rows), State("col_var", columns)), _FACTORED, _is_matrix),
        Rule((_STEP, State("variance")), _UNFACTORED))),
    "lion": Optimizer((Rule((State("exp_avg"),), {"loop": (Make("clone", "copy"), Make("add", frees=("copy",)))}),)),
    "muon": Optimizer((Rule((State("momentum_buffer"),), _MUON, _is_hidden, apart=True), _ADAMW)),
    "adam-mini": Optimizer((
        _mini(heads, _mini_mean(heads))._replace(of=_is_query_or_key),
        _mini(outputs, _mini_mean(outputs))._replace(of=_is_matrix),
        Rule((State("m"), State("v")), {"loop": (Make("sqrt", "root"), Make("div", "h", frees=("root",)))},
             lambda p: p.name == "bias"),
        _mini(one, Make("sum", "mean", one, frees=("squares",)), Make("div", "mean", one))), unmeasured=True),
    "adamw-8bit": _bitsandbytes(),
    "paged-adamw-8bit": _bitsandbytes(paged=100_000),
    "torchao-adamw-8bit": _torchao(256, table=256),
    "torchao-adamw-4bit": _torchao(128, lambda p: p.elements // 2, table=16),
    "torchao-adamw-fp8": _torchao(256),
}
"""Muon takes the matrices of hidden layers, and AdamW all else; its step is the first."""


WHOLE: Final = ("adafactor", "muon")
"""Those that need more than a rank's part of a weight: what they gather is not known."""

_CLIP: Final = (
    Make("_foreach_norm", "norms", one), Make("stack", "stacked", one),
    Make("linalg_vector_norm", "norm", one, frees=("stacked", "norms"), once=True),
    Make("add", "sum", one, once=True), Make("reciprocal", "inverse", one, once=True),
    Make("mul", "coefficient", one, frees=("sum", "inverse"), once=True),
    Make("clamp", "clamped", one, once=True), _then("norm", "coefficient", "clamped"),
)
"""``clip_grad_norm_``, which goes over lists by itself."""

_CLIP_SHARDS: Final = (
    *_CLIP[:2], Make("pow", "powers", one), Make("all_reduce", "reduced", one),
    Make("wait_tensor", "sums", one, frees=("reduced",)), Make("pow", "roots", one, frees=("sums", "powers")),
    _CLIP[2]._replace(frees=("stacked", "norms", "roots")), *_CLIP[3:],
)
"""The same on DTensors: norms of parts are summed over ranks."""


def kernel_of(name: str, kernel: OptimizerKernel | None) -> OptimizerKernel:
    """The kernel that runs: the one that is asked for, else foreach, else the only one. Raises ``SpecError``."""
    there = OPTIMIZERS[name].kernels
    if kernel is not None and kernel not in there:
        raise SpecError(f"{name} has no {kernel} kernel; it has {', '.join(there)}", field="optimizer_kernel")
    return kernel or there[0]


def is_known(workload: Workload) -> bool:
    """Tell whether all that a step allocates is known, and was measured."""
    if workload.held is not None:
        return False
    optimizer = OPTIMIZERS[workload.updates]
    whole = workload.layout is not None and workload.layout.shards and workload.updates in WHOLE
    return not (optimizer.unmeasured or whole) and all(rule.steps is not None for rule in optimizer.rules)


def order(workload: Workload) -> Literal["any", "turns", "copies"]:
    """Order that a step's peak depends on: any, or of copies one by one, of which two ``turns`` of a repeat show all
    where nothing is made but in loops."""
    if workload.held is not None:
        return "any"
    kernel = kernel_of(workload.updates, workload.optimizer_kernel)
    steps = [rule.steps for rule in OPTIMIZERS[workload.updates].rules if rule.steps]
    runs = [(own, each[own]) for each in steps for own in [kernel if kernel in each else next(iter(each))]]
    if not any(makes and (own == "loop" or any(make.each for make in makes)) for own, makes in runs):
        return "any"
    return "turns" if all(own == "loop" or not makes for own, makes in runs) else "copies"


def states(workload: Workload, parameters: Iterable[Parameter]) -> Iterator[Entry]:
    """The states of all parameters that are in the device's memory."""
    if workload.held is not None:
        for p in parameters:
            yield Entry(p.op, "states", p.elements * workload.held.states, p.copies, part=STATE)
        return
    on_device = workload.kernels == "cpu" or kernel_of(workload.updates, workload.optimizer_kernel) == "fused"
    optimizer, shares = OPTIMIZERS[workload.updates], False
    for p, rule in _ruled(optimizer, parameters):
        for state in rule.states:
            if (on_device or not state.host) and (state.paged is None or p.elements < state.paged):
                yield Entry(p.op, state.name, _bytes(p, state), p.copies, part=STATE)
        if optimizer.shared and rule is optimizer.rules[0] and not shares:
            shares = True
            yield Entry(p.op, "tables of codes", optimizer.shared, 1, part=STATE)


def moments(
    workload: Workload, parameters: Sequence[Parameter], rounded: Callable[[int], int] = int
) -> Iterator[tuple[str, Alive]]:
    """The moments of clipping and of a step: the operation that allocates, or none where others were freed, and what is
    allocated then besides what was there before. ``parameters``: in order, each copy by itself where a step
    goes one by one. ``rounded``: bytes of a
    storage as an allocator counts them."""
    if workload.clip:
        parts = workload.layout is not None and workload.layout.shards
        yield from _run(_CLIP_SHARDS if parts else _CLIP, parameters, Alive(rounded))
    if workload.held is not None:
        return
    optimizer = OPTIMIZERS[workload.updates]
    kernel = kernel_of(workload.updates, workload.optimizer_kernel)
    ruled = list(_ruled(optimizer, parameters))
    for apart in (True, False):
        alive, batches = Alive(rounded), dict[tuple[int, int], tuple[tuple[Make, ...], list[Parameter]]]()
        for i, (p, rule) in enumerate(ruled):
            if rule.apart == apart and rule.steps is not None:
                own = kernel if kernel in rule.steps else next(iter(rule.steps))
                key = (i, 0) if own == "loop" else (optimizer.rules.index(rule), p.width)
                batches.setdefault(key, (rule.steps[own], []))[1].append(p)
        for makes, together in batches.values():
            yield from _run(makes, together, alive)
        yield "", Alive(rounded)


class Alive:
    """Allocations of a step, by the local that holds it: a list of parameters, and bytes of one copy of each."""

    def __init__(self, rounded: Callable[[int], int]) -> None:
        self.now, self._rounded = 0, rounded
        self._locals: dict[str, list[tuple[Parameter, str, int]]] = {}

    def entries(self) -> list[Entry]:
        """All of it."""
        return [Entry(p.op, what, size, p.copies, part="transient") for held in self._locals.values()
                for p, what, size in held]

    def add(self, local: str, made: tuple[Parameter, str, int]) -> None:
        """Let a local hold one more."""
        self._locals.setdefault(local, []).append(made)
        self.now += self._rounded(made[2]) * made[0].copies

    def free(self, local: str) -> None:
        """Let go of what a local holds."""
        self.now -= sum(self._rounded(size) * p.copies for p, _, size in self._locals.pop(local, []))

    def move(self, taken: str, local: str) -> None:
        """Let a local hold what another did, if there is any."""
        if taken in self._locals:
            self.free(local)
            self._locals[local] = self._locals.pop(taken)


def _run(makes: Iterable[Make], parameters: Sequence[Parameter], alive: Alive) -> Iterator[tuple[str, Alive]]:
    for make in makes:
        together = [parameters[0]._replace(copies=1)] if make.once else parameters
        for p in together if make.operation else ():
            if not (make.cast and p.width == make.width):
                alive.add(_NEW, (p, make.local or make.operation, _bytes(p, make)))
                if make.each:
                    yield make.operation, alive
                    if not make.local:
                        alive.free(_NEW)
                        yield "", alive
        if make.operation and not make.each:
            yield make.operation, alive
        if make.local:
            alive.move(make.takes or _NEW, make.local)
        for local in (_NEW, *make.frees):
            alive.free(local)
        yield "", alive


_NEW: Final = ""


def _ruled(optimizer: Optimizer, parameters: Iterable[Parameter]) -> Iterator[tuple[Parameter, Rule]]:
    return ((p, next(rule for rule in optimizer.rules if rule.of(p))) for p in parameters)


def _bytes(p: Parameter, what: State | Make) -> int:
    return what.elements(p) * (p.width if what.width is None else what.width)


def check_in_backward(w: Workload) -> None:
    """Raise ``SpecError`` where a step that takes one weight at a time allocates what has not been followed."""
    kernel = None if w.held is not None else kernel_of(w.updates, w.optimizer_kernel)
    rules = () if kernel is None else OPTIMIZERS[w.updates].rules
    if kernel is None or any(rule.steps and rule.steps.get(kernel) for rule in rules):
        raise SpecError("is counted where a step allocates nothing, such as with --optimizer-kernel fused",
                        field="in_backward")
