"""Shards of an evaluation: the verdict and the report of a single pass, whatever is retried, killed, cleared or runs at once."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import NotCacheableError, SchemaError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.leftovers import find_leftovers
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates import evidence
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.registry.step_usage import by_step
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import cache, shards, step
from airflow_mlops.stages.evaluate import champion as champions
from airflow_mlops.stages.evaluate.spec import EvaluateResult, EvaluateSpec
from airflow_mlops.stages.usage import Meter
from tests.support.candidates import held_out, register, training_set
from tests.support.dying_store import DyingStore, Killed

GOOD, WEAK = (2, 0), (1, 2)
LATER = datetime.now(timezone.utc) + timedelta(days=1)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(evidence, "BATCH_ROWS", 90)


@pytest.fixture
def make(client, tmp_path):
    """``make(dataset, weights)`` registers another version of a model that only one test uses."""
    model = f"delays_{uuid.uuid4().hex[:8]}"
    return lambda dataset, weights, **options: register(
        client, tmp_path / uuid.uuid4().hex, dataset, weights, **{"model": model, **options}
    )


def crown(client, ref: ModelVersionRef) -> ModelVersionRef:
    client.set_registered_model_alias(ref.model, "champion", str(ref.version))
    return ref


def task(
    store: ArtifactStore,
    candidates: Sequence[ModelVersionRef],
    shard: int | None = None,
    of: int | None = None,
    *,
    series: str = "first",
    succeeded: Sequence[int] = (),
    others_succeeded: bool = False,
    meter: Meter | None = None,
    **fields: object,
) -> EvaluateResult:
    """Run a shard, or a single pass. ``series`` are the tries since the shard was cleared last."""
    place = Provenance(dag_id="dag", run_id="run", task_id="evaluate", map_index=-1 if shard is None else shard)
    context = StepContext(store, f"results/dag/run/evaluate/{shard}/{series}.json", provenance=place, meter=meter)
    divided = {"shard": shard, "shards": of, "succeeded": list(succeeded), "others_succeeded": others_succeeded}
    return step.run(EvaluateSpec(candidates=list(candidates), **fields, **divided), context)


def every(
    store: ArtifactStore, candidates: Sequence[ModelVersionRef], order: Sequence[int], **fields
) -> EvaluateResult:
    """Run all shards. The last of them has the verdict."""
    *others, last = order
    for number in others:
        result = task(store, candidates, number, len(order), **fields)
        assert (result.verdict, result.run_id, result.reports, result.shard) == (None, "", [], number)
        assert result.mlflow_runs() == []
    done = task(store, candidates, last, len(order), **fields)
    assert done.shard == last
    return done.model_copy(update={"shard": None})


def reports(client, result: EvaluateResult, folder: Path) -> dict[str, bytes]:
    """The files of the reports, without the time at which they were written."""
    found = {}
    for run in result.mlflow_runs():
        for file in Path(client.download_artifacts(run, "evaluation", str(folder))).rglob("*"):
            content = re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC", b"", file.read_bytes())
            found[f"{run} {file.name}"] = content if file.suffix != ".html" else b""
    return found


def with_columns(rows: pa.Table) -> pa.Table:
    """The rows with a column for slices and clusters, and a column of weights."""
    number = np.arange(rows.num_rows)
    rows = rows.append_column("carrier", pa.array(np.array(["AA", "DL", "UA"])[number % 3]))
    return rows.append_column("weight", pa.array(1 + number % 2.5))


@pytest.mark.parametrize(
    ("kind", "order", "weight", "has_champion", "fields"),
    [
        ("binary", [1, 0, 2], "weight", True, {"gates": [
            {"metric": "roc_auc", "better_than_champion_by": 0, "confidence": 0.9},
            {"metric": "log_loss", "slices": ["carrier"], "not_worse_than_champion_by": 0.02},
        ]}),
        ("multiclass", [0, 1], None, False, {"groups": "carrier"}),
        # More shards than batches.
        ("regression", [*range(13)], None, True, {"metric": "mae"}),
    ],
)  # fmt: skip
def test_the_shards_together_equal_a_single_pass(
    client, store, make, tmp_path, kind, order, weight, has_champion, fields
):
    details = {"label": "label", "task": kind, "features": ["distance", "wind"], "timestamp": None, "keys": ["flight"]}
    with DatasetWriter(store, "delays_training") as writer:
        for part, rows in (("train", held_out(kind, 300, seed=1)), ("test", held_out(kind))):
            writer.write(with_columns(rows), part)
        dataset = writer.commit(details=details)[0].ref
    candidates = [make(dataset, weights, task=kind, sample_weight=weight) for weights in (WEAK, GOOD)]
    if has_champion:
        crown(client, make(dataset, (2, 1), task=kind, sample_weight=weight))
    expected = task(store, candidates, **fields)
    written = reports(client, expected, tmp_path / "single")
    found = every(store, candidates, order, **fields)
    assert found == expected
    assert bool(found.verdict.champion_metrics) == has_champion
    assert found.verdict.sample_weight == weight
    assert reports(client, found, tmp_path / "shards") == written
    assert len(written) > 8
    assert not store.find("checkpoints/scores")


@pytest.fixture
def dataset(store):
    return training_set(store, parts=["test"])


class Measured(BaseException):
    """Raised instead of measuring the models, which takes most of the time."""


@pytest.fixture
def scored(monkeypatch):
    """The predictions of all models by version, and the champion, for each time that a shard would measure the models."""
    found = []

    def compare(client, model, candidates, data, context, *, scored, **_):
        champion, loaded = champions.open_measured(client, scored.champion, data, context.store, allow_pyfunc=False)
        models = [*candidates, *([loaded] if loaded else [])]
        found.append((champion, {item.ref.version: scored.predictions(item).score for item in models}))
        raise Measured

    monkeypatch.setattr(step, "compare", compare)
    return found


def assert_all_rows(store, dataset, found, *versions: int) -> None:
    rows = open_dataset(store, dataset).table("test")
    _, scores = found
    assert {*scores} == {*versions}
    for score in scores.values():
        assert len(score) == rows.num_rows
    # The first candidate is the good model.
    order = np.argsort(scores[versions[0]])
    assert np.all(np.diff(rows["distance"].to_numpy()[order]) >= -1e-5)


def test_all_shards_compare_with_the_champion_that_the_first_shard_found(client, store, dataset, make, scored):
    good, weak, other = make(dataset, GOOD), crown(client, make(dataset, WEAK)), make(dataset, (1, 1))
    task(store, [good], 2, 3)
    crown(client, other)
    task(store, [good], 0, 3)
    with pytest.raises(Measured):
        task(store, [good], 1, 3)
    assert scored[0][0].ref == weak
    assert_all_rows(store, dataset, scored[0], good.version, weak.version)
    # A retry and a shard that was cleared alone compare with it, too, and predict no rows again.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxModel, "predict", lambda *_: pytest.fail("predicted again"))
        for series in ("first", "cleared"):
            with pytest.raises(Measured):
                task(store, [good], 1, 3, series=series, succeeded=[0, 2], others_succeeded=True)
        assert task(store, [good], 0, 3, series="cleared", succeeded=[1, 2], others_succeeded=True).verdict is None
    assert [champion.ref for champion, _ in scored] == [weak] * 3
    # If all shards are cleared, they look the champion up again.
    for number in (0, 1):
        task(store, [good], number, 3, series="again")
    with pytest.raises(Measured):
        task(store, [good], 2, 3, series="again")
    assert scored[-1][0].ref == other
    # Otherwise, all tasks would succeed, and no task would have made a verdict.
    with pytest.raises(SpecError, match="Clear all shards"):
        task(store, [good, other], 2, 3, series="last", succeeded=[0, 1], others_succeeded=True)


def test_a_shard_that_runs_while_the_others_are_cleared_predicts_its_rows_again(client, store, dataset, make, scored):
    good, weak, other = make(dataset, GOOD), crown(client, make(dataset, WEAK)), make(dataset, (1, 1))
    task(store, [good], 0, 2)
    predict = shards.Shards.score

    def clear_the_other(*args, **options):
        patch.setattr(shards.Shards, "score", predict)
        crown(client, other)
        assert task(store, [good], 0, 2, series="cleared").verdict is None
        return predict(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards.Shards, "score", clear_the_other)
        with pytest.raises(Measured):
            # The other shard had succeeded when this shard began.
            task(store, [good], 1, 2, succeeded=[0], others_succeeded=True)
    assert [champion.ref for champion, _ in scored] == [other]
    assert weak != other


def test_shards_that_finish_at_the_same_time_make_one_verdict(client, tmp_path, make, scored):
    store = ArtifactStore(f"file://{tmp_path}/store")
    dataset = training_set(store, parts=["test"])
    good, champion = make(dataset, GOOD), crown(client, make(dataset, WEAK))

    def run(number: int) -> int | None:
        try:
            task(store, [good], number % 4, 4)
        except Measured:
            return number % 4
        return None

    with ThreadPoolExecutor(8) as threads:
        # Each shard runs twice at the same time, as if Airflow had started a second try because it considered the first
        # one dead.
        owners = {*threads.map(run, range(8))} - {None}
    assert len(owners) == 1
    for found in scored:
        assert_all_rows(store, dataset, found, good.version, champion.version)
    assert len(store.find("checkpoints/scores")) == 4


def test_a_shard_that_is_killed_after_any_write_is_retried_with_the_same_predictions(client, make, scored):
    begun = ArtifactStore(f"memory://{uuid.uuid4().hex}")
    dataset = training_set(begun, parts=["test"])
    good, champion = make(dataset, GOOD), crown(client, make(dataset, WEAK))
    task(begun, [good], 1, 2)
    for last in count(1):
        store = DyingStore(f"memory://{uuid.uuid4().hex}")
        begun.fs.cp(begun.url, store.url, recursive=True)
        store.last = last
        try:
            task(store, [good], 0, 2)
        except Killed:
            # Neither MLflow nor a dataset shows anything of the shard.
            assert not scored
            assert store.keys("datasets") == begun.keys("datasets")
        except Measured:
            break
        with pytest.raises(Measured):
            task(store, [good], 0, 2)
        assert_all_rows(store, dataset, scored.pop(), good.version, champion.version)
    assert last > 4
    assert {item.key for item in find_leftovers(store, LATER).found} == {*store.find("checkpoints/scores")}


def test_predictions_that_cannot_be_used_are_made_again(client, store, dataset, make, scored, monkeypatch):
    good, champion = make(dataset, GOOD), crown(client, make(dataset, WEAK))
    task(store, [good], 0, 2)
    with pytest.raises(Measured):
        task(store, [good], 1, 2)
    expected = scored[0][1]
    keys, hashes, predict, predicted = store.find("checkpoints/scores"), shards.file_hashes, OnnxModel.predict, []

    def count_rows(self, data):
        predicted.append(data.num_rows)
        return predict(self, data)

    def again() -> int:
        predicted.clear()
        with monkeypatch.context() as patch:
            patch.setattr(OnnxModel, "predict", count_rows)
            with pytest.raises(Measured):
                task(store, [good], 1, 2, series=uuid.uuid4().hex, succeeded=[0], others_succeeded=True)
        (found, scores) = scored.pop()
        assert found.ref == champion
        for version, score in expected.items():
            np.testing.assert_array_equal(scores[version], score)
        return sum(predicted)

    assert again() == 0
    content = store.read_bytes(keys[0])
    store.write_bytes(keys[0], content[:-9] + bytes(9))
    assert again() in (2 * 540, 2 * 460)
    store.write_bytes(keys[0], content)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "file_hashes", lambda folder: {**hashes(folder), "model.onnx": "changed"})
        assert again() == 2 * 1_000
    # The predictions are deleted, as after the verdict.
    for key in keys:
        store.delete(key)
    assert again() == 2 * 1_000


def test_a_champion_that_cannot_predict_some_of_the_rows_is_the_problem_of_a_single_pass(
    client, store, dataset, make, scored
):
    good, champion = make(dataset, GOOD), crown(client, make(dataset, WEAK, features=["wind", "distance"]))
    predict = OnnxModel.predict

    # The last rows are in the last shard.
    def fail_late(self, data):
        if self.contract.features[0].name == "wind" and data["wind"][0].as_py() in late:
            raise SchemaError("A row has text instead of a number.")
        return predict(self, data)

    late = open_dataset(store, dataset).table("test")["wind"].to_pylist()[900:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxModel, "predict", fail_late)
        for number in (2, 0):
            task(store, [good], number, 3)
        with pytest.raises(Measured):
            task(store, [good], 1, 3)
    ((found, _),) = scored
    assert found.ref == champion
    assert found.problem == (
        f"The champion {champion} could not be measured, so no candidate can be compared with it (A row has text instead of a "
        "number)."
    )


def test_a_champion_that_is_also_a_candidate_is_predicted_once(client, store, dataset, make, scored):
    champion, good = crown(client, make(dataset, WEAK)), make(dataset, GOOD)
    task(store, [good, champion], 0, 2)
    with pytest.raises(Measured):
        task(store, [good, champion], 1, 2)
    assert scored[0][0].ref == champion
    assert_all_rows(store, dataset, scored[0], good.version, champion.version)
    for piece in store.find("checkpoints/evaluation"):
        if "/pieces/" in piece:
            assert {*store.read_json(piece)["models"]} == {str(good.version), str(champion.version)}


def test_logged_predictions_and_runs_without_airflow_have_no_shards(store, dataset, make):
    from airflow_mlops.operators import EvaluateOperator

    live = {
        "candidates": [{"model": "delays", "version": 1}],
        "evidence": {"name": "outcomes"},
        "shard": 0,
        "shards": 2,
    }
    with pytest.raises(ValidationError, match="`evidence` already contains the predictions"):
        EvaluateSpec.model_validate(live)
    with pytest.raises(SpecError, match="has shards="):
        EvaluateOperator(task_id="evaluate", **live)
    # A mapped task is refused when the DAG file is parsed, too.
    del live["shard"]
    with pytest.raises(SpecError, match="Task 'evaluate' has shards="):
        EvaluateOperator.partial(task_id="evaluate", **live)
    spec = EvaluateSpec(candidates=[make(dataset, GOOD)], shard=0, shards=2)
    with pytest.raises(SpecError, match="mapped tasks of a DAG run"):
        step.run(spec, StepContext(store))
    with pytest.raises(NotCacheableError, match="in shards"):
        cache.inputs(spec, StepContext(store))


DAG = """
import sys
from airflow.sdk import DAG, Asset
from airflow_mlops.compute import Process
from airflow_mlops.operators import EvaluateOperator, PromoteOperator

with DAG("evaluate_shards_{model}"):
    verdict = EvaluateOperator.partial(
        task_id="evaluate", run_on=Process(python=sys.executable), candidates=[{{"model": "{model}", "version": {version}}}], shards=2,
        outlets=[Asset("mlops://{model}/verdict")],
    ).expand(shard=[0, 1])
    PromoteOperator(task_id="promote", verdict=verdict.output)
"""


def test_a_mapped_task_in_other_processes_passes_on_one_verdict_and_sends_one_event(client, run_dag, make):
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    # A batch of another process has 65,536 rows, so both shards have rows.
    dataset = training_set(store, parts=["test"], test=held_out(rows=66_000))
    good = make(dataset, GOOD)
    done = run_dag(DAG.format(model=good.model, version=good.version))
    assert set(done.states().values()) == {"success"}
    results = [done.xcom("evaluate", map_index=number) for number in range(2)]
    (result,) = [found for found in results if found["verdict"]]
    assert done.xcom("promote")["champion"] == result["verdict"]["winner"] == good.model_dump()
    assert [found["usage"]["rows"] for found in results] == [65_536, 464]
    with create_session() as session:
        events = select(func.count()).select_from(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        assert session.scalar(events.where(AssetModel.uri == f"mlops://{good.model}/verdict")) == 1
    # The MLflow run of the version records the resources that both shards used.
    usage = by_step(client.get_run(good.run_id).data.tags)["evaluate"]
    assert usage.rows == 66_000
    for name in ("seconds", "cpu_seconds"):
        parts = [found["usage"][name] for found in results]
        assert max(parts) < getattr(usage, name) <= sum(parts) + 0.01
