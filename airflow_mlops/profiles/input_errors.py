"""How the errors of a regression model depend on its features, beyond the dependence on the prediction.

The loss model of :mod:`airflow_mlops.profiles.calibration` depends on the prediction only. If the inputs drift, rows
with the same prediction have other inputs, and often other errors: the model extrapolates, or the noise depends on a
feature. This dependence is measured by a least-squares regression on the held-out rows. The regression predicts the
loss of a row, minus the mean loss according to the loss model, from the numeric features and their squares.

The difference between the means of these terms in a window and in the held-out rows gives the change of the mean loss
(regression estimator: W. Cochran, "Sampling Techniques", 3rd edition, 1977, chapter 7). The covariance of the
coefficients gives the standard error of this change, which grows with the distance of the window from the held-out
rows. The covariance allows for unequal variances and for the leverage of rows (HC3: J. MacKinnon and H. White, "Some
Heteroskedasticity-Consistent Covariance Matrix Estimators with Improved Finite Sample Properties", Journal of
Econometrics 29, 1985).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_mlops.core.base import Model
from airflow_mlops.data.types import as_numbers
from airflow_mlops.profiles.columns.base import decoded
from airflow_mlops.profiles.columns.numeric import is_numeric

# Largest number of features, smallest number of held-out rows per feature, and largest number of rows for the
# regression.
_FEATURES, _ROWS_PER_FEATURE, _ROWS = 10, 50, 20_000
# Standardised features are clipped to this distance from 0, which limits the influence of extreme values.
_FAR = 5.0
# Smallest variance of a feature, relative to its squared mean, that is not a rounding error.
_SAME = 1e-18
# Directions in which the terms vary less than this, relative to the largest variance, are left out.
_SINGULAR = 1e-8

Floats = npt.NDArray[np.float64]


class InputErrors(Model):
    """A linear regression of losses on p features and their squares.

    :param features: names of the features
    :param centers: means of the features in the held-out rows, shape (p,)
    :param scales: standard deviations of the features in the held-out rows, shape (p,)
    :param means: means of the 2p terms in the held-out rows: the standardised features, then their squares
    :param absolute: change of the absolute error with each term, shape (2p,)
    :param absolute_covariance: covariance of ``absolute``, shape (2p, 2p)
    :param squared: change of the squared error with each term, shape (2p,)
    :param squared_covariance: covariance of ``squared``, shape (2p, 2p)
    """

    features: list[str]
    centers: list[float]
    scales: list[float]
    means: list[float]
    absolute: list[float]
    absolute_covariance: list[list[float]]
    squared: list[float]
    squared_covariance: list[list[float]]

    def shift(self, batches: Iterable[pa.RecordBatch]) -> Floats | None:
        """Return the difference between the means of the terms in a window and in the held-out rows, shape (2p,).

        :param batches: rows of the window with the columns ``features``
        :return: ``None`` if there are no rows, or if a feature is not a number
        """
        rows, sums = 0, np.zeros(len(self.means))
        for batch in batches:
            values = _numbers(batch, self.features)
            if values is None:
                return None
            rows += batch.num_rows
            sums += _terms(values, np.asarray(self.centers), np.asarray(self.scales)).sum(axis=0)
        return sums / rows - np.asarray(self.means) if rows else None


def learn(batches: Iterable[pa.RecordBatch], rests: Floats) -> InputErrors | None:
    """Learn how losses depend on the numeric features.

    At most ten features are used: the features that explain most of the variance of the losses.

    :param batches: features of the n held-out rows
    :param rests: absolute and squared errors of these rows, minus the means of the loss model, shape (n, 2)
    :return: ``None`` without a numeric feature that varies, with fewer than 50 rows, or if the number of rows in the
        batches is not n
    """
    step = max(1, -(-len(rests) // _ROWS))
    names: list[str] = []
    parts, rows = [], 0
    for batch in batches:
        if not rows:
            names = [field.name for field in batch.schema if _is_number(field.type)]
        values = _numbers(batch, names)
        if values is None:
            return None
        parts.append(values[-rows % step :: step])
        rows += batch.num_rows
    if rows != len(rests) or not names:
        return None
    values, rests = np.concatenate(parts), rests[::step]
    with np.errstate(invalid="ignore", over="ignore"):
        known = np.isfinite(values)
        counts = np.maximum(1, known.sum(axis=0))
        centers = np.where(known, values, 0.0).sum(axis=0) / counts
        variances = np.square(np.where(known, values - centers, 0.0)).sum(axis=0) / counts
    usable = np.isfinite(variances) & (variances > _SAME * np.square(centers))
    most = min(_FEATURES, len(values) // _ROWS_PER_FEATURE)
    chosen = _strongest(values[:, usable], centers[usable], np.sqrt(variances[usable]), rests, most)
    if not len(chosen):
        return None
    places = np.flatnonzero(usable)[chosen]
    center, scale = centers[places], np.sqrt(variances[places])
    terms = _terms(values[:, places], center, scale)
    means = terms.mean(axis=0)
    absolute, squared = (_fit(terms - means, rest - rest.mean()) for rest in rests.T)
    return InputErrors(
        features=[names[place] for place in places],
        centers=center.tolist(),
        scales=scale.tolist(),
        means=means.tolist(),
        absolute=absolute[0].tolist(),
        absolute_covariance=absolute[1].tolist(),
        squared=squared[0].tolist(),
        squared_covariance=squared[1].tolist(),
    )


def _strongest(values: Floats, centers: Floats, scales: Floats, rests: Floats, most: int) -> list[int]:
    """Return the column indices, ascending, of the features that explain the largest shares of the losses' variance.

    :param values: values of the features of n rows, shape (n, number of features)
    :param centers: means of the features
    :param scales: standard deviations of the features
    :param rests: absolute and squared errors of the rows, minus the means of the loss model, shape (n, 2)
    :param most: the largest number of features to return
    """
    spread = np.square(rests - rests.mean(axis=0)).sum(axis=0)
    explained = []
    for place in range(values.shape[1]):
        terms = _terms(values[:, [place]], centers[[place]], scales[[place]])
        terms -= terms.mean(axis=0)
        moments = terms.T @ (rests - rests.mean(axis=0))
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = np.einsum("ij,ij->j", moments, _inverse(terms.T @ terms) @ moments) / spread
        explained.append(float(np.nan_to_num(shares).sum()))
    return sorted(np.argsort(-np.asarray(explained), kind="stable")[:most].tolist())


def _fit(terms: Floats, rest: Floats) -> tuple[Floats, Floats]:
    """Return the coefficients of a least-squares regression, and the covariance of the coefficients (HC3)."""
    inverse = _inverse(terms.T @ terms)
    coefficients = inverse @ (terms.T @ rest)
    leverage = np.einsum("ij,jk,ik->i", terms, inverse, terms) + 1 / len(terms)
    apart = (rest - terms @ coefficients) / np.maximum(1 - leverage, 0.1)
    weighted = terms * apart[:, None]
    return coefficients, inverse @ (weighted.T @ weighted) @ inverse


def _inverse(moments: Floats) -> Floats:
    # A pseudo-inverse is used, because the square of a feature with only two values is a linear function of the
    # feature.
    return np.asarray(np.linalg.pinv(moments, rcond=_SINGULAR, hermitian=True))


def _terms(values: Floats, centers: Floats, scales: Floats) -> Floats:
    """Return the standardised and clipped features, followed by their squares, shape (n, 2p).

    Missing values are replaced by the mean of the feature.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        places = np.clip(np.nan_to_num((values - centers) / scales, nan=0.0), -_FAR, _FAR)
    return np.hstack([places, np.square(places)])


def _is_number(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return is_numeric(plain) or pa.types.is_boolean(plain)


def _numbers(batch: pa.RecordBatch, names: Sequence[str]) -> Floats | None:
    """Return columns as floating-point numbers, shape (n, p); ``None`` if a column is absent or not a number."""
    found = []
    for name in names:
        index = batch.schema.get_field_index(name)
        if index < 0 or not _is_number(batch.schema.field(index).type):
            return None
        values = as_numbers(decoded(batch.column(index))).cast(pa.float64(), safe=False)
        found.append(values.to_numpy(zero_copy_only=False))
    return np.column_stack(found) if found else np.empty((batch.num_rows, 0))
