"""Performance that MonitorOperator estimates from predictions in the artifact store, without labels."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.training import model_profile
from airflow_mlops.stages.monitor import performance
from airflow_mlops.stages.monitor.check import Check
from tests.support.deployed import write

NAMES = ["a", "b"]


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


CONTRACT = ModelContract(
    task="regression",
    label="delay",
    features=[FeatureColumn(name=name, kind="number") for name in NAMES],
    metrics={"rmse": 1.0},
    dataset_name="delays_training",
    dataset_id="0" * 64,
)


def rows(seed: int, count: int = 3_000, shift: float = 0.0) -> pa.Table:
    """Predictions of a model with noise that the feature ``b`` decides, and labels."""
    random = np.random.default_rng(seed)
    a, b = random.normal(size=count), random.normal(shift, 1, count)
    return pa.table(
        {"a": a, "b": b, "score": a, "prediction": a, "label": a + random.normal(size=count) * np.exp(b / 2)}
    )


def reference() -> TrainingReference:
    """The training reference of a model, with the profile that TrainOperator computes."""
    held_out = rows(0)
    score = held_out["score"].to_numpy()
    profile = model_profile(
        held_out.to_batches,
        held_out.to_batches,
        CONTRACT,
        held_out["label"].to_numpy(),
        Predictions(score, score, None),
        {},
    )
    return TrainingReference(ModelVersionRef(model="delays", version=1, run_id="r"), CONTRACT, profile, [], [], {}, [])


def check(store, table: pa.Table, **policy) -> Check:
    dataset = open_dataset(store, write(store, "delays_predictions", table, "2013-04"))
    window = Window.model_validate("2013-04")
    return Check("delays", window, datetime(2013, 6, 1, tzinfo=timezone.utc), Policy(**policy), [dataset], store)


def rmse(table: pa.Table) -> float:
    return float(np.sqrt(np.square(table["label"].to_numpy() - table["score"].to_numpy()).mean()))


def test_the_estimate_of_a_regression_knows_that_inputs_moved_at_equal_predictions(store):
    window = rows(1, shift=1.0)
    found = performance.estimated(check(store, window.drop_columns("label")), reference(), None).performance
    assert found.low < rmse(window) < found.high
    assert found.value > 1.2 * rmse(rows(1))
    # Without the features, the prediction alone decides.
    alone = performance.estimated(check(store, window.select(["score"])), reference(), None).performance
    assert alone.high < rmse(window)


def test_rows_without_a_finite_score_or_without_a_label_do_not_count(store):
    known, moved = rows(1), rows(2, shift=3.0)
    odd = moved.set_column(2, "score", pa.nulls(moved.num_rows, pa.float64()))
    found = performance.estimated(check(store, pa.concat_tables([known, odd])), reference(), None).performance
    alone = performance.estimated(check(store, known), reference(), None).performance
    assert (found.value, found.high) == pytest.approx((alone.value, alone.high))
    unlabelled = moved.set_column(4, "label", pa.nulls(moved.num_rows, pa.float64()))
    both = check(store, pa.concat_tables([known, unlabelled]))
    realised = performance.realised(both, reference())
    found = performance.estimated(both, reference(), realised.performance).performance
    assert (found.value, found.high) == pytest.approx((alone.value, alone.high))
