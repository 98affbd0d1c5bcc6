"""Boosted trees of the three libraries: categories, missing values, early stopping, checkpoints and the ONNX export."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from airflow_mlops.core.base import parse
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SpecError, SpillError, TrainingError
from airflow_mlops.data.datasets import Dataset, DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.catalog import find_metric
from airflow_mlops.models.inputs import frame
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.trainers import validation
from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
from airflow_mlops.models.trainers.boosting import catboost, library, rows, trainer
from airflow_mlops.models.trainers.boosting.model import BoostedModel, earlier
from airflow_mlops.models.trainers.spec import (
    BoostingTrainerSpec,
    CatBoostTrainerSpec,
    LightGBMTrainerSpec,
    SearchTrainerSpec,
    XGBoostTrainerSpec,
)
from airflow_mlops.models.training_data import read_part
from airflow_mlops.stages.search.objective import Attempt, Validation
from airflow_mlops.trainers import CatBoostTrainer, Int, LightGBMTrainer, Search, XGBoostTrainer
from tests.support import disks
from tests.support.online import assert_online_equals_batch
from tests.support.training import FEATURES, flights

KINDS = {
    "xgboost": (XGBoostTrainerSpec, {"nthread": 1, "max_depth": 4}),
    "lightgbm": (LightGBMTrainerSpec, {"num_threads": 1, "num_leaves": 8}),
    "catboost": (CatBoostTrainerSpec, {"thread_count": 1, "depth": 4}),
}
SAMPLED = {
    "xgboost": {"subsample": 0.7, "colsample_bytree": 0.7},
    "lightgbm": {"bagging_fraction": 0.7, "bagging_freq": 1, "feature_fraction": 0.7},
    "catboost": {"bootstrap_type": "Bernoulli", "subsample": 0.7},
}


def spec(kind: str, params: dict | None = None, **fields) -> BoostingTrainerSpec:
    made, usual = KINDS[kind]
    return made(params={**usual, **(params or {})}, **{"rounds": 12, **fields})


def write(folder: Path, train: pa.Table, test: pa.Table | None = None, task: str = "binary", **details) -> Dataset:
    store = ArtifactStore(f"file://{folder}/store")
    fields = {"label": "late", "task": task, "features": FEATURES, "timestamp": None, **details}
    with DatasetWriter(store, "late_training") as writer:
        writer.write(train, "train")
        writer.write(train.slice(0, 100) if test is None else test, "test")
        return open_dataset(store, writer.commit(details=fields)[0].ref)


class Log:
    def __init__(self, dataset: Dataset, key: str = "checkpoints/one.pt", stop_at: int = 0) -> None:
        self.lines: list[str] = []
        self.losses: dict[int, float] = {}
        self.stop_at = stop_at
        self.run = TrainingRun(
            dataset=dataset,
            part="train",
            checkpoint=key,
            progress=self.lines.append,
            log=self._log,
            log_files=lambda folder, name: None,
        )

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        self.losses[step] = metrics["validation_loss"]
        if self.stop_at and step + 1 >= self.stop_at:
            raise KeyboardInterrupt("stopped here")


def part(dataset: Dataset, name: str = "train") -> TrainingData:
    return read_part(dataset, name)


def fit(dataset: Dataset, trained: BoostingTrainerSpec, seed: int = 0, log: Log | None = None) -> BoostedModel:
    return trainer.fit(trained, part(dataset), seed, (log or Log(dataset)).run)


def exported(model: BoostedModel, data: TrainingData) -> OnnxModel:
    contract = ModelContract(
        task=data.task,
        label=data.label,
        features=data.features,
        classes=data.classes,
        positive=data.positive,
        dataset_name="late_training",
        dataset_id="one",
    )
    return OnnxModel(model.to_onnx(data), contract)


def difference(model: BoostedModel, data: TrainingData, table: pa.Table) -> float:
    onnx_model = exported(model, data)
    assert_online_equals_batch(onnx_model, table)
    found = onnx_model.predict(table)
    answers = found.score.reshape(-1, 1) if found.probabilities is None else found.probabilities
    return float(np.abs(answers - model.predict(frame(table, data.features))).max())


def odd(table: pa.Table) -> pa.Table:
    """Rows with unknown categories, and with nulls in features that had none in training."""
    every = np.arange(table.num_rows)
    for name, kept, value in (
        ("carrier", every % 5 != 0, "ZZ"),
        ("hour", every % 7 != 0, None),
        ("tail", every % 3 != 0, ""),
    ):
        values = [old if keep else value for old, keep in zip(table[name].to_pylist(), kept, strict=True)]
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    return table


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_export_equals_the_library_for_categories_nulls_and_unknown_texts(kind, task, tmp_path):
    dataset = write(tmp_path, flights(900, task, seed=1), task=task)
    model = fit(dataset, spec(kind))
    data = part(dataset)
    rows = odd(flights(500, task, seed=3))
    assert difference(model, data, rows) < (1e-5 if task == "regression" else 1e-6)
    # Every kind of input counts: the predictions depend on categories, nulls and unknown texts.
    found = model.predict(frame(rows, data.features))
    usual = model.predict(frame(flights(500, task, seed=3), data.features))
    assert np.abs(found - usual).max() > 0.01


@pytest.mark.parametrize(("kind", "params"), [
    ("xgboost", {"max_cat_to_onehot": 400}),
    ("xgboost", {"max_cat_to_onehot": 1, "max_cat_threshold": 300}),
    ("lightgbm", {"max_cat_threshold": 300, "min_data_per_group": 1, "cat_smooth": 1, "cat_l2": 1}),
    ("lightgbm", {"sigmoid": 2.0}),
    ("catboost", {"one_hot_max_size": 255}),
    ("catboost", {"simple_ctr": ["Buckets", "BinarizedTargetMeanValue", "Counter"], "one_hot_max_size": 1}),
    ("catboost", {"nan_mode": "Max"}),
])  # fmt: skip
def test_every_form_of_split_is_exported(kind, params, tmp_path):
    random = np.random.default_rng(0)
    table = flights(1200, seed=1)
    names = np.array([f"N{number:03d}" for number in range(120)], dtype=object)
    codes = random.integers(0, 120, 1200)
    late = random.normal(size=120)[codes] + random.normal(size=1200) / 3 > 0
    table = table.set_column(4, "carrier", pa.array(names[codes])).set_column(6, "late", pa.array(late))
    dataset = write(tmp_path, table)
    model = fit(dataset, spec(kind, params))
    assert difference(model, part(dataset), odd(table)) < 1e-6
    probabilities = model.predict(part(dataset).frame)[:, 1]
    assert np.corrcoef(probabilities, late)[0, 1] > 0.3


@pytest.mark.parametrize(("kind", "params"), [
    ("xgboost", {"objective": "count:poisson"}),
    ("xgboost", {"objective": "reg:gamma", "learning_rate": 0.6}),
    ("xgboost", {"objective": "reg:tweedie", "tweedie_variance_power": 1.3, "learning_rate": 0.6}),
    ("xgboost", {"objective": "reg:absoluteerror"}),
    ("xgboost", {"objective": "reg:quantileerror", "quantile_alpha": 0.9}),
    ("lightgbm", {"objective": "poisson"}),
    ("lightgbm", {"objective": "gamma"}),
    ("lightgbm", {"objective": "tweedie", "tweedie_variance_power": 1.3}),
    ("lightgbm", {"objective": "quantile", "alpha": 0.9}),
    ("catboost", {"loss_function": "Poisson", "learning_rate": 0.6}),
    ("catboost", {"loss_function": "Tweedie:variance_power=1.3", "learning_rate": 0.6}),
    ("catboost", {"loss_function": "Quantile:alpha=0.9"}),
])  # fmt: skip
def test_objectives_of_regressions_are_exported_with_their_link(kind, params, tmp_path):
    table = flights(600, "regression", seed=1)
    counts = np.maximum("gamma" in str(params), np.round(table["late"].to_numpy() * 2 + 8))
    table = table.set_column(6, "late", pa.array(counts))
    dataset = write(tmp_path, table, task="regression")
    model = fit(dataset, spec(kind, params))
    assert difference(model, part(dataset), odd(table)) < 1e-4
    found = model.predict(part(dataset).frame)
    if any(name in str(params) for name in ("oisson", "gamma", "weedie")):
        assert found.min() > 0
        assert abs(found.mean() - counts.mean()) < 1
    if "0.9" in str(params):
        assert found.mean() > counts.mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_offset_of_a_regression_loses_no_digits_in_the_export(kind, tmp_path):
    table = flights(600, "regression", seed=1)
    table = table.set_column(6, "late", pa.array(table["late"].to_numpy() + 50_000))
    dataset = write(tmp_path, table, task="regression")
    # XGBoost computes in float32 itself: 0.004 at this magnitude.
    assert difference(fit(dataset, spec(kind)), part(dataset), table) < (0.02 if kind == "xgboost" else 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_model_from_chunks_and_from_memory(kind, tmp_path, monkeypatch):
    dataset = write(tmp_path, flights(900, seed=1))
    data, trained = part(dataset), spec(kind, SAMPLED[kind], validation=0)
    whole = fit(dataset, trained).to_onnx(data)
    groups = [(dataset.row_groups("train")[0], start) for start in range(0, 900, 250)]
    monkeypatch.setattr(type(dataset), "row_groups", lambda self, part: groups)
    read = type(dataset).read_row_group
    monkeypatch.setattr(
        type(dataset), "read_row_group", lambda self, at, names: read(self, at[0], names).slice(at[1], 250)
    )
    monkeypatch.setattr(rows, "CACHE_BYTES", 0)
    assert fit(dataset, trained).to_onnx(data) == whole
    assert trainer.fit(trained, data, 0).to_onnx(data) == whole
    assert fit(dataset, trained, seed=1).to_onnx(data) != whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_stops_early_keeps_the_best_trees(kind, tmp_path):
    dataset = write(tmp_path, flights(400, seed=1))
    rate = {"learning_rate": 0.9}
    log = Log(dataset)
    model = fit(dataset, spec(kind, rate, rounds=200, patience=5), log=log)
    best, run = model.params["best_round"], model.params["rounds_run"]
    assert best + 5 == run < 200
    assert model.booster.rounds == best
    if kind == "catboost":  # the number of rounds changes CatBoost's random numbers
        return
    # The same rounds without early stopping give the same trees.
    exact = fit(dataset, spec(kind, rate, rounds=run, patience=None))
    assert exact.params["best_round"] == best
    assert exact.to_onnx(part(dataset)) == model.to_onnx(part(dataset))


@pytest.fixture
def catboost_gpu(monkeypatch):
    """CatBoost as on a GPU, where it calls no callbacks, with losses of the test's own; the CPU computes the trees."""
    losses: list[float] = []
    real = catboost.load("catboost")

    class Model(real.CatBoost):
        def __init__(self, params=None):
            self.without = bool(params) and params["task_type"] == "GPU"
            super().__init__(params and {**params, "task_type": "CPU"})

        def fit(self, *args, **options):
            assert ("callbacks" in options) is not self.without
            return super().fit(*args, **options)

        def get_evals_result(self):
            found = super().get_evals_result()
            return {"validation": {"Logloss": losses}} if losses else found

    monkeypatch.setattr(catboost, "load", lambda name: SimpleNamespace(**{**vars(real), "CatBoost": Model}))
    monkeypatch.setattr(catboost, "has_gpu", lambda: True)
    return losses


@pytest.mark.parametrize("validation", [0, 0.2])
def test_the_rounds_of_catboost_on_a_gpu_are_recorded(catboost_gpu, validation, tmp_path):
    dataset = write(tmp_path, flights(600, seed=1))
    on_cpu = fit(dataset, spec("catboost", validation=validation, patience=None, device="cpu"), log=Log(dataset, "cpu"))
    model = fit(dataset, spec("catboost", validation=validation, patience=None))
    assert (model.params.pop("device"), on_cpu.params.pop("device")) == ("cuda", "cpu")
    assert model.params == on_cpu.params
    assert model.params["rounds_run"] == 12


def test_catboost_on_a_gpu_refuses_a_loss_that_is_not_a_number(catboost_gpu, tmp_path):
    catboost_gpu += [0.6, math.nan, 0.5]
    with pytest.raises(TrainingError, match="The validation loss is nan after round 2"):
        fit(write(tmp_path, flights(600, seed=1)), spec("catboost"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_continues_from_its_checkpoint(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(catboost, "SNAPSHOT_SECONDS", 0)
    dataset = write(tmp_path, flights(600, seed=1))
    # LightGBM's random numbers start again after an interruption.
    params = {} if kind == "lightgbm" else SAMPLED[kind]
    trained = spec(kind, params, rounds=60, checkpoint_every=7, patience=None)
    whole = fit(dataset, trained, log=Log(dataset, "checkpoints/whole.pt"))
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, trained, log=Log(dataset, stop_at=25))
    resumed = Log(dataset)
    model = fit(dataset, trained, log=resumed)
    assert any(line.startswith("Resuming from the checkpoint after round 21 of 60") for line in resumed.lines)
    assert model.to_onnx(part(dataset)) == whole.to_onnx(part(dataset))
    assert model.params == whole.params


def test_files_that_catboost_could_not_write_are_a_full_disk(tmp_path, monkeypatch):
    dataset = write(tmp_path, flights(100))
    real = catboost.load("catboost")

    def fit_on_a_full_disk(*_, **__):
        raise real.CatBoostError("can not load pod type(4, 0 bytes)")

    monkeypatch.setattr(real.CatBoost, "fit", fit_on_a_full_disk)
    with pytest.raises(TrainingError, match="pod type"):
        fit(dataset, spec("catboost"))
    with disks.mounted(tmp_path / "small", "500k") as folder:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with pytest.raises(SpillError, match="pod type") as caught:
            fit(dataset, spec("catboost"))
    assert caught.value.retryable


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_start_continues_the_earlier_trees(kind, tmp_path):
    numbers = ["distance", "hour", "weekend"]
    features = numbers if kind == "catboost" else FEATURES
    dataset = write(tmp_path, flights(600, seed=1), features=features)
    first = fit(dataset, spec(kind, rounds=10, validation=0))
    folder = tmp_path / "version"
    folder.mkdir()
    first.to_onnx(part(dataset))
    (folder / first._file).write_bytes(first.booster.to_bytes())
    (folder / "encoding.json").write_text(json.dumps({**first.encoding.to_json(), "target": first.target}))
    newer = write(tmp_path / "newer", flights(600, seed=8), features=features)
    log = Log(newer)
    second = trainer.fit(spec(kind, rounds=6, warm_start=3), part(newer), 0, replace(log.run, start=folder))
    assert second.params["started_from"] == 3
    assert 10 < second.booster.rounds <= 16
    assert difference(second, part(newer), odd(flights(300, seed=3))) < 1e-6
    for name, known in first.encoding.vocabularies.items():
        assert second.encoding.vocabularies[name][: len(known)] == known
    swapped = replace(part(newer), classes=[0, 2], labels=part(newer).labels * 2)
    assert earlier(folder, first._file, spec(kind), swapped) is None
    other = Log(newer)
    other_library = "lightgbm" if kind != "lightgbm" else "xgboost"
    cold = trainer.fit(spec(other_library, warm_start=3), part(newer), 0, replace(other.run, start=folder))
    assert any("starts without trees" in line for line in other.lines)
    assert cold.params["started_from"] is None


def test_catboost_refuses_what_it_cannot_continue_or_export(tmp_path):
    dataset = write(tmp_path, flights(300, seed=1))
    with pytest.raises(SpecError, match="cannot continue a model with categories"):
        fit(dataset, spec("catboost", warm_start=3))
    with pytest.raises(SpecError, match="combinations of categories"):
        fit(dataset, spec("catboost", {"max_ctr_complexity": 2}))
    with pytest.raises(SpecError, match="symmetric trees"):
        fit(dataset, spec("catboost", {"grow_policy": "Lossguide"}))


@pytest.mark.parametrize(("kind", "params", "message"), [
    ("xgboost", {"objective": "binary:hinge"}, "cannot be exported to ONNX"),
    ("xgboost", {"booster": "dart"}, "booster='dart'"),
    ("lightgbm", {"linear_tree": True}, "linear_tree=True"),
    ("lightgbm", {"objective": "poisson"}, "does not suit the ML task"),
])  # fmt: skip
def test_parameters_that_cannot_be_exported_are_refused(kind, params, message, tmp_path):
    with pytest.raises(SpecError, match=message):
        fit(write(tmp_path, flights(300, seed=1)), spec(kind, params))


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_that_the_library_refuses_name_the_params(kind, tmp_path):
    wrong = {"xgboost": {"max_depth": "deep"}, "lightgbm": {"num_leaves": "many"}, "catboost": {"colour": 3}}
    with pytest.raises(TrainingError, match=r"cannot train with params=.*(deep|many|colour)"):
        fit(write(tmp_path, flights(300, seed=1)), spec(kind, wrong[kind]))


@pytest.mark.parametrize(("made", "params", "message"), [
    (XGBoostTrainer, {"n_estimators": 5}, "set rounds="),
    (LightGBMTrainer, {"metric": "auc"}, "loss of the objective"),
    (CatBoostTrainer, {"random_seed": 5}, "set seed= of the TrainOperator"),
])  # fmt: skip
def test_parameters_with_fields_of_their_own_are_refused(made, params, message):
    kind = {
        XGBoostTrainer: XGBoostTrainerSpec,
        LightGBMTrainer: LightGBMTrainerSpec,
        CatBoostTrainer: CatBoostTrainerSpec,
    }
    with pytest.raises(SpecError, match=message):
        parse(kind[made], made(params), "The trainer")


def test_a_search_takes_the_trainers():
    found = SearchTrainerSpec.model_validate(
        Search(LightGBMTrainer(), {"num_leaves": Int(4, 64), "rounds": Int(50, 500)}, trials=3)
    )
    chosen = found.trainer.with_values({"num_leaves": 7, "rounds": 60})
    assert isinstance(chosen, LightGBMTrainerSpec)
    assert (chosen.rounds, chosen.params) == (60, {"num_leaves": 7})
    for fields, message in (
        ({"validation": 0}, "validation=0"),
        ({"warm_start": "champion"}, "cannot start from another model"),
    ):
        with pytest.raises(SpecError, match=message):
            Search(XGBoostTrainer(**fields), {"max_depth": Int(2, 6)}, trials=3)


def test_the_newest_rows_are_held_out_and_rows_of_one_time_stay_together(tmp_path):
    random = np.random.default_rng(0)
    days = random.permutation(np.repeat(np.arange(30), 10))
    times = pa.array(days * 86_400_000_000, pa.timestamp("us", "UTC"))
    table = flights(300, seed=1).append_column("at", times).append_column("plane", pa.array(days % 7))
    dataset = write(tmp_path, table, timestamp="at")
    chosen, how = validation.held_out(dataset, "train", 300, 0.12, 0)
    assert how == "the newest rows"
    assert set(days[chosen]) == {26, 27, 28, 29}
    assert not set(days[~chosen]) & set(days[chosen])
    grouped = write(tmp_path / "g", table, timestamp="at", split={"method": "group", "group": "plane"})
    chosen, _ = validation.held_out(grouped, "train", 300, 0.2, 0)
    assert 0.1 < chosen.mean() < 0.4
    assert not set((days % 7)[chosen]) & set((days % 7)[~chosen])
    chosen, how = validation.held_out(write(tmp_path / "r", table), "train", 300, 0.2, 0)
    assert how == "random rows"
    assert 0.1 < chosen.mean() < 0.3
    same = table.set_column(table.schema.get_field_index("at"), "at", pa.array([0] * 300, pa.timestamp("us", "UTC")))
    with pytest.raises(TrainingError, match="no row is left for training.*300 with the same time"):
        validation.held_out(write(tmp_path / "s", same, timestamp="at"), "train", 300, 0.2, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_rows_change_the_model(kind, tmp_path):
    data = part(write(tmp_path, flights(500, seed=1)))
    heavy = replace(data, weights=np.where(data.labels == 1, 20.0, 1.0))
    plain, weighted = (trainer.fit(spec(kind, validation=0), item, 0) for item in (data, heavy))
    assert weighted.predict(data.frame)[:, 1].mean() > plain.predict(data.frame)[:, 1].mean() + 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_measures_the_validation_rows_and_ends_bad_trials_early(kind, tmp_path):
    dataset = write(tmp_path, flights(600, seed=1))
    reports: dict[int, float] = {}

    def report(step: int, value: float, metrics: dict[str, float], last: bool) -> None:
        reports[step] = value
        assert value == -metrics["validation_loss"]
        assert last == (step == 59)
        if step == stop:
            raise KeyboardInterrupt("a bad trial")

    objective = Validation(dataset, part(dataset), find_metric("roc_auc"), 0)
    stop = 24
    with pytest.raises(KeyboardInterrupt):
        objective(spec(kind, rounds=60, patience=None), Attempt("checkpoints/a", report, print))
    assert list(reports) == [24]
    stop = -1
    value = objective(spec(kind, rounds=60, patience=None), Attempt("checkpoints/b", report, print))
    assert list(reports) == [24, 49, 59]
    data = part(dataset)
    chosen, _ = validation.held_out(dataset, "train", 600, 0.1, 0)
    model = fit(dataset, spec(kind, rounds=60, patience=None))
    assert value == pytest.approx(roc_auc_score(data.labels[chosen], model.predict(data.frame[chosen])[:, 1]))


@pytest.mark.parametrize(
    ("variable", "params", "expected"),
    [("3", {}, {"nthread": 3}), ("3,1", {}, {"nthread": 3}), ("3", {"n_jobs": 2}, {})],
)
def test_the_number_of_threads_can_be_set_by_the_variable_of_openmp(variable, params, expected, monkeypatch):
    from airflow_mlops.models.trainers.boosting.library import threads

    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert threads(params, "nthread", "n_jobs") == expected


def test_the_installed_packages_are_searched_once(tmp_path, monkeypatch):
    dataset = write(tmp_path, flights(300, seed=1))
    packages = fit(dataset, spec("lightgbm")).packages
    monkeypatch.setattr(library, "packages_distributions", lambda: pytest.fail("searched again"))
    assert fit(dataset, spec("lightgbm")).packages == packages == ["lightgbm"]
