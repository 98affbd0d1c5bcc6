"""Secrets planted in connections are not in what any operator leaves, wherever its step runs.

Nothing is started: the pod, the TrainJob and the process are built as a task builds them, and recorded instead.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from airflow.sdk.execution_time.context import ConnectionAccessor
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields

from airflow_mlops import operators
from airflow_mlops.compute import Deployment, KServe, Pod, Process, Worker
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.secrets import url_credentials
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.deploy.spec import DeployResult
from airflow_mlops.trainers import Float, Search, SklearnTrainer, TorchTrainer

SECRETS = {
    "login": "ada$(HOME)$$'\"lovelace",
    "password": "s3cr'\"$(HOME)$$pw",
    "extra": "s3cr$extra\"'4711",
    "nested": "s3cr-nested-4711",
    "url": "s3cr-url-4711",
    "cluster": "s3cr-cluster-4711",
}
CONNECTION = {
    "conn_type": "postgres",
    "host": "db.example",
    "login": SECRETS["login"],
    "password": SECRETS["password"],
    "extra": {"api_key": SECRETS["extra"], "options": {"client_secret": SECRETS["nested"]}},
}
CLUSTER = {
    "apiVersion": "v1", "kind": "Config", "current-context": "c",
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
    "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "u", "user": {"token": SECRETS["cluster"]}}],
}  # fmt: skip
DATA = {"name": "d", "id": "0" * 64, "rows": 1}
REF = {"model": "m", "version": 1, "run_id": "r"}
WINNER = {**REF, "version": 2}
VERDICT = {
    "model": "m", "dataset_name": "d", "dataset_id": "0" * 64, "part": "test", "metric": "roc_auc", "winner": WINNER,
    "champion": REF, "reason": "Better.",
    "candidates": [{"candidate": WINNER, "metrics": {}, "gates": [], "passed": True}],
}  # fmt: skip
TRAINER = SklearnTrainer("sklearn.linear_model.LogisticRegression", {})

# The parameters of each operator, with every connection that the operator can name.
PARAMETERS: dict[str, dict[str, Any]] = {
    "BuildForecastRowsOperator": {
        "name": "d",
        "entities": DATA,
        "series": "s",
        "time": "t",
        "value": "v",
        "every": "P1D",
        "horizon": 1,
        "lags": [1],
    },
    "BuildTrainingSetOperator": {"name": "d", "entities": DATA, "timestamp": "t", "repo": "/repo", "features": ["v:x"]},
    "DeployOperator": {
        "model": "m",
        "target": Deployment(pod=Pod(image="i", env={"SERVER": "{{ conn.planted.host }}"}, env_from=["connections"])),
        "token_conn_id": "planted",
    },
    "EvaluateOperator": {"candidates": [REF], "dataset": DATA, "gates": [{"metric": "roc_auc", "min": 0.5}]},
    "IngestOperator": {"name": "d", "conn_id": "planted", "sql": "SELECT '{{ conn.planted.host }}'"},
    "JoinLabelsOperator": {
        "predictions": DATA,
        "labels": DATA,
        "on": ["k"],
        "label": "y",
        "name": "o",
        "hash_conn_id": "planted",
    },
    "MaterializeFeaturesOperator": {"repo": "/repo", "window": "2024-01"},
    "CanaryOperator": {"model": "m", "version": "challenger"},
    "CompareFeaturesOperator": {"model": "m", "dataset": DATA, "repo": "/repo"},
    "MonitorOperator": {"model": "m", "dataset": DATA},
    "ProfileOperator": {"model": "m", "dataset": DATA},
    "PromoteOperator": {"verdict": VERDICT},
    "PurgePredictionsOperator": {"model": "m", "older_than": "P30D"},
    "RefitOperator": {"verdict": VERDICT},
    "RollbackOperator": {"model": "m", "reason": "Wrong since {{ conn.planted.host }}."},
    "ScoreOperator": {"model": "m", "dataset": DATA, "hash_columns": ["k"], "hash_conn_id": "planted"},
    "SearchOperator": {"model": "m", "dataset": DATA, "search": Search(TRAINER, {"C": Float(0.1, 1)}, trials=1)},
    "TrainOperator": {
        "model": "m",
        "dataset": DATA,
        "trainer": TorchTrainer(),
        "tags": {"a": "{{ conn.planted.host }}"},
    },
    "TransferModelOperator": {"model": "m", "target_conn_id": "planted"},
    "UndeployOperator": {"model": "m", "name": "m-{{ conn.planted.conn_type }}"},
    "ValidateOperator": {"dataset": DATA, "suite": {"name": "s", "expectations": []}},
}
WITH_MLFLOW = {name for name in PARAMETERS if name not in {
    "BuildForecastRowsOperator", "BuildTrainingSetOperator", "IngestOperator", "MaterializeFeaturesOperator", "PurgePredictionsOperator",
    "UndeployOperator", "ValidateOperator",
}}  # fmt: skip
PLACES: dict[str, Any] = {
    "worker": lambda: Worker(),
    "process": lambda: Process(sys.executable, env={"TOKEN": "{{ conn.planted.password }}"}),
    "pod": lambda: pod(deferrable=False),
    "deferred pod": lambda: pod(deferrable=True),
    "nodes": lambda: pod(nodes=2, env_from=()),
}


def pod(**further: Any) -> Pod:
    """A pod in which each free-text field contains a template without a secret."""
    return Pod(**{
        "image": "i", "env": {"SERVER": "{{ conn.planted.host }}"}, "env_from": ["connections"],
        "secrets": {"AIRFLOW_CONN_PLANTED": "s/planted"}, "labels": {"l": "{{ conn.planted.conn_type }}"},
        "annotations": {"a": "{{ conn.planted.host }}"}, **further,
    })  # fmt: skip


def leaks(found: Any) -> list[str]:
    """The names of the secrets in a value, also of those that JSON, YAML or a URL has escaped."""
    from urllib.parse import quote, quote_plus

    text = found if isinstance(found, str) else json.dumps(found, default=str, ensure_ascii=False)
    return [
        name
        for name, secret in SECRETS.items()
        for form in {secret, json.dumps(secret)[1:-1], json.dumps(json.dumps(secret))[3:-3], repr(secret)[1:-1],
                     quote(secret, safe=""), quote_plus(secret), secret.replace("$", "$$")}
        if form in text
    ]  # fmt: skip


class RecordedError(Exception):
    """Ends a task where it would start a pod or a process."""


@pytest.fixture
def left(monkeypatch, tmp_path):
    """The data that tasks passed on, as pairs of name and value."""
    from airflow._shared.secrets_masker import secrets_masker as of_core
    from airflow.sdk._shared.secrets_masker import secrets_masker as of_tasks

    # Without Airflow's masking, which pods, the store and MLflow do not have.
    for module in (of_core, of_tasks):
        monkeypatch.setattr(module.SecretsMasker, "add_mask", lambda *args, **kwargs: None)
    monkeypatch.setenv("AIRFLOW_CONN_PLANTED", json.dumps(CONNECTION))
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(CONNECTION))
    cluster = {"conn_type": "kubernetes", "extra": {"kube_config": json.dumps(CLUSTER)}}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(cluster))
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACTS", f"file://{tmp_path}/store")
    found: list[tuple[str, Any]] = []

    def keep(name: str, value: Any) -> None:
        found.append((name, value))
        raise RecordedError

    from kubernetes.client import ApiClient

    from airflow_mlops.compute.kubernetes.operator import StepPodOperator
    from airflow_mlops.compute.kubernetes.train_jobs.job import StepTrainJob

    def of_pod(operator: Any, context: Any, event: Any) -> None:
        requested = operator.build_pod_request_obj(context)
        keep("pod", ApiClient().sanitize_for_serialization(requested))

    monkeypatch.setattr(StepPodOperator, "watch", of_pod)
    monkeypatch.setattr(StepTrainJob, "watch", lambda job, context, event: keep("job", job.job))
    monkeypatch.setattr(StepPodOperator, "failure", lambda operator, error, context: error)
    monkeypatch.setattr(StepTrainJob, "failure", lambda operator, error, context: error)
    monkeypatch.setattr(
        "airflow_mlops.stages.runner.run_call",
        lambda call, connections, executors: keep("call", call.model_dump_json()),
    )
    # There is no cluster in which the task could look up the endpoint.
    monkeypatch.setattr("airflow_mlops.compute.kubernetes.serving.removal.find", lambda *args: None)
    started = SimpleNamespace(**{**vars(subprocess), "Popen": lambda command, env, **kwargs: keep("process", command)})
    monkeypatch.setattr("airflow_mlops.compute.process.subprocess", started)
    return found


def context_of(task: Any) -> dict[str, Any]:
    states: dict[str, Any] = {}
    ti = SimpleNamespace(
        dag_id="planted", task_id="task", run_id="run", map_index=-1, try_number=1, id=UUID(int=1), max_tries=1,
        start_date=None, log_url="http://airflow/log", is_mapped=False, xcom_push=lambda **kwargs: None,
        get_template_context=dict,
    )  # fmt: skip
    run = SimpleNamespace(triggering_user_name=None, clear_number=0, run_id="run", logical_date=None)
    return {
        "ti": ti, "task_instance": ti, "task": task, "dag": task.dag, "dag_run": run, "run_id": "run", "params": {},
        "partition_key": None, "partition_date": None, "conn": ConnectionAccessor(), "triggering_asset_events": {},
        "task_state_store": SimpleNamespace(get=states.get, set=states.__setitem__), "outlet_events": {},
    }  # fmt: skip


def run(operator: str, place: Any, **further: Any) -> tuple[Any, Any]:
    """Render and run a task. Return its rendered fields as Airflow would store them, and the exception that ended it."""
    parameters = {**PARAMETERS[operator], **further}
    with DAG("planted", schedule=None):
        task = getattr(operators, operator)(task_id="task", run_on=place, **parameters)
    context = context_of(task)
    with pytest.raises((RecordedError, TaskDeferred, AirflowFailException)) as ended:
        task.render_template_fields(context, task.dag.get_template_env())
        task.execute(context)
    return _serialize_rendered_fields(task), ended.value


def test_every_operator_is_tested():
    assert set(PARAMETERS) == {name for name in operators.__all__ if name.endswith("Operator")}
    for name in PARAMETERS:
        assert ("mlflow_conn_id" in getattr(operators, name).parameters) == (name in WITH_MLFLOW)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("operator", PARAMETERS)
def test_no_secret_is_shown_stored_or_logged(operator, place, left, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    shown, ended = run(operator, PLACES[place]())
    if place == "nodes" and operator != "TrainOperator":
        assert "SpecError" in f"{type(ended).__name__} {ended}"
    else:
        assert isinstance(ended, RecordedError), ended
        assert len(left) == 1
    assert leaks(shown) == []
    assert leaks(left) == []
    assert leaks(str(ended)) == []
    printed = capfd.readouterr()
    assert leaks(caplog.text + printed.out + printed.err) == []
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    # The step of a pod reads its parameters from the store.
    assert len(files) == (place not in ("worker", "process"))
    assert leaks("".join(path.read_text() for path in files)) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"sql": "SELECT '{{ conn.planted.password }}'"},
        {"sql": "{% set key = conn['planted'].extra_dejson.api_key %}SELECT '{{ key }}'"},
        {"description": "{{ var.value.get('shop_api_key') }}"},
        {"types": {"x": "{{ conn.get('planted').get_uri() }}"}},
        {"conn_id": None, "sql": None, "files": "https://ada:{{ conn.planted.password }}@h/x.csv"},
        {"conn_id": None, "sql": None, "files": [f"https://ada:{SECRETS['url']}@h/x.csv"]},
        {"conn_id": None, "sql": None, "files": [f"https://h/x.csv?sig={SECRETS['url']}"]},
    ],
)
def test_a_pod_takes_no_secret_in_parameters(parameters, left, tmp_path):
    """The parameters of its step are stored in the artifact store."""
    _, ended = run("IngestOperator", pod(), **parameters)
    assert "stored in the artifact store" in str(ended)
    assert leaks(str(ended)) == []
    assert left == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("place", ["worker", "process"])
def test_other_places_take_a_secret_in_parameters(place, left):
    _, ended = run("IngestOperator", PLACES[place](), sql="SELECT '{{ conn.planted.password }}'")
    assert isinstance(ended, RecordedError)


@pytest.mark.parametrize(
    "fields",
    [
        {"env": {"KEY": "{{ conn.planted.password }}"}},
        {"env": {"KEY": "x{{- conn.get('planted').extra_dejson['api_key'] }}"}},
        {"env": {"URL": "{{ conn.planted.get_uri() }}"}},
        {"annotations": {"a": "{{ var.value.api_key }}"}},
        {"volumes": [{"name": "v", "csi": {"volumeAttributes": {"key": "{{ var.json.shop.secret }}"}}}]},
    ],
)
def test_a_template_of_a_secret_in_a_pod_is_refused_when_the_dag_is_parsed(fields):
    with pytest.raises(SpecError, match=f"{next(iter(fields))}=.*secrets="):
        Pod(image="i", **fields)


def test_a_url_with_credentials_in_a_pod_is_refused(left):
    _, ended = run("ProfileOperator", pod(env={"PROXY": f"http://ada:{SECRETS['url']}@proxy:3128"}))
    assert "'spec.containers[0].env[3].value'" in str(ended)
    assert leaks(str(ended)) == []
    assert left == []


@pytest.mark.parametrize("target", [Deployment, KServe])
def test_the_objects_of_an_endpoint_have_no_secret(target, left, tmp_path):
    from airflow_mlops.compute.kubernetes.serving.rollout import Rollout

    def objects(**fields: Any) -> list[dict[str, Any]]:
        servers = target(pod=pod(**fields), max_replicas=3)
        with DAG("planted", schedule=None):
            task = operators.DeployOperator(task_id="task", model="m", target=servers, token_conn_id="planted")
        context = context_of(task)
        task.render_template_fields(context, task.dag.get_template_env())
        assert leaks(_serialize_rendered_fields(task)) == []
        call = task.call(task.spec.model_validate(task.build_spec(context)), context)
        chosen = DeployResult(model="m", version=REF, follows=True, check_key="k", summary="")
        rollout = Rollout(task.target, call, chosen, context, logging.getLogger("test"))
        served = {"autoscaling": ["v2"], "policy": ["v1"], "serving.kserve.io": ["v1beta1"]}
        return task.target.manifests("m", "n", rollout._pod, served)

    made = objects(cpu=1)
    assert made[0]["kind"] == target.kind
    assert leaks(made) == []
    with pytest.raises(SpecError, match="secrets=") as refused:
        objects(cpu=1, env={"PROXY": f"http://ada:{SECRETS['url']}@proxy:3128"})
    assert leaks(str(refused.value)) == []


@pytest.mark.parametrize("url", ["sftp://ada:{}@h/mlops", "s3://bucket/x?secret_access_key={}"])
def test_a_store_whose_url_has_credentials_is_refused(url, left):
    """The URL would be in the manifests of pods and in the metadata database."""
    with pytest.raises(SpecError, match="contains credentials"):
        ArtifactStore(url.format(SECRETS["url"]))
    _, ended = run("ProfileOperator", pod(), store=url.format(SECRETS["url"]))
    assert "contains credentials" in str(ended)
    assert leaks([left, str(ended)]) == []


@pytest.mark.parametrize(
    "url", ["abfs://mlops@account.dfs.core.windows.net/x", "s3://bucket/a@b", "memory://x?design=1"]
)
def test_other_urls_of_stores_have_no_credentials(url):
    assert next(url_credentials(url), None) is None
