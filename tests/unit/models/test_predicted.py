"""The columns of predictions, for rows with and without a score."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import FeatureColumn, ModelContract, PredictionInterval
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.models.predicted import with_predictions

VERSION = ModelVersionRef(model="m", version=1, run_id="")


def predicted(task, classes, prediction, score, interval=None):
    contract = ModelContract(
        task=task, label="y", features=[FeatureColumn(name="a", kind="number")], classes=classes,
        positive=classes[-1] if task == "binary" else None, interval=interval, dataset_name="d", dataset_id="i",
    )  # fmt: skip
    rows = pa.RecordBatch.from_pydict({"a": [0.0] * len(score)})
    times = pa.nulls(len(score), pa.timestamp("us", "UTC"))
    found = with_predictions(rows, contract, VERSION, prediction, np.array(score), times, pa.array([0.1] * len(score)))
    return {name: found.column(name).to_pylist() for name in found.schema.names}, found.schema


@pytest.mark.parametrize(
    ("task", "classes", "kind"),
    [
        ("binary", [False, True], pa.bool_()),
        ("binary", ["no", "yes"], pa.string()),
        ("multiclass", [3, 1, 2], pa.int64()),
        ("multiclass", [0.5, 1.5, 2.5], pa.float64()),
        ("multiclass", ["x", "y", "z"], pa.string()),
    ],
)
def test_a_row_without_a_score_has_no_class(task, classes, kind):
    labels = np.array([classes[0], classes[1], classes[0]], object if kind == pa.string() else None)
    found, schema = predicted(task, classes, labels, [math.nan, 0.75, 0.5])
    assert found["prediction"] == [None, classes[1], classes[0]]
    assert found["score"] == [None, 0.75, 0.5]
    assert schema.field("prediction").type == kind
    none, _ = predicted(task, classes, labels, [math.nan] * 3)
    assert none["prediction"] == none["score"] == [None] * 3
    every, _ = predicted(task, classes, labels, [0.5, 0.75, 0.5])
    assert every["prediction"] == labels.tolist()


def test_a_number_that_is_nan_is_null_and_an_infinite_one_is_kept():
    values = np.array([math.nan, math.inf, -2.5])
    found, _ = predicted(
        "regression", [], values, values, PredictionInterval(coverage=0.9, margin=1.0, rows=100, source="s")
    )
    assert found["prediction"] == found["score"] == [None, math.inf, -2.5]
    assert found["prediction_lower"] == [None, math.inf, -3.5]
    assert found["prediction_upper"] == [None, math.inf, -1.5]
