"""The O(N^2) curve: against a real attention layer, against the paper's algorithms run by hand, and on a terminal."""

from __future__ import annotations

import csv
import io
import json
import weakref
from collections.abc import Callable
from itertools import pairwise
from math import ceil
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from showing import render
from typer.testing import CliRunner

from txcalc import units
from txcalc.answer.curve import AttentionCurve, attention_curve
from txcalc.answer.devices import Device, device
from txcalc.answer.limits import DEFAULT_RESERVE, LONGEST, Reserve, first_above
from txcalc.cli.app import app
from txcalc.show.blocks import Bar
from txcalc.show.terminal import Screen, blocks
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.spec.yaml import read_yaml
from txcalc.trace.workload import Workload

LLAMA = Model.from_data({
    "name": "llama3-8b", "vocab": 128256, "context": 8192, "d_model": 4096, "layers": 32,
    "attention": {"heads": 32, "kv_heads": 8}, "feed_forward": {"d_ff": 14336, "gated": True, "activation": "silu"},
    "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"}, "head": {"kind": "lm", "tied": False},
})
BASE = {
    "name": "tiny", "vocab": 31, "layers": 3, "context": 29, "d_model": 15,
    "attention": {"heads": 6, "kv_heads": 2, "head_dim": 7}, "feed_forward": {"d_ff": 23}, "position": "none",
}
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "learned": {"position": {"kind": "learned"}},
    "windows": {"groups": [{"blocks": [{"repeat": 2, "attention": {"window": 5}}, {}]}]},
    "encoder": {"architecture": "encoder-only"},
    "both": {"architecture": "encoder-decoder"},
    "relative": {"architecture": "encoder-decoder", "position": {"kind": "relative", "buckets": 7}},
    "distances": {"position": {"kind": "transformer-xl"}},
    "capped": {"attention": {**BASE["attention"], "softcap": 30.0}},  # type: ignore[dict-item]
    "latent": {"attention": {"kind": "mla", "heads": 3, "kv_rank": 11, "nope_dim": 18, "rope_dim": 6, "value_dim": 16}},
    "images": {"architecture": "encoder-only", "position": {"kind": "learned", "size": 17}, "context": 17,
               "input": {"kind": "patches", "image": 28, "patch": 7}, "head": {"kind": "classifier", "labels": 3}},
    "hybrid": {"groups": [{"blocks": [{"attention": None, "recurrent": {
        "kind": "mamba2", "heads": 3, "head_dim": 5, "state": 7}}, {"repeat": 2}]}]},
}
every_model = pytest.mark.parametrize("name", MODELS)
H100 = device("h100-80gb")
RESERVE = Reserve(bytes=7919, source="a test")


def model(name: str) -> Model:
    return Model.from_data({**BASE, **MODELS[name]})


def curve(name: str = "plain", lengths: tuple[int, ...] | None = None, **workload: Any) -> AttentionCurve:
    lengths = lengths or ((5, 17, 26) if name == "images" else (7, 11, 19))
    return attention_curve(model(name), Workload(seq=1, **workload), lengths, sram_bytes=1 << 12)


# ---------------------------------------------------------------- the figures people know


def test_llama3_8b_as_people_quote_it() -> None:
    found = attention_curve(LLAMA, Workload(seq=1), (1024, 8192, 131072), H100)
    shown = [
        (units.memory(p.layer.eager.score_matrix_bytes), units.memory(p.layer.flash.statistics_bytes),
         units.ratio(p.layer.eager.score_matrix_bytes, p.layer.flash.statistics_bytes),
         units.memory(p.model.kv_cache_bytes), units.percent(p.model.flops_core, p.model.flops_forward))
        for p in found.points
    ]
    assert shown == [
        ("64.00 MiB", "128.0 KiB", "512×", "128.0 MiB", "3.5"),
        ("4.000 GiB", "1.000 MiB", "4,096×", "1.000 GiB", "22.2"),
        ("1.000 TiB", "16.00 MiB", "65,536×", "16.00 GiB", "82.1"),
    ]
    matrix, *_ = found.limits
    assert (matrix.largest_fits, matrix.first_not) == (36_554, 36_555)
    assert units.memory(H100.memory_bytes) == "79.65 GiB"


def test_decoding_and_batches() -> None:
    one, many = (attention_curve(LLAMA, Workload(seq=1, phase="decode", batch=b), (4096,), H100) for b in (1, 16))
    assert (one.points[0].new, one.points[0].past) == (1, 4095)
    assert one.points[0].layer.eager.score_matrix_bytes == 2 * 32 * 4096
    assert one.points[0].layer.flash.statistics_bytes == 4 * 32
    assert one.points[0].layer.eager.kept_bytes is None
    assert one.points[0].model.kv_cache_bytes == 131_072 * 4096
    assert many.points[0].layer.eager.score_matrix_bytes == 16 * 2 * 32 * 4096
    assert many.points[0].model.flops_core == 16 * one.points[0].model.flops_core


# ---------------------------------------------------------------- measured


torch = pytest.importorskip("torch")
F = torch.nn.functional
HEADS, KV_HEADS, HEAD_DIM, WIDTH = 2, 1, 5, 11
REAL = Model.from_data({
    **BASE, "d_model": WIDTH, "attention": {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM},
})
LENGTHS = (256, 512, 1024, 2048, 4096)


class Layer(torch.nn.Module):  # type: ignore[misc]
    """Grouped-query attention with nothing from txcalc in it."""

    def __init__(self, *, eager: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.eager, self.dropout = eager, dropout
        widths = {"q": HEADS * HEAD_DIM, "k": KV_HEADS * HEAD_DIM, "v": KV_HEADS * HEAD_DIM}
        for name, width in widths.items():
            setattr(self, name, torch.nn.Linear(WIDTH, width, bias=False))
        self.o = torch.nn.Linear(HEADS * HEAD_DIM, WIDTH, bias=False)

    def forward(self, x: Any) -> Any:
        b, n, _ = x.shape
        q, k, v = (getattr(self, name)(x).view(b, n, -1, HEAD_DIM).transpose(1, 2) for name in "qkv")
        if self.eager:
            y = eager_core(q, k, v, self.dropout)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o(y.transpose(1, 2).reshape(b, n, -1))


def eager_core(q: Any, k: Any, v: Any, dropout: float) -> Any:
    (b, h, n, d), kv = q.shape, k.shape[1]
    folded = (b, kv, h // kv * n)
    scores = (q.reshape(*folded, d) @ k.transpose(-1, -2)).view(b, h, n, n)
    scores.mul_(d**-0.5).add_(torch.full((n, n), -torch.inf).triu_(1))
    scores = F.softmax(scores, -1)
    scores = F.dropout(scores, dropout) if dropout else scores
    return (scores.view(*folded, n) @ v).view(b, h, n, d)


class Allocated(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc]
    """Bytes of the storages made while it is on, at most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        storage = out.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known and not any(
            isinstance(x, torch.Tensor) and x.untyped_storage()._cdata == key for x in args
        ):
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.free, key, size)
        return out

    def free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def kept_bytes(layer: Any, x: Any) -> int:
    own = {p.untyped_storage()._cdata for p in layer.parameters()}
    found: dict[int, int] = {}
    alive = []

    def pack(tensor: Any) -> Any:
        key = tensor.untyped_storage()._cdata
        if key not in own and key not in found:
            found[key] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(found.values())


@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16")])
def test_what_a_real_layer_keeps(dtype: Any, name: str) -> None:
    """Distinct storages that autograd keeps, at five lengths, eager and flash: to the byte."""
    torch.set_num_threads(1)
    found = attention_curve(REAL, Workload(seq=1, dtype=name, kernels="cpu"), LENGTHS)  # type: ignore[arg-type]
    for point in found.points:
        x = torch.randn(1, point.seq, WIDTH, dtype=dtype, requires_grad=True)
        assert kept_bytes(Layer(eager=True).to(dtype), x) == point.layer.eager.kept_bytes
        assert kept_bytes(Layer(eager=False).to(dtype), x) == point.layer.flash.kept_bytes


def test_what_a_real_layer_keeps_with_dropout_and_a_batch() -> None:
    torch.set_num_threads(1)
    found = attention_curve(
        REAL, Workload(seq=1, dtype="fp32", kernels="cpu", dropout=0.25, batch=3), (64, 128, 193, 256, 301)
    )
    for point in found.points:
        x = torch.randn(3, point.seq, WIDTH, requires_grad=True)
        out = torch.nn.Sequential(Layer(eager=True, dropout=0.25), torch.nn.Dropout(0.25))
        assert kept_bytes(out, x) == point.layer.eager.kept_bytes
        assert point.layer.eager.kept_score_bytes == 3 * point.layer.eager.score_matrix_bytes


def test_the_peak_of_a_real_core() -> None:
    """What is allocated at most inside the core, its inputs not counted: two score matrices, one of them transient."""
    torch.set_num_threads(1)
    found = attention_curve(REAL, Workload(seq=1, dtype="fp32", kernels="cpu"), (256, 512, 1024))
    for point in found.points:
        n = point.seq
        q, k, v = (torch.randn(1, heads, n, HEAD_DIM, requires_grad=True) for heads in (HEADS, KV_HEADS, KV_HEADS))
        mask = torch.full((n, n), -torch.inf).triu_(1)

        def core(q: Any = q, k: Any = k, v: Any = v, n: int = n, mask: Any = mask) -> Any:
            scores = (q.view(1, KV_HEADS, -1, HEAD_DIM) @ k.transpose(-1, -2)).view(1, HEADS, n, n)
            scores.add_(mask)
            scores = F.softmax(scores, -1)
            return scores.view(1, KV_HEADS, -1, n) @ v

        live = Allocated()
        with live:
            core()
        assert live.peak == point.layer.eager.peak_score_bytes
        assert point.layer.eager.transient_bytes == point.layer.eager.score_matrix_bytes


def test_flops_of_a_real_layer() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for point in attention_curve(REAL, Workload(seq=1, kernels="cpu"), (7, 13)).points:  # CUDA's flash pads heads
        with torch.device("meta"), FlopCounterMode(display=False) as counted:
            eager_core(*(torch.randn(1, heads, point.seq, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)), 0.0)
        assert counted.get_total_flops() == point.layer.flops_core


# ---------------------------------------------------------------- memory traffic, the algorithms run by hand


def algorithm_0(n: int, keys: int, heads: int, kv: int, d: int) -> int:
    """Standard attention, element by element that crosses the bus, of one sequence."""
    moved = heads * n * d + kv * keys * d + heads * n * keys  # load Q and K, write S
    moved += heads * n * keys + heads * n * keys  # load S, write P
    return moved + heads * n * keys + kv * keys * d + heads * n * d  # load P and V, write O


def algorithm_1(n: int, keys: int, heads: int, kv: int, d: int, m: int) -> tuple[int, int]:
    """FlashAttention, block by block: elements of Q, K, V and O moved, and of l and m."""
    columns, rows = ceil(m / (4 * d)), min(ceil(m / (4 * d)), d)
    moved = statistics = 0
    for _ in range(kv):
        queries = n * (heads // kv)
        moved, statistics = moved + queries * d, statistics + 2 * queries  # line 2: O, l and m begin at 0 and -inf
        for start in range(0, keys, columns):
            moved += 2 * (min(start + columns, keys) - start) * d  # line 6: load K_j and V_j
            for row in range(0, queries, rows):
                block = min(row + rows, queries) - row
                moved += 3 * block * d  # lines 8 and 12: load Q_i and O_i, write O_i
                statistics += 4 * block  # lines 8 and 13: load l_i and m_i, write them
    return moved, statistics


@pytest.mark.parametrize("phase", ["forward", "decode"])
@pytest.mark.parametrize("sram", [64, 600, 5000, 10**6])
@pytest.mark.parametrize("batch", [1, 3])
def test_memory_traffic_is_that_of_the_algorithms(phase: Any, sram: int, batch: int) -> None:
    workload = Workload(seq=1, phase=phase, batch=batch, kernels="cpu")  # CUDA's flash pads heads of 7
    for point in attention_curve(model("plain"), workload, (7, 11, 53), sram_bytes=sram).points:
        n = 1 if phase == "decode" else point.seq
        assert point.layer.eager.hbm_bytes == batch * 2 * algorithm_0(n, point.seq, 6, 2, 7)
        moved, statistics = algorithm_1(n, point.seq, 6, 2, 7, sram // 2)
        assert point.layer.flash.hbm_bytes == batch * (2 * moved + 4 * statistics)
        assert point.model.flash.hbm_bytes == 3 * point.layer.flash.hbm_bytes


def test_traffic_of_values_narrower_than_keys() -> None:
    point = curve("latent", (11,)).points[0]  # 3 heads, keys of 24, values of 16, M = 2048 elements: one block of keys
    q = k = 11 * 3 * 24
    v = o = 11 * 3 * 16
    l_and_m = 2 * 11 * 3
    assert point.layer.flash.hbm_bytes == 2 * (k + v + o + q + 2 * o) + 4 * (l_and_m + 2 * l_and_m)
    assert point.layer.eager.hbm_bytes == 2 * (q + k + v + o + 4 * 3 * 11 * 11)


def test_traffic_falls_with_the_size_of_the_chip() -> None:
    """Theta(N^2 d^2 / M): doubling M halves it, up to the part that does not depend on M."""
    small, large = (attention_curve(LLAMA, Workload(seq=1), (1 << 17,), sram_bytes=m).points[0].layer.flash.hbm_bytes
                    for m in (1 << 16, 1 << 17))
    assert small is not None and large is not None
    assert 1.95 < small / large < 2


def test_traffic_without_a_known_chip_is_unknown() -> None:
    point = attention_curve(LLAMA, Workload(seq=1), (1024,), device("tpu-v5e")).points[0]
    assert point.layer.flash.hbm_bytes is None and point.model.flash.hbm_bytes is None
    assert point.layer.eager.hbm_bytes is not None


# ---------------------------------------------------------------- where it stops fitting


@given(st.integers(1, 300), st.integers(0, 200), st.integers(1, 500))
def test_first_above_finds_the_first(slope: int, offset: int, bound: int) -> None:
    def size(step: int) -> int:
        return slope * (step // 3) + offset

    assert first_above(size, bound, 1000) == next((s for s in range(1, 1001) if size(s) > bound), None)


@pytest.mark.parametrize("seed", range(200))
def test_first_above_takes_few_steps_where_sizes_have_corners(seed: int) -> None:
    """Squares, rows up to a multiple, and a window that is full from some length on."""
    draw = Random(seed)
    square, rows, window = draw.choice([0, 1, 7]), draw.choice([1, 32]), draw.choice([50, 5000, LONGEST])
    slope, steep, bound = draw.randint(1, 10**6), draw.randint(0, 10**6), draw.randint(1, 10 ** draw.randint(1, 20))
    tried: list[int] = []

    def size(step: int) -> int:
        tried.append(step)
        return square * step**2 + slope * (-(-step // rows) * rows) + steep * min(step, window)

    found = first_above(size, bound, LONGEST)
    often = len(tried)
    assert often <= 40
    if found is None:
        assert size(LONGEST) <= bound
    else:
        assert size(found) > bound and (found == 1 or size(found - 1) <= bound)


@every_model
@pytest.mark.parametrize("phase", ["training", "decode"])
def test_limits_are_where_the_counts_pass_the_memory(name: str, phase: Any) -> None:
    if phase == "decode" and name in ("encoder", "images"):
        pytest.skip("does not generate")
    small = Device(name="small", title="Small", memory_bytes=300_000, bandwidth=1, sources={})
    workload = Workload(seq=1, phase=phase)
    lengths = (5, 17) if name == "images" else (5, 7)
    found = attention_curve(model(name), workload, lengths, small, reserve=RESERVE)
    assert found.limits
    for limit in found.limits:
        if limit.first_not is None:
            assert limit.largest_fits in (LONGEST, LONGEST**2 + 1)
            continue
        assert limit.bytes_first_not is not None and limit.bytes_first_not > small.memory_bytes
        before = 0 if limit.largest_fits is None else size_of(limit.id, name, workload, limit.largest_fits)
        assert before <= small.memory_bytes
        assert size_of(limit.id, name, workload, limit.first_not) == limit.bytes_first_not
        if limit.largest_fits is not None and name != "images":
            assert limit.first_not == limit.largest_fits + 1


def size_of(quantity: str, name: str, workload: Workload, length: int) -> int:
    reference = (17 if name == "images" else 7)
    path = attention_curve(model(name), workload, (reference,)).layer.path
    found = attention_curve(model(name), workload, (length,))
    point = found.points[0]
    if found.layer.path != path:
        pytest.skip("another layer is the largest at this length")
    sizes: dict[str, Callable[[], int | None]] = {
        "score-matrix": lambda: point.layer.eager.score_matrix_bytes,
        "peak-scores": lambda: point.layer.eager.peak_score_bytes,
        "kept-scores": lambda: point.model.eager.kept_score_bytes,
        "activations-eager": lambda: point.model.eager.kept_bytes,
        "activations-flash": lambda: point.model.flash.kept_bytes,
        "kv-cache": lambda: point.model.kv_cache_bytes,
        "weights-kv-cache": lambda: found.weight_bytes + (point.model.kv_cache_bytes or 0) + RESERVE.bytes,
    }
    return sizes[quantity]() or 0


# ---------------------------------------------------------------- every kind of model


@every_model
def test_every_kind_of_model_has_a_curve(name: str) -> None:
    found = curve(name)
    assert AttentionCurve.from_data(found.to_data()) == found
    assert all(a.layer.eager.score_matrix_bytes < b.layer.eager.score_matrix_bytes for a, b in pairwise(found.points))
    eager_always = name in ("relative", "distances", "capped")
    assert any("counted eager" in note for note in found.notes) == eager_always
    for point in found.points:
        assert (point.layer.flash.score_matrix_bytes > 0) == eager_always
        assert point.layer.eager.score_matrix_bytes <= point.layer.eager.peak_score_bytes
        assert (point.model.kv_cache_bytes is None) == (name in ("encoder", "images"))


def test_the_largest_layer_is_shown() -> None:
    """In decoding a window holds few keys, so the full layer has the larger score matrix."""
    found = curve("windows", phase="decode")
    assert (found.layer.path, found.layer.times) == ("layers.0.1.attention", 1)
    assert [(layer.path, layer.times) for layer in found.other_layers] == [("layers.0.0.attention", 2)]


def test_lengths_beyond_the_context_are_hypothetical() -> None:
    beyond = curve("learned", (29, 30))
    assert "hypothetical" in beyond.notes[0]
    assert beyond.weight_bytes == curve("learned", (29,)).weight_bytes
    assert curve("learned", (29,)).notes == ()


def test_where_there_is_no_flash_kernel_the_number_says_so() -> None:
    for name in MODELS:
        found = curve(name)
        without = name in ("relative", "distances", "capped")
        shown = render(found, "table", Screen(80))
        assert (", not fused " in shown) == without and ("counted eager" in " ".join(shown.split())) == without, name
        assert ("no such kernel, so not fused" in render(found, "html", Screen())) == without


@pytest.mark.parametrize(("given", "size"), [("0", 0), ("1GiB", 1 << 30), ("1GB", 10**9), ("5%", None)])
def test_weights_and_cache_leave_a_reserve(tiny: str, given: str, size: int | None) -> None:
    memory = H100.memory_bytes
    size = memory * 5 // 100 if size is None else size
    usual, found = (json.loads(run("attention", tiny, "--seq", "64", "--json", *more).stdout)
                    for more in ((), ("--reserve", given)))
    assert usual["reserve"]["bytes"] == DEFAULT_RESERVE.bytes == 987_842_478
    assert "github.com" in usual["reserve"]["source"] and found["reserve"] == {
        "bytes": size, "source": f"--reserve {given}"}
    fixed, each = found["weight_bytes"] + size, 2 * 5 * 24 * 2  # keys and values of 5 layers, 24 wide, in bf16
    limit = {each["id"]: each for each in found["limits"]}["weights-kv-cache"]
    assert limit["largest_fits"] == (memory - fixed) // each
    assert limit["bytes_first_not"] == fixed + each * limit["first_not"] > memory
    shown = " ".join(run("attention", tiny, "--seq", "64", "--reserve", given).stdout.split())
    assert f"weights, KV cache and {units.memory(size)} reserve" in shown if size else "weights and KV cache" in shown


def test_images_have_lengths_of_their_own() -> None:
    found = attention_curve(model("images"), Workload(seq=1))
    assert [point.seq for point in found.points] == [17, 65, 257, 1025]
    with pytest.raises(SpecError, match="use 17 or 26"):
        curve("images", (18,))
    with pytest.raises(SpecError, match="use 2"):
        curve("images", (1,))


def test_a_model_without_attention_has_no_curve() -> None:
    recurrent = {"kind": "mamba2", "heads": 3, "head_dim": 5, "state": 7}
    spec = Model.from_data({**BASE, "attention": None, "recurrent": recurrent})
    with pytest.raises(SpecError, match="has no attention"):
        attention_curve(spec, Workload(seq=1), (7,))


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    attention_curve(model("plain"), Workload(seq=1), (3, 5, 7), progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3)]


# ---------------------------------------------------------------- as people see it


@pytest.mark.grid(3)
@every_model
@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_lines_fit(name: str, width: int) -> None:
    for phase in ("forward",) if name in ("encoder", "images") else ("forward", "decode"):
        spec = model(name)
        found = attention_curve(spec, Workload(seq=1, phase=phase), device=H100)
        for verbose in (False, True):
            shown = render(found, "table", Screen(width), 1 + verbose)
            assert max(map(len, shown.splitlines())) <= width, shown


def test_the_table() -> None:
    found = attention_curve(LLAMA, Workload(seq=1), (1024, 8192, 131072), H100)
    shown = render(found, "table", Screen(80))
    one, whole = shown.split("\nthe whole model\n")
    assert "\none layer of 32, bf16, forward\n    seq  eager N×N  log scale" in one
    assert "\n131,072  1.000 TiB  ███████████████  16.00 MiB  65,536×\n" in one
    assert "\n131,072  16.00 GiB        82.1\n" in whole
    assert "one eager score matrix" in shown and "36,555" in shown
    assert "\x1b" not in shown
    assert len(render(found, "table", Screen(80), 0).splitlines()) < len(shown.splitlines())
    assert "\n    seq  eager N×N      flash " in render(found, "table", Screen(44))


@pytest.mark.parametrize(("sizes", "most", "lengths"), [
    ((1, 2, 4), 15, [1, 2, 3]), ((1, 1 << 28), 15, [1, 15]), ((5, 5), 15, [1, 1]), ((0, 0), 15, [1, 1]),
    ((1, 4), 0, [0, 0]),
])
def test_bars_are_logarithmic(sizes: tuple[int, ...], most: int, lengths: list[int]) -> None:
    assert [blocks(Bar(size, max(sizes), max(min(sizes), 1)), most) for size in sizes] == lengths


def test_every_format_says_the_same() -> None:
    found = curve("both")
    data = json.loads(render(found, "json", Screen()))
    assert data["schema"] == "txcalc/attention/v1"
    assert read_yaml(render(found, "yaml", Screen()), "x").data == data
    rows = list(csv.DictReader(io.StringIO(render(found, "csv", Screen()))))
    assert [int(row["layer_eager_score_matrix_bytes"]) for row in rows] == [
        point["layer"]["eager"]["score_matrix_bytes"] for point in data["points"]]
    assert "| 7 | 588 B |" in render(found, "md", Screen())


# ---------------------------------------------------------------- the command


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def tiny(tmp_path: Any) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text("{name: tiny, vocab: 31, d_model: 24, layers: 5, context: 64, attention: {heads: 6}, "
                    "feed_forward: {d_ff: 41}, position: none}")
    return str(path)


def test_the_command(tiny: str) -> None:
    result = run("attention", tiny, "--seq", "1K..4K", "--device", "t4", "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert [point["seq"] for point in data["points"]] == [1024, 2048, 4096]
    assert data["device"]["name"] == "t4-16gb" and data["sram_bytes"] == 65_536
    assert data["provenance"]["command"][:2] == ["txcalc", "attention"]


def test_on_the_cpu_there_are_no_limits(tiny: str) -> None:
    result = run("attention", tiny, "--seq", "16", "--kernels", "cpu", "--sram", "32K", "--json")
    data = json.loads(result.stdout)
    assert (data["device"], data["limits"], data["workload"]["kernels"]) == (None, [], "cpu")
    assert data["sram_bytes"] == 32768


@pytest.mark.parametrize(("args", "says"), [
    (("--seq", "0"), "--seq: '0': a length is at least 1"),
    (("--device", "h1000"), "--device: no accelerator 'h1000' in the table; did you mean h100?"),
    (("--sram", "x"), "--sram: 'x' is not a size"),
    (("--reserve", "x"), "--reserve: 'x' is not a size such as 24GiB, 24GB or 512MiB, or 5%"),
    (("--reserve", "80GiB"), "--reserve: 80.00 GiB leave nothing of H100 80GB"),
    (("--reserve", "1GiB", "--kernels", "cpu"), "--reserve: needs a --device that it is a part of"),
    (("--dtype", "fp7"), "--dtype: must be one of"),
    (("--source-seq", "9"), "--source-seq: tiny has no encoder"),
])
def test_bad_input_is_one_line(tiny: str, args: tuple[str, ...], says: str) -> None:
    result = run("attention", tiny, *args)
    assert result.exit_code == 2
    assert says in result.stderr and result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_what_rests_on_an_estimate_says_so() -> None:
    assert "its totals are estimates" in " ".join(run("attention", "jamba-v0.1", "--seq", "64").stdout.split())
    assert "estimate" not in run("attention", "gpt2", "--seq", "64").stdout


def test_a_tower_without_images_moves_nothing() -> None:
    curves = [json.loads(run("attention", name, "--seq", "64", "--json").stdout)["points"]
              for name in ("llava-1.5-7b", "llama2-7b")]
    assert [point["layer"] for point in curves[0]] == [point["layer"] for point in curves[1]]
    assert all(a["model"]["eager"] == b["model"]["eager"] for a, b in zip(*curves, strict=True))
