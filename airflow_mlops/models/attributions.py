"""Exact attributions: by how much each feature moved the prediction of a row.

Attributions are on the scale of the model's margin: the log-odds of the positive class (binary), the value of the
predicted class before softmax (multiclass), or the value or its logarithm (regression). The base and the attributions
of all features add up to the margin of the row. For a calibrated model, this is the margin before the calibration.

- Linear models of scikit-learn: coefficient times the difference from the mean of the training rows, from
  :mod:`airflow_mlops.models.trainers.sklearn.linear`.
- Boosted trees: Shapley values of the trees (S. Lundberg et al., "From local explanations to global understanding with
  explainable AI for trees", 2020), which the library computes from the model in its own format.

The files with the coefficients and the trees are data, so loading them runs no code of the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import EvaluationError, ModelFormatError, SpecError, TrainingError, named
from airflow_mlops.models.onnx.boosting import Link
from airflow_mlops.models.trainers.boosting import catboost, lightgbm, xgboost
from airflow_mlops.models.trainers.boosting.encoding import Encoding
from airflow_mlops.models.trainers.boosting.library import Library
from airflow_mlops.models.trainers.boosting.model import ENCODING_FILE
from airflow_mlops.models.trainers.sklearn import linear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.metrics.predictions import Predictions

# Number of rows in one call, which limits the memory for the contributions to all classes.
_ROWS = 4096
_LIBRARIES: dict[str, Library] = {"xgboost": xgboost, "lightgbm": lightgbm, "catboost": catboost}

# All models have the same type, so that predictions of several versions can be read together.
_LISTS = pa.list_(pa.struct([("feature", pa.string()), ("value", pa.float64())]))

Contributions = Callable[["pa.RecordBatch | pa.Table"], "NDArray[np.float64]"]
"""Returns the contributions of the features and, in the last place, the base, shape (n, outputs, features + 1)."""


class Attributions(NamedTuple):
    """The attributions of n rows.

    :param values: attribution of each feature of the contract, shape (n, features)
    :param base: the base of each row, shape (n,)
    """

    values: NDArray[np.float64]
    base: NDArray[np.float64]


class Explainer:
    """Computes the attributions of a model version.

    :param contract: the model contract
    :param link: name of the function that converts the model's sums to probabilities or values
    :param contributions: function that computes the contributions to each output of the model
    :param method: name of the method, such as ``tree Shapley values of xgboost``
    """

    def __init__(self, contract: ModelContract, link: Link, contributions: Contributions, method: str) -> None:
        self.method = method
        self.features = [feature.name for feature in contract.features]
        self._contract, self._link, self._contributions = contract, link, contributions

    @property
    def scale(self) -> str:
        """Return the scale of the attributions, such as ``log-odds of late = True``."""
        contract = self._contract
        if contract.task == "regression":
            return f"logarithm of {contract.label}" if self._link == "log" else contract.label
        if contract.task == "multiclass":
            return "margin of the predicted class"
        before = " before the calibration" if contract.calibration is not None else ""
        return f"log-odds of {contract.label} = {contract.positive}{before}"

    def attribute(self, data: pa.RecordBatch, found: Predictions) -> Attributions:
        """Return the attributions of rows.

        :param data: the rows, with a column for each feature. Other columns are ignored
        :param found: the predictions of these rows
        :raises EvaluationError: an attribution is not finite
        """
        values, base = np.empty((data.num_rows, len(self.features))), np.empty(data.num_rows)
        outputs = self._outputs(found, data.num_rows)
        for start in range(0, data.num_rows, _ROWS):
            end = min(start + _ROWS, data.num_rows)
            every = self._contributions(data.slice(start, end - start))
            chosen = every[np.arange(end - start), outputs[start:end]]
            values[start:end], base[start:end] = chosen[:, :-1], chosen[:, -1]
        if self._contract.task == "binary" and self._contract.classes.index(self._contract.positive) == 0:
            # The model's margin is that of the second class, so the signs change for the first class. 0 - x gives no
            # -0.0.
            values, base = 0 - values, 0 - base
        if infinite := [self.features[place] for place in np.flatnonzero(~np.isfinite(values).all(axis=0))]:
            raise EvaluationError(
                f"The attributions of the {named('feature', infinite)} are not finite numbers. Remove infinite values from "
                "the data, or `explain`."
            )
        return Attributions(values, base)

    def _outputs(self, found: Predictions, rows: int) -> NDArray[np.int64]:
        """Return, for each row, the position of the model's output that the attributions explain."""
        if self._contract.task != "multiclass":
            return np.zeros(rows, dtype=np.int64)
        assert found.probabilities is not None
        return found.probabilities.argmax(axis=1)


def load(folder: Path, contract: ModelContract, name: str) -> Explainer:
    """Load the explainer of a version that TrainOperator trained.

    :param folder: the downloaded files of the version
    :param contract: the model contract
    :param name: name of the version in errors, such as ``delays v3``
    :raises ModelFormatError: there are no exact attributions for the model, or its file cannot be read
    :raises SpecError: the library of the model is not installed
    """
    features = [feature.name for feature in contract.features]
    try:
        if (folder / linear.FILE).exists():
            terms = linear.Terms.model_validate_json((folder / linear.FILE).read_bytes())
            return Explainer(contract, terms.link, lambda data: terms.contributions(data, features), "linear terms")
        for library_name, library in _LIBRARIES.items():
            if (folder / library.FILE).exists():
                encoding = Encoding.from_json(json.loads((folder / ENCODING_FILE).read_text("utf-8")))
                link, ask = library.contributions((folder / library.FILE).read_bytes(), encoding)
                method = f"tree Shapley values of {library_name}"
                return Explainer(contract, link, _encoded(encoding, ask, features), method)
    except SpecError:
        raise
    except (ValidationError, ValueError, KeyError, OSError) as error:
        raise ModelFormatError(
            f"The attributions of {name} cannot be computed: {error}. Train the model again."
        ) from error
    raise refusal(name)


def _encoded(
    encoding: Encoding, ask: Callable[[NDArray[np.float32]], NDArray[np.float64]], features: Sequence[str]
) -> Contributions:
    if [feature.name for feature in encoding.features] != list(features):
        raise ValueError(f"the features in {ENCODING_FILE} differ from those of the model contract")

    def contributions(data: pa.RecordBatch | pa.Table) -> NDArray[np.float64]:
        try:
            return ask(encoding.matrix(data))
        except TrainingError as error:
            raise EvaluationError(
                f"The attributions cannot be computed: {error} Without `explain`, these rows are scored."
            ) from error

    return contributions


def sorted_lists(features: Sequence[str], values: NDArray[np.float64]) -> pa.Array:
    """Return the attributions of each row as a list of features and values, the largest absolute value first.

    :param features: names of the k features
    :param values: their attributions, shape (n, k)
    """
    rows, width = values.shape
    order = np.argsort(-np.abs(values), axis=1, kind="stable")
    names = pa.array(features, pa.string()).take(pa.array(order.ravel()))
    numbers = pa.array(np.take_along_axis(values, order, axis=1).ravel())
    items = pa.StructArray.from_arrays([names, numbers], fields=list(_LISTS.value_type))
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * width, pa.int32()), items, type=_LISTS)


def refusal(name: str) -> ModelFormatError:
    """Return the error for a version without exact attributions.

    :param name: name of the version, such as ``delays v3``
    """
    return ModelFormatError(
        f"explain=True needs a model with exact attributions, but {name} has none. Remove `explain`, or train "
        "XGBoost, LightGBM, CatBoost or a "
        "linear or logistic regression of scikit-learn (with the default preprocessing) with TrainOperator. A linear model of an earlier "
        "release must be trained again."
    )
