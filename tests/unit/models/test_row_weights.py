"""The weights of the rows reach the estimator, and trainers that cannot use them refuse."""

from __future__ import annotations

import numpy as np
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.trainers import trainer_module
from airflow_mlops.models.trainers.base import TrainingRun
from airflow_mlops.models.training_data import read_part
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.search.objective import CrossValidation
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.stages.training_set.step import run
from airflow_mlops.trainers import FunctionTrainer, SklearnTrainer, TorchTrainer
from tests.support.months import write_months

LOGISTIC = "sklearn.linear_model.LogisticRegression"
DECAY = {"kind": "decay", "half_life": "P8D"}
EXPANDING = {"kind": "expanding", "since": "2013-01"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """``dataset(rule)``: the slope of the label in ``amount`` is 3 in January and February, and -3 from March on."""
    store = ArtifactStore(f"file://{tmp_path_factory.mktemp('store')}")
    write_months(store, ["2013-01", "2013-02", "2013-03", "2013-04"], 400, [3, 3, -3, -3])

    def dataset(rule):
        spec = TrainingSetSpec(
            name="training",
            entities={"name": "orders", "window": "2013-04"},
            window=rule,
            timestamp="at",
            columns=["amount", "hour"],
            keys=["order"],
            label="late",
            split={"method": "time", "test_size": "window"},
        )
        return open_dataset(store, run(spec, StepContext(store=store)).dataset)

    return dataset


def fit(dataset, trainer):
    spec = parse(TrainSpec, {"dataset": dataset.ref, "model": "late", "trainer": trainer}, "The step").trainer
    training = TrainingRun(dataset, "train", "checkpoints/x.pt", lambda text: None, lambda *_: None, lambda *_: None)
    data = read_part(dataset, "train")
    return trainer_module(spec.kind).fit(spec, data, 0, training), data


def slope(model, data) -> float:
    """The mean rise of the probability of being late from small to large amounts."""
    frame = data.frame.head(100)
    low, high = (model.predict(frame.assign(amount=np.float32(amount)))[:, 1] for amount in (-1, 1))
    return float((high - low).mean())


TRAINERS = {
    "linear": SklearnTrainer(LOGISTIC),
    "trees": SklearnTrainer("sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 30}),
    "forest": SklearnTrainer("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 30, "max_depth": 3}),
    "function": FunctionTrainer("tests.support.own_training:weighted"),
    "network": TorchTrainer(params={"hidden": [8]}, epochs=15, batch_size=64, learning_rate=0.02, device="cpu"),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_recent_rows_count_more(dataset, name):
    equal, weighted = (slope(*fit(dataset(rule), TRAINERS[name])) for rule in (EXPANDING, DECAY))
    # Two of the three months of training have a rising label, and the last month has a falling one.
    assert equal > 0.1
    assert weighted < -0.3


def test_the_weights_are_those_of_sample_weight(dataset):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model, data = fit(dataset(DECAY), SklearnTrainer("sklearn.linear_model.LogisticRegression"))
    expected = make_pipeline(StandardScaler(), LogisticRegression(random_state=0)).fit(
        data.frame, data.labels, logisticregression__sample_weight=data.weights
    )
    np.testing.assert_allclose(model.predict(data.frame), expected.predict_proba(data.frame), atol=1e-9)


def test_glass_boxes_take_weights(dataset):
    pytest.importorskip("interpret")
    trainer = SklearnTrainer("interpret.glassbox.ExplainableBoostingClassifier", {"max_rounds": 60, "n_jobs": 1})
    assert slope(*fit(dataset(DECAY), trainer)) < -0.3


def test_a_cross_validation_fits_with_weights(dataset):
    from airflow_mlops.metrics.catalog import find_metric
    from airflow_mlops.stages.search.objective import Attempt

    def score(rule):
        found = dataset(rule)
        objective = CrossValidation(found, read_part(found, "train"), find_metric("roc_auc", None), 3, 0)
        spec = parse(TrainSpec, {"dataset": found.ref, "model": "late", "trainer": TRAINERS["linear"]}, "The step")
        return objective(spec.trainer, Attempt("x", lambda *_: None, lambda text: None))

    assert score(DECAY) > score(EXPANDING)


@pytest.mark.parametrize(
    ("trainer", "error", "words"),
    [
        (SklearnTrainer("sklearn.neighbors.KNeighborsClassifier"), TrainingError, "does not accept sample_weight"),
        (FunctionTrainer("tests.support.own_training:unweighted"), SpecError, "params, seed, sample_weight"),
        (TorchTrainer("torch.nn:Identity", dataset="torch.utils.data:Dataset"), SpecError, "does not use weights"),
    ],
)
def test_trainers_that_take_no_weights_refuse(dataset, trainer, error, words):
    with pytest.raises(error, match=words):
        fit(dataset(DECAY), trainer)
    if trainer["kind"] != "torch":
        fit(dataset(EXPANDING), trainer)
