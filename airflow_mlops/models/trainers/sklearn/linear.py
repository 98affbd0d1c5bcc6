"""The contributions of features to a linear model of scikit-learn, as stored data.

The contribution of a feature to the prediction for a row is the feature's term in the linear predictor, minus the mean
of this term over the training rows. Scoring computes contributions from a JSON file, so it neither loads the estimator
nor runs its code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.models import inputs
from airflow_mlops.models.onnx.boosting import Link
from airflow_mlops.models.threshold import without_threshold
from airflow_mlops.models.trainers.base import TrainingData

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE = "linear.json"

# The link of each supported estimator. Subclasses may predict in another way, so they are not supported.
_LINKS: dict[str, Link] = {
    **dict.fromkeys(("LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV"), "identity"),
    **dict.fromkeys(("ElasticNet", "ElasticNetCV", "HuberRegressor", "BayesianRidge", "SGDRegressor"), "identity"),
    **dict.fromkeys(("PoissonRegressor", "GammaRegressor"), "log"),
}
_CLASSIFIERS = ("LogisticRegression", "LogisticRegressionCV")
# Number of rows on which probabilities are compared.
_COMPARED = 100


class Number(Model):
    """A numeric feature.

    :param feature: name of the feature
    :param fill: number that replaces nulls; ``None`` if the model allows no nulls
    :param mean: mean over the training rows
    :param weights: coefficient of the feature for each of the k outputs, shape (k,)
    """

    feature: str
    fill: float | None
    mean: float
    weights: list[float]


class Text(Model):
    """A text feature.

    :param feature: name of the feature
    :param texts: the values that the model distinguishes. The empty text stands for null
    :param contributions: contribution of each value to each of the k outputs, shape (values, k)
    :param other: contribution of any other value, shape (k,)
    """

    feature: str
    texts: list[str]
    contributions: list[list[float]]
    other: list[float]


class Terms(Model):
    """The terms of a linear model.

    :param link: name of the function that converts the linear predictors to probabilities or values
    :param base: mean of each of the k linear predictors over the training rows, shape (k,)
    :param numbers: the numeric features
    :param texts: the text features
    """

    link: Link
    base: list[float]
    numbers: list[Number] = Field(default_factory=list)
    texts: list[Text] = Field(default_factory=list)

    def contributions(self, data: pa.RecordBatch | pa.Table, features: Sequence[str]) -> NDArray[np.float64]:
        """Return the contributions of ``features`` and, in the last place, the base, shape (n, k, features + 1)."""
        found = np.zeros((data.num_rows, len(self.base), len(features) + 1))
        found[:, :, -1] = self.base
        for number in self.numbers:
            values = inputs.numbers(inputs.column(data, number.feature), number.feature).astype(np.float64)
            if number.fill is not None:
                values[np.isnan(values)] = number.fill
            found[:, :, features.index(number.feature)] += np.outer(values - number.mean, number.weights)
        for text in self.texts:
            given = inputs.texts(inputs.column(data, text.feature), text.feature)
            table = np.array([*text.contributions, text.other])
            codes = pc.index_in(given.dictionary, pa.array(text.texts, given.dictionary.type))
            # The last row of the table is that of other texts.
            places = pc.fill_null(codes, len(text.texts)).to_numpy(zero_copy_only=False)
            found[:, :, features.index(text.feature)] += table[places[given.indices.to_numpy()]]
        return found


def terms(estimator: Any, data: TrainingData) -> Terms | None:
    """Return the terms of a linear model.

    :param estimator: the fitted estimator or pipeline
    :param data: the rows that the estimator was fitted to
    :return: ``None`` in these cases: the estimator is not a supported linear model of scikit-learn; its coefficients
        are sparse; its probabilities do not follow from the linear predictors by the usual link; or its pipeline has
        other transformers than ``SimpleImputer``, ``StandardScaler`` and ``OneHotEncoder``, or uses an option of these
        transformers that is not supported
    """
    from sklearn import linear_model
    from sklearn.pipeline import Pipeline

    chosen = without_threshold(estimator)
    *before, last = [step for _, step in chosen.steps] if isinstance(chosen, Pipeline) else [chosen]
    name = type(last).__name__
    if type(last) is not getattr(linear_model, name, None):
        return None
    link = _LINKS.get(name)
    if name in _CLASSIFIERS:
        link = "logit" if len(data.classes) == 2 else "softmax"
    columns = _columns(before, data)
    # After sparsify(), the coefficients are a sparse matrix.
    if link is None or columns is None or not isinstance(last.coef_, np.ndarray):
        return None
    if name in _CLASSIFIERS:
        rows: Any = data.frame.head(_COMPARED)
        if not _has_link(last, link, chosen[:-1].transform(rows) if before else rows):
            return None
    weights = np.atleast_2d(np.asarray(last.coef_, dtype=np.float64))
    base = np.broadcast_to(np.asarray(last.intercept_, dtype=np.float64), len(weights)).copy()
    found = Terms(link=link, base=[])
    for feature, part, places in columns:
        chosen_weights = weights[:, places]
        if isinstance(part, _Standardised):
            scaled = chosen_weights[:, 0] / part.scale
            values = data.frame[feature].to_numpy(np.float64)
            if part.fill is not None:
                values = np.where(np.isnan(values), part.fill, values)
            mean = float(values.mean())
            base += scaled * (mean - part.shift)
            found.numbers.append(Number(feature=feature, fill=part.fill, mean=mean, weights=scaled.tolist()))
        else:
            counts = data.frame[feature].value_counts()
            shares = np.array([counts.get(text, 0) for text in part]) / max(1, len(data.frame))
            mean_of_each = chosen_weights @ shares
            base += mean_of_each
            found.texts.append(
                Text(
                    feature=feature,
                    texts=part,
                    contributions=(chosen_weights.T - mean_of_each).tolist(),
                    other=(-mean_of_each).tolist(),
                )
            )
    return found.model_copy(update={"base": base.tolist()})


def _has_link(classifier: Any, link: Link, rows: Any) -> bool:
    """Return whether the probabilities of a classifier follow from its linear predictors by ``link``.

    Up to scikit-learn 1.7, the parameter ``multi_class`` of logistic regressions could choose other probabilities, such
    as one-vs-rest. Newer versions do not have the parameter, so the probabilities of some training rows are compared.

    :param rows: training rows as the classifier takes them, after the transformers of the pipeline
    """
    margins = np.asarray(classifier.decision_function(rows), dtype=np.float64)
    if link == "logit":
        margins = np.column_stack([np.zeros(len(margins)), margins])
    expected = np.exp(margins - margins.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    return bool(np.allclose(classifier.predict_proba(rows), expected, rtol=1e-6, atol=1e-9))


def write(folder: Path, found: Terms) -> None:
    """Write the terms into the folder of a model."""
    (folder / FILE).write_text(found.model_dump_json(indent=1), "utf-8")


class _Standardised:
    """The imputation and standardisation of a numeric feature."""

    def __init__(self, fill: float | None, shift: float, scale: float) -> None:
        self.fill, self.shift, self.scale = fill, shift, scale


# The name of a feature, its transformation, and the positions of its columns in the input of the linear model. The
# transformation is a list of texts if the feature becomes one-hot columns, one for each text.
_Column = tuple[str, "_Standardised | list[str]", list[int]]


def _columns(steps: Sequence[Any], data: TrainingData) -> list[_Column] | None:
    """Return the input columns of the linear model; ``None`` if a transformer is not supported.

    :param steps: the fitted steps of the pipeline before the linear model
    :param data: the rows that the pipeline was fitted to
    """
    from sklearn.compose import ColumnTransformer

    if not (len(steps) == 1 and isinstance(steps[0], ColumnTransformer)):
        return _found(steps, [feature.name for feature in data.features], 0, data)
    columns: list[_Column] = []
    if steps[0].transformer_weights:
        return None
    for name, transformer, names in steps[0].transformers_:
        place = steps[0].output_indices_[name]
        if place.start == place.stop:
            continue
        found = _found([transformer], names, place.start, data) if isinstance(names, list) else None
        if found is None:
            return None
        columns += found
    return columns


def _found(steps: Sequence[Any], names: Sequence[str], start: int, data: TrainingData) -> list[_Column] | None:
    """Return the columns that a sequence of transformers computes from features.

    :param steps: the fitted transformers
    :param names: names of the features
    :param start: position of the first column in the input of the linear model
    :param data: the rows that the transformers were fitted to
    :return: ``None`` if a transformer is not supported
    """
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder

    flat = list(_flat(steps, Pipeline))
    kinds = {feature.name: feature.kind for feature in data.features}
    if len(flat) == 1 and type(flat[0]) is OneHotEncoder:
        return _texts(flat[0], names, start) if all(kinds.get(name) == "string" for name in names) else None
    if any(kinds.get(name) != "number" for name in names):
        return None
    return _numbers(flat, names, start)


def _flat(steps: Sequence[Any], pipeline: Any) -> Iterator[Any]:
    for step in steps:
        if isinstance(step, pipeline):
            yield from _flat([inner for _, inner in step.steps], pipeline)
        else:
            yield step


def _texts(encoder: Any, names: Sequence[str], start: int) -> list[_Column] | None:
    plain = encoder.handle_unknown == "ignore" and encoder.drop is None
    if not plain or encoder.min_frequency is not None or encoder.max_categories is not None:
        return None
    columns: list[_Column] = []
    for name, texts in zip(names, encoder.categories_, strict=True):
        columns.append((name, [str(text) for text in texts], list(range(start, start + len(texts)))))
        start += len(texts)
    return columns


def _numbers(steps: Sequence[Any], names: Sequence[str], start: int) -> list[_Column] | None:
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    kinds = [type(step) for step in steps]
    if kinds not in ([], [SimpleImputer], [StandardScaler], [SimpleImputer, StandardScaler]):
        return None
    fills: list[float | None] = [None] * len(names)
    if SimpleImputer in kinds:
        imputer = steps[0]
        # Without `keep_empty_features`, the imputer removes features that are null in all training rows.
        if imputer.add_indicator or imputer.keep_empty_features or imputer.missing_values is not np.nan:
            return None
        found = imputer.statistics_.astype(np.float64)
        names = [name for name, fill in zip(names, found, strict=True) if not np.isnan(fill)]
        fills = found[~np.isnan(found)].tolist()
    shifts, scales = np.zeros(len(names)), np.ones(len(names))
    if StandardScaler in kinds:
        scaler = steps[-1]
        # mean_ is computed even if it is not subtracted.
        shifts = scaler.mean_ if scaler.with_mean else shifts
        scales = scales if scaler.scale_ is None else scaler.scale_
    return [
        (name, _Standardised(fill, float(shift), float(scale)), [start + place])
        for place, (name, fill, shift, scale) in enumerate(zip(names, fills, shifts, scales, strict=True))
    ]
