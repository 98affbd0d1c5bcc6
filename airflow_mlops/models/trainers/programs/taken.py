"""Load the model that a program has logged to MLflow.

Loading a pickle file runs code that the file contains. Pickled models are refused, unless the trainer has
``serialization="cloudpickle"``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import ModelFormatError, TrainingError, one_line
from airflow_mlops.models.pyfunc.loading import describe
from airflow_mlops.models.trainers.base import FittedModel, TrainingData
from airflow_mlops.models.trainers.onnx_file import OnnxFileModel
from airflow_mlops.models.trainers.sklearn.model import SklearnModel, trusted_types
from airflow_mlops.models.trainers.spec import ProgramTrainerSpec

if TYPE_CHECKING:
    from mlflow.models import Model


def take(
    folder: Path,
    spec: ProgramTrainerSpec,
    data: TrainingData,
    program: str,
    *,
    params: dict[str, Any],
    sources: dict[str, Any],
) -> FittedModel:
    """Load a logged model of the flavour ``sklearn`` or ``onnx``.

    :param folder: the files of the logged model
    :param spec: the trainer, with the types and the serialization format that the author of the DAG trusts
    :param data: the rows to fit a model to
    :param program: the program, as the first words of error messages
    :param params: the training parameters that are logged to MLflow
    :param sources: the code that trained the model
    :raises ModelFormatError: the model has another flavour, or loading it could run code that the trainer does not trust
    :raises TrainingError: the model does not fit the task
    """
    description = describe(folder, f"The model that {program} logged")
    if "sklearn" in description.flavors:
        estimator = _estimator(folder, description, spec, program)
        required = "predict" if data.task == "regression" else "predict_proba"
        if not hasattr(estimator, required):
            raise TrainingError(
                f"{program} logged a model of type {type(estimator).__name__}, which has no {required}. Log a fitted "
                "scikit-learn estimator with this method."
            )
        return SklearnModel(estimator, data, name=spec.label, params=params, sources=sources, spec=spec)
    if "onnx" in description.flavors:
        file = _inside(folder, str(description.flavors["onnx"].get("data")), program)
        return OnnxFileModel(file.read_bytes(), data, name=spec.label, params=params, sources=sources)
    flavours = ", ".join(name for name in description.flavors if name != "python_function")
    raise ModelFormatError(
        f"{program} logged a model of the flavour {flavours or 'python_function'}, which is not read. Log a scikit-learn estimator "
        "with mlflow.sklearn.log_model, or export the model to ONNX and log it with mlflow.onnx.log_model(..., "
        "save_as_external_data=False)."
    )


def _estimator(folder: Path, description: Model, spec: ProgramTrainerSpec, program: str) -> Any:
    fields = description.flavors["sklearn"]
    file = _inside(folder, str(fields.get("pickled_model")), program)
    stored = str(fields.get("serialization_format"))
    if stored == "skops":
        from skops.io import get_untrusted_types
        from skops.io import load as load_skops

        found = trusted_types(get_untrusted_types(file=file), spec.trusted_types, spec.label)
        return load_skops(file, trusted=found)
    if spec.serialization != "cloudpickle":
        raise ModelFormatError(
            f"{program} logged a model in the format {stored}, and loading this format can run code. Log the model with "
            "serialization_format='skops', or set serialization='cloudpickle' in the trainer."
        )
    import mlflow.sklearn

    try:
        return mlflow.sklearn.load_model(str(folder))
    except Exception as error:
        raise ModelFormatError(f"The model that {program} logged cannot be loaded: {one_line(error, 300)}.") from error


def _inside(folder: Path, name: str, program: str) -> Path:
    file = folder / name
    if Path(name).name != name or not file.is_file() or file.is_symlink():
        raise ModelFormatError(
            f"The MLmodel file that {program} logged names {name!r}, which is not a file in the model's folder. Store the "
            "model in one file."
        )
    return file
