"""Each mixer against its PyTorch module: parameters, FLOPs and what autograd keeps, to the unit."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise
from typing import Any

import pytest
from showing import render
from typer.testing import CliRunner

from txcalc.answer.mixer_table import QUANTITIES, MixerTable, Sizes, exponent, mixers
from txcalc.cli.app import app
from txcalc.count import activations, flops, kv_cache, params, sequence
from txcalc.show.terminal import Screen
from txcalc.spec.errors import SpecError
from txcalc.spec.layers import Attention, Mamba2, Mixer
from txcalc.spec.rnn import GRU, LSTM, RNN, Convolution1D, LinearAttention
from txcalc.spec.yaml import read_yaml
from txcalc.trace.mixer import trace_mixer
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

SIZES = [(1, 2, 6), (3, 7, 10), (2, 13, 22)]  # batch, length, width
every_size = pytest.mark.parametrize(("b", "n", "d"), SIZES)
CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
SPECS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
every_cell = pytest.mark.parametrize("kind", CELLS)


def traced(spec: Mixer, b: int, n: int, d: int, attention: Any = "flash", **rest: Any) -> Trace:
    return trace_mixer(spec, d, Workload(batch=b, seq=n, dtype="fp32", kernels="cpu", attention=attention, **rest))


def cell(kind: Any, hidden: int, **rest: Any) -> Any:
    return SPECS[kind].from_data({"kind": kind, "hidden": hidden, **rest})


def weights(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def counted(run: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as mode:
        run()
    return int(mode.get_total_flops())


def kept(module: Any, run: Any) -> int:
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    found: dict[int, int] = {}
    alive = []

    def pack(tensor: Any) -> Any:
        key = tensor.untyped_storage()._cdata
        if key not in own and key not in found:
            found[key] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(found.values())


def given(b: int, n: int, d: int) -> Any:
    return torch.randn(b, n, d, requires_grad=True)


# ---------------------------------------------------------------- recurrence


def by_hand(kind: str, module: Any, x: Any) -> Any:
    """The cell as a loop of plain operations, with the module's weights."""
    b, n, d = x.shape
    h = c = torch.zeros(b, d)
    if kind == "lstm":
        c = torch.zeros(b, d)
    inputs = F.linear(x, module.weight_ih_l0, module.bias_ih_l0)
    shown = []
    for t in range(n):
        products = F.linear(h, module.weight_hh_l0, module.bias_hh_l0)
        if kind == "rnn":
            h = torch.tanh(inputs[:, t] + products)
        elif kind == "lstm":
            i, f, g, o = (inputs[:, t] + products).chunk(4, -1)
            i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
            c = f * c + i * g
            h = o * torch.tanh(c)
        else:
            (xr, xz, xn), (hr, hz, hn) = inputs[:, t].chunk(3, -1), products.chunk(3, -1)
            r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
            new = (xn + r * hn).tanh()
            h = (1 - z) * new + z * h
        shown.append(h)
    return torch.stack(shown, 1)


@every_cell
@every_size
def test_recurrent_cells(kind: Any, b: int, n: int, d: int) -> None:
    module, x = CELLS[kind](d, d, batch_first=True), given(b, n, d)
    t = traced(cell(kind, d), b, n, d)
    assert torch.allclose(by_hand(kind, module, x), module(x)[0], atol=1e-5)
    assert params.params(t) == weights(module)
    assert flops.forward_flops(t) == counted(lambda: by_hand(kind, module, x))
    assert activations.activation_bytes(t) == kept(module, lambda: by_hand(kind, module, x))
    on_meta = CELLS[kind](d, d, batch_first=True, device="meta")
    assert flops.forward_flops(t) == counted(lambda: on_meta(torch.randn(b, n, d, device="meta")))
    state = module(x)[1]
    state = state if kind == "lstm" else (state,)
    assert kv_cache.kv_cache_bytes(t) == sum(each.nbytes for each in state)


@every_cell
def test_weights_have_the_shapes_of_the_module(kind: Any) -> None:
    module = CELLS[kind](7, 7)
    shapes = {tuple(p.shape) for p in module.parameters()}
    t = traced(cell(kind, 7), 1, 3, 7)
    assert {shape for op in t.ops for _, shape in op.weights} == shapes
    assert {often.copies for _, often in t.placed} == {1}
    assert params.params(traced(cell(kind, 7, bias=False), 1, 3, 7)) == weights(
        CELLS[kind](7, 7, bias=False))


@every_size
def test_what_the_fused_kernels_keep_instead(b: int, n: int, d: int) -> None:
    """On the CPU: ``nn.RNN`` what the loop keeps; ``nn.GRU`` one block of hidden a step less, working in place;
    ``nn.LSTM`` runs in oneDNN, which keeps a workspace of its own and shows PyTorch's counter no FLOPs."""
    x, block = given(b, n, d), 4 * b * n * d
    loop = {kind: activations.activation_bytes(traced(cell(kind, d), b, n, d)) for kind in CELLS}
    modules = {kind: cell(d, d, batch_first=True) for kind, cell in CELLS.items()}
    fused = {kind: kept(module, lambda m=module: m(x)) for kind, module in modules.items()}
    assert fused["rnn"] == loop["rnn"]
    assert fused["gru"] == loop["gru"] - block
    if torch.backends.mkldnn.is_available():
        assert fused["lstm"] != loop["lstm"]
        assert counted(lambda: modules["lstm"](x)) == 0


# ---------------------------------------------------------------- convolution


@every_size
@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_convolution(width: int, b: int, n: int, d: int) -> None:
    module = nn.Conv1d(d, d, width)
    x = torch.randn(b, d, n, requires_grad=True)

    def run() -> Any:
        return module(F.pad(x, (width - 1, 0)) if width > 1 else x)

    t = traced(Convolution1D(width=width), b, n, d)
    assert run().shape == (b, d, n)
    assert params.params(t) == weights(module)
    assert flops.forward_flops(t) == counted(run)
    assert activations.activation_bytes(t) == kept(module, run)
    assert kv_cache.kv_cache_bytes(t) == 4 * b * d * (width - 1)


# ---------------------------------------------------------------- attention


@every_size
def test_attention_is_multi_head_attention(b: int, n: int, d: int) -> None:
    spec = Attention.from_data({"heads": 2, "head_dim": d // 2, "bias": True})
    module = nn.MultiheadAttention(d, 2, batch_first=True, device="meta")
    x = torch.randn(b, n, d, device="meta")
    for policy in ("eager", "flash"):
        t = traced(spec, b, n, d, policy)
        assert params.params(t) == weights(module)
        assert flops.forward_flops(t) == counted(lambda: module(x, x, x, need_weights=False))
        assert kv_cache.kv_cache_bytes(t) == 2 * x.numel() * 4


@every_size
def test_a_sliding_window_counts_what_it_sees(b: int, n: int, d: int) -> None:
    spec = Attention.from_data({"heads": 2, "head_dim": d // 2, "window": 3})
    t = traced(spec, b, n, d)
    seen = sum(min(i + 1, 3) for i in range(n))
    assert flops.core_flops(t, "skipped") == 2 * 2 * b * d * seen
    assert kv_cache.kv_cache_bytes(t) == 2 * 4 * b * d * min(n, 3)


# ---------------------------------------------------------------- linear attention


class Linear(nn.Module):  # type: ignore[misc]
    """arXiv 2006.16236: causal, as a loop, or with the states computed anew in the backward pass."""

    def __init__(self, d: int, heads: int, *, kernel: bool) -> None:
        super().__init__()
        self.heads, self.kernel = heads, kernel
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))

    def forward(self, x: Any) -> Any:
        b, n, d = x.shape
        q, k, v = (layer(x).view(b, n, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        v = torch.cat((v, torch.ones(b, self.heads, n, 1)), -1)
        y = Recomputed.apply(q, k, v) if self.kernel else torch.stack(list(self.steps(q, k, v)), 2)
        y = y[..., :-1] / y[..., -1:]
        return self.o(y.transpose(1, 2).reshape(b, n, d))

    @staticmethod
    def steps(q: Any, k: Any, v: Any) -> Any:
        state = torch.zeros(())
        for t in range(q.shape[2]):
            state = state + k[:, :, t, :, None] @ v[:, :, t, None, :]
            yield (q[:, :, t, None, :] @ state).squeeze(-2)


class Recomputed(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any) -> Any:
        ctx.save_for_backward(q, k, v)
        return torch.stack(list(Linear.steps(q, k, v)), 2)

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> Any:
        raise NotImplementedError


@every_size
@pytest.mark.parametrize("policy", ["eager", "flash"])
def test_linear_attention(policy: Any, b: int, n: int, d: int) -> None:
    module, x = Linear(d, 2, kernel=policy == "flash"), given(b, n, d)
    t = traced(LinearAttention(heads=2, head_dim=d // 2), b, n, d, policy)
    assert params.params(t) == weights(module)
    assert flops.forward_flops(t) == counted(lambda: module(x))
    assert activations.activation_bytes(t) == kept(module, lambda: module(x))
    assert kv_cache.kv_cache_bytes(t) == 4 * b * 2 * (d // 2) * (d // 2 + 1)


# ---------------------------------------------------------------- Mamba-2


def test_mamba2_has_the_weights_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Mamba2Config(
        hidden_size=10, num_heads=5, head_dim=4, state_size=7, n_groups=1, expand=2, conv_kernel=3,
        num_hidden_layers=1, vocab_size=11,
    )
    with torch.device("meta"):
        layer = transformers.Mamba2Model(config).layers[0].mixer
    spec = Mamba2(kind="mamba2", heads=5, head_dim=4, state=7, conv=3)
    assert params.params(traced(spec, 1, 3, 10)) == weights(layer)


@every_size
def test_mamba2_step_by_step(b: int, n: int, d: int) -> None:
    """The projections, the convolution and two products with the state a step, run by hand on meta."""
    heads, head_dim, state, conv = 3, 4, 5, 2
    inner = heads * head_dim
    mixed = inner + 2 * state

    def run() -> None:
        with torch.device("meta"):
            x = nn.Linear(d, inner + mixed + heads, bias=False)(torch.randn(b, n, d))
            # Zeros on both sides, as the class has them: what lies past the end is computed and cut off.
            xbc = nn.Conv1d(mixed, mixed, conv, padding=conv - 1, groups=mixed)(torch.randn(b, mixed, n))
            for t in range(n):
                values = xbc[:, :inner, t].reshape(b, heads, head_dim, 1)
                keys = xbc[:, inner : inner + state, t].reshape(b, 1, 1, state).expand(b, heads, 1, state)
                s = values @ keys
                s @ keys.transpose(-1, -2)
            nn.Linear(inner, d, bias=False)(x[..., :inner])

    spec = Mamba2(kind="mamba2", heads=heads, head_dim=head_dim, state=state, conv=conv)
    assert flops.forward_flops(traced(spec, b, n, d)) == counted(run)


# ---------------------------------------------------------------- steps and paths


def hops(n: int, reach: int) -> int:
    """Layers until the last position has heard of the first, set by set."""
    heard = [{i} for i in range(n)]
    layers = 0
    while 0 not in heard[-1]:
        heard = [set().union(*heard[max(0, i - reach + 1) : i + 1]) for i in range(n)]
        layers += 1
    return layers


@pytest.mark.parametrize("n", [1, 2, 3, 8, 17])
@pytest.mark.parametrize("reach", [2, 3, 5])
def test_the_longest_path_is_how_far_the_first_position_is(n: int, reach: int) -> None:
    window = Attention.from_data({"heads": 1, "head_dim": 4, "window": reach})
    for spec in (Convolution1D(width=reach), window):
        assert sequence.longest_path(traced(spec, 1, n, 4)) == hops(n, reach)
        assert sequence.sequential_steps(traced(spec, 1, n, 4)) == 1
    full = traced(Attention.from_data({"heads": 1, "head_dim": 4}), 1, n, 4)
    assert sequence.longest_path(full) == hops(n, n)
    for kind in CELLS:
        t = traced(cell(kind, 4), 1, n, 4)
        assert (sequence.sequential_steps(t), sequence.longest_path(t)) == (n, n - 1)


def test_what_sees_only_itself_never_hears_of_the_first() -> None:
    assert sequence.longest_path(traced(Convolution1D(width=1), 1, 5, 4)) is None
    assert sequence.longest_path(traced(Convolution1D(width=1), 1, 1, 4)) == 0


# ---------------------------------------------------------------- side by side


ORDERS = {"O(1)": 0, "O(N)": 1, "O(N²": 2}


def order(theory: str) -> int:
    """The power of N in an order such as O(N² d)."""
    return 2 if theory.startswith("O(N²") else 1 if theory.startswith("O(N") else 0


def test_the_fitted_exponents_are_those_of_the_theory() -> None:
    found = mixers(lengths=tuple(1 << i for i in range(17, 23)))
    for row in found.mixers:
        assert [growth.quantity for growth in row.growth] == list(QUANTITIES)
        for growth in row.growth:
            assert growth.fitted == pytest.approx(order(growth.theory), abs=0.01), (row.id, growth)


@pytest.mark.parametrize("power", [0, 1, 2, 3])
def test_the_exponent_of_a_power(power: int) -> None:
    assert exponent([(n, 7 * n**power) for n in (3, 10, 31, 100, 313)]) == power


def test_an_exponent_needs_two_positive_values() -> None:
    assert exponent([(3, 9)]) is None
    assert exponent([(3, 0), (4, 0)]) is None
    assert exponent([(3, 1), (4, None)]) is None
    assert exponent([(2, 5), (4, 5)]) == 0


def test_the_table_adds_up() -> None:
    found = mixers(Sizes(d=24, heads=3, window=5), Workload(seq=1, batch=2), (8, 4, 16))
    assert MixerTable.from_data(found.to_data()) == found
    rows = {row.id: row for row in found.mixers}
    eager, flash = rows["attention-eager"], rows["attention-flash"]
    assert [p.seq for p in eager.points] == [4, 8, 16]
    assert [p.flops_forward for p in eager.points] == [p.flops_forward for p in flash.points]
    assert all(a.activation_bytes > b.activation_bytes for a, b in zip(eager.points[2:], flash.points[2:], strict=True))
    assert rows["window"].points[-1].state_bytes == 2 * 2 * 2 * 24 * 5
    assert rows["attention-flash"].points[-1].state_bytes == 2 * 2 * 2 * 24 * 16
    assert {row.kind for row in found.mixers if row.id != "mamba2"} == {"exact"}
    assert rows["mamba2"].kind == "estimate"


def test_heads_must_divide_the_width() -> None:
    assert mixers(Sizes(d=10), lengths=(3,)).heads == 1
    with pytest.raises(SpecError, match="7 does not divide the width 512"):
        mixers(Sizes(heads=7))


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("lengths", [(512,), (1024, 4096, 65536)])
def test_lines_fit(width: int, lengths: tuple[int, ...]) -> None:
    found = mixers(lengths=lengths)
    for verbose in (False, True):
        shown = render(found, "table", Screen(width), 1 + verbose)
        assert max(map(len, shown.splitlines())) <= width
    assert len(render(found, "table", Screen(width), 0)) < len(shown)


def test_every_format_says_the_same() -> None:
    found = mixers(lengths=(64, 128))
    data = json.loads(render(found, "json", Screen()))
    assert data["schema"] == "txcalc/mixers/v1"
    assert read_yaml(render(found, "yaml", Screen()), "x").data == data
    rows = list(csv.DictReader(io.StringIO(render(found, "csv", Screen()))))
    assert len(rows) == 2 * len(found.mixers)
    assert int(rows[1]["flops_forward"]) == data["mixers"][0]["points"][1]["flops_forward"]
    assert "| GRU |" in render(found, "md", Screen())


def test_the_command() -> None:
    result = CliRunner().invoke(app, ["mixers", "--d", "64", "--seq", "1K..4K", "--json"])
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["d_model"] == 64
    for row in data["mixers"]:
        assert all(a["seq"] < b["seq"] for a, b in pairwise(row["points"]))


@pytest.mark.parametrize(("args", "says"), [
    (("--d", "0"), "--d: must be at least 1"),
    (("--heads", "7"), "--heads: 7 does not divide the width 512"),
    (("--seq", "x"), "--seq: 'x' is not a size"),
    (("--masked", "no"), "--masked: must be"),
])
def test_bad_input_is_one_line(args: tuple[str, ...], says: str) -> None:
    result = CliRunner().invoke(app, ["mixers", *args])
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr and result.stderr.count("\n") == 1
