"""Labelled predictions that are read in parts from a file: the same results as with all rows in memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.data import sorting, spool
from airflow_mlops.metrics import formulas
from airflow_mlops.metrics.catalog import REALISED
from airflow_mlops.metrics.columns import columns_of
from airflow_mlops.metrics.forecasts import NAIVE, SCALE
from airflow_mlops.metrics.realised import (
    Labelled,
    UnmeasurableError,
    columns,
    is_measured_in_parts,
    losses,
    losses_of_parts,
    measurable,
    measure,
    order_of_scores,
    outcomes,
    quantile_coverage,
    spooled,
)
from airflow_mlops.performance.bias import bias
from airflow_mlops.policy.spec import Policy

CLASSES = {"binary": [False, True], "multiclass": ["a", "b", "c"], "regression": []}
TYPES = {"binary": pa.bool_(), "multiclass": pa.string(), "regression": pa.float64()}
METRICS = {
    "binary": [
        *(
            "roc_auc",
            "average_precision",
            "accuracy",
            "balanced_accuracy",
            "log_loss",
            "brier",
            "f1",
            "precision",
            "recall",
        ),
        *("expected_cost_fp1_fn20", "expected_cost_fp1_fn-amount", "expected_cost_fp-amount_fn-amount"),
    ],
    "multiclass": ["accuracy", "balanced_accuracy", "f1_macro"],
    "regression": ["rmse", "mae", "smape", "mase", "poisson_deviance", "pinball_a0.9", "quantile_coverage_gap_a0.9"],
}
# 1e160 has no finite square.
VALUES = st.sampled_from([0.0, 1.0, 2.5, 7.0, 1e-3, 1e160, math.nan, math.inf, None])
LABELS = {"binary": [None, False, True], "multiclass": [None, "a", "b", "d"]}
SCORES = {"regression": VALUES, "binary": st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, math.nan, None])}

T = TypeVar("T")


def contract(task: str) -> ModelContract:
    return ModelContract(
        task=task, label="late", features=[FeatureColumn(name="x", kind="number")], classes=CLASSES[task],
        positive=True if task == "binary" else None, dataset_name="d", dataset_id="0",
    )  # fmt: skip


@st.composite
def tables(draw: st.DrawFn, task: str) -> pa.Table:
    """Predictions with ties, labels and scores that are missing or not finite, and weights of 0."""
    label = st.sampled_from(LABELS[task]) if task in LABELS else VALUES
    predicted = st.sampled_from([None, *CLASSES[task]]) if CLASSES[task] else st.none()
    weight = st.sampled_from([0.0, 0.25, 1.0, 3.0, 1000.0])
    scale = st.sampled_from([0.0, 0.5, 3.0])
    rows = draw(
        st.lists(st.tuples(label, predicted, SCORES.get(task, SCORES["binary"]), weight, scale, scale), max_size=30)
    )
    names = {"label": TYPES[task], "prediction": TYPES[task]}
    names |= dict.fromkeys(["score", "weight", "amount", SCALE], pa.float64())
    columns = [pa.array([row[place] for row in rows], kind) for place, kind in enumerate(names.values())]
    table = pa.table([*columns, np.arange(len(rows), dtype=np.uint64)], names=[*names, "number"])
    groups = draw(st.lists(st.integers(0, 4), min_size=len(rows), max_size=len(rows)))
    table = table.append_column("group", pa.array(groups, pa.int64()))
    return table.append_column(NAIVE, table[SCALE])


def result(call: Callable[[], T]) -> T | str:
    try:
        return call()
    except UnmeasurableError as error:
        return str(error)


def bias_of(rows: Labelled, task: str) -> tuple | None:
    found = bias(rows, task, Policy(), None)
    return None if found is None else (found.value, found.low, found.high, found.significant)


def assert_same(one: tuple | str | None, other: tuple | str | None) -> None:
    assert (other if one is None or isinstance(one, str) else pytest.approx(other, rel=1e-9, abs=1e-9)) == one


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_parts_give_the_results_of_all_rows(data):
    task = data.draw(st.sampled_from(sorted(METRICS)))
    known, table, metric = contract(task), data.draw(tables(task)), data.draw(st.sampled_from(METRICS[task]))
    batches = table.to_batches(max_chunksize=data.draw(st.integers(1, 10)))
    usable = pa.Table.from_batches(measurable(batches, known), table.schema)
    weight = "weight" if data.draw(st.booleans()) and any(usable["weight"].to_pylist()) else None
    beside = 1, lambda batch: [batch.column("number").to_numpy()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "BATCH_ROWS", data.draw(st.integers(1, 7)))
        groups = ("group", 5) if data.draw(st.booleans()) else None
        opened = spooled(
            batches,
            known,
            table.num_rows,
            weight=weight,
            order=order_of_scores(metric),
            columns=columns_of([metric]),
            groups=groups,
            beside=beside,
        )
        whole = result(lambda: replace(outcomes(batches, known), columns=columns(batches, known, [metric])))
        if isinstance(whole, str):
            with pytest.raises(UnmeasurableError) as caught, opened:
                pass
            assert str(caught.value) == whole
            return
        numbers = usable["number"].to_numpy()
        if groups is not None:
            whole = replace(whole, groups=usable["group"].to_numpy())
        labelled = whole.rows + whole.skipped
        if weight is not None:
            weights = usable["weight"].to_numpy()
            whole, numbers = whole.weighted(weights), numbers[weights > 0]
        with opened as parts:
            assert parts.labelled == labelled
            for name in ("rows", "skipped", "unknown", "example"):
                assert getattr(parts, name) == getattr(whole, name)
            found = [result(lambda each=each: astuple(measure(metric, each, 0.9, task))) for each in (whole, parts)]
            assert_same(*found)
            assert_same(bias_of(whole, task), bias_of(parts, task))
            assert (parts.clusters is None) == (groups is None)
            if whole.rows:
                assert_same(*(astuple(quantile_coverage(each, 0.9)) for each in (whole, parts)))
            if not isinstance(found[0], str):
                expected = dict(zip(numbers, losses(metric, whole), strict=True))
                order = np.concatenate([number for _, (number,) in parts.with_beside(1)])
                each = np.concatenate(list(losses_of_parts(metric, parts)))
                # The losses of F1, precision and recall are derivatives, which are computed by differences.
                assert each == pytest.approx(np.array([expected[number] for number in order]), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_rows_that_duckdb_sorts_have_the_same_curve(monkeypatch, metric):
    monkeypatch.setattr(sorting, "_ROWS_IN_MEMORY", 100)
    monkeypatch.setattr(spool, "BATCH_ROWS", 256)
    random = np.random.default_rng(0)
    # A third of the rows has one score, in more than one part.
    score = np.where(random.random(3_000) < 0.3, 0.5, random.random(3_000).astype(np.float32))
    label = random.random(3_000) < score
    table = pa.table({"label": label, "prediction": label, "score": score})
    order = order_of_scores(metric)
    with spooled(table.to_batches(max_chunksize=700), contract("binary"), 3_000, order=order) as parts:
        scores = np.concatenate([part.score for part in parts.parts()])
        assert (np.diff(scores) * (1 if order == "ascending" else -1) >= 0).all()
        whole = outcomes(table.to_batches(), contract("binary"))
        found = astuple(measure(metric, parts, 0.95))
        assert found == pytest.approx(astuple(measure(metric, whole, 0.95)))
        expected = roc_auc_score if metric == "roc_auc" else average_precision_score
        assert found[0] == pytest.approx(expected(label, score))
        if metric == "average_precision":
            # These derivatives are computed by differences.
            _, influence = formulas.influence(metric, whole.prepared("binary"))
            losses_of_rows = np.concatenate(list(losses_of_parts(metric, parts)))
            each = (1 - found[0]) - 3_000 * influence
            assert np.sort(losses_of_rows) == pytest.approx(np.sort(each), rel=1e-6, abs=1e-6)


def test_metrics_of_all_rows_at_once_are_not_measured_in_parts():
    in_parts = {metric for metrics in REALISED.values() for metric in metrics if is_measured_in_parts(metric)}
    assert in_parts == {metric for metrics in REALISED.values() for metric in metrics}
    assert all(map(is_measured_in_parts, ["mase", "expected_cost_fp1_fn-value", "quantile_coverage_gap_a0.9"]))
    assert not any(map(is_measured_in_parts, ["ndcg_k10_by-query", "a.b:metric"]))
