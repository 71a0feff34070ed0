"""Figures that papers printed, recomputed from traces of the models they describe."""

from fractions import Fraction
from typing import Any

import pytest

from tests.totals import backward_flops
from txcalc.answer.report import Totals, totals
from txcalc.count.activations import kept
from txcalc.count.entries import total
from txcalc.count.flops import core_flops, forward_flops
from txcalc.count.params import params, tables
from txcalc.count.states import RECIPES, training_state_bytes
from txcalc.models.load import load
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Role
from txcalc.trace.workload import Workload


def gpt(d: int, heads: int, layers: int, *, vocab: int = 51200, context: int = 2048, **more: Any) -> Model:
    return Model.from_data({
        "name": "gpt", "vocab": vocab, "d_model": d, "layers": layers, "context": context,
        "attention": {"heads": heads, "bias": True, **more.pop("attention", {})},
        "feed_forward": {"d_ff": 4 * d, "activation": "gelu_tanh", "bias": True} | more.pop("feed_forward", {}),
        **{"position": {"kind": "learned"}, **more},
    })


def run(spec: Model, **workload: Any) -> Trace:
    return trace(spec, Workload(**{"seq": 2048, **workload}))


def totals_of(name: str, **workload: Any) -> Totals:
    return totals(run(load(name).model, **workload))


# Narayanan et al. 2021 (arXiv 2104.04473), Table 1: hidden size, layers, billions of parameters; equations 2 and 3.
MEGATRON = [(2304, 24, 24, 1.7), (3072, 32, 30, 3.6), (4096, 32, 36, 7.5), (6144, 48, 40, 18.4), (8192, 64, 48, 39.1),
            (10240, 80, 60, 76.1), (12288, 96, 80, 145.6), (16384, 128, 96, 310.1), (20480, 128, 105, 529.6),
            (25600, 160, 128, 1008.0)]


@pytest.mark.parametrize(("h", "a", "layers", "billions"), MEGATRON)
def test_megatron_parameters_and_flops(h: int, a: int, layers: int, billions: float) -> None:
    V, s, B = 51200, 2048, 2
    spec = gpt(h, a, layers)
    t = run(spec, batch=B, attention="eager", phase="training")
    # The paper's P leaves out the final norm: 12 l h^2 (1 + 13/12h + (V + s)/12lh).
    assert params(t) - 2 * h == 12 * layers * h**2 * (1 + Fraction(13, 12 * h) + Fraction(V + s, 12 * layers * h))
    # 72 B s l h^2 (1 + s/6h + V/12lh) without recomputation, which adds one forward pass of the layers: 96 with it.
    forward, backward = forward_flops(t), backward_flops(t)
    assert forward + backward == 72 * B * s * layers * h**2 * (1 + Fraction(s, 6 * h) + Fraction(V, 12 * layers * h))
    again = forward - 2 * B * s * h * V
    assert forward + backward + again == (
        96 * B * s * layers * h**2 * (1 + Fraction(s, 6 * h) + Fraction(V, 16 * layers * h))
    )


# Korthikanti et al. 2022 (arXiv 2205.05198), section 4 and Table 3; GiB without parallelism are theirs times t.
@pytest.mark.parametrize(("h", "a", "b"), [(6144, 64, 4), (12288, 96, 1), (20480, 128, 1), (25600, 160, 1)])
def test_korthikanti_activations_per_layer(h: int, a: int, b: int) -> None:
    s, layers = 2048, 3
    spec = gpt(h, a, layers)
    t = run(spec, batch=b, attention="eager", dropout=0.1)
    inside = [k for k in kept(t) if k.op.path.startswith("layers.")]
    statistics = sum(k.value for k in inside if k.tensor.role is Role.STATISTIC)
    assert statistics == layers * 2 * 2 * 4 * s * b  # two norms, mean and deviation, fp32: left out by the paper
    rest = sum(k.value for k in inside) - statistics
    assert rest == layers * s * b * h * (34 + Fraction(5 * a * s, h))
    scores = sum(k.value for k in inside if k.tensor.scores)
    assert scores == layers * 5 * a * s * s * b


def test_where_34_comes_from() -> None:
    s, h, a = 2048, 12288, 96
    t = run(gpt(h, a, 1), attention="eager", dropout=0.1)
    units: dict[str, Fraction] = {}
    for k in kept(t):
        if k.op.component.startswith("layers.") and k.tensor.role is not Role.STATISTIC and not k.tensor.scores:
            units[k.op.component] = units.get(k.op.component, Fraction(0)) + Fraction(k.value, s * h)
    assert units == {"layers.attention_norm": 2, "layers.attention": 11, "layers.feed_forward_norm": 2,
                     "layers.feed_forward": 19}


def test_flash_keeps_32_and_a_log_sum_exp() -> None:
    s, h, a, b = 2048, 768, 12, 3
    t = run(gpt(h, a, 1), batch=b, attention="flash", kernels="cpu")
    inside = [k for k in kept(t) if k.op.path.startswith("layers.") and k.tensor.role is not Role.STATISTIC]
    assert sum(k.value for k in inside) == 32 * s * b * h + 4 * a * s * b


# Rajbhandari et al. 2020 (arXiv 1910.02054), Table 1 and section 3.1: 16 bytes per parameter, 120 GB for 7.5 B.
def test_training_states() -> None:
    assert training_state_bytes(7_500_000_000, "adam-mixed") == 120 * 10**9
    sums = {name: row.weights + row.gradients + row.optimizer for name, row in RECIPES.items()}
    assert sums == {"adam-mixed": 16, "adam-mixed-fp32-grads": 18, "adam-fp32": 16, "sgd-momentum-fp32": 12}


def chinchilla(d: int, d_ff: int, head_dim: int, heads: int, layers: int) -> Model:
    base = load("chinchilla-70b").model
    attention = base.attention.replaced(heads=heads, kv_heads=heads, head_dim=head_dim)
    feed_forward = base.feed_forward.replaced(d_ff=d_ff)
    return base.replaced(d_model=d, layers=layers, attention=attention, feed_forward=feed_forward)


# Hoffmann et al. 2022 (arXiv 2203.15556), Table A4: FLOPs over 6ND. The numerator leaves out embeddings,
# logits and all that belongs to distances, and adds the softmax as appendix F does (3 per head and score).
CHINCHILLA = [(640, 2560, 64, 10, 10, "1.03"), (1024, 4096, 64, 16, 20, "1.10"),
      (1280, 5120, 128, 10, 24, "1.08"), (1792, 7168, 128, 14, 26, "1.04"),
      (2048, 8192, 128, 16, 28, "1.03"), (3584, 14336, 128, 28, 40, "0.99")]


@pytest.mark.parametrize(("d", "d_ff", "head_dim", "heads", "layers", "printed"), CHINCHILLA)
def test_chinchilla_ratio(
    d: int, d_ff: int, head_dim: int, heads: int, layers: int, printed: str
) -> None:
    s = 2048
    spec = chinchilla(d, d_ff, head_dim, heads, layers)
    t = run(spec, seq=s, attention="eager")
    left_out = sum(often.calls * op.flops for op, often in t.placed if op.path == "head"
                   or "attention.position" in op.path or op.path.endswith("core.by_distance"))
    flops = forward_flops(t) - left_out + layers * 3 * heads * s * s
    plain = gpt(d, heads, layers, vocab=32000, attention={"head_dim": head_dim}, feed_forward={"d_ff": d_ff})
    head = 2 * s * d * 32000
    assert forward_flops(t) - left_out == forward_flops(run(plain, seq=s, attention="eager")) - head
    assert f"{float(Fraction(flops, 2 * s * params(t))):.2f}" == printed


def test_gpt3_training_is_more_than_6nd() -> None:
    t = run(load("gpt3").model, phase="training", attention="eager")
    six_nd = 6 * (params(t) - total(tables(t))) * 2048
    counted = forward_flops(t) + backward_flops(t)
    assert counted - six_nd == 3 * core_flops(t) + 6 * 2048 * 12288 * 50257 - 6 * 2048 * (
        params(t) - total(tables(t)) - 12 * 96 * 12288**2
    )


# Chowdhery et al. 2022 (arXiv 2204.02311), appendix B.
def test_attention_of_palm() -> None:
    t = run(load("palm-540b").model, seq=2048, attention="eager", phase="training")
    attention = 12 * 118 * 48 * 256 * 2048  # 12 L H Q T, as the appendix has it
    assert 3 * core_flops(t) == 2048 * attention
