"""The predictions that the shards of an evaluation store are read back as they were, whatever the labels are."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import numpy as np
import pytest

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import EvaluationError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.predictions import Predictions, concatenate
from airflow_mlops.stages.evaluate import scores
from airflow_mlops.stages.evaluate.candidates import Candidate

SCORE = np.array([0.25, np.nextafter(0.25, 1), 0.75])


@pytest.fixture
def store() -> ArtifactStore:
    return ArtifactStore(f"memory://{uuid.uuid4().hex}")


def candidate(task: str, classes: list[object], version: int = 1) -> Candidate:
    positive = classes[-1] if task == "binary" else None
    contract = ModelContract(
        task=task, label="late", features=[], classes=classes, positive=positive, dataset_name="", dataset_id=""
    )
    return Candidate(ModelVersionRef(model="m", version=version, run_id=""), SimpleNamespace(contract=contract))


def objects(*labels: object) -> np.ndarray:
    return np.array(labels, dtype=object)


@pytest.mark.parametrize(
    ("task", "classes", "prediction"),
    [
        ("binary", [False, True], np.array([False, False, True])),
        ("binary", [0, 1], np.array([0, 0, 1])),
        ("binary", ["no", "yes"], objects("no", "no", "yes")),
        ("binary", ["no", "yes"], np.array(["no", "no", "yes"])),
        ("binary", ["no", "yes"], objects("no", None, "yes")),
        ("multiclass", ["a", "b", "c"], objects("c", "b", "a")),
        ("multiclass", [1, 2, 3], objects(3, 2, 1)),
        ("regression", [], SCORE),
        ("regression", [], np.array([0.25, 0.25, 0.75], np.float32)),
        ("regression", [], np.array([np.nan, np.inf, 0.75])),
    ],
)
@pytest.mark.parametrize("labels_only", [False, True])
def test_predictions_are_read_back_as_they_were(store, task, classes, prediction, labels_only):
    has_probabilities = task != "regression" and not labels_only
    shares = None
    if has_probabilities:
        shares = np.column_stack([1 - SCORE, SCORE]) if task == "binary" else np.arange(9.0).reshape(3, 3)
    score = prediction if task == "regression" and prediction.dtype == np.float64 else SCORE
    one, other = candidate(task, classes), candidate(task, classes, 2)
    written = Predictions(prediction, score, shares)
    files = [scores.write(store, "test", [(other, Predictions(prediction[::-1], score, shares)), (one, written)])]
    files += [scores.write(store, "test", [(one, written), (other, written)])]
    assert (files[0].rows, files[0].sha256, files[0].bytes) == (
        3, store.sha256(files[0].path), store.info(files[0].path)["size"],
    )  # fmt: skip
    found = concatenate([scores.read(store, file, one) for file in files], one.contract)
    expected = concatenate([written, written], one.contract)
    assert found.prediction.tolist() == expected.prediction.tolist() or task == "regression"
    if prediction.dtype.kind not in "OU":
        assert found.prediction.dtype == expected.prediction.dtype
        np.testing.assert_array_equal(found.prediction, expected.prediction)
    np.testing.assert_array_equal(found.score, expected.score)
    assert (found.probabilities is None) == (expected.probabilities is None)
    if expected.probabilities is not None:
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    if prediction.dtype.kind == "O" and isinstance(prediction[0], str):
        # Each label is one object, as in the predictions of the model.
        assert len({id(label) for label in found.prediction[:3].tolist()}) == len(set(prediction.tolist()))


def test_labels_of_several_types_are_refused(store):
    with pytest.raises(EvaluationError, match="without `shards`"):
        scores.write(store, "test", [(candidate("multiclass", ["a", 1]), Predictions(objects("a", 1, 2), SCORE, None))])
    assert not store.find("")
