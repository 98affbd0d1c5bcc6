"""The outputs of foreign models are converted to predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.errors import EvaluationError, SchemaError
from airflow_mlops.metrics.predictions import concatenate
from airflow_mlops.models.pyfunc.scorer import PyfuncModel

ROWS = pa.table({"wind": [1.0, 2.0, 3.0], "gate": ["a", None, "a"], "seats": [1, 2, 3]})
LABELS = {"binary": [False, True], "multiclass": ["early", "late", "on time"], "regression": []}


def model(answer, task="binary", types=None, classes=None):
    types = types or {"wind": pa.float64()}
    classes = LABELS[task] if classes is None else classes
    contract = ModelContract(
        task=task,
        label="label",
        features=[FeatureColumn(name=name, kind="number") for name in types],
        classes=classes,
        positive=classes[-1] if task == "binary" else None,
        dataset_name="",
        dataset_id="",
    )
    return PyfuncModel("delays v1", lambda frame: answer, contract, list(types.values()), 0, "")


P = [0.2, 0.9, 0.5]


@pytest.mark.parametrize(
    "answer",
    [
        np.array(P),
        np.array(P, dtype=np.float32).reshape(-1, 1),
        pd.Series(P),
        P,
        np.column_stack([1 - np.array(P), P]),
        pd.DataFrame({"p": P}),
        # Columns named by the classes may have any order.
        pd.DataFrame({"True": P, "False": 1 - np.array(P)}),
    ],
)
def test_probabilities_of_two_classes(answer):
    found = model(answer).predict(ROWS)
    assert found.score == pytest.approx(P)
    assert found.prediction.tolist() == [False, True, True]
    assert found.probabilities[:, 0] == pytest.approx(1 - np.array(P))


@pytest.mark.parametrize(
    ("answer", "task", "classes", "score"),
    [
        ([False, True, True], "binary", None, [0, 1, 1]),
        (np.array([0, 1, 1]), "binary", None, [0, 1, 1]),
        (pd.DataFrame({"label": ["no", "yes", "no"]}), "binary", ["no", "yes"], [0, 1, 0]),
        # Fractions can be labels instead of probabilities.
        (np.array([0.5, 1.5, 0.5]), "binary", [0.5, 1.5], [0, 1, 0]),
        (np.array(["late", "early", "on time"], dtype=object), "multiclass", None, [1, 0, 2]),
        (["late", "never", "early"], "multiclass", None, [1, -1, 0]),
    ],
)
def test_labels_without_probabilities(answer, task, classes, score):
    found = model(answer, task, classes=classes).predict(ROWS)
    assert found.score.tolist() == score
    assert found.probabilities is None


@pytest.mark.parametrize("classes", [[0, 1], [0.0, 1.0], [False, True]])
def test_numbers_are_labels_if_all_of_them_are_and_otherwise_probabilities(classes):
    labels = model(np.array([0.0, 1.0, 1.0]), classes=classes).predict(ROWS)
    assert labels.prediction.tolist() == [0, 1, 1]
    assert labels.probabilities is None
    shares = model(np.array([0.0, 1.0, 0.7]), classes=classes).predict(ROWS)
    assert shares.prediction.tolist() == [0, 1, 1]
    assert shares.score.tolist() == [0.0, 1.0, 0.7]


@pytest.mark.parametrize("positive", [0, 1])
def test_batches_of_labels_and_of_probabilities_belong_together(positive):
    contract = model([]).contract.model_copy(update={"classes": [0, 1], "positive": positive})
    answers = [np.array(answer) for answer in ([0.0, 1.0, 1.0], [0.0, 1.0, 0.7])]
    parts = [
        PyfuncModel("v1", lambda frame, answer=answer: answer, contract, [pa.float64()], 0, "").predict(ROWS)
        for answer in answers
    ]
    last = np.concatenate(answers)
    found = concatenate(parts, contract)
    np.testing.assert_allclose(found.probabilities, np.column_stack([1 - last, last]))
    np.testing.assert_allclose(found.score, found.probabilities[:, positive])
    assert found.prediction.tolist() == [0, 1, 1, 0, 1, 1]
    assert concatenate(parts[:1] * 2, contract).probabilities is None


def test_labels_are_converted_to_those_of_the_dataset():
    assert str(model(np.array([0, 1, 1])).predict(ROWS).prediction.tolist()) == "[False, True, True]"
    # A value that is not a label of the dataset stays unchanged.
    assert model(["late", "never", "early"], "multiclass").predict(ROWS).prediction.tolist() == [
        "late",
        "never",
        "early",
    ]


def test_a_column_without_values_fits_any_type():
    given = []
    asked = model([True] * 3, types={"wind": pa.float64(), "gate": pa.string()})
    asked._answer = lambda frame: given.append(frame) or [True] * 3
    asked.predict(pa.table({"wind": pa.nulls(3), "gate": pa.nulls(3)}))
    (frame,) = given
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {"wind": "float64", "gate": "object"}


def test_values_of_a_regression():
    assert model(np.array([[1], [2], [3]]), "regression").predict(ROWS).score.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("answer", "task", "message"),
    [
        (
            np.zeros((3, 4)),
            "multiclass",
            r"delays v1 returned an array of shape \(3, 4\) for 3 rows of a multiclass task",
        ),
        (np.zeros(2), "binary", r"delays v1 returned an array of shape \(2,\) for 3 rows"),
        (np.zeros((3, 2)), "regression", "must return a value for each row"),
        (["yes", "no", "no"], "binary", "delays v1 returned 'yes' for 3 of 3 rows, .* labels False, True"),
        # A third class would count as the negative one.
        ([2, 1, 0], "binary", "delays v1 returned 2 for 1 of 3 rows, .* labels False, True"),
        ([0.2, 1.7, 0.3], "binary", "returned 1.7 for 1 of 3 rows, which is neither .* nor a probability"),
        ([0.2, -0.7, 0.3], "binary", "returned -0.7 for 1 of 3 rows, which is neither .* nor a probability"),
        (["a", "b", "c"], "regression", "delays v1 raised ValueError: could not convert string to float"),
    ],
)
def test_invalid_outputs_are_an_error(answer, task, message):
    with pytest.raises(EvaluationError, match=message):
        model(answer, task).predict(ROWS)


def test_columns_have_the_types_of_the_signature():
    given = []
    types = {"seats": pa.int32(), "wind": pa.float32(), "gate": pa.string()}
    asked = model([True] * 3, types=types)
    asked._answer = lambda frame: given.append(frame) or [True] * 3
    asked.predict(ROWS.set_column(1, "gate", ROWS.column("gate").dictionary_encode()))
    (frame,) = given
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        "seats": "int32",
        "wind": "float32",
        "gate": "object",
    }
    assert frame["gate"].tolist() == ["a", None, "a"]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([1.0, None, 3.0], pa.int64(), "'wind' has the type int64 .* is null in 1 of 3 rows"),
        ([1.5, 2.0, 3.0], pa.int64(), "'wind' cannot be converted to int64"),
        (["a", "b", "c"], pa.float64(), "'wind' has the type double .* but string in the data"),
        (["1", "2", "3"], pa.int64(), "'wind' has the type int64 .* but string in the data"),
        ([1, 2, 3], pa.string(), "'wind' has the type string .* but int64 in the data"),
    ],
)
def test_columns_that_do_not_match_the_signature_are_an_error(values, kind, message):
    with pytest.raises(SchemaError, match=message):
        model([True] * 3, types={"wind": kind}).predict(pa.table({"wind": values}))


def test_the_values_of_one_feature_are_shuffled():
    kinds = {"wind": pa.float64(), "seats": pa.int64()}
    features = [FeatureColumn(name=name, kind="number") for name in kinds]
    contract = ModelContract(
        task="regression", label="label", features=features, classes=[], dataset_name="", dataset_id=""
    )
    answer = lambda frame: 10 * frame["wind"] + frame["seats"]  # noqa: E731
    predict = PyfuncModel("v1", answer, contract, list(kinds.values()), 0, "").shuffled(ROWS)
    assert predict("wind", np.array([2, 0, 1])).score.tolist() == [31, 12, 23]
    assert predict("seats", np.array([1, 1, 0])).score.tolist() == [12, 22, 31]
