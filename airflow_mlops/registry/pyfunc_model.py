"""Models that MLflow can load and TrainOperator did not make.

What loading one of them runs is written in its own files: :func:`mlflow.pyfunc.load_model` puts the model's ``code``
folder on the import path, imports the module that ``MLmodel`` names, and unpickles what most flavours store. MLflow's
list of types that skops may trust is read from the same file. So only three kinds are loaded unasked, none of which
can name code to run: a scikit-learn model in the format skops that holds nothing but types skops itself trusts, and
XGBoost's and LightGBM's own formats.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.exceptions import EvaluationError, ModelFormatError, SchemaError
from airflow_mlops.registry import inputs
from airflow_mlops.registry.scorer import Predictions, class_labels, from_values
from airflow_mlops.specs.model import FeatureColumn, ModelContract, Task

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model
    from mlflow.types import ColSpec
    from numpy.typing import NDArray

# Asks a model, and the classes whose probabilities it answers with; ``None`` where its answer has to tell.
Answer = tuple[Callable[["pd.DataFrame"], Any], "list[Any] | None"]

# By MLflow's name of the type: what kind of feature it is, and as what it is given to the model.
_TYPES: dict[str, tuple[Any, pa.DataType]] = {
    "double": ("number", pa.float64()),
    "float": ("number", pa.float32()),
    "boolean": ("number", pa.bool_()),
    "long": ("integer", pa.int64()),
    "integer": ("integer", pa.int32()),
    "string": ("string", pa.string()),
}
# Classes whose files are read as data, by the module that reads them.
_DATA_ONLY = {
    "mlflow.xgboost": ("xgboost.core.Booster", "xgboost.sklearn.XGBClassifier", "xgboost.sklearn.XGBRegressor"),
    "mlflow.lightgbm": ("lightgbm.basic.Booster",),
}
# Loaders of models of scikit-learn's interface, so that `predict_proba` means what it means there.
_ESTIMATORS = ("mlflow.sklearn", "mlflow.xgboost", "mlflow.lightgbm", "mlflow.catboost")


@dataclass(frozen=True)
class Target:
    """What a model from elsewhere is measured on: its own files do not say what it predicts.

    :param dataset: the dataset's name
    :param schema: the dataset's columns
    :param classes: the labels in it, sorted; empty for a regression
    """

    dataset: str
    schema: pa.Schema
    label: str
    task: Task
    classes: Sequence[Any]


class PyfuncModel:
    """A model that answers with whatever its flavour answers with.

    :param name: what to call it in an error
    :param answer: asks the model, for a DataFrame of the types that its signature names
    :param types: for each feature of the contract, the type to give it in
    :param engine: what computes the predictions, for logs and reports
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[pd.DataFrame], Any],
        contract: ModelContract,
        types: Sequence[pa.DataType],
        size_bytes: int,
        engine: str,
    ) -> None:
        self._name = name
        self._answer = answer
        self._types = dict(zip((item.name for item in contract.features), types, strict=True))
        self.contract = contract
        self.size_bytes = size_bytes
        self.engine = engine

    def predict(self, data: pa.RecordBatch | pa.Table) -> Predictions:
        """Predict every row of ``data``; it may have more columns than the features, in any order.

        :raises SchemaError: a feature is missing, or cannot be given in the type that the signature names
        :raises EvaluationError: the model raises, or answers with what is no prediction
        """
        import pandas as pd

        frame = pd.DataFrame({name: _values(data, name, kind) for name, kind in self._types.items()})
        try:
            return self._predictions(_array(self._answer(frame), self.contract.classes), len(frame))
        except EvaluationError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise EvaluationError(f"{self._name} raised {type(error).__name__}: {reason}") from error

    def _predictions(self, found: NDArray[Any], rows: int) -> Predictions:
        contract = self.contract
        if found.ndim == 2 and found.shape[1] == 1:
            found = found[:, 0]
        if found.shape == (rows,):
            if contract.task == "regression":
                return from_values(found.astype(np.float64).reshape(-1, 1), contract)
            # Where the labels are fractions themselves, a model that gives numbers gives labels.
            if contract.task == "binary" and found.dtype.kind == "f" and not isinstance(contract.positive, float):
                positive = found.astype(np.float64)
                return from_values(np.column_stack([1 - positive, positive]), contract)
            return self._labels(found)
        if contract.classes and found.shape == (rows, len(contract.classes)):
            return from_values(found.astype(np.float64), contract)
        raise EvaluationError(
            f"{self._name} answers with shape {found.shape} for {rows} rows, and its task is {contract.task}: it must give "
            f"{'a value' if contract.task == 'regression' else 'a label, or the probabilities,'} for each row."
        )

    def _labels(self, found: NDArray[Any]) -> Predictions:
        contract = self.contract
        position = {label: index for index, label in enumerate(contract.classes)}
        codes = np.array([position.get(label, -1) for label in found.tolist()], dtype=np.int64)
        if found.size and (codes < 0).all():
            raise EvaluationError(
                f"{self._name} answers with {found.tolist()[0]!r}, and the labels are {_listed(contract.classes)}."
            )
        # The model's 1 is the dataset's True; its 2 is none of the dataset's labels, and stays what it is.
        found = class_labels(contract)[codes] if (codes >= 0).all() else found.astype(object)
        score = codes == position[contract.positive] if contract.task == "binary" else codes
        return Predictions(found, score.astype(np.float64), None)


def load(folder: Path, name: str, target: Target, *, allow_pyfunc: bool) -> PyfuncModel:
    """Load a model from the folder of its version, to measure it on ``target``.

    :param name: what to call it in an error, such as ``delays v3``
    :param folder: what :func:`airflow_mlops.registry.models.download` returns
    :param allow_pyfunc: whether code that comes with the model may run
    :raises ModelFormatError: it cannot be loaded, or would run code that nobody allowed
    :raises SchemaError: it has no signature, or one that the dataset does not meet
    """
    description = _description(folder, name)
    features, types = _features(description, name, target)
    ask, classes = _answer(folder, name, description, allow_pyfunc)
    contract = ModelContract(
        task=target.task,
        label=target.label,
        features=features,
        # Nothing says what it was trained on.
        dataset_name="",
        dataset_id="",
        **_labels(name, target, classes),
    )
    return PyfuncModel(name, ask, contract, types, _size(folder), _engine(description))


def load_measured(folder: Path, name: str, contract: ModelContract, *, allow_pyfunc: bool) -> PyfuncModel:
    """Load a model that was measured before, to predict as it did then. The rest is as in :func:`load`.

    :param contract: what :func:`airflow_mlops.registry.contracts.known` says
    """
    description = _description(folder, name)
    given = {item.name: item for item in _inputs(description, name)}
    types = [_type(given[feature.name], name)[1] for feature in contract.features]
    ask, _ = _answer(folder, name, description, allow_pyfunc)
    return PyfuncModel(name, ask, contract, types, _size(folder), _engine(description))


def _description(folder: Path, name: str) -> Model:
    """What the model's own files say about it."""
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


def _answer(folder: Path, name: str, description: Model, allow_pyfunc: bool) -> Answer:
    answer = _unasked(folder, name, description)
    if answer is None and not allow_pyfunc:
        raise ModelFormatError(
            f"Loading {name} would run code that comes with it ({_what_runs(description)}): if you trust whoever "
            "registers versions of it, say allow_pyfunc=True."
        )
    return answer or _by_mlflow(folder, name, description)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _engine(description: Model) -> str:
    import mlflow

    return f"{_loader(description)} (mlflow {mlflow.__version__})"


def _labels(name: str, target: Target, classes: Sequence[Any] | None) -> dict[str, Any]:
    if target.task == "regression":
        return {}
    # The dataset's True is a model's 1.
    known = {label: label for label in target.classes}
    labels = [known.get(label, label) for label in (target.classes if classes is None else classes)]
    binary = target.task == "binary"
    if (binary and (len(labels) != 2 or set(labels) != set(known))) or not known.keys() & set(labels):
        raise SchemaError(
            f"{name} knows the classes {_listed(labels)}, and the labels of dataset {target.dataset} are "
            f"{_listed(target.classes)} ({target.task})."
        )
    return {"classes": labels, "positive": labels[-1] if binary else None}


def _listed(labels: Sequence[Any]) -> str:
    return ", ".join(map(repr, labels[:10])) + (", …" if len(labels) > 10 else "")


def _inputs(description: Model, name: str) -> list[Any]:
    """The columns that the signature names, each with its ``name``, ``type`` and whether it is ``required``."""
    signature = description.signature
    if signature is None or signature.inputs is None:
        raise SchemaError(
            f"{name} has no signature, so nobody knows which columns it takes: log it with "
            "signature=infer_signature(X, predictions) or with an input_example."
        )
    if not signature.inputs.has_input_names() or signature.inputs.is_tensor_spec():
        raise SchemaError(
            f"The signature of {name} is a tensor and names no columns: log it with one inferred from a DataFrame."
        )
    return list(signature.inputs.inputs)


def _features(description: Model, name: str, target: Target) -> tuple[list[FeatureColumn], list[pa.DataType]]:
    specs = [item for item in _inputs(description, name) if item.required or item.name in target.schema.names]
    if missing := [item.name for item in specs if item.name not in target.schema.names]:
        raise SchemaError(
            f"{name} needs the feature {', '.join(map(repr, missing))}, which dataset {target.dataset} does not have."
        )
    if not specs:
        raise SchemaError(f"The signature of {name} names no column of dataset {target.dataset}.")
    features, types = [], []
    for item in specs:
        kind, given = _type(item, name)
        (present,) = inputs.feature_columns(target.schema, [item.name])
        if (present.kind == "string") != (kind == "string"):
            raise SchemaError(
                f"{name} takes the feature {item.name!r} as {item.type.name}, and in dataset {target.dataset} it is "
                f"{target.schema.field(item.name).type}."
            )
        features.append(FeatureColumn(name=item.name, kind=kind))
        types.append(given)
    return features, types


def _type(item: ColSpec, name: str) -> tuple[Any, pa.DataType]:
    kind = str(getattr(item.type, "name", item.type))
    if kind not in _TYPES:
        raise SchemaError(f"{name} takes the feature {item.name!r} as {kind}, and datasets have numbers and text.")
    return _TYPES[kind]


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
        reason = " ".join(str(error).split())[:500].rstrip(".")
        raise ModelFormatError(f"{name} cannot be loaded by skops: {type(error).__name__}: {reason}.") from error


def _by_mlflow(folder: Path, name: str, description: Model) -> Answer:
    import mlflow.pyfunc

    imports = _Imports(folder) if description.flavors["python_function"].get("code") else None
    try:
        with imports.active() if imports else nullcontext():
            model = mlflow.pyfunc.load_model(str(folder))
            raw = model.get_raw_model() if _loader(description) in _ESTIMATORS else None
    except Exception as error:
        reason = " ".join(str(error).split())[:500].rstrip(".")
        raise ModelFormatError(
            f"MLflow cannot load {name}: {type(error).__name__}: {reason}. The packages it needs are in its "
            "requirements.txt: install them where the step runs, or let it run elsewhere by run_on."
        ) from error
    ask, classes = _probabilities(raw) or (model.predict, None)
    return (imports.bound(ask) if imports else ask), classes


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


class _Imports:
    """The modules that come with a model. Two versions bring modules of the same names, and each must see its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._path: list[str] = []
        self._modules: dict[str, ModuleType] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        path, before = list(sys.path), set(sys.modules)
        sys.path[:0] = self._path
        sys.modules.update(self._modules)
        try:
            yield
        finally:
            self._path = [item for item in sys.path if item not in path]
            new = {name: sys.modules[name] for name in sys.modules.keys() - before}
            self._modules = {name: module for name, module in new.items() if self._is_own(module)}
            for name in self._modules:
                del sys.modules[name]
            sys.path[:] = path

    def bound(self, ask: Callable[[pd.DataFrame], Any]) -> Callable[[pd.DataFrame], Any]:
        def asked(frame: pd.DataFrame) -> Any:
            with self.active():
                return ask(frame)

        return asked

    def _is_own(self, module: ModuleType) -> bool:
        # A module that loads itself on first use would do so for `getattr`.
        known = getattr(module, "__dict__", {})
        places = [known.get("__file__"), *(known.get("__path__") or ())]
        return any(str(place).startswith(f"{self._folder}{os.sep}") for place in places)


def _values(data: pa.RecordBatch | pa.Table, name: str, kind: pa.DataType) -> Any:
    """One feature in the type that the model takes, as pandas has it."""
    values = inputs.column(data, name)
    (present,) = inputs.feature_columns(data.schema, [name])
    if (present.kind == "string") != pa.types.is_string(kind) and not pa.types.is_null(values.type):
        raise SchemaError(f"Feature {name!r} is {kind} for the model and {values.type} in the data.")
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if whole and values.null_count:
        raise SchemaError(f"Feature {name!r} is {kind} for the model, and is missing in some rows.")
    try:
        # Fractions must not become whole numbers unseen; a number may be rounded to single precision.
        values = pc.cast(values, kind, safe=whole)
    except pa.ArrowException as error:
        raise SchemaError(f"Feature {name!r} cannot be given to the model as {kind}: {error}.") from None
    return values.to_pandas()


def _array(found: Any, classes: Sequence[Any]) -> NDArray[Any]:
    """What the model answered, the columns of a DataFrame that are named by the classes in their order."""
    import pandas as pd

    if isinstance(found, pd.DataFrame) and classes and sorted(map(str, found.columns)) == sorted(map(str, classes)):
        names = {str(name): name for name in found.columns}
        found = found[[names[str(label)] for label in classes]]
    return np.asarray(found)
