"""Load MLflow models that TrainOperator did not train, by default without running code from their files.

The files of such a model determine the code that :func:`mlflow.pyfunc.load_model` runs. This function puts the model's
``code`` folder on the import path, imports the module named in ``MLmodel``, and unpickles the files of most flavours.
The list of types that MLflow allows skops to load also comes from ``MLmodel``. Therefore only formats that cannot name
code are loaded by default: scikit-learn models in skops format with only types that skops itself trusts, and XGBoost's
and LightGBM's own formats.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from airflow_mlops.core.errors import ModelFormatError, one_line
from airflow_mlops.core.isolation import FolderModules

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model


class Answer(NamedTuple):
    """A loaded model as a function, with its classes.

    :param ask: function that calls the model
    :param classes: the classes, in the order of the probabilities that ``ask`` returns; ``None`` if the classes are
        unknown
    :param estimator: the classifier if ``ask`` calls its ``predict_proba``; otherwise ``None``. The classifier may set
        a decision threshold
    """

    ask: Callable[[pd.DataFrame], Any]
    classes: list[Any] | None = None
    estimator: Any = None


# The model classes whose files are read as data, by the MLflow loader module that reads them.
_DATA_ONLY = {
    "mlflow.xgboost": ("xgboost.core.Booster", "xgboost.sklearn.XGBClassifier", "xgboost.sklearn.XGBRegressor"),
    "mlflow.lightgbm": ("lightgbm.basic.Booster",),
}
# Loaders of models with scikit-learn's interface, whose `predict_proba` returns probabilities of `classes_`.
_ESTIMATORS = ("mlflow.sklearn", "mlflow.xgboost", "mlflow.lightgbm", "mlflow.catboost")


def describe(folder: Path, name: str) -> Model:
    """Read the model's ``MLmodel`` file.

    :param folder: the files of the model version
    :param name: name of the model in errors, such as ``delays v3``
    :return: the content of ``MLmodel``, such as signature and flavours
    :raises ModelFormatError: the folder is not an MLflow model, or the model has no flavour ``python_function``
    """
    from mlflow.models import Model

    try:
        description = Model.load(str(folder))
        pyfunc = description.flavors.get("python_function")
    except Exception as error:
        raise ModelFormatError(f"{folder} is not an MLflow model: {' '.join(str(error).split())}.") from error
    if pyfunc is None:
        flavours = ", ".join(description.flavors) or "none"
        raise ModelFormatError(
            f"{name} was not trained by TrainOperator and has no flavour `python_function` (its flavours: {flavours}). Train "
            "it with TrainOperator, or log it with an MLflow flavour that supports mlflow.pyfunc, such as mlflow.sklearn."
        )
    return description


def load_answer(folder: Path, name: str, description: Model, *, allow_pyfunc: bool) -> Answer:
    """Load the model.

    :param folder: the files of the model version
    :param name: name of the model in errors, such as ``delays v3``
    :param description: the content of ``MLmodel``, from :func:`describe`
    :param allow_pyfunc: whether code in the model's files may run
    :raises ModelFormatError: the model cannot be loaded, or loading it would run code and ``allow_pyfunc`` is false
    """
    answer = _load_data_only(folder, name, description)
    if answer is None and not allow_pyfunc:
        raise ModelFormatError(
            f"Loading {name} would run code from its files ({_what_runs(description)}). Set allow_pyfunc=True if you trust "
            "everyone who registers versions of this model."
        )
    return answer or _by_mlflow(folder, name, description)


def engine(description: Model) -> str:
    """Return MLflow's loader module and MLflow's version as text, such as ``mlflow.sklearn (mlflow 3.1.0)``."""
    import mlflow

    return f"{_loader(description)} (mlflow {mlflow.__version__})"


def _load_data_only(folder: Path, name: str, description: Model) -> Answer | None:
    """Load a model if its files cannot name code that loading would run.

    :return: ``None`` in these cases: the format can name code; the model has a ``code`` folder; a skops file contains a
        type that skops does not trust; or the data file is not directly in the model's folder
    :raises ModelFormatError: skops is not installed or cannot load the model, or the file that ``MLmodel`` names is not
        in the model's folder
    """
    own = _own(description)
    if _loader(description) == "mlflow.sklearn" and own.get("serialization_format") == "skops":
        file = str(own.get("pickled_model"))
        if not _is_inside(folder, file):
            raise ModelFormatError(
                f"The MLmodel file of {name} names {file!r}, which is not a file in the model's folder. Log the model again."
            )
        return _by_skops(folder / file, name)
    pyfunc = description.flavors["python_function"]
    classes = _DATA_ONLY.get(_loader(description), ())
    # MLflow's loader does not use the class that is checked here. It reads the class from the MLmodel file next to the
    # data file, so the data file must be directly in the model's folder.
    in_folder = _is_inside(folder, str(pyfunc.get("data")))
    if own.get("model_class") in classes and in_folder and not pyfunc.get("code"):
        return _by_mlflow(folder, name, description)
    return None


def _is_inside(folder: Path, file: str) -> bool:
    """Return whether ``file`` is the name of a file directly in ``folder``, and not a link."""
    return Path(file).name == file and (folder / file).is_file() and not (folder / file).is_symlink()


def _by_skops(file: Path, name: str) -> Answer | None:
    try:
        from skops.io import load as load_skops
        from skops.io.exceptions import UntrustedTypesFoundException
    except ImportError:
        raise ModelFormatError(
            f"{name} is stored in skops format, and skops is not installed where the step runs. Install "
            "airflow-mlops[sklearn] there."
        ) from None
    try:
        model = load_skops(file)
        return _probabilities(model) or Answer(model.predict)
    except UntrustedTypesFoundException:
        return None
    except Exception as error:
        raise ModelFormatError(
            f"{name} cannot be loaded by skops: {one_line(error, 500)}. Where the step runs, install the package versions "
            "that the model's requirements.txt lists."
        ) from error


def _by_mlflow(folder: Path, name: str, description: Model) -> Answer:
    import mlflow.pyfunc

    # Two versions may contain modules with the same name. Each version must import its own modules, both when it is
    # loaded and when it predicts.
    modules = FolderModules(folder) if description.flavors["python_function"].get("code") else None
    try:
        with modules.active() if modules else nullcontext():
            model = mlflow.pyfunc.load_model(str(folder))
            raw = model.get_raw_model() if _loader(description) in _ESTIMATORS else None
    except Exception as error:
        raise ModelFormatError(
            f"MLflow cannot load {name}: {one_line(error, 500)}. Where the step runs, install the packages that the "
            "model's requirements.txt lists, or set `run_on` to an environment that contains these packages."
        ) from error
    answer = _probabilities(raw) or Answer(model.predict)
    return answer._replace(ask=_within(modules, answer.ask)) if modules else answer


def _within(modules: FolderModules, ask: Callable[[pd.DataFrame], Any]) -> Callable[[pd.DataFrame], Any]:
    def ask_within(frame: pd.DataFrame) -> Any:
        with modules.active():
            return ask(frame)

    return ask_within


def _probabilities(model: Any) -> Answer | None:
    """Return an estimator's ``predict_proba`` and its classes; ``None`` if the model has no ``predict_proba``."""
    classes = getattr(model, "classes_", None)
    # The classes of a multi-output estimator are a list of arrays.
    if hasattr(model, "predict_proba") and isinstance(classes, np.ndarray):
        return Answer(model.predict_proba, classes.tolist(), model)
    return None


def _loader(description: Model) -> str:
    return str(description.flavors["python_function"].get("loader_module"))


def _own(description: Model) -> dict[str, Any]:
    """Return the fields of the MLflow flavour that the loader reads."""
    return description.flavors.get(_loader(description).removeprefix("mlflow.")) or {}


def _what_runs(description: Model) -> str:
    """Describe the code that would run if MLflow loaded the model."""
    pyfunc = description.flavors["python_function"]
    parts = [f"by {_loader(description)}"]
    if "python_model" in pyfunc:
        parts.append(f"the pickled {pyfunc['python_model']}")
    elif form := _own(description).get("serialization_format"):
        parts.append(f"in the format {form}")
    if code := pyfunc.get("code"):
        parts.append(f"with the modules in {code}")
    return ", ".join(parts)
