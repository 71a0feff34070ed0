"""What must hold for every valid spec, drawn at random."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from specs import specs

from txcalc.answer.report import Report, count
from txcalc.show.writers import json as as_json
from txcalc.show.writers import yaml as as_yaml
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import architecture_fields, is_causal
from txcalc.spec.model import Model, Sublayers
from txcalc.spec.yaml import read_yaml
from txcalc.trace.workload import Workload

quick = settings(max_examples=60, suppress_health_check=list(HealthCheck))
PHASES = ("forward", "training", "prefill", "decode")


def report_on(spec: Model, phase: str = "training", **more: Any) -> Report:
    past = {"past": 6} if phase == "decode" else {}
    return count(spec, Workload(phase=phase, seq=9, attention="eager", dropout=0.1, **past, **more))


@quick
@given(spec=specs(), phase=st.sampled_from(PHASES))
def test_components_add_up_to_the_totals(spec: Model, phase: str) -> None:
    if not is_causal(spec) and phase in ("prefill", "decode"):
        phase = "forward"
    for by_module in (False, True):
        report = count(spec, Workload(phase=phase, seq=9, past=6 if phase == "decode" else 0), by_module=by_module)
        parts, totals = report.components, report.totals
        assert sum(c.params for c in parts) == totals.params.value
        assert sum(c.flops_forward for c in parts) == totals.flops_forward.value
        for column, total in (("activation_bytes", totals.activation_bytes), ("kv_cache_bytes", totals.kv_cache_bytes)):
            figures = [getattr(c, column) for c in parts]
            assert sum(f or 0 for f in figures) == (0 if total is None else total.value)
            assert any(f is not None for f in figures) == (total is not None)
        assert sum(k.bytes for k in report.kept) == (totals.activation_bytes.value if totals.activation_bytes else 0)


@quick
@given(spec=specs().filter(lambda spec: spec.encoder is not None))
def test_an_encoder_does_not_run_again_for_tokens_after_a_prompt(spec: Model) -> None:
    again = count(spec, Workload.decode(past=6, source_seq=9, batch=2), by_module=True).components
    assert not sum(abs(each.flops_forward) for each in again if each.path.startswith("encoder"))


@quick
@given(spec=specs(), phase=st.sampled_from(("forward", "training")))
def test_a_report_survives_the_round_trip_byte_for_byte(spec: Model, phase: str) -> None:
    report = report_on(spec, phase)
    as_text = as_yaml(report.to_data())
    again = Report.from_data(read_yaml(as_text, "report.yaml").data)
    assert again == report
    assert as_yaml(again.to_data()) == as_text
    assert Report.from_data(json.loads(as_json(report.to_data()))) == report
    assert architecture_fields(Model.from_data(report.model.spec)) == report.model.spec


def sizes(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The places of all sizes in a spec's data that can grow on their own."""
    if isinstance(data, dict):
        unused = {*Sublayers.names(), "layers"} if data.get("groups") else set()  # those of the groups count
        unused |= {"size"} if data.get("kind") == "sinusoidal" and not data["stored"] else set()
        return [found for k, v in data.items() if k not in unused for found in sizes(v, (*path, k))]
    if isinstance(data, list):
        return [found for i, v in enumerate(data) for found in sizes(v, (*path, i))]
    alone = {"vocab", "d_model", "d_ff", "shared_d_ff", "experts", "head_dim", "token_types", "embedding_dim", "labels",
             "buckets", "size", "layers"}
    return [path] if path[-1] in alone and isinstance(data, int) and not isinstance(data, bool) and data else []


def enlarged(spec: Model, path: tuple[str | int, ...]) -> Model | None:
    """The spec with one size 2 larger; None where sizes no longer fit one another."""
    fields = architecture_fields(spec)
    node: Any = fields
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] += 2
    try:
        return Model.from_data(fields)
    except SpecError:
        return None


@quick
@given(spec=specs(), data=st.data())
def test_counts_grow_with_every_size(spec: Model, data: st.DataObject) -> None:
    fitting = {path: larger for path in sizes(architecture_fields(spec)) if (larger := enlarged(spec, path))}
    path = data.draw(st.sampled_from(sorted(fitting, key=str)))
    before, after = report_on(spec).totals, report_on(fitting[path]).totals
    counted = {name: total for name, total in before.quantities().items() if total is not None}
    grown = {name: getattr(after, name).value - total.value for name, total in counted.items()}
    assert min(grown.values()) >= 0 and max(grown.values()) > 0, (path, grown)


@quick
@given(spec=specs(), by=st.sampled_from(("batch", "seq")))
def test_counts_grow_with_the_workload(spec: Model, by: str) -> None:
    base = {"batch": 2, "seq": 9}
    before = count(spec, Workload(phase="training", **base)).totals
    after = count(spec, Workload(phase="training", **{**base, by: base[by] + 3})).totals
    assert after.params == before.params
    assert after.flops_forward.value > before.flops_forward.value
    assert after.activation_bytes is not None
    assert before.activation_bytes is not None
    assert after.activation_bytes.value > before.activation_bytes.value
