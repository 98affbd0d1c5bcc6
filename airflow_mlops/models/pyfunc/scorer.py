"""Models that MLflow can load and TrainOperator did not make, measured and asked like those it made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import FeatureColumn, ModelContract, Task
from airflow_mlops.core.errors import EvaluationError, SchemaError, one_line
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.models import inputs
from airflow_mlops.models.pyfunc.loading import describe, engine, load_answer
from airflow_mlops.models.scorer import class_labels, from_values

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model
    from mlflow.types import ColSpec
    from numpy.typing import NDArray

# By MLflow's name of the type: what kind of feature it is, and as what it is given to the model.
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
            raise EvaluationError(f"{self._name} raised {one_line(error, 300)}") from error

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
    :param folder: what :func:`airflow_mlops.registry.versions.download` returns
    :param allow_pyfunc: whether code that comes with the model may run
    :raises ModelFormatError: it cannot be loaded, or would run code that nobody allowed
    :raises SchemaError: it has no signature, or one that the dataset does not meet
    """
    description = describe(folder, name)
    features, types = _features(description, name, target)
    ask, classes = load_answer(folder, name, description, allow_pyfunc=allow_pyfunc)
    contract = ModelContract(
        task=target.task,
        label=target.label,
        features=features,
        # Nothing says what it was trained on.
        dataset_name="",
        dataset_id="",
        **_labels(name, target, classes),
    )
    return PyfuncModel(name, ask, contract, types, _size(folder), engine(description))


def load_measured(folder: Path, name: str, contract: ModelContract, *, allow_pyfunc: bool) -> PyfuncModel:
    """Load a model that was measured before, to predict as it did then. The rest is as in :func:`load`.

    :param contract: what :func:`airflow_mlops.models.contracts.known` says
    """
    description = describe(folder, name)
    given = {item.name: item for item in _inputs(description, name)}
    types = [_type(given[feature.name], name)[1] for feature in contract.features]
    ask, _ = load_answer(folder, name, description, allow_pyfunc=allow_pyfunc)
    return PyfuncModel(name, ask, contract, types, _size(folder), engine(description))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


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
