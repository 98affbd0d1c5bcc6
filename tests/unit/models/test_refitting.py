"""Fits of a trainer to other rows: the weights of the rows."""

from __future__ import annotations

import tempfile

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LinearRegression

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.errors import SpillError
from airflow_mlops.models.refitting import AGE, refit
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec, TorchTrainerSpec
from tests.support import disks

CONTRACT = ModelContract(
    task="regression",
    label="demand",
    features=[FeatureColumn(name="x", kind="number")],
    dataset_name="rows",
    dataset_id="0" * 64,
)
LINEAR = SklearnTrainerSpec(estimator="sklearn.linear_model.LinearRegression")


@pytest.mark.parametrize("since", [0.0, 5.0, -40.0])
def test_rows_with_ages_are_weighted_relative_to_the_newest_row(since):
    random = np.random.default_rng(0)
    x, ages = random.normal(size=200), np.linspace(8, 0, 200)
    label = np.linspace(-1, 1, 200) * x
    rows = pa.table({"x": x, "label": label, AGE: ages + since})
    expected = LinearRegression().fit(x[:, None], label, sample_weight=0.5**ages)
    found = refit(LINEAR, 0, CONTRACT, rows).predict(rows).score
    assert found == pytest.approx(expected.predict(x[:, None]))
    assert found != pytest.approx(LinearRegression().fit(x[:, None], label).predict(x[:, None]), abs=0.01)


def test_rows_that_do_not_fit_on_the_disk_are_not_a_full_artifact_store(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=100_000)
    with disks.mounted(tmp_path / "small", "200k") as folder:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with pytest.raises(SpillError, match=str(folder)) as caught:
            refit(TorchTrainerSpec(), 0, CONTRACT, pa.table({"x": values, "label": values}))
        assert caught.value.retryable
        assert list(folder.iterdir()) == []
