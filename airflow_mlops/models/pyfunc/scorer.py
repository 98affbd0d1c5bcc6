"""Score MLflow models that TrainOperator did not train (foreign models)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import FeatureColumn, ModelContract, Task
from airflow_mlops.core.errors import EvaluationError, SchemaError, named, one_line
from airflow_mlops.data.types import as_numbers
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.models import inputs
from airflow_mlops.models.pyfunc.loading import Answer, describe, engine, load_answer
from airflow_mlops.models.scorer import class_labels, from_values
from airflow_mlops.models.threshold import threshold

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model
    from mlflow.types import ColSpec
    from numpy.typing import NDArray

# Models that compute in single precision return probabilities outside [0, 1] by a rounding error of this size.
_ROUNDING = 1e-5
# The kind of a feature, and the Arrow type in which the feature is passed to the model, by MLflow's name of the type.
_TYPES: dict[str, tuple[Any, pa.DataType]] = {
    "double": ("number", pa.float64()),
    "float": ("number", pa.float32()),
    "boolean": ("number", pa.bool_()),
    "long": ("integer", pa.int64()),
    "integer": ("integer", pa.int32()),
    "string": ("string", pa.string()),
}


@dataclass(frozen=True)
class Target:
    """The dataset on which a foreign model is measured, and its label. The files of the model contain neither name.

    :param dataset: name of the dataset
    :param schema: columns of the dataset
    :param label: name of the label column
    :param task: the ML task (binary, multiclass, regression)
    :param classes: distinct labels of the dataset, sorted; empty for a regression
    :param positive: label of the positive class of a binary task; otherwise ``None``
    """

    dataset: str
    schema: pa.Schema
    label: str
    task: Task
    classes: Sequence[Any]
    positive: Any = None


class PyfuncModel:
    """A loaded MLflow model. The flavour of the model determines whether it returns labels, probabilities or values.

    :param name: name of the model in errors, such as ``delays v3``
    :param answer: function that calls the model. It takes a DataFrame with the column types of the model's signature
    :param contract: the model contract (features, label, ML task)
    :param types: Arrow type of each feature in the model's signature, in the order of the contract's features
    :param size_bytes: size of the model's files, in bytes
    :param engine: name of the engine that computes the predictions, for logs and reports
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
        """Predict every row of ``data``. Columns may be in any order, and other columns are ignored.

        :raises SchemaError: a feature is absent, or cannot be converted to the type in the model's signature
        :raises EvaluationError: the model raises an exception, or its output is not a prediction for each row
        """
        return self._predict({name: _values(data, name, kind) for name, kind in self._types.items()})

    def shuffled(self, data: pa.Table) -> Callable[[str, NDArray[np.int64]], Predictions]:
        """Return a function that predicts ``data`` after the values of one feature were reordered.

        :raises SchemaError: a feature is absent, or cannot be converted to the type in the model's signature
        """
        columns = {name: _values(data, name, kind) for name, kind in self._types.items()}

        def predict(name: str, order: NDArray[np.int64]) -> Predictions:
            # Without reset_index, pandas would align the reordered values by their index, which restores their order.
            return self._predict({**columns, name: columns[name].iloc[order].reset_index(drop=True)})

        return predict

    def _predict(self, columns: Mapping[str, pd.Series]) -> Predictions:
        import pandas as pd

        frame = pd.DataFrame(columns)
        try:
            return self._predictions(_array(self._answer(frame), self.contract.classes), len(frame))
        except EvaluationError:
            raise
        except Exception as error:
            raise EvaluationError(
                f"{self._name} raised {one_line(error, 300)}. The model was called with {len(frame):,} rows. Check that "
                "the features have the types that the model was trained with, and nulls only where the model accepts nulls."
            ) from error

    def _predictions(self, found: NDArray[Any], rows: int) -> Predictions:
        contract = self.contract
        if found.ndim == 2 and found.shape[1] == 1:
            found = found[:, 0]
        if found.shape == (rows,):
            if contract.task == "regression":
                return from_values(found.astype(np.float64).reshape(-1, 1), contract)
            # If all numbers are class labels, they count as predicted labels. Otherwise, they count as probabilities of
            # the last class.
            if contract.task == "binary" and found.dtype.kind == "f" and not np.isin(found, contract.classes).all():
                last = self._probabilities(found.astype(np.float64))
                return from_values(np.column_stack([1 - last, last]), contract)
            return self._labels(found)
        if contract.classes and found.shape == (rows, len(contract.classes)):
            return from_values(found.astype(np.float64), contract)
        raise EvaluationError(
            f"{self._name} returned an array of shape {found.shape} for {rows:,} rows of a {contract.task} task. It must "
            f"return {'a value' if contract.task == 'regression' else 'a label, or the probabilities,'} for each row."
        )

    def _probabilities(self, found: NDArray[np.float64]) -> NDArray[np.float64]:
        # Rounding errors are allowed, and NaN is reported with the metrics.
        outside = (found < -_ROUNDING) | (found > 1 + _ROUNDING)
        if outside.any():
            raise EvaluationError(
                f"{self._name} returned {found[outside][0]:g} for {int(outside.sum()):,} of {found.size:,} rows, which is "
                f"neither one of the class labels {_listed(self.contract.classes)} nor a probability. Use a model that "
                "predicts these labels, or probabilities."
            )
        return found

    def _labels(self, found: NDArray[Any]) -> Predictions:
        contract = self.contract
        position = {label: index for index, label in enumerate(contract.classes)}
        codes = np.array([position.get(label, -1) for label in found.tolist()], dtype=np.int64)
        unknown = codes < 0
        # A multiclass dataset may lack a class that the model knows. Predictions of this class count as wrong.
        if unknown.any() and (contract.task == "binary" or unknown.all()):
            raise EvaluationError(
                f"{self._name} returned {found[unknown].tolist()[0]!r} for {int(unknown.sum()):,} of {found.size:,} rows, "
                f"which is not one of the class labels {_listed(contract.classes)}. Use a model that predicts these labels."
            )
        # A predicted 1 becomes the dataset's True. A value that is not a label of the dataset stays unchanged.
        found = found.astype(object) if unknown.any() else class_labels(contract)[codes]
        score = codes == position[contract.positive] if contract.task == "binary" else codes
        return Predictions(found, score.astype(np.float64), None)


def load(folder: Path, name: str, target: Target, *, allow_pyfunc: bool) -> PyfuncModel:
    """Load a model that has no contract yet, and derive the contract from the model's signature and ``target``.

    :param folder: the downloaded files of the version, see :func:`airflow_mlops.registry.versions.download`
    :param name: name of the model in errors, such as ``delays v3``
    :param target: the dataset on which the model is measured, and the label
    :param allow_pyfunc: whether code in the model's files may run
    :raises ModelFormatError: the model cannot be loaded, or loading it would run code and ``allow_pyfunc`` is false
    :raises SchemaError: the model has no signature, or the dataset does not match the signature
    """
    description = describe(folder, name)
    features, types = _features(description, name, target)
    answer = load_answer(folder, name, description, allow_pyfunc=allow_pyfunc)
    contract = ModelContract(
        task=target.task,
        label=target.label,
        features=features,
        # The training set of a foreign model is unknown.
        dataset_name="",
        dataset_id="",
        **_labels(name, target, answer),
    )
    return PyfuncModel(name, answer.ask, contract, types, _size(folder), engine(description))


def load_measured(folder: Path, name: str, contract: ModelContract, *, allow_pyfunc: bool) -> PyfuncModel:
    """Load a model for which EvaluateOperator has already stored a contract.

    :param folder: the downloaded files of the version, see :func:`airflow_mlops.registry.versions.download`
    :param name: name of the model in errors, such as ``delays v3``
    :param contract: the stored model contract, see :func:`airflow_mlops.models.contracts.read`
    :param allow_pyfunc: whether code in the model's files may run
    :raises ModelFormatError: the model cannot be loaded, or loading it would run code and ``allow_pyfunc`` is false
    :raises SchemaError: the model has no signature
    """
    description = describe(folder, name)
    given = {item.name: item for item in _inputs(description, name)}
    types = [_type(given[feature.name], name)[1] for feature in contract.features]
    answer = load_answer(folder, name, description, allow_pyfunc=allow_pyfunc)
    return PyfuncModel(name, answer.ask, contract, types, _size(folder), engine(description))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _labels(name: str, target: Target, answer: Answer) -> dict[str, Any]:
    """Return the fields of the contract that describe the classes."""
    if target.task == "regression":
        return {}
    # The model's class 1 becomes the dataset's True.
    known = {label: label for label in target.classes}
    labels = [known.get(label, label) for label in (target.classes if answer.classes is None else answer.classes)]
    binary = target.task == "binary"
    if (binary and (len(labels) != 2 or set(labels) != set(known))) or not known.keys() & set(labels):
        raise SchemaError(
            f"{name} predicts the classes {_listed(labels)}, but dataset {target.dataset!r} has the labels "
            f"{_listed(target.classes)} ({target.task}). Evaluate the model on a dataset with these classes."
        )
    if not binary:
        return {"classes": labels}
    positive = labels[-1] if target.positive is None else target.positive
    if answer.estimator is None:
        return {"classes": labels, "positive": positive}
    return {
        "classes": labels,
        "positive": positive,
        "threshold": threshold(answer.estimator, labels, positive, name),
    }


def _listed(labels: Sequence[Any]) -> str:
    return ", ".join(map(repr, labels[:10])) + (", …" if len(labels) > 10 else "")


def _inputs(description: Model, name: str) -> list[Any]:
    """Return the input columns of the signature, each with ``name``, ``type`` and ``required``."""
    signature = description.signature
    if signature is None or signature.inputs is None:
        raise SchemaError(
            f"{name} has no MLflow signature, so its input columns are unknown. Log the model with "
            "signature=infer_signature(X, predictions) or with an input_example."
        )
    if not signature.inputs.has_input_names() or signature.inputs.is_tensor_spec():
        raise SchemaError(
            f"The MLflow signature of {name} has no column names. Log the model with a signature that was inferred from a "
            "DataFrame."
        )
    return list(signature.inputs.inputs)


def _features(description: Model, name: str, target: Target) -> tuple[list[FeatureColumn], list[pa.DataType]]:
    specs = [item for item in _inputs(description, name) if item.required or item.name in target.schema.names]
    if missing := [item.name for item in specs if item.name not in target.schema.names]:
        raise SchemaError(
            f"{name} needs the {named('feature', missing)}, which dataset {target.dataset!r} does not have. "
            f"Add every feature to the dataset, or evaluate the model on another dataset."
        )
    if not specs:
        raise SchemaError(
            f"No input of the MLflow signature of {name} is a column of dataset {target.dataset!r}. Evaluate the model on "
            "a dataset with the model's features."
        )
    features, types = [], []
    for item in specs:
        kind, given = _type(item, name)
        (present,) = inputs.feature_columns(target.schema, [item.name])
        if (present.kind == "string") != (kind == "string"):
            raise SchemaError(
                f"Feature {item.name!r} has the type {item.type.name} in the MLflow signature of {name}, but the type "
                f"{target.schema.field(item.name).type} in dataset {target.dataset!r}. Convert the column in the dataset."
            )
        features.append(FeatureColumn(name=item.name, kind=kind))
        types.append(given)
    return features, types


def _type(item: ColSpec, name: str) -> tuple[Any, pa.DataType]:
    kind = str(getattr(item.type, "name", item.type))
    if kind not in _TYPES:
        raise SchemaError(
            f"Feature {item.name!r} has the type {kind} in the MLflow signature of {name}, but only numbers and text are "
            "supported. Log a model that takes numbers and text."
        )
    return _TYPES[kind]


def _values(data: pa.RecordBatch | pa.Table, name: str, kind: pa.DataType) -> pd.Series:
    """Return one feature as a pandas Series of the type in the model's signature."""
    values = inputs.column(data, name)
    (present,) = inputs.feature_columns(data.schema, [name])
    if (present.kind == "string") != pa.types.is_string(kind) and not pa.types.is_null(values.type):
        raise SchemaError(
            f"Feature {name!r} has the type {kind} in the signature of the model, but {values.type} in the data. Convert "
            "the column in the data."
        )
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if whole and values.null_count:
        raise SchemaError(
            f"Feature {name!r} has the type {kind} in the signature of the model, which allows no nulls, but is null in "
            f"{values.null_count:,} of {len(values):,} rows. Fill the nulls, or log the model with a double input."
        )
    try:
        # A non-integer value must not silently become an integer. Rounding to single precision is allowed.
        values = pc.cast(as_numbers(values), kind, safe=whole)
    except pa.ArrowException as error:
        raise SchemaError(
            f"Feature {name!r} cannot be converted to {kind}, its type in the signature of the model: {error}. Convert the "
            "column in the data."
        ) from None
    return values.to_pandas()


def _array(found: Any, classes: Sequence[Any]) -> NDArray[Any]:
    """Convert a model's output to an array. DataFrame columns named like the classes get the order of ``classes``."""
    import pandas as pd

    if isinstance(found, pd.DataFrame) and classes and sorted(map(str, found.columns)) == sorted(map(str, classes)):
        names = {str(name): name for name in found.columns}
        found = found[[names[str(label)] for label in classes]]
    return np.asarray(found)
