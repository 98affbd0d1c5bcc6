"""The columns that a request may have come from the training set, which is in the artifact store."""

from __future__ import annotations

import pyarrow as pa
import pytest

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.errors import StoreError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.versions.loaded import _training
from tests.support.deployed import write

REF = ModelVersionRef(model="m", version=1, run_id="")


def test_a_store_that_is_away_is_not_a_store_without_the_training_set(tmp_path, monkeypatch):
    folder, away = tmp_path / "store", tmp_path / "away"
    folder.mkdir()
    store = ArtifactStore(folder.as_uri())
    trained_on = write(store, "training", pa.table({"id": [1], "x": [0.5]}), details={"keys": ["id"]})
    contract = ModelContract(
        task="regression", label="y", dataset_name=trained_on.name, dataset_id=trained_on.id,
        features=[FeatureColumn(name="x", kind="number")],
    )  # fmt: skip
    _, schema, keys = _training(REF, store, contract)
    assert (schema.names, keys) == (["id", "x"], ["id"])
    folder.rename(away)
    with pytest.raises(StoreError):
        _training(REF, store, contract)
    folder.mkdir()
    assert _training(REF, store, contract) == (None, None, [])

    def refuse(*_: object) -> None:
        raise StoreError("The store does not answer.")

    monkeypatch.setattr(store, "read_many", refuse)
    with pytest.raises(StoreError):
        _training(REF, store, contract)
