"""Choose the version for an endpoint, check that it can be served, and compute the scores of its input example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from airflow_mlops.core.errors import ModelFormatError, RegistryError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.models.champion import download_champion
from airflow_mlops.models.contract_file import has_contract
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.registry import versions
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.ledger import folder_name
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.deploy.spec import Check, DeployResult, DeploySpec

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow writes the first rows of the training set to this file of the version.
_EXAMPLE = "input_example.json"


def run(spec: DeploySpec, context: StepContext) -> DeployResult:
    """Choose the version for an endpoint, and store the scores of its input example.

    The operator verifies the endpoint with these scores.

    :raises RegistryError: the model has no champion, or the version does not exist
    :raises ModelFormatError: TrainOperator did not train the version, so it cannot be served
    :raises ModelCorruptError: a file of the version was changed after its promotion
    """
    client = connect(spec.mlflow, context.connection)
    ref = _chosen(client, spec)
    folder = download_champion(client, context.store, ref, context.progress, named=spec.version is not None)
    if not has_contract(folder):
        raise ModelFormatError(
            f"{ref} cannot be served, because TrainOperator did not train it. Score it in batches with ScoreOperator, or train "
            "a version with TrainOperator."
        )
    check = _check(ref, folder)
    key = f"checks/{folder_name(spec.model)}/v{ref.version}.json"
    context.store.write_bytes(key, check.model_dump_json().encode())
    what = (
        f"{ref}, the champion, which the endpoint follows"
        if spec.version is None
        else f"{ref} and does not follow the champion"
    )
    return DeployResult(
        model=spec.model,
        version=ref,
        follows=spec.version is None,
        check_key=key,
        summary=f"The endpoint serves {what}.",
    )


def _chosen(client: MlflowClient, spec: DeploySpec) -> ModelVersionRef:
    if spec.version is not None:
        return versions.version(client, spec.model, spec.version)
    champion = versions.champion(client, spec.model)
    if champion is None:
        raise RegistryError(f"Model {spec.model!r} has no champion. Promote a version, or set `version`.")
    return champion


def _check(ref: ModelVersionRef, folder: Path) -> Check:
    model = OnnxModel.load(folder)
    names = [feature.name for feature in model.contract.features]
    try:
        example = json.loads((folder / _EXAMPLE).read_bytes())
        rows = [dict(zip(example["columns"], values, strict=True)) for values in example["data"]]
        rows = [{name: row[name] for name in names} for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFormatError(
            f"{ref} has no input example with which the endpoint can be verified ({type(error).__name__}: {error}). Train it "
            "again with TrainOperator."
        ) from None
    found = model.predict_values({name: [_plain(row[name]) for row in rows] for name in names}, len(rows))
    # NaN and infinite scores become null, as in the responses of the server.
    return Check(rows=rows, scores=json.loads(to_json(found.score.tolist(), inf_nan_mode="null")))


def _plain(value: Any) -> Any:
    """Return a value as the server reads it. The server reads a boolean as an integer."""
    return int(value) if type(value) is bool else value
