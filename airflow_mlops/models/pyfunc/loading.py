"""How a model that TrainOperator did not make is loaded, and which code that runs.

What loading one of them runs is written in its own files: :func:`mlflow.pyfunc.load_model` puts the model's ``code``
folder on the import path, imports the module that ``MLmodel`` names, and unpickles what most flavours store. MLflow's
list of types that skops may trust is read from the same file. So only three kinds are loaded unasked, none of which
can name code to run: a scikit-learn model in the format skops that holds nothing but types skops itself trusts, and
XGBoost's and LightGBM's own formats.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.errors import ModelFormatError, one_line
from airflow_mlops.core.isolation import FolderModules

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model

# Asks a model, and the classes whose probabilities it answers with; ``None`` where its answer has to tell.
Answer = tuple[Callable[["pd.DataFrame"], Any], "list[Any] | None"]

# Classes whose files are read as data, by the module that reads them.
_DATA_ONLY = {
    "mlflow.xgboost": ("xgboost.core.Booster", "xgboost.sklearn.XGBClassifier", "xgboost.sklearn.XGBRegressor"),
    "mlflow.lightgbm": ("lightgbm.basic.Booster",),
}
# Loaders of models of scikit-learn's interface, so that `predict_proba` means what it means there.
_ESTIMATORS = ("mlflow.sklearn", "mlflow.xgboost", "mlflow.lightgbm", "mlflow.catboost")


def describe(folder: Path, name: str) -> Model:
    """What the model's own files say about it.

    :raises ModelFormatError: they are no MLflow model, or none with the flavour python_function
    """
    from mlflow.models import Model

    try:
        description = Model.load(str(folder))
        pyfunc = description.flavors.get("python_function")
    except Exception as error:
        raise ModelFormatError(f"{folder} holds no MLflow model: {' '.join(str(error).split())}.") from error
    if pyfunc is None:
        flavours = ", ".join(description.flavors) or "none"
        raise ModelFormatError(
            f"{name} was not made by TrainOperator and has no flavour python_function (it has {flavours}): log it by the "
            "log_model of one of MLflow's flavours, or train it with TrainOperator."
        )
    return description


def load_answer(folder: Path, name: str, description: Model, *, allow_pyfunc: bool) -> Answer:
    """Load the model, and say how to ask it.

    :param allow_pyfunc: whether code that comes with the model may run
    :raises ModelFormatError: it cannot be loaded, or would run code that nobody allowed
    """
    answer = _unasked(folder, name, description)
    if answer is None and not allow_pyfunc:
        raise ModelFormatError(
            f"Loading {name} would run code that comes with it ({_what_runs(description)}): if you trust whoever "
            "registers versions of it, say allow_pyfunc=True."
        )
    return answer or _by_mlflow(folder, name, description)


def engine(description: Model) -> str:
    """What computes the predictions."""
    import mlflow

    return f"{_loader(description)} (mlflow {mlflow.__version__})"


def _unasked(folder: Path, name: str, description: Model) -> Answer | None:
    """Load what cannot name code to run; ``None`` for anything else."""
    own = _own(description)
    if _loader(description) == "mlflow.sklearn" and own.get("serialization_format") == "skops":
        return _by_skops(folder / str(own.get("pickled_model")), name)
    pyfunc = description.flavors["python_function"]
    classes = _DATA_ONLY.get(_loader(description), ())
    file = str(pyfunc.get("data"))
    # MLflow's loader looks for the class once more, in the MLmodel beside this file.
    beside = Path(file).name == file and (folder / file).is_file()
    if own.get("model_class") in classes and beside and not pyfunc.get("code"):
        return _by_mlflow(folder, name, description)
    return None


def _by_skops(file: Path, name: str) -> Answer | None:
    try:
        from skops.io import load as load_skops
        from skops.io.exceptions import UntrustedTypesFoundException
    except ImportError:
        raise ModelFormatError(
            f"{name} is stored by skops: install airflow-mlops[sklearn] where the step runs."
        ) from None
    try:
        model = load_skops(file)
        return _probabilities(model) or (model.predict, None)
    except UntrustedTypesFoundException:
        return None
    except Exception as error:
        raise ModelFormatError(f"{name} cannot be loaded by skops: {one_line(error, 500)}.") from error


def _by_mlflow(folder: Path, name: str, description: Model) -> Answer:
    import mlflow.pyfunc

    # Two versions may bring modules of the same names, and each must find its own, also when it predicts.
    modules = FolderModules(folder) if description.flavors["python_function"].get("code") else None
    try:
        with modules.active() if modules else nullcontext():
            model = mlflow.pyfunc.load_model(str(folder))
            raw = model.get_raw_model() if _loader(description) in _ESTIMATORS else None
    except Exception as error:
        raise ModelFormatError(
            f"MLflow cannot load {name}: {one_line(error, 500)}. The packages it needs are in its "
            "requirements.txt: install them where the step runs, or let it run elsewhere by run_on."
        ) from error
    ask, classes = _probabilities(raw) or (model.predict, None)
    return (_within(modules, ask) if modules else ask), classes


def _within(modules: FolderModules, ask: Callable[[pd.DataFrame], Any]) -> Callable[[pd.DataFrame], Any]:
    def ask_within(frame: pd.DataFrame) -> Any:
        with modules.active():
            return ask(frame)

    return ask_within


def _probabilities(model: Any) -> Answer | None:
    """How to ask an estimator for probabilities, if it gives them."""
    classes = getattr(model, "classes_", None)
    # Of several labels at once there would be a list of arrays.
    if hasattr(model, "predict_proba") and isinstance(classes, np.ndarray):
        return model.predict_proba, classes.tolist()
    return None


def _loader(description: Model) -> str:
    return str(description.flavors["python_function"].get("loader_module"))


def _own(description: Model) -> dict[str, Any]:
    """The model's own flavour, which its loader reads."""
    return description.flavors.get(_loader(description).removeprefix("mlflow.")) or {}


def _what_runs(description: Model) -> str:
    """What code loading the model by MLflow would run."""
    pyfunc = description.flavors["python_function"]
    parts = [f"by {_loader(description)}"]
    if "python_model" in pyfunc:
        parts.append(f"the pickled {pyfunc['python_model']}")
    elif form := _own(description).get("serialization_format"):
        parts.append(f"in the format {form}")
    if code := pyfunc.get("code"):
        parts.append(f"with the modules in {code}")
    return ", ".join(parts)
