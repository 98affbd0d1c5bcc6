"""What determines the predictions of a model version, for the cache (:mod:`airflow_mlops.stages.cache`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.models.onnx.scorer import has_contract, read_contract
from airflow_mlops.registry.integrity import file_hashes


def contract_of(ref: ModelVersionRef, folder: Path) -> ModelContract:
    """Return the contract of a version.

    :param folder: folder with the downloaded files of the version
    :raises NotCacheableError: TrainOperator did not train the version
    """
    if not has_contract(folder):
        raise NotCacheableError(f"TrainOperator did not train {ref}, so what determines its predictions is not known")
    return read_contract(folder)


def content(ref: ModelVersionRef, folder: Path) -> dict[str, Any]:
    """Return a reference to a version, and the hashes of its files.

    :param folder: folder with the downloaded files of the version
    """
    return {"version": ref.model_dump(mode="json"), "files": file_hashes(folder)}
