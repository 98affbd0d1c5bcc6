"""The file with the model contract in the folder of a version. Reading it needs no scoring library."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import ModelFormatError

CONTRACT_FILE, PROFILE_FILE = "mlops/contract.json", "mlops/profile.json"


def has_contract(folder: Path) -> bool:
    """Return whether the model's folder contains a contract, that is, whether TrainOperator trained the model."""
    return (folder / CONTRACT_FILE).exists()


def read_contract(folder: Path) -> ModelContract:
    """Read the model contract (features, label, ML task) in a model's folder.

    :param folder: the downloaded files of the version
    :raises ModelFormatError: the folder has no contract, or the contract is invalid
    """
    file = Path(folder) / CONTRACT_FILE
    try:
        return ModelContract.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise ModelFormatError(
            f"The model folder {folder} has no file {CONTRACT_FILE}, because TrainOperator did not train this version. "
            "Train the model with TrainOperator."
        ) from None
    except ValidationError as error:
        raise ModelFormatError(
            f"{file} is not a valid model contract: {error.errors()[0]['msg']}. Train the model again."
        ) from None
