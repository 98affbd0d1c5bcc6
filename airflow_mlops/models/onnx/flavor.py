"""Store an ONNX export as an MLflow model that predicts classes or values from a DataFrame of the features."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.models.installed import without_check_of_requirements

if TYPE_CHECKING:
    from mlflow.models import Model

# Module name of the copy of loader.py in a stored model.
_LOADER = "airflow_mlops_network"


def save(folder: Path, model: Model, requirements: list[str], exported: bytes) -> None:
    """Write the model into ``folder``, which must not exist.

    :param folder: the new folder
    :param model: MLflow's description of the model, with its signature
    :param requirements: pip requirements of the stored model, with the installed versions
    :param exported: the ONNX export
    """
    import mlflow.onnx
    import onnx

    with without_check_of_requirements():
        mlflow.onnx.save_model(
            onnx.load_from_string(exported),
            str(folder),
            mlflow_model=model,
            signature=model.signature,
            pip_requirements=requirements,
            save_as_external_data=False,
        )
    # MLflow's own pyfunc of ONNX models passes columns of shape (n,) and returns flattened probabilities.
    predict_by_onnx(folder, model)


def predict_by_onnx(folder: Path, model: Model) -> None:
    """Let MLflow's ``python_function`` of a stored model predict by the ONNX export, as scoring does.

    :param folder: folder of the stored model
    :param model: MLflow's description of the model, which is changed
    """
    from mlflow import pyfunc

    (folder / "code").mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("loader.py"), folder / "code" / f"{_LOADER}.py")
    # These settings belong to MLflow's own loader for scikit-learn.
    others = ("model_path", "predict_fn")
    fields = {name: value for name, value in model.flavors[pyfunc.FLAVOR_NAME].items() if name not in others}
    model.add_flavor(pyfunc.FLAVOR_NAME, **{**fields, pyfunc.MAIN: _LOADER, pyfunc.DATA: "model.onnx", "code": "code"})
