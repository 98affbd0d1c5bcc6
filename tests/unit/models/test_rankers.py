"""Boosted trees that rank the rows of groups: order, early stopping by groups, ONNX export, and what is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.groups import ndcg
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.trainers import validation
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.train.candidate import fit_candidate, load_data
from airflow_mlops.stages.train.runs import unlogged_run
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import CatBoostTrainer, LightGBMTrainer, XGBoostTrainer
from tests.support.training import flights, training_set

OPTIONS = {"rounds": 30, "validation": 0.25, "patience": 10, "group": "query"}
RANKERS = {
    "lightgbm": LightGBMTrainer({"num_leaves": 7, "min_child_samples": 5, "num_threads": 1}, **OPTIONS),
    "xgboost": XGBoostTrainer({"max_depth": 3, "nthread": 1}, **OPTIONS),
    "pairwise": XGBoostTrainer({"max_depth": 3, "nthread": 1, "objective": "rank:pairwise"}, **OPTIONS),
    "catboost": CatBoostTrainer({"depth": 3, "learning_rate": 0.3, "thread_count": 1}, **OPTIONS),
}
NDCG = {"metric": "ndcg", "k": 10, "group": "query"}


def queries(rows: int, seed: int, **columns) -> pa.Table:
    """Flights of several queries, whose rows are not next to each other. Only the order within a query has a meaning."""
    table, random = flights(rows, "regression", seed), np.random.default_rng(seed)
    query = random.integers(0, rows // 10, rows)
    relevance = np.clip(np.round(table["late"].to_numpy() + 1), 0, 4)
    table = table.set_column(table.schema.get_field_index("late"), "late", columns.get("late", pa.array(relevance)))
    return table.append_column("query", columns.get("query", pa.array([f"q{number}" for number in query])))


def fit(tmp_path, trainer, train=None, **details):
    store = ArtifactStore(tmp_path.as_uri())
    train = queries(800, 1) if train is None else train
    ref = training_set(store, train, queries(400, 2), task=details.pop("task", "regression"), **details)
    spec = TrainSpec(dataset=ref, model="late", trainer=trainer, metrics=[NDCG])
    dataset, rows, test = load_data(spec, store)
    context = StepContext(store, "results/t.json")
    return fit_candidate(spec, context, dataset, rows, test, unlogged_run(context, dataset)), test, dataset


@pytest.mark.parametrize("trainer", RANKERS.values(), ids=RANKERS)
def test_a_ranker_orders_the_rows_of_each_group(tmp_path, trainer):
    found, test, dataset = fit(tmp_path, trainer)
    rows = dataset.table("test")
    query, label = np.unique(rows["query"].to_pylist(), return_inverse=True)[1], np.asarray(test.labels, float)
    exported = OnnxModel(found.exported, found.contract)
    value = ndcg(query, label, exported.predict(rows).score, 10).value.mean()
    assert found.metrics["ndcg_k10_by-query"] == pytest.approx(value)
    even = ndcg(query, label, np.zeros(len(label)), 10).value.mean()
    assert value > even + 0.1
    # The scores of the export equal those of the library.
    np.testing.assert_allclose(exported.predict(rows).score, found.model.predict(test.frame)[:, 0], atol=1e-5)
    assert found.contract.parity.max_difference < 1e-5
    # Rounds without a higher NDCG on the held-out groups are dropped.
    assert 1 <= found.model.params["best_round"] <= found.model.params["rounds_run"] <= 30
    assert found.model.params["group"] == "query"
    assert found.model.params["validation_rows"] > 100


def test_whole_groups_are_held_out(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    dataset = open_dataset(store, training_set(store, queries(800, 1), queries(100, 2), task="regression"))
    chosen, how = validation.held_out(dataset, "train", 800, 0.25, 0, group="query")
    query = np.array(dataset.table("train")["query"].to_pylist())
    assert not {*query[chosen]} & {*query[~chosen]}
    assert "values of 'query'" in how
    assert 0.2 < chosen.mean() < 0.35


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"train": queries(200, 1, late=pa.array(np.full(200, -1.0)))},
            TrainingError,
            "200 of 200 labels are not from 0",
        ),
        ({"train": queries(200, 1, late=pa.array(np.full(200, 0.5)))}, TrainingError, "labels are not whole numbers"),
        ({"train": queries(200, 1, query=pa.array([None] * 5 + ["q"] * 195))}, TrainingError, "is null in 5 rows"),
    ],
)
def test_rows_that_cannot_be_ranked_are_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        fit(tmp_path, RANKERS["lightgbm"], **changes)


def test_settings_that_do_not_suit_a_ranking_are_refused(tmp_path):
    ranker = RANKERS["lightgbm"]
    with pytest.raises(SpecError, match="'other', which is not a column"):
        fit(tmp_path / "column", LightGBMTrainer(**{**OPTIONS, "group": "other"}))
    with pytest.raises(SpecError, match="objective='regression'.*Use one of lambdarank"):
        fit(tmp_path / "objective", LightGBMTrainer({"objective": "regression"}, **OPTIONS))
    store = ArtifactStore(tmp_path.as_uri())
    ref = training_set(
        store, *(flights(200, seed=seed).append_column("query", pa.array(["q"] * 200)) for seed in (1, 2))
    )
    spec = TrainSpec(dataset=ref, model="late", trainer=ranker)
    context = StepContext(store, "results/t.json")
    dataset, rows, test = load_data(spec, store)
    with pytest.raises(SpecError, match="group='query', but the ML task is binary"):
        fit_candidate(spec, context, dataset, rows, test, unlogged_run(context, dataset))
    with pytest.raises(SpecError, match="remove `interval`"):
        parse(TrainSpec, {"dataset": ref, "model": "late", "trainer": ranker, "interval": 0.9}, "Task 'train'")


def test_a_ranking_is_judged_by_ndcg_although_nobody_names_it(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    ref = training_set(store, queries(200, 1), queries(100, 2), task="regression")
    trainer = LightGBMTrainer({"num_leaves": 3, "num_threads": 1}, group="query", rounds=2, validation=0)

    def contract(**fields):
        spec = TrainSpec(dataset=ref, model="late", trainer=trainer, **fields)
        dataset, rows, test = load_data(spec, store)
        context = StepContext(store, "results/t.json")
        return fit_candidate(spec, context, dataset, rows, test, unlogged_run(context, dataset)).contract

    found = contract()
    assert found.judged_by == "ndcg_k10_by-query"
    assert 0 < found.metrics["ndcg_k10_by-query"] < 1
    found = contract(metrics=[{**NDCG, "k": 3}])
    assert found.judged_by == "ndcg_k3_by-query"
    assert "ndcg_k10_by-query" not in found.metrics
