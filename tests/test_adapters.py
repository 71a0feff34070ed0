"""Adapters and frozen parts: live bytes of real steps event by event, FLOPs, kept storages and parameters."""

from typing import Any

import pytest

pytest.importorskip("torch")

from tests.live_families import FAMILIES
from tests.test_live import GPT, MODELS, steps
from tests.test_step import compared
from txcalc.check import measure
from txcalc.check.fake_cuda import NotRun
from txcalc.check.live import measured, trained
from txcalc.check.validate import by_module, has_loss
from txcalc.count import activations, flops, lifetimes, params
from txcalc.count.entries import total
from txcalc.count.gradients import parameters
from txcalc.count.lifetimes import live_bytes
from txcalc.count.weights import entries as weight_entries
from txcalc.models.load import load
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import located_blocks, positions
from txcalc.spec.model import Model
from txcalc.trace import ops
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

ATTENTION = {"lora": {"r": 3, "targets": ["attention"]}}
ALL = {"lora": {"r": 3, "targets": ["all"], "dropout": 0.1}}
RUNS: dict[str, dict[str, Any]] = {
    "attention": ATTENTION,
    "all-bf16": ALL | {"dtype": "bf16"},
    "all-eager-dropout": ALL | {"dtype": "bf16", "attention": "eager", "dropout": 0.1},
    "adapters-bf16": {"lora": {"r": 3, "targets": ["all"], "dropout": 0.1, "dtype": "bf16"}, "dtype": "bf16"},
    "tables-frozen": {"freeze": ["token_embedding"]},
    "layers-frozen": {"freeze": ["layers", "encoder.layers"], "dtype": "bf16"},
    "layers-and-tables-frozen": {"freeze": ["layers", "encoder.layers", "token_embedding"], "dtype": "bf16"},
    "all-recomputed": ALL | {"recompute": "full"},
    "rows-scaled": {"dora": ALL["lora"], "dtype": "bf16"},
    "rows-scaled-recomputed": {"dora": ALL["lora"] | {"dropout": 0.0}, "dtype": "bf16", "recompute": "full"},
    "tables-frozen-recomputed": {"freeze": ["token_embedding"], "recompute": "full"},
}
ALSO = {("two-layers-before-head", "attention"), ("experts-with-a-bias", "all-eager-dropout")}
OFTEN = ("gpt", "llama", "capped", "latents-unequal", "mixtral", "shared-layers", "bert-classifier", "t5", "vit")


def attends(name: str) -> bool:
    spec = Model.from_data({**MODELS, **FAMILIES}[name])
    return not any(block.recurrent for stack in (spec, spec.encoder) if stack for _, block in located_blocks(stack))


NAMES = [name for name in (*MODELS, *FAMILIES) if attends(name)]


def each(kernels: str) -> list[Any]:
    """Of recomputed layers only the usual ones, of those of peft the fewest."""
    return [pytest.param(name, run, id=f"{kernels}-{name}-{run}", marks=() if (name, run) in ALSO or name in (
                ("gpt", "t5") if run.startswith("rows") else OFTEN) else pytest.mark.slow)
            for name in NAMES for run in RUNS if name in OFTEN or not run.endswith("recomputed")]


def run_of(name: str, run: dict[str, Any]) -> dict[str, Any]:
    """Without the parts that the model does not have, and rows of routed experts as they are."""
    spec = Model.from_data({**MODELS, **FAMILIES}[name])
    if "dora" in run and any(getattr(block.feed_forward, "kind", "") == "moe" for _, block in located_blocks(spec)):
        return run | {"dora": run["dora"] | {"targets": ["attention"]}}
    if "freeze" not in run:
        return run
    has = {"token_embedding": spec.vocab is not None, "layers": spec.encoder is None,
           "encoder.layers": spec.encoder is not None}
    return run | {"freeze": [path for path in run["freeze"] if has[path]] or ["patch_embedding"]}


def stepped(name: str, batch: int, device: Any, run: dict[str, Any], **more: Any) -> tuple[Any, Any]:
    try:
        return steps({**MODELS, **FAMILIES}[name], batch, device, **run_of(name, run), **more)
    except NotRun as reason:
        pytest.skip(f"not run: {reason}")


@pytest.mark.parametrize(("name", "run"), each("cpu"))
def test_a_step_on_the_cpu(name: str, run: str) -> None:
    real, ours = stepped(name, 2, "cpu", RUNS[run])
    assert ours == real


@pytest.mark.grid(15)
@pytest.mark.parametrize(("name", "run"), each("fake-cuda"))
def test_a_step_under_cudas_operators(name: str, run: str) -> None:
    real, ours = stepped(name, 2, "fake-cuda", RUNS[run])
    assert ours == real


@pytest.mark.grid(27)
@pytest.mark.parametrize("device", ["cpu", "fake-cuda"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("batch", "dtype"), [(1, "fp32"), (2, "fp32"), (1, "bf16"), (2, "bf16"), (2, "bf16 all")])
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", ["gpt", "llama", "mixtral", "bert-classifier"])
def test_a_step_of_peft(name: str, kind: str, batch: int, dtype: str, dropout: float, device: Any) -> None:
    pytest.importorskip("peft")
    names = ["q", "v"] if (name, kind) == ("mixtral", "dora") else ["q", "v", "up"]
    target: dict[str, Any] = {kind: {"r": 3, "targets": names, "dropout": dropout, "alpha": 7.0}}
    dtype, _, own = dtype.partition(" ")
    target[kind] |= {"dtype": "bf16"} if own else {}
    spec, run = Model.from_data({**MODELS, **FAMILIES}[name]), {"batch": batch, "seq": 7, "dtype": dtype} | target
    w = Workload(phase="training", kernels="cpu" if device == "cpu" else "cuda", dropout=dropout, **run)
    try:
        real = [live for _, live in measured("live_bytes", spec, w, device, peft=True)]
    except NotRun as reason:
        pytest.skip(f"not run: {reason}")
    assert [event.live for event in live_bytes(trace(spec, w), in_place=False)] == real


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("run", [ATTENTION, {"lora": {"r": 3, "targets": ["all"]}}, {"freeze": ["layers"]},
                                 {"dora": ALL["lora"]},
                                 {"freeze": ["token_embedding", "layers.attention"]}])
@pytest.mark.parametrize("name", ["gpt", "llama", "mixtral", "latents", "bert-classifier"])
def test_flops_of_every_module(name: str, run: dict[str, Any], eager: bool) -> None:
    spec = Model.from_data({**MODELS, **FAMILIES}[name])
    run = run_of(name, run) if "dora" in run else run
    w = Workload(phase="training", kernels="cpu", batch=2, seq=7, attention="eager" if eager else "flash", **run)
    real = measure.flops(spec, 2, 7, eager=eager, loss=has_loss(spec), backward=True, trained=trained(w),
                         device="meta" if eager else "cpu")
    modules, t = measure.module_paths(spec) | real.forward.keys() | real.backward.keys(), trace(spec, w)
    for found, passes in ((real.forward, ("forward",)), (real.backward, ("backward", "recomputed"))):
        ours = by_module(flops.entries(t, *passes), frozenset(modules))  # type: ignore[arg-type]
        if "dora" in run:  # modules of peft within those of ours
            assert sum(ours.values()) == sum(found.values())
        else:
            assert {path: n for path, n in ours.items() if n} == {path: n for path, n in found.items() if n}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", ["gpt", "llama", "mixtral", "vit", "shared-layers"])
def test_kept_storages(name: str, run: str) -> None:
    spec = Model.from_data({**MODELS, **FAMILIES}[name])
    w = Workload(**{"phase": "training", "kernels": "cpu", "dtype": "fp32", "batch": 2,
                    "seq": positions(spec.input, 7)} | run_of(name, RUNS[run]))
    real, ours = [storage.nbytes for storage in measured("kept", spec, w, "cpu")], activations.kept(trace(spec, w))
    assert total(ours) == sum(real)
    if name != "mixtral":  # experts' storages come as one
        assert sorted(each.each for each in ours for _ in range(each.times) if each.each) == sorted(real)


@pytest.mark.grid(15)
@pytest.mark.parametrize("kernels", ["cpu", "cuda"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", ["gpt", "llama", "shared-layers"])
def test_a_whole_step_with_its_optimizer(name: str, run: str, kernels: Any) -> None:
    """Frozen weights have neither gradients nor states."""
    spec = Model.from_data(MODELS[name])
    w = Workload(**{"phase": "training", "kernels": kernels, "batch": 2, "seq": 7} | run_of(name, RUNS[run]))
    row = compared(spec, w)
    assert row.verdict == "equal", row.differences


@pytest.mark.parametrize(("model", "kind", "adapter", "expected"), [
    ("bert", "lora", {"r": 16, "targets": ["q", "v"]}, 589_824),
    ("bert", "dora", {"r": 16, "targets": ["q", "v"]}, 589_824 + 24 * 768),
    ("llama-7b", "lora", {"r": 8, "targets": ["q_proj", "v_proj"]}, 4_194_304),
])
def test_trained_parameters(model: str, kind: str, adapter: dict[str, Any], expected: int) -> None:
    """As peft's ``print_trainable_parameters`` has them (arXiv 2106.09685's own choice of matrices)."""
    spec = load(model).model
    run = trace(spec, Workload(**{"phase": "training", "seq": 17, kind: adapter}))
    assert total(params.trained(run)) == expected
    assert params.params(run) == params.params(trace(spec, Workload(seq=17))) + expected


def test_without_a_save_for_adapters_it_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real, _ = stepped("gpt", 2, "cpu", ATTENTION)
    monkeypatch.setattr(ops, "dropout", lambda t, name, x, p=None: t.hold(ops.like(t, x, name)))
    monkeypatch.setattr(lifetimes, "check", lambda _: None)
    _, ours = stepped("gpt", 2, "cpu", ATTENTION)
    assert ours != real


@pytest.mark.parametrize(("run", "message"), [
    ({"lora": "r=8,targets=qq"}, "lora: targets: nothing is called 'qq'; did you mean q?"),
    ({"lora": "r=8,targets=zzzz"}, "there are q, k, v, o, up, down, head, attention, all"),
    ({"lora": "targets=q"}, "lora: r must be given"),
    ({"lora": "r=8,rank=3"}, "lora: rank is none of r, targets, dropout, alpha"),
    ({"lora": "r=0"}, "lora: r must be a whole number of at least 1, got 0"),
    ({"lora": "r=x"}, "lora: r must be a whole number of at least 1, got 'x'"),
    ({"lora": "q,v"}, "lora: must be like r=16,targets=q,v, got 'q,v'"),
    ({"lora": "r=8,r=9"}, "lora: r is given twice"),
    ({"lora": "r=8,dropout=1"}, "lora: dropout must be a number from 0 to below 1, got 1.0"),
    ({"lora": 8}, "lora: must be like r=16,targets=q,v, got 8"),
    ({"lora": "r=8", "dora": "r=8"}, "dora: give lora or dora, not both"),
    ({"lora": "r=8", "freeze": "layers"}, "freeze: with adapters everything else is frozen already"),
    ({"lora": "r=8", "phase": "decode"}, "lora: is of a training step; the phase is decode"),
    ({"freeze": "layer"}, "freeze: no weights are under 'layer'; did you mean layers?"),
    ({"freeze": "qqqq"}, "there are token_embedding, position_embedding, layers, final_norm"),
    ({"freeze": ["token_embedding", "position_embedding", "layers", "final_norm"]}, "freeze: nothing is left to train"),
    ({"freeze": ""}, "freeze: must be paths of parts, such as encoder"),
])
def test_what_cannot_be_trained_so(run: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as raised:
        trace(Model.from_data(GPT), Workload.of({"seq": 7} | run))
    assert message in str(raised.value)


def test_a_head_that_is_the_token_table_is_frozen_with_it() -> None:
    run = {"seq": 7, "phase": "training", "freeze": ["head"]}
    spec = Model.from_data(FAMILIES["bert-masked-lm"])
    with pytest.raises(SpecError, match="freeze: the head's matrix is the token table, which is frozen with it"):
        trace(spec, Workload.of(run))
    real, ours = steps(FAMILIES["bert-masked-lm"], 2, "cpu", freeze=["head", "token_embedding"])
    assert ours == real and trace(spec, Workload.of(run | {"freeze": ["head", "token_embedding"]})).frozen


def test_a_workload_with_adapters_is_read_back() -> None:
    run = Workload.of({"seq": 7, "lora": "r=8,targets=q_proj,v,dropout=0.05"})
    assert run.phase == "training"
    assert run.to_data()["lora"] == {"r": 8, "targets": ["q", "v"], "dropout": 0.05, "alpha": None}
    assert Workload.from_data(run.to_data()) == Workload.of(run.to_data() | {"images": 0}).replaced(images=None)
    assert not {"lora", "dora", "freeze"} & Workload(seq=7).to_data().keys()


@pytest.mark.grid(15)
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("weights", ["nf4", "nf4-dq", "fp4"])
@pytest.mark.parametrize(("name", "dtype", "batch"), [
    ("gpt", "fp32", 1), ("llama", "bf16", 2), ("mixtral", "bf16", 2), ("bert-classifier", "fp32", 2),
    ("latents", "bf16", 1),
])
def test_a_step_of_peft_on_4_bits(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: str, batch: int, weights: str, kind: str
) -> None:
    """QLoRA: bitsandbytes' layers, whose one kernel is taken apart, as it is where a card has no better one."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl

    monkeypatch.setattr(torch.ops.bitsandbytes.gemm_4bit, "default", _gemm_4bit_default_impl)
    spec = Model.from_data({**MODELS, **FAMILIES}[name])
    target = {"r": 3, "targets": ["q", "up"] if name == "latents" else ["q", "v", "up"], "dropout": 0.1}
    if (name, kind) == ("mixtral", "dora"):
        target["targets"] = ["q", "v"]
    w = Workload(**{"phase": "training", "kernels": "cpu", "dtype": dtype, "batch": batch, "seq": 7,
                    "weights": weights, kind: target})
    real = [live for _, live in measured("live_bytes", spec, w, "cpu", peft=True, packed=weights)]
    assert [event.live for event in live_bytes(trace(spec, w), in_place=False)] == real


def test_layers_of_4_bits_that_held_their_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes before 0.43.2: what its function is given is alive for as long as the graph."""
    pytest.importorskip("peft")
    functions = pytest.importorskip("bitsandbytes.autograd._functions")
    forward = functions.MatMul4Bit.forward

    def held(ctx: Any, x: Any, *given: Any, **more: Any) -> Any:
        found = forward(ctx, x, *given, **more)
        ctx.held = x if any(ctx.needs_input_grad[:2]) else None
        return found

    monkeypatch.setattr(functions.MatMul4Bit, "forward", staticmethod(held))
    from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl

    monkeypatch.setattr("torch.ops.bitsandbytes.gemm_4bit.default", _gemm_4bit_default_impl)
    spec = Model.from_data(MODELS["llama"])
    run: dict[str, Any] = {"phase": "training", "kernels": "cpu", "batch": 2, "seq": 7, "lora": {
        "r": 3, "targets": ["q", "v"]}}
    real = measured("live_bytes", spec, Workload(**run, weights="nf4"), "cpu", peft=True, packed="nf4")
    ours = live_bytes(trace(spec, Workload(**run, weights="nf4@0.43")), in_place=False)
    ahead = [event.live for event in ours if event.phase == "forward"]
    assert ahead == [live for _, live in real][:len(ahead)]
    assert max(event.live for event in ours) == max(live for _, live in real)


def test_packed_layers_told_apart_are_counted_once() -> None:
    spec = load("llama3-8b").model
    packed, frozen = (total(weight_entries(trace(spec, run))) for run in (
        Workload(seq=17, weights="nf4"), Workload(phase="training", seq=17, weights="nf4", lora="r=16,targets=q,v")))  # type: ignore[arg-type]
    assert frozen == packed + 4 * 6_815_744


TARGETS: dict[str, dict[str, str]] = {
    **{name: {"q_proj": "q", "v_proj": "v", "o_proj": "o", "up_proj": "up"}
       for name in ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2")},
    **{name: {"q_proj": "q", "v_proj": "v", "o_proj": "o"} for name in ("mixtral", "qwen3-moe")},
    "phi3": {"qkv_proj": "q,k,v", "o_proj": "o", "gate_up_proj": "gate,up", "down_proj": "down"},
    "neox": {"query_key_value": "q,k,v", "dense_4h_to_h": "down"}, "gpt2": {"c_attn": "q,k,v", "c_fc": "up"},
    "deepseek-v3": {"kv_b_proj": "kv_up", "q_b_proj": "q_up", "o_proj": "o"},
    **{name: {"query": "q", "key": "k", "value": "v"} for name in (
        "bert", "bert-QuestionAnswering", "bert-SequenceClassification")},
    "llama-SequenceClassification": {"q_proj": "q", "down_proj": "down"},
    "vit": {"q_proj": "q", "v_proj": "v"}, "whisper": {"q_proj": "q", "v_proj": "v", "fc1": "up"},
    "bart": {"q_proj": "q", "k_proj": "k", "v_proj": "v", "fc2": "down"},
    "t5": {"q": "q", "k": "k", "wo": "down"}, "mt5": {"v": "v", "o": "o", "wi_0": "gate", "wi_1": "up"},
}
"""Layers of transformers' classes, and what they are called here."""


@pytest.mark.grid(97)
@pytest.mark.parametrize("recompute", [None, "full", "ops"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("device", ["cpu", "fake-cuda"])
@pytest.mark.parametrize(("attention", "dtype", "batch"), [
    ("eager", "bf16", 2), ("sdpa", "bf16", 1), ("sdpa", "fp32", 2),
])
@pytest.mark.parametrize("name", TARGETS)
def test_a_step_of_transformers_classes_with_peft(
    name: str, attention: str, dtype: str, batch: int, device: str, kind: str, recompute: str | None
) -> None:
    pytest.importorskip("peft")
    from tests.test_implementations import CONFIGS, SOURCE, model, workload
    from txcalc.check import classes, fake_cuda

    if (name, attention) == ("gemma2", "sdpa") or (name, kind, dtype) == ("gpt2", "dora", "fp32") or (
            kind, recompute) == ("dora", "ops"):
        pytest.skip("is refused")
    adapter = {"r": 3, "targets": [*TARGETS[name]], "dropout": 0.1 * (batch - 1)}
    run: dict[str, Any] = {"attention": attention, "dtype": dtype, "dropout": 0.1 * (2 - batch), kind: adapter}
    more = {"source_seq": SOURCE} if name in ("bart", "t5", "mt5") else {}
    more |= {"recompute": recompute == "full" or recompute} if recompute else {}
    try:
        real = fake_cuda.ask("live_bytes", CONFIGS[name], batch, 7, **run, **more) if device == "fake-cuda" else (
            classes.live_bytes(CONFIGS[name], batch, 7, **run | more | {"dtype": measure.DTYPES[dtype]}))
    except NotRun as reason:
        pytest.skip(f"not run: {reason}")
    given = run | {kind: adapter | {"targets": ",".join(TARGETS[name].values()).split(",")}, "recompute": recompute}
    ours = live_bytes(trace(model(name), workload(name, batch=batch, device=device, **given)), in_place=False)
    assert [event.live for event in ours] == [live for _, live in real]


@pytest.mark.grid(23)
@pytest.mark.parametrize("recompute", [None, "full", "ops"])
@pytest.mark.parametrize("precision", ["bf16", "fp32", "amp"])
@pytest.mark.parametrize("device", ["cpu", "fake-cuda"])
@pytest.mark.parametrize(("name", "parts"), [
    *((name, parts) for name in ("llama", "qwen3", "olmo2", "phi3", "mixtral", "deepseek-v3", "neox") for parts in (
        {"token_embedding": "embed"}, {"layers": "layers", "head": "lm_head"}, {"final_norm": "norm"})
      if (name, *parts) != ("neox", "final_norm")),
    ("gpt2", {"layers": "h"}), ("bert", {"token_embedding": "word_embeddings"}), ("vit", {"layers": "layers"}),
    *((name, parts) for name in ("gemma2", "gemma3") for parts in (
        {"token_embedding": "embed", "head": "lm_head"}, {"layers": "layers"}, {"final_norm": "norm"})),
    ("whisper", {"encoder": "encoder"}),
    ("whisper", {"decoder.layers": "decoder.layers"}), ("bart", {"decoder.layers": "decoder.layers"}),
    ("bart", {"encoder.layers": "encoder.layers", "encoder.embedding_norm": "encoder.layernorm_embedding"}),
])
def test_a_step_of_transformers_classes_with_frozen_parts(
    name: str, parts: dict[str, str], device: str, precision: str, recompute: str | None
) -> None:
    from tests.test_implementations import CONFIGS, SOURCE, model, workload
    from txcalc.check import classes, fake_cuda

    if (recompute and name in ("gpt2", "bert", "vit", "whisper", "bart")) or (
            name, precision) in (("olmo2", "amp"), ("deepseek-v3", "amp")):
        pytest.skip("is refused")
    amp, kept = precision == "amp", "fp32" if precision == "fp32" else "bf16"
    prefix = {"neox": "gpt_neox", "gpt2": "transformer", "bert": "bert.embeddings", "vit": "vit"}.get(name, "model")
    theirs = [each if each == "lm_head" else f"{prefix}.{each}" for each in parts.values()]
    kernel = "eager" if name == "gemma2" else "sdpa"
    run: dict[str, Any] = {"attention": kernel, "freeze": theirs, "recompute": recompute == "full" or recompute,
                           "dropout": 0.0} | ({"source_seq": SOURCE} if name == "bart" else {})
    dtypes = {"dtype": "fp32", "autocast": "bf16"} if amp else {"dtype": kept}
    try:
        real = fake_cuda.ask("live_bytes", CONFIGS[name], 2, 7, **dtypes, **run) if device == "fake-cuda" else (
            classes.live_bytes(CONFIGS[name], 2, 7, **{k: measure.DTYPES[v] for k, v in dtypes.items()}, **run))
    except NotRun as reason:
        pytest.skip(f"not run: {reason}")
    w = workload(name, batch=2, device=device, attention=kernel, dtype=kept, recompute=recompute, freeze=[*parts],
                 **{"precision": "amp"} if amp else {})
    assert [event.live for event in live_bytes(trace(model(name), w), in_place=False)] == [live for _, live in real]


@pytest.mark.grid(11)
@pytest.mark.parametrize("recompute", [None, "full"])
@pytest.mark.parametrize("device", ["cpu", "fake-cuda"])
@pytest.mark.parametrize(("dtype", "own", "alpha", "r"), [
    ("bf16", {}, 7, 3), ("bf16", {}, None, 1), ("bf16", {"dtype": "bf16"}, 7, 1), ("fp32", {}, 7, 3),
])
@pytest.mark.parametrize(("name", "targets"), [
    ("mixtral", "w1,w2,w3"), ("mixtral", "w2,q_proj"), ("qwen3-moe", "gate_proj,up_proj"),
    ("qwen3-moe", "gate_proj,up_proj,down_proj,o_proj"), ("deepseek-v3", "gate_proj,up_proj,down_proj"),
])
def test_experts_in_one_tensor_have_adapters(
    name: str, targets: str, dtype: str, own: dict[str, Any], alpha: int | None, r: int, device: str,
    recompute: str | None,
) -> None:
    """``ParamWrapper``: products of adapters are added to the weights of all experts, gate and up with twice the rank;
    dense layers of the same names have none."""
    pytest.importorskip("peft")
    from tests.test_implementations import CONFIGS, model, workload
    from txcalc.check import classes, fake_cuda

    adapter = {"r": r, "alpha": alpha, "targets": targets.split(","), **own}
    run: dict[str, Any] = {"attention": "sdpa", "lora": adapter, "recompute": bool(recompute)}
    try:
        real = fake_cuda.ask("live_bytes", CONFIGS[name], 2, 7, dtype=dtype, **run) if device == "fake-cuda" else (
            classes.live_bytes(CONFIGS[name], 2, 7, dtype=measure.DTYPES[dtype], **run))
    except NotRun as reason:
        pytest.skip(f"not run: {reason}")
    ours = [{"w1": "gate", "w2": "down", "w3": "up"}.get(each, each) for each in adapter["targets"]]
    w = workload(name, batch=2, device=device, attention="sdpa", dtype=dtype, recompute=recompute,
                 lora=adapter | {"targets": ours})
    run = trace(model(name), w)
    assert [event.live for event in live_bytes(run, in_place=False)] == [live for _, live in real]


@pytest.mark.parametrize(("more", "message"), [
    ("targets=gate", "gate is in one matrix of gate, up"),
    ("targets=gate,up,dropout=0.1", "dropout are refused by peft"),
    ("targets=router", "a router's own weight, which is not counted yet"),
])
def test_what_peft_does_not_do_to_experts_in_one_tensor(more: str, message: str) -> None:
    from tests.test_implementations import model, workload

    with pytest.raises(SpecError, match=message):
        trace(model("mixtral"), workload("mixtral", lora=f"r=3,{more}"))
    with pytest.raises(SpecError, match="DoRA are refused by peft"):
        trace(model("mixtral"), workload("mixtral", dora="r=3,targets=down"))


def test_parameters_of_experts_in_one_tensor() -> None:
    """As ``get_peft_model`` makes them of a Mixtral with 5 experts of 48 columns on 40."""
    from tests.test_implementations import model, workload

    run = trace(model("mixtral"), workload("mixtral", lora="r=3,targets=gate,up,down"))
    assert {p.shape: p.copies for p in parameters(run)} == dict.fromkeys([(15, 48), (30, 40), (40, 15), (96, 30)], 2)


def test_a_joined_matrix_has_one_adapter() -> None:
    """As ``peft`` prints of GPT-2's ``c_attn``: trainable params: 294,912 || all params: 124,734,720."""
    run = trace(load("gpt2").model, Workload.of({
        "phase": "training", "seq": 17, "implementation": "transformers", "lora": "r=8,targets=q,k,v"}))
    assert (total(params.trained(run)), params.params(run)) == (294_912, 124_734_720)


@pytest.mark.parametrize(("name", "target"), [("gpt2", "q"), ("phi3", "gate"), ("neox", "q")])
def test_a_part_of_a_larger_matrix_has_no_adapter_of_its_own(name: str, target: str) -> None:
    pytest.importorskip("transformers")
    from tests.test_implementations import model, workload

    with pytest.raises(SpecError, match="is in one matrix of"):
        trace(model(name), workload(name, lora={"r": 3, "targets": [target]}))
    if name == "gpt2":
        with pytest.raises(SpecError, match="DoRA with dropout on weights stored by columns"):
            trace(model(name), workload(name, dtype="fp32", dora={"r": 3, "targets": ["up"], "dropout": 0.1}))


def test_rows_of_routed_experts_are_not_scaled() -> None:
    """What is made once for an expert that runs, however many rows it has, is in no total of all rows."""
    with pytest.raises(SpecError, match="DoRA on routed experts"):
        trace(Model.from_data(MODELS["mixtral"]), Workload.of({"seq": 7, "dora": "r=8,targets=all"}))
