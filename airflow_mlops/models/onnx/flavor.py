"""Store an ONNX export as an MLflow model that predicts classes or values from a DataFrame of the features."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.models import Model

# Module name of the copy of loader.py in a stored model.
_LOADER = "airflow_mlops_network"


def save(folder: Path, model: Model, requirements: list[str], exported: bytes) -> None:
    """Write the model into ``folder``, which must not exist.

    :param model: MLflow's description of the model, with its signature
    :param requirements: pip requirements of the stored model
    :param exported: the ONNX export
    """
    import mlflow.onnx
    import onnx
    from mlflow import pyfunc

    mlflow.onnx.save_model(
        onnx.load_from_string(exported),
        str(folder),
        mlflow_model=model,
        signature=model.signature,
        pip_requirements=requirements,
        save_as_external_data=False,
    )
    # MLflow's own pyfunc of ONNX models passes columns of shape (n,) and returns flattened probabilities.
    (folder / "code").mkdir()
    shutil.copy(Path(__file__).with_name("loader.py"), folder / "code" / f"{_LOADER}.py")
    fields = model.flavors[pyfunc.FLAVOR_NAME]
    model.add_flavor(pyfunc.FLAVOR_NAME, **{**fields, pyfunc.MAIN: _LOADER, pyfunc.DATA: "model.onnx", "code": "code"})
