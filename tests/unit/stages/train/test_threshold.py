"""A decision threshold is chosen on training rows that the model is not fitted to, and the contract contains it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import DatasetNotFoundError, SpecError, TrainingError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.datasets.subsets import with_rows
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.refitting import refit
from airflow_mlops.models.rules.threshold import ThresholdRule
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.train.candidate import fit_candidate, load_data
from airflow_mlops.stages.train.runs import unlogged_run
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.train.threshold import with_threshold
from airflow_mlops.trainers import LightGBMTrainer, SklearnTrainer, TorchTrainer
from tests.support.training import flights, timed, training_set

LOGISTIC = SklearnTrainer("sklearn.linear_model.LogisticRegression", {"max_iter": 1_000})
TREES = LightGBMTrainer(params={"num_leaves": 7, "min_child_samples": 5, "num_threads": 1}, rounds=5, validation=0.1)
NETWORK = TorchTrainer(epochs=1, batch_size=64, validation=0.1, device="cpu")
COST = {"cost": {"false_positive": 1, "false_negative": 4}}


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path.as_uri())


def fit(store, trainer, rows=None, task="binary", **fields):
    ref = training_set(
        store, timed(500, 1, task) if rows is None else rows, timed(200, 2, task), task=task, timestamp="at"
    )
    spec, context = (
        TrainSpec(dataset=ref, model="late", trainer=trainer, **fields),
        StepContext(store, "results/t.json"),
    )
    dataset, train, test = load_data(spec, store)
    return fit_candidate(spec, context, dataset, train, test, unlogged_run(context, dataset)), test


@pytest.mark.parametrize("trainer", [LOGISTIC, TREES, NETWORK], ids=["sklearn", "lightgbm", "torch"])
def test_the_model_is_fitted_to_the_other_rows_only(store, trainer):
    rows = timed(500, 1)
    newest = np.argsort(np.argsort(rows["at"].to_numpy())) >= 400
    found, test = fit(store, trainer, threshold=COST)
    alone, _ = fit(store, trainer, rows.filter(pa.array(~newest)))
    assert found.exported == alone.exported
    assert (len(found.train.labels), alone.contract.threshold) == (400, 0.5)

    contract, choice = found.contract, found.contract.threshold_choice
    model, aside = OnnxModel(found.exported, contract), rows.filter(pa.array(newest))
    score, truth = model.predict(aside).score, aside["late"].to_numpy(zero_copy_only=False)

    def cost(threshold):
        positive = score >= threshold
        return (positive & ~truth).sum() + 4 * (truth & ~positive).sum()

    assert cost(contract.threshold) == min(map(cost, [*score, 0.0, 2.0])) < cost(0.5)
    assert (choice.rows, choice.source) == (100, "the newest rows")
    assert choice.point.recall == pytest.approx((score[truth] >= contract.threshold).mean())
    # Metrics and predicted labels are those at the threshold.
    late = found.predictions.score >= contract.threshold
    np.testing.assert_array_equal(found.predictions.prediction == contract.positive, late)
    assert found.metrics["recall"] == pytest.approx(late[test.labels == 1].mean())
    assert ModelContract.model_validate_json(contract.model_dump_json()) == contract


def test_a_number_is_the_threshold_of_a_model_that_is_fitted_to_all_rows(store):
    found, _ = fit(store, LOGISTIC, threshold=0.3)
    assert (found.contract.threshold, len(found.train.labels)) == (0.3, 500)
    assert (found.contract.threshold_choice.rows, found.contract.threshold_choice.point) == (0, None)
    # Contracts of earlier versions do not have this field. If another class becomes positive, the choice of the
    # threshold is dropped.
    old = found.contract.model_dump(mode="json", exclude={"threshold_choice"})
    assert ModelContract.model_validate(old).threshold_choice is None
    assert found.contract.with_positive(0).threshold_choice is None


def test_challengers_are_compared_at_the_threshold_that_was_chosen(store):
    found, _ = fit(store, LOGISTIC, threshold=0.3)
    spec = TrainSpec(dataset={"name": "d", "id": "i", "rows": 1}, model="late", trainer=LOGISTIC).trainer
    rows = flights(300, seed=3)
    rows = rows.select([*(feature.name for feature in found.contract.features)]).append_column(
        "label", rows["late"].cast(pa.int64())
    )
    assert refit(spec, 0, found.contract, rows).contract.threshold == 0.3
    without = found.contract.model_copy(update={"threshold_choice": None})
    assert refit(spec, 0, without, rows).contract.threshold == 0.5


def test_models_without_a_threshold_are_refused(store):
    for task, estimator in (("multiclass", "LogisticRegression"), ("regression", "LinearRegression")):
        with pytest.raises(SpecError, match=f"a {task} model has no decision threshold"):
            fit(store, SklearnTrainer(f"sklearn.linear_model.{estimator}"), task=task, threshold=0.3)
    rows = timed(300, 1)
    late = np.argsort(np.argsort(rows["at"].to_numpy())) < 50
    rows = rows.set_column(rows.schema.get_field_index("late"), "late", pa.array(late))
    with pytest.raises(TrainingError, match="All 60 rows .* that a threshold is chosen on have the label 0"):
        fit(store, LOGISTIC, rows, threshold=COST)
    stump = SklearnTrainer("sklearn.tree.DecisionTreeClassifier", {"min_samples_leaf": 400})
    with pytest.raises(
        TrainingError, match="a precision of at least 1 on the 100 rows on which it is chosen .the newest rows"
    ):
        fit(store, stump, threshold={"precision": 1})


def test_a_threshold_beside_that_of_the_estimator_is_refused(store):
    contract = fit(store, LOGISTIC)[0].contract.model_copy(update={"threshold": 0.3})
    with pytest.raises(SpecError, match=r"the estimator has its own threshold \(0\.3\)"):
        with_threshold(ThresholdRule(value=0.4), contract, None, "train", b"", print)


def test_chosen_rows_of_a_dataset_are_read_in_every_way(store):
    with_groups = training_set(store, timed(90, 1), timed(20, 2))
    dataset = open_dataset(store, with_groups)
    kept = np.zeros(90, bool)
    kept[[3, 40, 41, 89]] = True
    chosen, whole = with_rows(dataset, "train", kept), dataset.table("train")
    expected = whole.filter(pa.array(kept))
    assert chosen.table("train") == expected
    assert chosen.rows == 4
    assert pa.Table.from_batches([*chosen.batches("train", ["flight"], batch_rows=7)]) == expected.select(["flight"])
    (place,) = dataset.row_groups("train")
    assert chosen.read_row_group(place, ["flight"])["flight"].to_pylist() == [3, 40, 41, 89]
    assert chosen.row_groups("train") == [place]
    assert with_rows(dataset, "train", np.zeros(90, bool)).row_groups("train") == []
    with pytest.raises(DatasetNotFoundError, match="Read this split part"):
        chosen.table("test")
