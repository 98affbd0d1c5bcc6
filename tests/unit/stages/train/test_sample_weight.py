"""A column of weights (``sample_weight=``) reaches the fit and the metrics of a training, or is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from airflow_mlops.core.base import parse
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import EvaluationError, SpecError, TrainingError, WeightError
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.datasets.subsets import with_rows
from airflow_mlops.data.row_weights import RowWeights
from airflow_mlops.data.sample_weights import as_weights, sample_weights
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates.evidence import HeldOut
from airflow_mlops.metrics.realised import UnmeasurableError
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.pyfunc.scorer import PyfuncModel
from airflow_mlops.models.threshold_choice import choose
from airflow_mlops.models.training_data import read_part
from airflow_mlops.operators import TrainOperator
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate.candidates import Candidate, with_weights
from airflow_mlops.stages.evaluate.common_rows import common_training_set
from airflow_mlops.stages.monitor.trainings import Training, _check_weights
from airflow_mlops.stages.train.aside import divided
from airflow_mlops.stages.train.candidate import fit_candidate, load_all, load_data
from airflow_mlops.stages.train.runs import unlogged_run
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import (
    CatBoostTrainer,
    Categorical,
    FunctionTrainer,
    LightGBMTrainer,
    Search,
    SklearnTrainer,
    TorchTrainer,
    XGBoostTrainer,
)
from tests.support.deployed import write
from tests.support.training import FEATURES, flights, timed, training_set

LOGISTIC = SklearnTrainer("sklearn.linear_model.LogisticRegression", {"max_iter": 1_000})
NEIGHBOURS = SklearnTrainer("sklearn.neighbors.KNeighborsClassifier")
TREES = {"rounds": 5, "validation": 0.3}
TRAINERS = {
    "sklearn": LOGISTIC,
    "lightgbm": LightGBMTrainer(params={"num_leaves": 7, "min_child_samples": 5, "num_threads": 1}, **TREES),
    "xgboost": XGBoostTrainer(params={"max_depth": 3, "nthread": 1}, **TREES),
    "catboost": CatBoostTrainer(params={"depth": 3, "learning_rate": 0.3, "thread_count": 1}, **TREES),
    "function": FunctionTrainer("tests.unit.stages.train.test_sample_weight:logistic"),
}


def logistic(X, y, *, params, seed, sample_weight=None):  # noqa: N803
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    numbers = make_column_transformer((SimpleImputer(), ["distance", "hour"]))
    fitted = make_pipeline(numbers, LogisticRegression(max_iter=1_000))
    return fitted.fit(X, y, logisticregression__sample_weight=sample_weight)


def weighted(rows: int, seed: int, task: str = "binary") -> pa.Table:
    """Flights of which the late ones weigh 20 times as much as the others."""
    table = flights(rows, task, seed)
    late = np.array(table["late"].to_pylist())
    heavy = late == "late" if task == "multiclass" else late > 0
    return table.append_column("weight", pa.array(np.where(heavy, 20.0, 1.0)))


def dataset_ref(store: ArtifactStore, task: str = "binary", **details) -> DatasetRef:
    return training_set(store, weighted(400, 1, task), weighted(100, 2, task), task=task, **details)


def fit(
    tmp_path, trainer, column: str | None = "weight", task: str = "binary", ref: DatasetRef | None = None, **fields
):
    store = ArtifactStore(tmp_path.as_uri())
    ref = ref or dataset_ref(store, task)
    spec = TrainSpec(dataset=ref, model="late", trainer=trainer, sample_weight=column, **fields)
    context = StepContext(store, "results/t.json")
    dataset, train, test = load_data(spec, store)
    return spec, fit_candidate(spec, context, dataset, train, test, unlogged_run(context, dataset)), test


@pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)
def test_the_weights_reach_the_fit(tmp_path, trainer):
    spec, found, test = fit(tmp_path, trainer)
    # Half of the rows are late, and weigh 20 times as much.
    assert found.predictions.score.mean() > 0.7
    assert found.contract.sample_weight == "weight"
    # The metrics are weighted, too.
    right = found.predictions.prediction == test.labels
    assert found.metrics["accuracy"] == pytest.approx(np.average(right, weights=test.metric_weights), abs=1e-12)
    assert found.metrics["accuracy"] != pytest.approx(right.mean(), abs=1e-3)
    # The recorded spec has the column of weights. Contracts written before the field existed have none.
    assert TrainSpec.model_validate_json(spec.model_dump_json()).sample_weight == "weight"
    assert ModelContract.model_validate(found.contract.model_dump(exclude={"sample_weight"})).sample_weight is None


def test_a_network_gets_the_weights_of_its_rows_relative_to_their_mean(tmp_path):
    from airflow_mlops.models.trainers.torch.batches import Batches
    from airflow_mlops.models.trainers.torch.encoding import Encoding
    from airflow_mlops.models.trainers.torch.reader import Share

    store = ArtifactStore(tmp_path.as_uri())
    dataset = open_dataset(store, dataset_ref(store)).weighted("weight")
    data = read_part(dataset, "train")
    reader = Encoding.learn(dataset, "train", data.label, data.task, data.features, data.classes)
    batches = Batches(dataset, "train", reader, batch_size=64, validation=0.2, seed=0, share=Share())
    mean = data.metric_weights.mean()
    for part in (batches.training(0), batches.validation()):
        rows = list(part)
        assert rows
        for batch in rows:
            np.testing.assert_allclose(batch.weights, np.where(batch.labels == 1, 20.0, 1.0) / mean, rtol=1e-6)


def test_a_row_of_weight_zero_is_not_fitted(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    rows, test = flights(400, seed=1), weighted(100, 2)
    random = np.random.default_rng(0).random(400) < 0.5
    zeros = rows.append_column("weight", pa.array(np.where(random, 3.0, 0.0)))
    _, found, _ = fit(tmp_path, LOGISTIC, ref=training_set(store, zeros, test))
    _, without, _ = fit(tmp_path, LOGISTIC, ref=training_set(store, zeros.filter(pa.array(random)), test))
    # Preprocessing counts each row.
    np.testing.assert_allclose(found.predictions.score, without.predictions.score, atol=0.05)


def test_the_weights_are_multiplied_by_those_of_age_and_class(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    parts = [
        timed(rows, seed).append_column("weight", pa.array(np.arange(rows) % 3 + 1.0))
        for rows, seed in ((300, 1), (90, 2))
    ]
    decay = {
        "half_life_seconds": 86_400.0 * 5,
        "until": "2024-01-15T00:00:00+00:00",
        "mean": {"train": 0.5, "test": 0.5},
    }
    ref = training_set(store, *parts, timestamp="at", weights=decay)
    dataset = open_dataset(store, ref)
    by_age = read_part(dataset, "train").weights
    both = read_part(dataset.weighted("weight"), "train")
    np.testing.assert_allclose(both.weights, by_age * both.metric_weights)
    assert np.ptp(by_age) > 0.1
    # Metrics are weighted by the column only.
    np.testing.assert_array_equal(both.metric_weights, np.arange(300) % 3 + 1.0)
    rule = RowWeights.of(dataset.weighted("weight"))
    assert rule.mean(dataset, "train") == pytest.approx(both.weights.mean())
    # Rows that are chosen keep their weights.
    chosen = with_rows(dataset.weighted("weight"), "train", np.arange(300) < 10)
    np.testing.assert_allclose(read_part(chosen, "train").weights, both.weights[:10])
    trained = load_all(TrainSpec(dataset=ref, model="late", trainer=LOGISTIC, sample_weight="weight"), store)[1]
    assert len(trained.weights) == 390


def test_weights_of_rows_and_classes_are_multiplied(tmp_path):
    _, found, _ = fit(tmp_path / "both", LOGISTIC, class_weight={1: 0.05})
    _, plain, _ = fit(tmp_path / "plain", LOGISTIC, None)
    np.testing.assert_allclose(found.predictions.score, plain.predictions.score, atol=2e-3)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([1.0, None, 1.0], "null in 1 row"),
        ([1.0, -0.5, -1.0], "negative in 2 rows"),
        ([1.0, math.nan, 1.0], "NaN, infinite or beyond single precision .* in 1 row"),
        ([1.0, math.inf, 1e39], "NaN, infinite or beyond single precision .* in 2 rows"),
        ([-math.inf, None, 1.0], "null in 1 row and negative in 1 row"),
        ([1.0, 1e-60, 1.0], "above 0 but 0 in single precision .* in 1 row"),
        ([0.0, 0.0, 0.0], "is 0 in all 3 rows"),
        (["1", "2", "3"], "has the type string"),
        ([True, True, False], "has the type bool"),
    ],
)
def test_values_that_are_not_weights_are_refused(values, problem):
    with pytest.raises(WeightError, match=f"Column 'w' of dataset 'd' .*{problem}.*(Weights are|Correct|Convert)"):
        as_weights(pa.array(values), "w", "dataset 'd'")
    assert as_weights(pa.chunked_array([[1, 0], [3]]), "w", "dataset 'd'").tolist() == [1.0, 0.0, 3.0]


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("absent", "has no column 'absent'.*`watched`"),
        ("hour", "is a feature"),
        ("late", "is the label"),
        ("flight", "is a key"),
        ("distance", "is the event time"),
    ],
)
def test_columns_with_another_use_are_refused(tmp_path, column, problem):
    store = ArtifactStore(tmp_path.as_uri())
    features = [name for name in FEATURES if name != "distance"]
    dataset = open_dataset(store, dataset_ref(store, features=features, timestamp="distance"))
    with pytest.raises(WeightError, match=problem):
        sample_weights(dataset, "test", column)
    with pytest.raises(WeightError, match=problem):
        read_part(dataset.weighted(column), "train", 10)


def test_trainings_that_cannot_use_weights_are_refused_in_the_dag_file(tmp_path):
    declared = {"task_id": "train", "dataset": {}, "model": "late", "sample_weight": "weight"}
    search = Search(LOGISTIC, {"C": Categorical([0.1, 1.0])}, trials=1)
    dataset = dataset_ref(ArtifactStore(tmp_path.as_uri())).model_dump(mode="json")
    for fields, problem in (
        ({"trainer": TorchTrainer("m.n:Net", dataset="m.n:Rows")}, "a TorchTrainer with dataset= does not support"),
        ({"trainer": search}, "a Search does not support `sample_weight`"),
        ({"trainer": LOGISTIC, "interval": 0.9}, "remove one of the two"),
    ):
        with pytest.raises(SpecError, match=f"sample weight of task 'train' cannot be used: .*{problem}"):
            TrainOperator(**{**declared, **fields})
        with pytest.raises(SpecError, match=problem):
            parse(TrainSpec, {"dataset": dataset, "model": "late", "sample_weight": "weight", **fields}, "Task 'train'")
    with pytest.raises(SpecError, match="The sample weight of task 'train'"):
        TrainOperator(**{**declared, "sample_weight": ["weight"]}, trainer=LOGISTIC)
    for trainer in (LOGISTIC, TorchTrainer(), "{{ params.trainer }}"):
        TrainOperator(
            **declared, trainer=trainer, threshold="0.4", class_weight="balanced" if trainer == LOGISTIC else None
        )
    with pytest.raises(TrainingError, match="sample_weight"):
        fit(tmp_path / "neighbours", NEIGHBOURS)


def test_a_threshold_and_a_calibration_count_each_row_by_its_weight(tmp_path):
    # About 150 rows are set aside for the calibration and 150 for the threshold. Rows with the weight 0 do not count.
    store = ArtifactStore(tmp_path.as_uri())

    def rows(size, seed):
        random = np.random.default_rng(seed)
        return flights(size, seed=seed).append_column("weight", pa.array(random.integers(0, 4, size).astype(float)))

    ref = training_set(store, rows(1_500, 1), rows(200, 2))
    fields = {"ref": ref, "calibration": "sigmoid", "threshold": {"maximise": "f1"}}
    _, found, _ = fit(tmp_path, LOGISTIC, **fields)
    _, plain, _ = fit(tmp_path, LOGISTIC, column=None, **fields)
    choice, calibration = found.contract.threshold_choice, found.contract.calibration
    assert choice.rows < plain.contract.threshold_choice.rows
    assert calibration.rows < plain.contract.calibration.rows
    # The result is the same as if each row occurred as often as its weight says, with the same fitted model.
    spec = TrainSpec(dataset=ref, model="late", trainer=LOGISTIC, seed=0, sample_weight="weight", **{
        name: value for name, value in fields.items() if name != "ref"
    })  # fmt: skip
    dataset, train, _ = load_data(spec, store)
    aside = divided(spec, dataset, "train", train.labels).threshold.chosen.table("train")
    repeated = aside.take(pa.array(np.repeat(np.arange(aside.num_rows), aside["weight"].to_numpy().astype(int))))
    score = OnnxModel(found.exported, found.contract).predict(repeated.select(FEATURES)).score
    late = repeated["late"].to_numpy()
    value, expected = choose(spec.threshold, late, score, choice.source)
    assert found.contract.threshold == value
    assert choice.point == expected.point
    assert choice.rows == int((aside["weight"].to_numpy() > 0).sum())
    # Only three of the rows that are not late have a weight above 0. The model is fitted to these rows.
    table = weighted(1_000, 1)
    late = table["late"].to_numpy()
    few = pa.array(np.where(late | (np.cumsum(~late) <= 3), 1.0, 0.0))
    one_class = training_set(store, table.drop_columns(["weight"]).append_column("weight", few), weighted(200, 2))
    with pytest.raises(TrainingError, match="rows with a weight above 0 .*of one class"):
        fit(tmp_path, LOGISTIC, ref=one_class, threshold={"maximise": "f1"})


def test_weights_that_leave_nothing_to_fit_or_to_measure_are_refused(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    train, test = flights(400, seed=1), flights(100, seed=2)

    def ref(of_train, of_test):
        return training_set(
            store, train.append_column("weight", pa.array(of_train)), test.append_column("weight", pa.array(of_test))
        )

    late, held = (np.array(rows["late"].to_pylist(), dtype=float) for rows in (train, test))
    with pytest.raises(TrainingError, match="with a weight above 0 have the label 1"):
        fit(tmp_path, LOGISTIC, ref=ref(late, np.ones(100)))
    with pytest.raises(EvaluationError, match="rows have a weight above 0"):
        fit(tmp_path, LOGISTIC, ref=ref(np.ones(400), held))
    first = np.where(np.arange(400) < 1, 1.0, 0.0) + np.where(
        np.arange(400) == 1 + np.argmax(late[1:] != late[0]), 1.0, 0
    )
    with pytest.raises(TrainingError, match=r"With validation=0.3, all .* rows that are .* have the weight 0"):
        fit(tmp_path, TRAINERS["lightgbm"], ref=ref(first, np.ones(100)))


def candidate(version: int, contract: ModelContract, column: str | None, kind: type = OnnxModel) -> Candidate:
    model = kind.__new__(kind)
    model.contract = contract.model_copy(update={"sample_weight": column})
    return Candidate(ModelVersionRef(model="late", version=version, run_id="r"), model)


def test_all_models_of_an_evaluation_have_the_same_weights(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    ref = dataset_ref(store)
    dataset = open_dataset(store, ref)
    truth = dataset.table("test", ["late"])["late"].to_numpy()
    data = HeldOut(dataset, "test", "late", "binary", truth)
    contract = ModelContract(task="binary", label="late", features=[], dataset_name=ref.name, dataset_id=ref.id)
    two = [candidate(1, contract, "weight"), candidate(2, contract, "weight")]
    found = with_weights(data, two, live=False)
    assert found.weight_column == "weight"
    np.testing.assert_array_equal(found.weight, np.where(truth, 20.0, 1.0))
    assert with_weights(data, [candidate(1, contract, None)], live=False) is data
    with pytest.raises(
        SpecError, match="late v1 with the weights in column 'weight' and late v3 without weights.*same"
    ):
        with_weights(data, [*two, candidate(3, contract, None)], live=False)
    with pytest.raises(WeightError, match="has no column 'absent'"):
        with_weights(data, [candidate(1, contract, "absent")], live=False)
    # A foreign model is measured with the same weights as the other candidates.
    foreign = candidate(4, contract, None, PyfuncModel)
    assert with_weights(data, [foreign, *two], live=False).weight_column == "weight"
    assert with_weights(data, [foreign], live=False) is data
    # If the column is missing in production, no row is weighted.
    assert with_weights(data, [candidate(1, contract, "absent")], live=True).weight is None
    assert with_weights(data, two, live=True).weight_column == "weight"
    # The online server writes the column even if no request contains it. Scoring may hash the column.
    rows = dataset.table("test")
    place = rows.schema.get_field_index("weight")
    for values, details in (
        (pa.nulls(rows.num_rows, pa.float64()), {}),
        (["f0"] * rows.num_rows, {"hashed": ["weight"]}),
    ):
        written = write(store, "live", rows.set_column(place, "weight", pa.array(values)), details=details)
        assert (
            with_weights(replace(data, dataset=open_dataset(store, written), part=None), two, live=True).weight is None
        )
    some = rows.set_column(place, "weight", pa.array([None, *rows["weight"].to_pylist()[1:]]))
    lacking = replace(data, dataset=open_dataset(store, write(store, "live", some)), part=None)
    with pytest.raises(WeightError, match="null in 1 row"):
        with_weights(lacking, two, live=True)


def test_training_sets_with_other_weights_of_the_same_rows_are_not_compared(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    split = {"row_ids": {"test": "same"}}
    heavier = weighted(100, 2)
    place = heavier.schema.get_field_index("weight")
    heavier = heavier.set_column(place, "weight", pa.array(np.arange(100.0)))
    refs = [training_set(store, weighted(400, 1), test, split=split) for test in (weighted(100, 2), heavier)]
    contracts = [
        ModelContract(
            task="binary", label="late", features=[], dataset_name=ref.name, dataset_id=ref.id, sample_weight=column
        )
        for ref, column in zip(refs, ("weight", "weight"), strict=True)
    ]
    with pytest.raises(SpecError, match="the values of 'weight' in their split parts 'test' differ"):
        common_training_set(contracts, "test", store)
    common_training_set([item.model_copy(update={"sample_weight": None}) for item in contracts], "test", store)


def test_challengers_are_not_trained_silently_without_the_weights():
    training = Training(trainer=LOGISTIC, sample_weight="weight")
    with pytest.raises(
        UnmeasurableError, match=r"v3 was trained with the weights in column 'weight' \(sample_weight\)"
    ):
        _check_weights(training, "v3 was trained")
    _check_weights(replace_weight(training), "v3 was trained")


def replace_weight(training: Training) -> Training:
    return training.model_copy(update={"sample_weight": None})
