"""A DAG with unchanged inputs and code creates nothing again, and looks as if it had run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from airflow.sdk import DAG

from airflow_mlops import operators
from airflow_mlops.core.errors import RegistryError, SpecError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, find_datasets, open_dataset
from airflow_mlops.operators import MonitorOperator, ProfileOperator
from airflow_mlops.operators.base import _series
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.train.cache import artifacts
from airflow_mlops.stages.train.spec import TrainResult, TrainSpec
from tests.support.candidates import held_out, register, training_set
from tests.support.deployed import write
from tests.support.months import write_months
from tests.support.training import training_set as labelled

CODE = """
from own_cached_helper import STRENGTH
from sklearn.linear_model import LogisticRegression

def fit(X, y, *, params, seed):
    return LogisticRegression(C=STRENGTH).fit(X, y)
"""
DAG_FILE = """
from airflow.sdk import DAG, Asset
from airflow_mlops.operators import (
    BuildTrainingSetOperator, IngestOperator, ProfileOperator, TrainOperator, ValidateOperator
)
from airflow_mlops.trainers import FunctionTrainer

SUITE = {{"name": "s", "expectations": [
    {{"type": "expect_column_values_to_not_be_null", "kwargs": {{"column": "late"}}}}
]}}
with DAG("cached", default_args={{"store": {store!r}, "cache": True}}):
    IngestOperator(
        task_id="raw", name="raw", files={files!r}, window="2024-01", time_column="at", outlets=[Asset("mlops://cached/raw")]
    )
    valid = ValidateOperator(task_id="valid", dataset={{"name": "orders", "window": "2024-01"}}, suite=SUITE)
    rows = BuildTrainingSetOperator(
        task_id="rows", name="training", entities=valid.output, timestamp="at", columns=["amount", "hour"], keys=["order"],
        label="late", split="time", outlets=[Asset("mlops://cached/training")],
    )
    TrainOperator(task_id="train", model="cached", dataset=rows.output, trainer=FunctionTrainer("own_cached:fit"))
    ProfileOperator(task_id="always", dataset=rows.output, cache=False)
"""
TASKS = ("raw", "valid", "rows", "train")


@pytest.fixture
def code():
    """The modules next to the DAG file."""
    from tests.integration.conftest import BUNDLE

    files = {BUNDLE / "own_cached.py": CODE, BUNDLE / "own_cached_helper.py": "STRENGTH = 1.0\n"}
    for file, text in files.items():
        file.write_text(text)
    yield BUNDLE / "own_cached_helper.py"
    for file in files:
        file.unlink()


def made_by(run) -> dict[str, str | None]:
    """The run that made the result of each task; ``None`` if the task computed it."""
    assert run.state == "success", run.states()
    return {task: (run.xcom(task)["cached"] or {}).get("run_id") for task in (*TASKS, "always")}


def versions(client):
    return len(client.search_model_versions("name = 'cached'"))


def test_an_unchanged_chain_creates_nothing_and_a_changed_chain_only_what_changed(
    run_dag, store, client, code: Path, monkeypatch, capfd, caplog, tmp_path
):
    monkeypatch.setenv("AIRFLOW__MLOPS__PRELOAD", "")
    caplog.set_level("INFO", logger="airflow_mlops.stages")
    write_months(store, ["2024-01"], 200)
    source = tmp_path / "raw.csv"
    source.write_text("at,amount\n2024-01-05,1\n")
    dag = DAG_FILE.format(store=store.url, files=str(source))
    nothing = dict.fromkeys((*TASKS, "always"))

    first = run_dag(dag)
    assert made_by(first) == nothing
    trained = first.xcom("train")
    files = {str(file) for file in Path(store.local_path("datasets")).rglob("*.parquet")}
    usage = {
        name: value
        for name, value in client.get_run(trained["run_id"]).data.tags.items()
        if name.startswith("mlops.usage")
    }

    second = run_dag(dag)
    assert made_by(second) == {**dict.fromkeys(TASKS, first.run_id), "always": None}
    again = second.xcom("train")
    assert {name: again[name] for name in ("candidate", "run_id", "metrics", "dataset")} == {
        name: trained[name] for name in ("candidate", "run_id", "metrics", "dataset")
    }
    assert f"Taken from the cache: task cached.train in run {first.run_id} computed it." in again["summary"]
    assert "Nothing has changed since task cached.train" in capfd.readouterr().out + caplog.text
    assert sorted(second.asset_events(), key=str) == sorted(first.asset_events(), key=str)
    # The second run creates neither files nor MLflow runs, versions or tags.
    assert {str(file) for file in Path(store.local_path("datasets")).rglob("*.parquet")} == files
    assert versions(client) == 1
    experiment = client.get_run(trained["run_id"]).info.experiment_id
    assert len(client.search_runs([experiment])) == 1
    tags = client.get_run(trained["run_id"]).data.tags
    assert usage
    assert usage.items() <= tags.items()

    # A module that the trainer imports has changed, and the training set was purged.
    code.write_text("STRENGTH = 2.0\n")
    dataset = open_dataset(store, DatasetRef.model_validate(trained["dataset"]))
    for file in dataset.manifest.files:
        store.delete(file.path)
    third = run_dag(dag)
    assert made_by(third) == {**nothing, "raw": first.run_id, "valid": first.run_id}
    assert third.xcom("rows")["dataset"]["id"] == dataset.manifest.id

    # One row of each source has changed.
    source.write_text("at,amount\n2024-01-05,2\n")
    (orders,) = find_datasets(store, "orders", Window.model_validate("2024-01"))
    table = orders.table()
    amounts = table["amount"].to_pylist()
    changed = table.set_column(2, "amount", pa.array([amounts[0] + 1, *amounts[1:]]))
    with DatasetWriter(store, "orders") as writer:
        writer.write(changed)
        writer.commit(window=orders.window, time_column="at")
    fourth = run_dag(dag)
    assert made_by(fourth) == nothing

    # The version does not exist any more.
    trained = TrainResult.model_validate(fourth.xcom("train"))
    spec = TrainSpec(dataset=trained.dataset, model="cached", trainer={"function": "own_cached:fit"})
    assert f"dataset {trained.dataset.name}" in artifacts(trained, spec, StepContext(store))
    client.delete_model_version("cached", str(trained.candidate.version))
    with pytest.raises(RegistryError, match="not in the MLflow registry"):
        artifacts(trained, spec, StepContext(store))


DECIDING = """
from airflow.sdk import DAG, Asset
from airflow_mlops.operators import EvaluateOperator, JoinLabelsOperator, ScoreOperator

with DAG("deciding", default_args={{"store": {store!r}, "cache": True}}):
    EvaluateOperator(
        task_id="evaluate", candidates=[{candidate}], outlets=[Asset("mlops://{model}/verdict")],
        gates=[{{"metric": "roc_auc", "min": 0.5}}],
    )
    scored = ScoreOperator(
        task_id="score", model={model!r}, dataset={{"name": "scoring", "window": "2024-01"}},
        outlets=[Asset("mlops://{model}/predictions")],
    )
    JoinLabelsOperator(
        task_id="join", model={model!r}, predictions=scored.output, labels={{"name": "known"}}, on=["flight"],
        label="label", outlets=[Asset("mlops://{model}/outcomes")],
    )
"""


def test_verdicts_predictions_and_outcomes_of_an_unchanged_run_are_those_of_the_first(
    run_dag, store, client, tmp_path, monkeypatch
):
    monkeypatch.setenv("AIRFLOW__MLOPS__PRELOAD", "")
    model, data = "deciding", held_out()
    trained_on = training_set(store)
    champion, candidate = (
        register(client, tmp_path / str(number), trained_on, weights, model=model)
        for number, weights in enumerate([(1, 1), (2, 0)])
    )
    client.set_registered_model_alias(model, "champion", str(champion.version))
    details = {"keys": ["flight"], "timestamp": None, "features": ["distance", "wind"], "label": None}
    write(store, "scoring", data.drop_columns(["label"]), "2024-01", details)
    write(store, "known", data.select(["flight", "label"]), "2024-01")
    dag = DECIDING.format(store=store.url, model=model, candidate=candidate.model_dump())
    first, second = run_dag(dag), run_dag(dag)
    for task in ("evaluate", "score", "join"):
        made, again = first.xcom(task), second.xcom(task)
        assert (made["cached"], again["cached"]["run_id"]) == (None, first.run_id)
        assert {**again, "cached": None, "usage": None, "summary": made["summary"]} == {**made, "usage": None}
        assert second.shown(task) == first.shown(task)
    events = [sorted(run.asset_events(), key=str) for run in (first, second)]
    assert events[0] == events[1]
    assert len(events[0]) == 3


FITTING = """
from airflow.sdk import DAG
from airflow_mlops.operators import EvaluateOperator, RefitOperator, SearchOperator, TrainOperator
from airflow_mlops.trainers import Float, Search, SklearnTrainer

TRAINER = SklearnTrainer("sklearn.linear_model.LogisticRegression")
with DAG("fitting", default_args={{"store": {store!r}, "cache": True, "model": {model!r}}}):
    search = SearchOperator(
        task_id="search", dataset={{"name": "late_training"}}, search=Search(TRAINER, {{"C": Float(0.1, 10.0)}}, trials=2)
    )
    fit = TrainOperator(task_id="train", dataset={{"name": "late_training"}}, trainer=search.output)
    verdict = EvaluateOperator(task_id="evaluate", candidates=[fit.output], gates=[{{"metric": "roc_auc", "min": 0.5}}])
    RefitOperator(task_id="refit", verdict=verdict.output)
"""


def test_from_the_search_to_the_refit_an_unchanged_run_writes_nothing_to_mlflow(run_dag, store, client, monkeypatch):
    monkeypatch.setenv("AIRFLOW__MLOPS__PRELOAD", "")
    model = "fitting"
    labelled(store)
    dag = FITTING.format(store=store.url, model=model)

    def written():
        experiment = client.get_experiment_by_name(model).experiment_id
        runs = client.search_runs([experiment])
        return len(runs), len(client.search_model_versions(f"name = '{model}'"))

    first = run_dag(dag)
    before = written()
    second = run_dag(dag)
    assert written() == before
    for task in ("search", "train", "evaluate", "refit"):
        made, again = first.xcom(task), second.xcom(task)
        assert (made["cached"], again["cached"]["run_id"]) == (None, first.run_id)
        assert {**again, "cached": None, "usage": None, "summary": made["summary"]} == {**made, "usage": None}
        assert second.shown(task) == first.shown(task)
    assert first.xcom("refit")["verdict"]["refit"]["passed"]


def test_operators_without_cache_refuse_it_and_ignore_it_in_default_args():
    with pytest.raises(SpecError, match="Task 'm': MonitorOperator does not support cache=True.*: remove cache=True"):
        MonitorOperator(task_id="m", model="m", dataset="d", cache=True)
    with pytest.raises(SpecError, match="neither True nor False"):
        ProfileOperator(task_id="p", dataset="d", cache="yes")
    assert ProfileOperator(task_id="p", dataset="d").cache is False
    with DAG("defaults", schedule=None, default_args={"cache": True, "model": "m"}):
        assert ProfileOperator(task_id="p", dataset="d").cache is True
        assert ProfileOperator(task_id="q", dataset="d", cache=False).cache is False
        assert MonitorOperator(task_id="m", dataset="d").cache is False
        mapped = MonitorOperator.partial(task_id="s").expand(dataset=["d"])
        assert mapped.unmap({"dataset": "d"}).cache is False
        shards = ProfileOperator.partial(task_id="r", dataset="d", shards=2).expand(shard=[0, 1])
        assert shards.unmap({"shard": 0}).cache is True


def test_the_operators_with_cache_are_those_whose_stage_says_what_determines_a_result():
    found = [getattr(operators, name) for name in operators.__all__]
    steps = {item.step: item.cacheable for item in found if isinstance(item, type) and hasattr(item, "cacheable")}
    assert steps == {step: find_spec(f"airflow_mlops.stages.{step}.cache") is not None for step in steps}
    assert sum(steps.values()) == 12


def test_only_the_tries_after_a_clear_run_again():
    states: dict[str, object] = {}

    def series(max_tries, try_number, clears):
        ti = SimpleNamespace(id=SimpleNamespace(hex=f"id{max_tries}"), max_tries=max_tries, try_number=try_number)
        run, task = SimpleNamespace(clear_number=clears), SimpleNamespace(retries=1)
        store = SimpleNamespace(get=states.get, set=states.__setitem__)
        return _series({"ti": ti, "dag_run": run, "task": task, "task_state_store": store})

    # The tries are: the first try, its retry, a try after another task of the run was cleared, a try after this task
    # was cleared, and its retry.
    tries = [(1, 1, 0), (1, 2, 0), (1, 2, 1), (3, 3, 2), (3, 4, 2)]
    assert [series(*item).is_cleared for item in tries] == [False, False, False, True, True]
