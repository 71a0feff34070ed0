"""Whole models of recurrent cells and convolutions, against PyTorch's modules, loops of cells, and the papers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.totals import backward_flops
from txcalc.count import activations, flops, kv_cache, params
from txcalc.count.layer import alone
from txcalc.models.load import load
from txcalc.spec.invalid import InvalidSpec
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

BARE: dict[str, Any] = {
    "name": "small", "vocab": 53, "d_model": 14, "context": 41, "residual": "none", "norm": {"placement": "none"},
    "final_norm": False, "head": {"tied": False, "bias": True}, "feed_forward": None, "position": "none",
}
CELLS = ("rnn", "lstm", "gru")
every_cell = pytest.mark.parametrize("kind", CELLS)


def search(**cell: Any) -> dict[str, Any]:
    """RNNsearch in small, with every width its own."""
    return {
        **BARE, "architecture": "encoder-decoder", "layers": 1, "d_model": 13, "source_vocab": 47,
        "encoder": {"recurrent": {"kind": "gru", "hidden": 22, "reset": "before", "bidirectional": True}},
        "recurrent": {
            "kind": "gru", "hidden": 17, "reset": "before", "initial": {"bias": True},
            "attends": {"width": 11, "readout": ["previous", "input", "context"]}, **cell,
        },
        "head": {"tied": False, "maxout": {"width": 9, "pieces": 3}},
    }


def model(**fields: Any) -> Model:
    return Model.from_data({**BARE, **fields})


def language_model(kind: str, layers: int, hidden: int, *, bias: bool = True, both: bool = False) -> Model:
    """What reads the table, and what reads a layer of the same kind, are of different widths."""
    cell = {"recurrent": {"kind": kind, "hidden": hidden, "bias": bias, "bidirectional": both}}
    groups = [{"blocks": [cell]}, *([{"blocks": [{"repeat": layers - 1, **cell}]}] if layers > 1 else [])]
    return model(groups=groups, architecture="encoder-only" if both else "decoder-only")


def run(spec: Model, **workload: Any) -> Trace:
    source = {} if spec.encoder is None else {"source_seq": 5}
    return trace(spec, Workload(**{"batch": 2, "seq": 7, "dtype": "fp32", "kernels": "cpu", **source, **workload}))


# ---------------------------------------------------------------- PyTorch's modules


@every_cell
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("layers", "hidden", "bias"), [(1, 11, True), (2, 14, True), (3, 10, False)])
def test_stacks_weigh_what_pytorch_s_do(kind: str, layers: int, hidden: int, bias: bool, both: bool) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    cell = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[kind]
    theirs = nn.ModuleList([
        nn.Embedding(53, 14), cell(14, hidden, num_layers=layers, bias=bias, bidirectional=both),
        nn.Linear(hidden * (1 + both), 53),
    ])
    t = run(language_model(kind, layers, hidden, bias=bias, both=both))
    assert params.params(t) == sum(p.numel() for p in theirs.parameters())
    shapes = [shape for op, often in t.placed for _, shape in op.weights for _ in range(often.copies)]
    assert sorted(shapes) == sorted(tuple(p.shape) for p in theirs.parameters())


@every_cell
@pytest.mark.parametrize(("b", "n"), [(1, 1), (2, 7)])
def test_flops_are_those_of_a_loop_of_cells(kind: str, b: int, n: int) -> None:
    """Two layers of ``nn.LSTMCell`` and its like, forward and backward, as PyTorch's counter sees them."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    nn = torch.nn
    cell = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}[kind]
    with torch.device("meta"):
        table, cells, head = nn.Embedding(53, 14), [cell(14, 11), cell(11, 11)], nn.Linear(11, 53)

        def forward() -> Any:
            x = list(table(torch.zeros(b, n, dtype=torch.long)).unbind(1))
            for layer in cells:
                state = torch.zeros(b, 11)
                state = (state, torch.zeros(b, 11)) if kind == "lstm" else state
                for i in range(n):
                    state = layer(x[i], state)
                    x[i] = state[0] if kind == "lstm" else state
            return head(torch.stack(x, 1)).sum()

        with FlopCounterMode(display=False) as there:
            loss = forward()
        with FlopCounterMode(display=False) as back:
            loss.backward()
    t = run(language_model(kind, 2, 11), batch=b, seq=n, phase="training")
    assert flops.forward_flops(t) == there.get_total_flops()
    assert backward_flops(t) == back.get_total_flops()


@every_cell
def test_the_reference_computes_what_pytorch_computes(kind: str) -> None:
    torch = pytest.importorskip("torch")
    from txcalc.check.reference.cells import BothWays
    from txcalc.check.reference.layers import Options

    spec = language_model(kind, 1, 11, both=True).groups
    assert spec is not None
    ours = BothWays(spec[0].blocks[0].recurrent, 14, Options(length=9))  # type: ignore[arg-type]
    theirs = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](
        14, 11, batch_first=True, bidirectional=True)
    for one, end in zip(ours.directions, ("", "_reverse"), strict=True):
        for part, name in ((one.input, "ih"), (one.step.hidden, "hh")):
            part.weight.data = getattr(theirs, f"weight_{name}_l0{end}").data
            part.bias.data = getattr(theirs, f"bias_{name}_l0{end}").data
    x = torch.randn(2, 9, 14)
    assert torch.allclose(ours(x), theirs(x)[0], atol=1e-6)


# ---------------------------------------------------------------- against the reference


MODELS: dict[str, dict[str, Any]] = {
    **{f"{kind} stack": {"layers": 2, "recurrent": {"kind": kind, "hidden": 14}} for kind in CELLS},
    "one bias": {"layers": 2, "recurrent": {"kind": "lstm", "hidden": 14, "bias": {"input": True, "hidden": False}}},
    "reset before": {"groups": [
        {"blocks": [{"recurrent": {"kind": "gru", "hidden": 11}}]},
        {"repeat": 2, "blocks": [{"recurrent": {"kind": "gru", "hidden": 11, "reset": "before"}}]}]},
    "both ways": {"architecture": "encoder-only", "layers": 2,
                  "recurrent": {"kind": "lstm", "hidden": 7, "bidirectional": True}},
    "tied": {"layers": 2, "recurrent": {"kind": "gru", "hidden": 14}, "head": {"tied": True}},
    "convolutions": {"groups": [
        {"blocks": [{"recurrent": {"kind": "convolution", "width": 4, "channels": 17, "activation": "relu"}}]},
        {"blocks": [{"repeat": 2, "recurrent": {"kind": "convolution", "width": 3, "gated": True}}]},
        {"blocks": [{"recurrent": {"kind": "convolution", "width": 1}, "residual": "sequential",
                     "norm": {"placement": "pre"}}]}]},
    "short convolutions": {
        "residual": "sequential", "norm": {"placement": "pre"}, "final_norm": True, "groups": [{"blocks": [
            {"repeat": 2, "recurrent": {"kind": "short-convolution", "conv": 4}, "feed_forward": {"d_ff": 23}},
            {"recurrent": {"kind": "short-convolution", "bias": True}},
            {"recurrent": {"kind": "short-convolution", "conv": 1}}]}]},
    "attention and a cell at once": {
        "residual": "mixers", "norm": {"placement": "pre"}, "position": {"kind": "rope"}, "attention": {"heads": 1},
        "recurrent": {"kind": "short-convolution"},
        "groups": [{"blocks": [{"recurrent": {"kind": "gru", "hidden": 14}}, {"feed_forward": {"d_ff": 23}}]}]},
    "convolutions both ways": {"architecture": "encoder-only", "layers": 2,
                               "recurrent": {"kind": "convolution", "width": 4, "gated": True}},
    "GRU and attention": {
        "residual": "sequential", "norm": {"placement": "pre"}, "final_norm": True, "position": {"kind": "rope"},
        "groups": [{"repeat": 2, "blocks": [
            {"recurrent": {"kind": "gru", "hidden": 14}, "feed_forward": {"d_ff": 23}},
            {"attention": {"heads": 1}, "feed_forward": {"d_ff": 23}}]}]},
    "search": search(),
    "search without biases": search(bias=False, initial={}),
    "an LSTM that attends": {
        "architecture": "encoder-decoder", "encoder": {"layers": 2, "recurrent": {"kind": "lstm", "hidden": 14}},
        "groups": [{"blocks": [
            {"recurrent": {"kind": "lstm", "hidden": 19, "initial": {"of": "forward"},
                           "attends": {"width": 7, "bias": True, "readout": ["state", "context"]}}},
            {"recurrent": {"kind": "lstm", "hidden": 11}}]}]},
    "an RNN that begins with zeros and reads out no state": search(kind="rnn", initial=None) | {
        "recurrent": {"kind": "rnn", "hidden": 17, "attends": {"width": 11, "readout": ["input", "context"]}}},
    "first state and nothing else": {
        "architecture": "encoder-decoder", "layers": 1, "recurrent": {"kind": "gru", "hidden": 17, "initial": {}},
        "encoder": {"layers": 1, "recurrent": {"kind": "gru", "hidden": 11, "bidirectional": True}}},
    "cross-attention over a wider source": {
        "architecture": "encoder-decoder",
        "encoder": {"layers": 1, "recurrent": {"kind": "gru", "hidden": 11, "bidirectional": True}},
        "groups": [{"repeat": 2, "blocks": [
            {"recurrent": {"kind": "lstm", "hidden": 14}, "cross_attention": {"heads": 2, "head_dim": 5}}]}]},
}


@pytest.mark.grid(11)
@pytest.mark.parametrize("name", MODELS)
def test_validate_agrees(name: str) -> None:
    pytest.importorskip("torch")
    from txcalc.check.validate import validate

    result = validate(model(**MODELS[name]), one_of_many=True)
    assert result.agrees, [row for row in result.rows if row.verdict != "equal"]
    assert any(row.quantity.startswith("kept") for row in result.rows)
    assert all(each.startswith(("live bytes of a training step: ", "adapters: ")) for each in result.left_out)


@pytest.mark.parametrize("name", ["search", "an RNN that begins with zeros and reads out no state", "lstm stack"])
def test_one_token_is_exact_too(name: str) -> None:
    """The first step is the last one: there is least to go back through."""
    pytest.importorskip("torch")
    from txcalc.check import measure

    spec = model(**MODELS[name])
    source = None if spec.encoder is None else 1
    got = measure.flops(spec, 2, 1, source_seq=source, loss=True, backward=True)
    t = run(spec, seq=1, phase="training", **({} if source is None else {"source_seq": 1}))
    assert flops.forward_flops(t) == sum(got.forward.values())
    assert backward_flops(t) == sum(got.backward.values())


@pytest.mark.slow  # as txcalc validate --all does
@pytest.mark.parametrize("name", ["rnnsearch", "lstm-ptb-medium"])
def test_presets_agree(name: str) -> None:
    pytest.importorskip("torch")
    from txcalc.check.validate import validate

    result = validate(load(name).model)
    assert result.agrees, [row for row in result.rows if row.verdict != "equal"]


# ---------------------------------------------------------------- RNNsearch


def test_rnnsearch_weighs_what_the_appendix_says() -> None:
    """arXiv 1409.0473, appendix A.2: every matrix by its name there."""
    V, m, n, k, big = 30_000, 620, 1000, 1000, 500
    gates = 3 * (n * m + n * n)  # W, U of one encoder direction, or of the decoder
    aligned = n * k + 2 * n * k + k  # W_a, U_a, v_a
    deep = 2 * big * (n + m + 2 * n)  # U_o, V_o, C_o
    matrices = 2 * V * m + 2 * gates + gates + 3 * n * 2 * n + n * n + aligned + deep + V * big
    biases = 2 * 3 * n + 3 * n + n + k + 2 * big + V
    spec = load("rnnsearch").model
    assert params.params(run(spec)) == matrices + biases == 80_443_000
    assert matrices == 80_401_000
    assert all(str(f"{total:,}") in spec.sources["bias"] for total in (matrices, matrices + biases))


def test_scores_grow_with_source_times_target() -> None:
    spec = load("rnnsearch").model
    for b, n, m in ((1, 5, 3), (2, 11, 7)):
        t = run(spec, batch=b, seq=n, source_seq=m, dtype="bf16")
        assert activations.score_bytes(t) == 2 * b * n * m * (1000 + 1)  # tanh, and the weights
        assert flops.core_flops(t) == 2 * b * n * m * (1000 + 2000)


def test_what_is_held_while_decoding() -> None:
    spec = load("rnnsearch").model
    for past in (3, 30):
        t = run(spec, phase="decode", seq=1, past=past, source_seq=9, batch=2)
        held = {op.cache.kind: op.cache.elements for op in t.ops if op.cache is not None}
        assert held == {"state": 2 * 1000, "cross": 2 * 9 * (2000 + 1000)}
        assert not list(kv_cache.per_token(t))
        assert not [op.path for op, often in t.placed if op.path.startswith("encoder") and op.flops * often.calls]
        assert not [op.path for op in t.ops if op.path.endswith(("keys", "initial_hidden")) and op.flops]


@every_cell
@pytest.mark.parametrize("initial", [None, {"bias": True}])
def test_a_decoded_token_costs_one_step(kind: str, initial: dict[str, Any] | None) -> None:
    """As much as one more position of a forward pass over the same source, whatever the past is."""
    fields = search(kind=kind, initial=initial)
    if kind != "gru":
        del fields["recurrent"]["reset"]
    spec = Model.from_data(fields)
    one, two = (flops.forward_flops(run(spec, seq=n)) for n in (1, 2))
    for past in (1, 6):
        assert flops.forward_flops(run(spec, phase="decode", seq=1, past=past)) == two - one > 0


def test_only_a_stack_that_generates_holds_a_state() -> None:
    assert kv_cache.kv_cache_bytes(run(language_model("lstm", 2, 11, both=True))) is None
    assert kv_cache.kv_cache_bytes(run(language_model("lstm", 2, 11))) == 2 * 2 * 2 * 11 * 4
    mamba = {"kind": "mamba", "inner": 22, "state": 3, "rank": 5}
    assert kv_cache.kv_cache_bytes(run(model(recurrent=mamba, layers=2, architecture="encoder-only"))) is None
    assert kv_cache.kv_cache_bytes(run(model(recurrent=mamba, layers=2))) is not None


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(("fields", "place", "text"), [
    ({"layers": 2, "recurrent": {"kind": "lstm", "hidden": 11}}, ("layers",), "list groups"),
    ({"layers": 1, "residual": "sequential", "recurrent": {"kind": "lstm", "hidden": 11}}, ("recurrent", "hidden"),
     "cannot be added"),
    ({"layers": 1, "residual": "sequential", "recurrent": {"kind": "convolution", "width": 3, "channels": 11}},
     ("recurrent", "channels"), "cannot be added"),
    ({"layers": 1, "recurrent": {"kind": "gru", "hidden": 7, "bidirectional": True}}, ("recurrent", "bidirectional"),
     "one direction"),
    ({"layers": 1, "recurrent": {"kind": "gru", "hidden": 7, "attends": {"width": 3}}}, ("recurrent", "attends"),
     "encoder-decoder"),
    ({"layers": 1, "recurrent": {"kind": "gru", "hidden": 7, "initial": {}}}, ("recurrent", "initial", "of"),
     "bidirectional"),
    ({"layers": 1, "recurrent": {"kind": "gru", "hidden": 11}, "head": {"tied": True}}, ("head", "tied"),
     "reads 11 columns"),
    ({"layers": 1, "residual": "parallel", "norm": {}, "attention": {"heads": 2}, "feed_forward": {"d_ff": 9},
      "recurrent": {"kind": "gru", "hidden": 14}}, ("residual",), "nothing else"),
    ({"layers": 1, "residual": "mixers", "norm": {"placement": "pre"}, "recurrent": {"kind": "gru", "hidden": 14}},
     ("residual",), "needs attention and recurrent"),
    ({"layers": 1, "residual": "mixers", "recurrent": {"kind": "gru", "hidden": 14}, "attention": {"heads": 2}},
     ("norm", "placement"), "one norm"),
    ({"layers": 1, "residual": "mixers", "norm": {"placement": "pre"}, "recurrent": {"kind": "gru", "hidden": 11},
      "attention": {"heads": 2}}, ("recurrent", "hidden"), "cannot be added"),
    ({"layers": 1, "recurrent": {"kind": "gru", "hidden": 14}, "position": {"kind": "relative"}}, ("position",),
     "attention"),
    (search(attends=None, initial=None), ("encoder",), "nothing reads it"),
    (search(attends={"width": 3, "readout": ["previous"]}), ("recurrent", "attends", "readout"), "needs the state"),
    (search(attends={"width": 3, "readout": ["state", "state"]}), ("recurrent", "attends", "readout"), "twice"),
    (search(initial={"of": "forward"}), ("recurrent", "initial", "of"), "one-directional"),
    ({"layers": 1, "recurrent": {"kind": "convolution", "width": 3, "gated": True, "activation": "relu"}},
     ("recurrent", "activation"), "its gate"),
])
def test_what_does_not_fit_is_refused_by_its_field(fields: dict[str, Any], place: tuple[str, ...], text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        model(**fields)
    (complaint,) = caught.value.complaints
    assert complaint.path == place
    assert text in complaint.message


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("workload", [{}, {"phase": "training", "dropout": 0.1}])
def test_one_layer_keeps_what_its_line_of_the_breakdown_does(layers: int, workload: dict[str, Any]) -> None:
    """A step's state is the next one's: it is held once, and the encoder's output by the first layer."""
    small = search() if layers == 1 else search(hidden=13, initial=None, attends={"width": 11})
    spec = Model.from_data({**small, "layers": layers, "encoder": {**small["encoder"], "layers": 1}})
    t, path = run(spec, **workload), "decoder.layers.recurrent"
    whole = sum(each.value for each in activations.kept(t) if each.op.component == path)
    source = 2 * 5 * 44 * 4
    assert layers * activations.activation_bytes(alone(t, path)) == whole + (layers - 1) * source
