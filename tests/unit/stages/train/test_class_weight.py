"""The weights of classes change the training, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_sample_weight

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.class_weights import with_class_weight
from airflow_mlops.models.refitting import refit
from airflow_mlops.operators import TrainOperator
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate.card import Facts
from airflow_mlops.stages.train.candidate import fit_candidate, load_data
from airflow_mlops.stages.train.record import identity
from airflow_mlops.stages.train.runs import unlogged_run
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import (
    CatBoostTrainer,
    LightGBMTrainer,
    SklearnTrainer,
    TorchTrainer,
    XGBoostTrainer,
)
from tests.support.training import flights, training_set

LOGISTIC = SklearnTrainer("sklearn.linear_model.LogisticRegression", {"max_iter": 1_000})
NEIGHBOURS = SklearnTrainer("sklearn.neighbors.KNeighborsClassifier")
TREES = LightGBMTrainer(params={"num_leaves": 7, "min_child_samples": 5, "num_threads": 1}, rounds=5, validation=0)
TRAINERS = {
    "sklearn": LOGISTIC,
    "lightgbm": TREES,
    # Half of the rows are held out for early stopping.
    "xgboost": XGBoostTrainer(params={"max_depth": 3, "nthread": 1}, rounds=5, validation=0.5),
    "catboost": CatBoostTrainer(params={"depth": 3, "learning_rate": 0.3, "thread_count": 1}, rounds=5, validation=0),
}


def fit(tmp_path, trainer, task="binary", **fields):
    store = ArtifactStore(tmp_path.as_uri())
    ref = training_set(store, flights(400, task, 1), flights(100, task, 2), task=task)
    spec = TrainSpec(dataset=ref, model="late", trainer=trainer, **fields)
    context = StepContext(store, "results/t.json")
    dataset, train, test = load_data(spec, store)
    return spec, fit_candidate(spec, context, dataset, train, test, unlogged_run(context, dataset))


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.array(["a", "b", "a", "a", "c", "a"], dtype=object)
    expected = compute_sample_weight("balanced", labels)
    np.testing.assert_allclose(with_class_weight("balanced", labels, ["a", "b", "c"], None), expected)


def test_the_weights_of_rows_are_multiplied():
    labels, rows = np.array([0, 1, 0, 1]), np.array([1.0, 0.5, 0.5, 0.5])
    # The classes weigh 1.5 and 1 before, and 1.25 each after.
    np.testing.assert_allclose(
        with_class_weight("balanced", labels, [0, 1], rows), [1.25 / 1.5, 0.625, 0.625 / 1.5, 0.625]
    )
    np.testing.assert_allclose(with_class_weight({"1": 20}, labels, [0, 1], rows), [1, 10, 0.5, 10])
    with pytest.raises(TrainingError, match="all rows of the class 1 have the weight 0"):
        with_class_weight("balanced", labels, [0, 1], np.array([1.0, 0, 1, 0]))


@pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)
def test_a_larger_weight_gives_larger_probabilities(tmp_path, trainer):
    _, plain = fit(tmp_path / "plain", trainer)
    spec, weighted = fit(tmp_path / "weighted", trainer, class_weight={1: 20})
    assert weighted.predictions.score.mean() > plain.predictions.score.mean() + 0.1
    assert identity(spec, weighted) != identity(spec.model_copy(update={"class_weight": None}), weighted)
    # The recorded spec gives the same weights.
    again = TrainSpec.model_validate_json(spec.model_dump_json())
    assert again.class_weight == {"1": 20.0}
    rows = flights(400, "binary", 1)
    rows = rows.rename_columns(["label" if name == "late" else name for name in rows.column_names])
    means = [
        refit(spec.trainer, 0, plain.contract, rows, rule).predict(rows).score.mean()
        for rule in (None, again.class_weight, {"1": 20.0, "absent": 3.0})
    ]
    assert means[1] > means[0] + 0.1
    assert means[1] == means[2]


def test_the_fit_is_that_of_the_library(tmp_path):
    _, weighted = fit(tmp_path, LOGISTIC, class_weight="balanced")
    own = SklearnTrainer("sklearn.linear_model.LogisticRegression", {"max_iter": 1_000, "class_weight": "balanced"})
    _, expected = fit(tmp_path / "own", own)
    np.testing.assert_allclose(weighted.predictions.score, expected.predictions.score, atol=1e-4)


def test_trainings_that_cannot_use_class_weights_are_refused(tmp_path):
    with pytest.raises(SpecError, match="names the class '2', which the training rows do not have"):
        fit(tmp_path / "unknown", LOGISTIC, class_weight={2: 1})
    with pytest.raises(SpecError, match="a regression model has no classes"):
        fit(
            tmp_path / "regression", SklearnTrainer("sklearn.linear_model.Ridge"), "regression", class_weight="balanced"
        )
    with pytest.raises(TrainingError, match="class_weight"):
        fit(tmp_path / "neighbours", NEIGHBOURS, class_weight="balanced")
    dataset = training_set(ArtifactStore((tmp_path / "torch").as_uri())).model_dump(mode="json")
    with pytest.raises(SpecError, match="TorchTrainer does not support `class_weight`"):
        fields = {"dataset": dataset, "model": "late", "trainer": TorchTrainer(), "class_weight": "balanced"}
        parse(TrainSpec, fields, "Task 'train'")


@pytest.mark.parametrize("declared", ["even", {}, {"a": 0}, {"a": float("nan")}, {"a": True}, {1: 2, "1": 3}, 3])
def test_an_invalid_declaration_is_refused_in_the_dag_file(declared):
    with pytest.raises(SpecError, match="The class weight of task 'train'"):
        TrainOperator(task_id="train", dataset={}, model="late", trainer="{{ params.trainer }}", class_weight=declared)


@pytest.mark.parametrize(
    ("params", "said"),
    [({"class_weight": '"balanced"'}, "balanced"), ({"class_weight": '{"on time": 1, "late": 2.5}'}, "on time: 1, late: 2.5"),
     ({"class_weight": "by hand"}, "by hand"), ({}, "")],
)  # fmt: skip
def test_the_model_card_has_the_weights_of_the_classes(params, said):
    facts = Facts.__new__(Facts)
    object.__setattr__(facts, "params", params)
    assert facts.class_weight == said
