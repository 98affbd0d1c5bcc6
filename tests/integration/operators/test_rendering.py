"""Templates keep the types of lists, dicts and numbers where they are needed, and never become the text ``None``."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.api.datamodels._generated import AssetEventDagRunReference, AssetReferenceAssetEventDagRun
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.comms import AssetEventDagRunReferenceResult
from airflow.sdk.execution_time.context import TriggeringAssetEventsAccessor

from airflow_mlops.core.calls import Request
from airflow_mlops.operators import (
    BuildTrainingSetOperator,
    CanaryOperator,
    EvaluateOperator,
    IngestOperator,
    MonitorOperator,
    ScoreOperator,
    TrainOperator,
)
from airflow_mlops.sensors import ModelHealthSensor
from airflow_mlops.trainers import Float, Search, SklearnTrainer

# The values are as Airflow passes them: a Param has the type of the trigger form, and a Variable is text.
CONTEXT: dict[str, Any] = {
    "params": {"n": 50, "rate": 0.5, "flag": True, "none": None, "columns": ["age", "plan"], "words": "l2"},
    "var": {
        "value": {"n": "50", "small": "1e-3", "negative": "-2.50", "flag": "False", "none": "null", "zip": "007"},
        "json": {"gates": [{"metric": "roc_auc", "min": 0.6}]},
    },
    "partition_key": "2024-01",
    "partition_date": None,
}


def rendered(operator: type, native: bool = False, **parameters: Any) -> Any:
    context = {**CONTEXT, **parameters.pop("context", {})}
    with DAG("rendering", schedule=None, render_template_as_native_obj=native):
        task = operator(task_id="task", **parameters)
    task.render_template_fields(context, task.dag.get_template_env())
    return task


def trained(params: dict[str, Any], **more: Any) -> dict[str, Any]:
    task = rendered(TrainOperator, model="m", dataset={}, trainer=SklearnTrainer("a.B", params), **more)
    return dict(task.trainer["params"])


def test_a_rendered_null_is_not_a_name():
    task = rendered(
        ScoreOperator, model="m", dataset={}, alias="{{ params.none }}", name="{{ params.none or 'scores' }}"
    )
    assert (task.alias, task.name) == (None, "scores")
    with pytest.raises(AirflowFailException, match="window=.*has no value"):
        rendered(IngestOperator, name="x", files="x.csv", window="{{ params.none }}")
    with pytest.raises(AirflowFailException, match="hash_columns=.*has no value"):
        rendered(ScoreOperator, model="m", dataset={}, hash_columns="{{ params.none }}")
    with pytest.raises(AirflowFailException, match="dataset=.*has no value"):
        rendered(MonitorOperator, model="m", dataset="{{ params.none }}")


@pytest.mark.parametrize(
    ("operator", "name", "fields"),
    [
        (EvaluateOperator, "gates", {"candidates": []}),
        (MonitorOperator, "policy", {"model": "m", "dataset": {}}),
        (MonitorOperator, "reference", {"model": "m", "dataset": {}}),
        (CanaryOperator, "max_loss", {"model": "m", "version": 2}),
        (ModelHealthSensor, "max_age", {"model": "m"}),
        (TrainOperator, "trainer", {"model": "m", "dataset": {}}),
        (BuildTrainingSetOperator, "split", {"name": "d", "entities": {}, "timestamp": "t"}),
    ],
)
def test_null_does_not_replace_the_rules_of_a_decision_by_the_default(operator, name, fields):
    for template in ("{{ params.none }}", "{{ var.value.get('x') if false else none }}"):
        with pytest.raises(AirflowFailException, match=f"{name}=.*has no value"):
            rendered(operator, **fields, **{name: template})


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ params.n }}", 50),
        ("{{ params.n + 1 }}", 51),
        (" {{- params.rate -}} ", 0.5),
        ("{{ params.flag }}", True),
        ("{{ params.none }}", None),
        ("{{ params.columns }}", ["age", "plan"]),
        ("{{ params.words }}", "l2"),
        ("{{ var.value.n }}", 50),
        ("{{ var.value.small }}", 0.001),
        ("{{ var.value.negative }}", -2.5),
        ("{{ var.value.flag }}", False),
        ("{{ var.value.none }}", None),
        ("{{ var.value.zip }}", "007"),
        ("{{ params.n }}0", 500),
        ("{{ params.n }}{{ params.n }}", 5050),
        ("{% if params.flag %}1{% else %}2{% endif %}", 1),
        ("l{{ 2 }}", "l2"),
        # Text without a template reaches the estimator unchanged.
        ("50", "50"),
        ("True", "True"),
    ],
)
def test_params_of_a_trainer_get_numbers_from_templates(template, value):
    found = trained({"x": template, "deep": {"list": [template]}})
    assert found == {"x": value, "deep": {"list": [value]}}
    assert type(found["x"]) is type(value)


def test_the_value_of_a_template_is_not_rendered_again():
    assert trained({"x": "{{ params.evil }}"}, context={"params": {"evil": "{{ 1 + 1 }}"}}) == {"x": "{{ 1 + 1 }}"}
    evil = {"params": {"evil": ["{{ 1 + 1 }}"]}}
    task = rendered(
        BuildTrainingSetOperator, name="d", entities={}, timestamp="t", columns="{{ params.evil }}", context=evil
    )
    assert task.columns == ["{{ 1 + 1 }}"]


def test_structured_parameters_keep_numbers_and_other_parameters_stay_text():
    task = rendered(
        EvaluateOperator,
        candidates="{{ params.columns }}",
        gates=[{"metric": "roc_auc", "min": "{{ params.rate }}", "confidence": "{{ params.none }}"}],
        part="{{ params.n }}",
    )
    assert task.gates == [{"metric": "roc_auc", "min": 0.5, "confidence": None}]
    assert (task.candidates, task.part) == (["age", "plan"], "50")
    assert (
        rendered(EvaluateOperator, candidates=[], gates="{{ var.json.gates }}").gates == CONTEXT["var"]["json"]["gates"]
    )
    policy = {"tolerance": "{{ params.rate }}", "new_data": {"dataset": "d", "windows": "{{ params.n }}"}}
    found = rendered(MonitorOperator, model="m", dataset=None, policy=policy).policy
    assert found == {"tolerance": 0.5, "new_data": {"dataset": "d", "windows": 50}}
    search = Search(SklearnTrainer("a.B"), {"C": Float("{{ params.rate }}", 1)}, trials="{{ params.n }}")
    found = rendered(TrainOperator, model="m", dataset={}, trainer=search).trainer
    assert (found["trials"], found["space"]["C"]["low"]) == (50, 0.5)


def test_fields_convert_text_by_their_type():
    from airflow_mlops.core.base import parse
    from airflow_mlops.gates.rules import parse_gates
    from airflow_mlops.policy.spec import Policy

    (gate,) = parse_gates([{"metric": "a.b:c", "greater_is_better": "True", "min": "0.6"}])
    assert (gate.greater_is_better, gate.min) == (True, 0.6)
    assert parse(Policy, {"tolerance": "0.1", "min_labels": "50"}, "policy").min_labels == 50


def test_values_of_a_dag_that_renders_native_objects_are_not_converted():
    # Airflow reads 007 as text and 1_000 as a number.
    assert trained({"x": "{{ var.value.zip }}"}, native=True) == {"x": "007"}
    assert trained({"x": "{{ '1_000' }}"}, native=True) == {"x": 1000}


NO_KEY = {"partition_key": None, "params": {"window": "2013"}}


@pytest.mark.parametrize(
    "parameters",
    [
        {"files": "x.csv", "window": "{{ partition_key }}"},
        {"files": "s3://lake/{{ partition_key }}/*.csv"},
        {"files": ["{{ partition_key[:7] }}.csv"]},
        {"conn_id": "c", "sql": "SELECT '{{ partition_key }}'"},
        {"files": "x.csv", "window": "{{ partition_date.strftime('%Y-%m') }}"},
        {"files": "x.csv", "description": "{{ partition_key | upper }}"},
    ],
)
def test_a_run_without_a_partition_key_says_so_and_is_not_retried(parameters):
    with pytest.raises(AirflowFailException, match="SpecError: Task 'task', .*this run has no partition key"):
        rendered(IngestOperator, name="n", context=NO_KEY, **parameters)


def test_a_native_template_without_a_partition_key_has_the_same_error():
    with pytest.raises(AirflowFailException, match="window=: this run has no partition key"):
        rendered(IngestOperator, name="n", files="x", window="{{ partition_key }}", context=NO_KEY, native=True)


def test_a_sensor_without_a_partition_key_has_the_same_error():
    with pytest.raises(AirflowFailException, match="window=: this run has no partition key"):
        rendered(ModelHealthSensor, model="m", window="{{ partition_key }}", context=NO_KEY)


@pytest.mark.parametrize(
    "template",
    [
        "{{ partition_key or params.window }}",
        "{{ partition_key | default(params.window) }}",
        "{{ params.window if partition_key is none else partition_key }}",
        "{{ partition_key if partition_key is not none else params.window }}",
        "{{ params.window if partition_key == None else partition_key }}",
        "{% if partition_key %}{{ partition_key }}{% else %}{{ params.window }}{% endif %}",
    ],
)
def test_a_template_can_have_a_default_for_runs_without_a_partition_key(template):
    assert rendered(IngestOperator, name="n", files="x", window=template, context=NO_KEY).window == "2013"
    keyed = {**NO_KEY, "partition_key": "2014"}
    assert rendered(IngestOperator, name="n", files="x", window=template, context=keyed).window == "2014"


@pytest.mark.parametrize(
    ("template", "fact"),
    [
        ("{{ ds }}", "'ds' is undefined. This run has no logical date"),
        ("{{ data_interval_start }}/{{ data_interval_end }}", "'data_interval_start' is undefined. This run has no"),
        ("{{ params.nothing }}", "nothing"),
        ("{{ params.window", "not valid Jinja"),
        ("{% include 'nope.txt' %}", "the file 'nope.txt', which the template includes, does not exist"),
        ("{{ 1 / 0 }}", "the template fails with ZeroDivisionError"),
        ("{{ params.window + 1 }}", "the template fails with TypeError"),
    ],
)
def test_other_templates_that_cannot_be_rendered_are_errors_of_one_sentence(template, fact):
    with pytest.raises(AirflowFailException, match="Task 'task', window=: ") as failed:
        rendered(IngestOperator, name="n", files="x", window=template, context=NO_KEY)
    assert fact in str(failed.value)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    "parameters",
    [
        {"window": "{{ data_interval_start }}/{{ data_interval_end }}"},
        {"window": "{{ data_interval_start | ts }}/{{ data_interval_end | ts }}"},
    ],
)
def test_the_empty_data_interval_of_a_plain_cron_is_an_error_that_says_what_to_write(parameters):
    start, end = datetime(2024, 3, 4, tzinfo=timezone.utc), datetime(2024, 3, 5, tzinfo=timezone.utc)
    task = rendered(
        IngestOperator,
        name="n",
        files="x",
        context={"data_interval_start": start, "data_interval_end": end},
        **parameters,
    )
    assert task.window.startswith("2024-03-04")
    point = {"data_interval_start": end, "data_interval_end": end}
    with pytest.raises(AirflowFailException, match="window=: the data interval of this run is empty"):
        rendered(IngestOperator, name="n", files="x", context=point, **parameters)
    # A point in time is not an interval.
    end_only = rendered(IngestOperator, name="n", files="x", window="{{ data_interval_end | ds }}", context=point)
    assert end_only.window == "2024-03-05"


def sent(window: str, model: str, minute: int = 0) -> AssetEventDagRunReferenceResult:
    content = Request(
        id=f"{model}/{window}", model=model, triggers=["age"], reason="Old.", window=window, created=MAY
    ).model_dump(mode="json")
    reference = AssetEventDagRunReference(
        asset=AssetReferenceAssetEventDagRun(name="a", uri=f"mlops://{model}/retrain", extra={}),
        extra={"request": content},
        source_aliases=[], source_task_id="m", source_dag_id="d", source_run_id="r", source_map_index=-1,
        timestamp=MAY + timedelta(minutes=minute),
    )  # fmt: skip
    return AssetEventDagRunReferenceResult.from_asset_event_dag_run_reference(reference)


def asked(*events: AssetEventDagRunReferenceResult) -> dict[str, Any]:
    return {**NO_KEY, "triggering_asset_events": TriggeringAssetEventsAccessor.build(events)}


MAY = datetime(2013, 5, 1, tzinfo=timezone.utc)


def test_the_request_that_started_the_run_is_a_value_in_templates():
    def window(template: str, context: dict[str, Any], **more: Any) -> str:
        task = rendered(IngestOperator, name="n", files="x", window=template, context=context, **more)
        return str(task.window)

    april = "2013-04-01T00:00:00Z/2013-05-01T00:00:00Z"
    context = asked(sent("2013-04", "delays"))
    for template in ("{{ mlops_request.window }}", "{{ mlops_request.window or partition_key or params.window }}"):
        assert window(template, context) == april
    assert window("2013-01..{{ mlops_request.window or params.window }}", context) == f"2013-01..{april}"
    assert window("{{ mlops_request.id }}", context) == "delays/2013-04"
    # Several requests started the run.
    several = asked(sent("2013-04", "delays"), sent("2013-03", "other", minute=1))
    assert window("{{ mlops_request.id }}", several) == "other/2013-03"
    train = rendered(
        TrainOperator,
        model="delays",
        dataset={},
        trainer=SklearnTrainer("a.B"),
        tags={"w": "{{ mlops_request.id }}"},
        context=several,
    )
    assert train.tags == {"w": "delays/2013-04"}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ mlops_request.window or params.window }}", "2013"),
        ("{{ mlops_request.window or partition_key or params.window }}", "2013"),
        ("{{ mlops_request.window.label | default(params.window) }}", "2013"),
        ("{% if mlops_request %}{{ mlops_request.id }}{% else %}{{ params.window }}{% endif %}", "2013"),
        ("{{ params.window if mlops_request is none else mlops_request.id }}", "2013"),
    ],
)
def test_a_template_can_have_a_default_for_runs_that_no_request_started(template, expected):
    assert rendered(IngestOperator, name="n", files="x", window=template, context=NO_KEY).window == expected


def test_a_run_that_no_request_started_says_so_where_the_template_has_no_default():
    with pytest.raises(AirflowFailException, match=r"window=: no request for retraining started this run"):
        rendered(IngestOperator, name="n", files="x", window="{{ mlops_request.window }}", context=NO_KEY)
