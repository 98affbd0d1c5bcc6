"""The step of DeployOperator refuses versions that cannot be served, before anything is changed in the cluster."""

from __future__ import annotations

import pytest

from airflow_mlops.core.errors import ModelFormatError
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.deploy import step
from airflow_mlops.stages.deploy.spec import DeploySpec
from tests.support.deployed import Champions, pickled, without_contract


@pytest.mark.parametrize(
    ("change", "said"), [(pickled, "has no file model.onnx"), (without_contract, "TrainOperator did not train it")]
)
@pytest.mark.parametrize("follows", [True, False])
def test_a_version_that_would_run_code_or_has_no_contract_is_not_deployed(
    mlflow_connection, store, tmp_path, change, said, follows
):
    champions = Champions(mlflow_connection, tmp_path, store)
    version = champions.add(change)
    spec = DeploySpec(model=champions.model, version=None if follows else version)
    with pytest.raises(ModelFormatError, match=said):
        step.run(spec, StepContext(store))
    assert not (tmp_path / "unpickled").exists()
    assert not list(store.find("checks"))
