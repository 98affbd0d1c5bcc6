"""The requirements of a stored model are the installed packages, so MLflow does not search these packages for differences."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest
from mlflow.models import Model, infer_signature
from mlflow.utils import environment

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.models.onnx import flavor
from airflow_mlops.models.refitting import refit
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec
from tests.support.candidates import linear

ROWS = pd.DataFrame({"distance": [1.0, 2.0, 3.0]})
SIGNATURE = infer_signature(ROWS, [1.0])


def store_estimator(folder):
    spec = SklearnTrainerSpec(estimator="sklearn.linear_model.Ridge")
    features = [FeatureColumn(name="distance", kind="number")]
    contract = ModelContract(task="regression", label="y", features=features, dataset_name="d", dataset_id="0" * 64)
    fitted = refit(spec, 0, contract, pa.table({"distance": ROWS["distance"], "label": [2.0, 4.0, 6.0]})).model
    fitted.save(folder, Model(signature=SIGNATURE), ["scikit-learn"], ROWS)


def store_export(folder):
    flavor.save(folder, Model(signature=SIGNATURE), ["onnx"], linear("regression", ["distance"], [1.0]))


@pytest.mark.parametrize("store", [store_estimator, store_export])
def test_storing_a_model_does_not_search_the_installed_packages(store, tmp_path, monkeypatch):
    searched = []
    monkeypatch.setattr(environment, "warn_dependency_requirement_mismatches", searched.append)
    store(tmp_path / "model")
    assert (tmp_path / "model" / "requirements.txt").is_file()
    assert searched == []
    # MLflow searches again when another model is stored.
    environment.warn_dependency_requirement_mismatches("other")
    assert searched == ["other"]
