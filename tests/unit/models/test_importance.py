"""Importance: an unused feature has none, the only used feature has all of it, and shares add up to 1."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.metrics.catalog import find_metric
from airflow_mlops.models import importance
from airflow_mlops.models.onnx.scorer import OnnxModel
from tests.support.candidates import linear


def measured(rows: int, truth: np.ndarray | None = None) -> dict[str, float]:
    names = ("strong", "weak", "idle")
    contract = ModelContract(
        task="binary", label="late", features=[FeatureColumn(name=name, kind="number") for name in names],
        classes=[0, 1], positive=1, dataset_name="d", dataset_id="i",
    )  # fmt: skip
    random = np.random.default_rng(0)
    table = pa.table({name: random.normal(size=rows) for name in names})
    if truth is None:
        signal = 2 * table["strong"].to_numpy() + 0.5 * table["weak"].to_numpy()
        truth = (signal + random.logistic(size=rows) > 0).astype(int)
    model = OnnxModel(linear("binary", names, (2.0, 0.5, 0.0)), contract)
    return importance.measure(
        model, truth, lambda wanted, at: table.select(wanted).take(pa.array(at)), find_metric("roc_auc")
    )


def test_a_feature_that_the_model_uses_more_has_a_larger_importance():
    worse = measured(12_000)
    assert worse["idle"] == pytest.approx(0, abs=1e-12)
    assert worse["strong"] > 5 * worse["weak"] > 0
    shares = importance.shares(worse)
    assert shares["strong"] > 0.85
    assert shares["idle"] == 0


def test_without_a_measurable_loss_there_are_no_importances():
    assert measured(50, np.ones(50, dtype=int)) == {}
    assert importance.shares({}) == {}
    assert importance.shares({"a": 0.0, "b": -0.1}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(-1, 1), max_size=20))
def test_shares_are_between_0_and_1_keep_their_order_and_sum_to_1(worse):
    shares = importance.shares(worse)
    assert all(0 <= value <= 1 for value in shares.values())
    if shares:
        assert sum(shares.values()) == pytest.approx(1)
        assert {name for name, value in shares.items() if value} <= {name for name, value in worse.items() if value > 0}
        assert shares[max(worse, key=worse.__getitem__)] == max(shares.values())
    else:
        assert all(value <= 0 for value in worse.values())
