"""The parameters of operators and sensors: they match their specs, and Airflow renders them wherever the step runs."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from datetime import timedelta
from inspect import signature
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, get_args

import pytest
from pydantic import TypeAdapter

from airflow_mlops.compute import Deployment, Pod
from airflow_mlops.core.errors import SpecError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

DATASET = {"name": "rows_{{ month }}", "id": "a" * 64, "rows": 3, "parts": {"train": 2, "test": 1}}
VERDICT = {
    "model": "delays", "winner": None, "champion": None, "reason": "No candidate passed.", "part": "test",
    "metric": "roc_auc", "dataset_name": "rows", "dataset_id": "a" * 64, "candidates": [],
}  # fmt: skip
# For each operator, arguments of which at least one is a template.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "IngestOperator": {"name": "rows", "files": "{{ month }}.csv"},
    "ValidateOperator": {
        "dataset": DATASET, "suite": "suites/{{ month }}.json", "shard": "{{ version }}", "shards": 8,
    },
    "MaterializeFeaturesOperator": {"repo": "repo", "window": "{{ month }}", "chunk": timedelta(days=7)},
    "BuildForecastRowsOperator": {
        "name": "rows", "entities": DATASET, "series": "shop", "time": "{{ month }}", "value": "units", "every": "P1D", "horizon": 7,
        "lags": [1],
    },
    "BuildTrainingSetOperator": {
        "name": "rows", "entities": DATASET, "timestamp": "at", "columns": ["a"], "label": "{{ month }}",
    },
    "SearchOperator": {
        "dataset": DATASET, "model": "delays", "experiment": "{{ month }}",
        "search": {"trainer": {"estimator": "a.B"}, "space": {"C": {"kind": "float", "low": 0, "high": 1}}, "trials": 2},
    },
    "TrainOperator": {"dataset": DATASET, "model": "delays", "trainer": {"estimator": "a.B"}, "tags": {"m": "{{ month }}"}},
    "EvaluateOperator": {
        "candidates": [{"model": "{{ month }}", "version": "{{ version }}"}], "card": {"purpose": "x.yaml"},
        "shard": "{{ version }}", "shards": 8,
    },
    "PromoteOperator": {"verdict": {**VERDICT, "reason": "{{ month }}"}},
    "RefitOperator": {"verdict": {**VERDICT, "reason": "{{ month }}"}},
    "RollbackOperator": {"model": "delays", "reason": "{{ month }}", "to_version": "{{ version }}"},
    "TransferModelOperator": {"model": "delays", "target_conn_id": "mlflow_{{ month }}", "version": "{{ version }}"},
    "DeployOperator": {
        "model": "delays", "predictions": "rows_{{ month }}", "version": "{{ version }}",
        "target": Deployment(pod=Pod(image="runner:{{ month }}", namespace="{{ month }}"), name="at-{{ month }}"),
    },
    "UndeployOperator": {"model": "delays_{{ month }}", "name": "at-{{ month }}"},
    "CanaryOperator": {"model": "delays", "version": "{{ version }}", "outcomes": "rows_{{ month }}", "max_loss": 0.01},
    "ScoreOperator": {"model": "delays", "dataset": DATASET, "shard": "{{ version }}", "shards": 8},
    "JoinLabelsOperator": {
        "predictions": DATASET, "labels": DATASET, "on": ("id",), "label": "late", "model": "delays",
        "shard": "{{ version }}", "shards": 8,
    },
    "CompareFeaturesOperator": {"model": "delays", "dataset": DATASET, "repo": "/{{ month }}"},
    "ProfileOperator": {"dataset": DATASET, "shard": "{{ version }}", "shards": 8},
    "MonitorOperator": {"model": "delays", "dataset": DATASET, "window": "{{ month }}"},
    "PurgePredictionsOperator": {"model": "delays_{{ month }}", "older_than": "90D"},
}  # fmt: skip
CONTEXT = {"month": "2013-04", "version": 7}
PLACES = {
    "Worker": {},
    "Process": {"python": "/opt/{{ month }}/bin/python"},
    "Pod": {"image": "runner:{{ month }}", "pod_template_file": "x.yaml"},
    "Pod from a template": {"pod_template_file": "pods/{{ month }}.yaml", "env": {"QUERY": "q.sql"}},
    "Pod with tolerations": {"image": "x.yaml", "tolerations": [{"key": "gpu", "value": "{{ month }}.yml"}]},
}
SENSORS = ("FeatureFreshnessSensor", "ModelHealthSensor")


def operator(name: str) -> Any:
    from airflow_mlops import operators, sensors

    return getattr(sensors if name in SENSORS else operators, name)


def place(name: str) -> Any:
    from airflow_mlops import compute

    return getattr(compute, name.split()[0])(**deepcopy(PLACES[name]))


def task(kind: str, /, **arguments: Any) -> Any:
    """A task in a DAG of its own, with its template files read as when Airflow parses the DAG."""
    from airflow.sdk import DAG

    with DAG("parameters", schedule=None, template_searchpath=arguments.pop("folder", None)) as dag:
        made = operator(kind)(task_id="task", **arguments)
    dag.resolve_template_files()
    return made


def test_every_operator_is_tested():
    from airflow_mlops import operators

    assert {*ARGUMENTS} == {name for name in operators.__all__ if name.endswith("Operator")}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_operator_renders_wherever_it_runs(name, where):
    from airflow.serialization.serialized_objects import DagSerialization

    from airflow_mlops.core.base import parse

    made = task(name, **deepcopy(ARGUMENTS[name]), run_on=place(where))
    assert DagSerialization.to_dict(made.dag)
    made.render_template_fields({**CONTEXT})
    spec = parse(made.spec, made.build_spec({}), name)
    text = spec.model_dump_json()
    assert "{{" not in text
    assert "2013-04" in text
    rendered = {field: getattr(made.run_on, field) for field in PLACES[where]}
    expected = str(PLACES[where]).replace("{{ month }}", "2013-04")
    assert str(rendered) == expected


@pytest.mark.parametrize("kind", ["output", "param"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_templated_parameter_accepts_a_task_output_and_a_parameter_of_the_dag(name, kind):
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG

    made = operator(name)
    # Skip the parameters of a second data source, and run_on, which cannot be a task output.
    second = {"conn_id", "sql"} if name == "ValidateOperator" else {"sql"}
    for parameter in {*made.parameters} - made.untemplated - {"run_on"} - second:
        with DAG("parameters", schedule=None) as dag:
            later = EmptyOperator(task_id="first").output if kind == "output" else dag.param("later", None)
            arguments = {**deepcopy(ARGUMENTS[name]), parameter: later}
            # Logged predictions are not made in shards.
            left_out = {"shard", "shards"} if parameter == "evidence" else set()
            made(task_id="task", **{key: value for key, value in arguments.items() if key not in left_out})


def test_a_structured_parameter_may_contain_task_outputs():
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG

    with DAG("parameters", schedule=None):
        first = EmptyOperator(task_id="first")
        gates = [{"metric": "roc_auc", "min": first.output}]
        last = operator("EvaluateOperator")(task_id="last", candidates=first.output, gates=gates)
    assert last.upstream_task_ids == {"first"}


def test_the_format_of_files_is_a_template():
    made = task("IngestOperator", name="rows", files="a", format="{{ month }}")
    made.render_template_fields({"month": "jsonl"})
    assert made.build_spec({})["format"] == "jsonl"


def test_the_objects_of_an_endpoint_are_templates():
    made = task("DeployOperator", **deepcopy(ARGUMENTS["DeployOperator"]))
    made.render_template_fields({**CONTEXT})
    pod = made.target.pod
    assert (made.target.name, pod.image, pod.namespace) == ("at-2013-04", "runner:2013-04", "2013-04")


@pytest.mark.parametrize("name", [*ARGUMENTS, *SENSORS])
def test_every_parameter_is_a_field_of_the_spec_and_every_field_a_parameter(name):
    kind = operator(name)
    # Parameters without a field of the same name: where and how a task runs, and those that build_spec converts.
    others = {
        "run_on",
        "store",
        "notify",
        "period",
        "cache",
        "deferrable",
        "mlflow_conn_id",
        "experiment",
        "data_owner",
        "approval",
    }
    # Parameters that say what to do while there is no data.
    others |= {"on_empty", "poke_interval", "timeout"}
    # The objects of an endpoint.
    endpoint = {
        "DeployOperator": {"target", "token_conn_id"},
        "UndeployOperator": {"name", "namespace", "kubernetes_conn_id"},
    }
    others |= endpoint.get(name, set())
    # Fields without a parameter of the same name.
    computed = {"endpoint", "mlflow", "owner", "needs_approval", "dry_run", "approval", "succeeded", "others_succeeded"}
    # ``model`` is used only for the name of the joined dataset.
    others |= {"model"} if name == "JoinLabelsOperator" else set()
    fields = set(kind.spec.model_fields)
    assert set(kind.parameters) - fields <= others
    assert fields - set(kind.parameters) <= computed
    assert not {"notify", "cache", "approval", "allow_pyfunc", "allow_code", "deferrable"} & {*kind.template_fields}
    assert {*kind.parameters} - {*kind.untemplated} == {
        "label" if field == "label_column" else field for field in kind.template_fields
    }


@pytest.mark.parametrize("name", [*ARGUMENTS, *SENSORS])
def test_the_default_of_a_parameter_is_the_default_of_the_field(name):
    kind = operator(name)
    for parameter in signature(kind.__init__).parameters.values():
        field = kind.spec.model_fields.get(parameter.name)
        if field is None or parameter.default in (parameter.empty, None) or field.is_required():
            continue
        assert _parsed(field, parameter.default) == field.get_default(call_default_factory=True), parameter.name


def _parsed(field: FieldInfo, value: Any) -> Any:
    kind: Any = field.annotation
    return TypeAdapter(Annotated[(kind, *field.metadata)] if field.metadata else kind).validate_python(value)


@pytest.mark.parametrize("name", ["columns", "split", "tags"])
def test_none_leaves_the_default_of_the_spec_except_for_the_split(name):
    kind = "TrainOperator" if name == "tags" else "BuildTrainingSetOperator"
    fields = task(kind, **{**ARGUMENTS[kind], name: None}).build_spec({})
    assert (name in fields) == (name == "split")


def test_a_subclass_of_an_operator_keeps_its_fields_and_can_add_parameters_of_its_own():
    from airflow_mlops.operators import ScoreOperator

    class RegionOperator(ScoreOperator):
        def __init__(self, *, region, **kwargs):
            super().__init__(name=f"predictions_{region}", **kwargs)

    made = RegionOperator(task_id="task", region="north", **deepcopy(ARGUMENTS["ScoreOperator"]))
    made.render_template_fields({**CONTEXT})
    assert made.template_fields == ScoreOperator.template_fields
    assert made.build_spec({})["name"] == "predictions_north"


def test_the_output_of_a_mapped_task_becomes_a_list():
    from collections import UserList

    made = task("BuildTrainingSetOperator", **ARGUMENTS["BuildTrainingSetOperator"])
    made.columns = UserList(["a", "b"])
    assert made.build_spec({})["columns"] == ["a", "b"]


def test_the_owner_and_the_mlflow_connection_reach_the_spec():
    built = task("TrainOperator", **ARGUMENTS["TrainOperator"], mlflow_conn_id="m", experiment="e").build_spec({})
    assert built["mlflow"] == {"conn_id": "m", "experiment": "e"}
    arguments = ARGUMENTS["IngestOperator"]
    assert task("IngestOperator", **arguments, owner="ada").build_spec({})["owner"] == "ada"
    assert task("IngestOperator", **arguments, owner="ada", data_owner="bob").build_spec({})["owner"] == "bob"


@pytest.mark.parametrize("on_failure", ["fail", "warn", "quarantine", "{{ month }}", "ignore"])
def test_validation_has_the_choices_of_its_spec(on_failure):
    from airflow_mlops.stages.validate.spec import OnFailure

    allowed = on_failure in get_args(OnFailure) or "{{" in on_failure
    with nullcontext() if allowed else pytest.raises(SpecError, match="on_failure='ignore'"):
        task("ValidateOperator", dataset=DATASET, suite="s.json", on_failure=on_failure)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"dataset": DATASET, "conn_id": "shop", "table": "orders"},
        {"conn_id": "shop"},
        {"conn_id": "shop", "table": "orders", "sql": "SELECT 1", "name": "orders"},
        {"conn_id": "shop", "sql": "SELECT 1"},
    ],
)
def test_a_validation_without_exactly_one_source_is_refused_when_the_dag_is_parsed(given):
    with pytest.raises(SpecError, match="source|name="):
        task("ValidateOperator", suite="s.json", **given)


def test_the_split_has_the_choices_of_its_spec():
    from airflow_mlops.stages.training_set.spec import SplitMethod

    arguments = ARGUMENTS["BuildTrainingSetOperator"]
    for method in (*get_args(SplitMethod), "{{ month }}"):
        task("BuildTrainingSetOperator", **arguments, split=method)
    with pytest.raises(SpecError, match="split='even'.*'random', 'time', 'group', 'hash'"):
        task("BuildTrainingSetOperator", **arguments, split={"method": "even"})


FILES = {
    ("IngestOperator", "sql", "months.sql"): ("SELECT '{{ month }}' AS month", "SELECT '2013-04' AS month"),
    ("EvaluateOperator", "gates", "gates.yaml"): (
        "[{metric: roc_auc, min: {{ version }}}]",
        [{"metric": "roc_auc", "min": 7}],
    ),
}


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(("name", "field", "file"), FILES)
def test_a_file_named_by_its_parameter_is_read_and_rendered(name, field, file, mapped, tmp_path):
    content, expected = FILES[name, field, file]
    (tmp_path / file).write_text(content)
    arguments = {"name": "x", "conn_id": "db"} if name == "IngestOperator" else {"candidates": [{"version": 1}]}
    context: dict[str, Any] = {**CONTEXT}
    if mapped:
        from airflow.sdk import DAG

        with DAG("parameters", schedule=None, template_searchpath=[str(tmp_path)]) as dag:
            made = (
                operator(name).partial(task_id="task", **{field: file}).expand(**{k: [v] for k, v in arguments.items()})
            )
        dag.resolve_template_files()
        context |= {"ti": SimpleNamespace(map_index=0, task=made), "dag": dag, "dag_run": SimpleNamespace(conf={})}
        made.render_template_fields(context)
        made = context["ti"].task
    else:
        made = task(name, folder=[str(tmp_path)], **arguments, **{field: file})
        made.render_template_fields(context)
    assert made.build_spec({})[field] == expected


@pytest.mark.parametrize(("name", "field", "file"), FILES)
def test_a_file_that_does_not_exist_is_an_error_while_the_dag_is_parsed(name, field, file, tmp_path):
    arguments = {"name": "x", "conn_id": "db"} if name == "IngestOperator" else {"candidates": [{"version": 1}]}
    with pytest.raises(SpecError, match=rf"'task'.*'{file}'.*{field}="):
        task(name, folder=[str(tmp_path)], **arguments, **{field: file})


def test_gates_in_a_file_are_checked_while_the_dag_is_parsed(tmp_path):
    (tmp_path / "gates.yml").write_text("[{metric: roc_auk, min: 0.5}]")
    with pytest.raises(SpecError, match="roc_auk"):
        task("EvaluateOperator", folder=[str(tmp_path)], candidates=[], gates="gates.yml")
