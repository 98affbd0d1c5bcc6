"""Multivariate drift: changes in the relations between features, measured by a PCA reconstruction error.

The relations between columns may change while each column keeps its distribution. Principal components are fitted to
the split part `train`. As many components are used as are needed to explain 65% of the variance of this split part, but
never all of them. The reconstruction error of a row is the distance between the row and its projection on the used
components. The errors are profiled and tested for drift like any
numeric column. The method follows A. Qahtan et al., "A PCA-Based Change Detection Framework for Multidimensional Data
Streams", KDD (2015), and NannyML's multivariate drift detection. Categories are encoded by their frequency.

The reference errors are computed from the held-out split part `test`. Errors of the fitted rows would be too small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.profiles.columns.base import Floats, decoded, plain
from airflow_mlops.profiles.columns.categorical import CategoricalColumn, category_kind
from airflow_mlops.profiles.columns.numeric import NumericColumn, NumericCounter, is_numeric

ERROR = "reconstruction error"
# The smallest share of the variance of the split part `train` that the used components explain. They explain a smaller
# share only if this share would require all components.
_VARIANCE = 0.65
_MAX_COLUMNS = 100
# Standardised values are clipped to this range, because squares of larger values could overflow.
_CLIP = 100.0
# Errors, in standard deviations, are rounded to this number of decimals. Further digits differ between machines.
_DECIMALS = 6


class Number(Model):
    """The encoding of a numeric feature, standardised by its mean and standard deviation at training.

    Null and non-finite values are encoded as the mean.

    :param name: name of the feature
    :param mean: mean of the finite values at training
    :param std: standard deviation of the finite values at training
    """

    kind: Literal["number"] = "number"
    name: str
    mean: float
    std: float

    def encoded(self, array: pa.Array) -> Floats:
        """Standardise a column, shape (n,)."""
        values = decoded(array).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(np.isfinite(values), (values - self.mean) / self.std, 0.0)

    def takes(self, data_type: pa.DataType) -> bool:
        return is_numeric(data_type)


class Category(Model):
    """The encoding of a text or boolean feature: the standardised share of rows with each value at training.

    :param name: name of the feature
    :param shares: shares of rows of the frequent values; all other values have the share 0
    :param missing: share of null rows, which form a separate category
    :param mean: mean of the shares over the rows at training
    :param std: standard deviation of the shares over the rows at training
    """

    kind: Literal["category"] = "category"
    name: str
    shares: dict[str, float]
    missing: float
    mean: float
    std: float

    def encoded(self, array: pa.Array) -> Floats:
        """Replace the values of a column with their standardised shares of rows at training, shape (n,)."""
        known = pa.array([*self.shares, None], pa.string())
        place = pc.index_in(decoded(array).cast(pa.string()), value_set=known)
        shares = np.asarray([*self.shares.values(), self.missing, 0.0])
        found: Floats = shares[pc.fill_null(place, len(known)).to_numpy(zero_copy_only=False)]
        return (found - self.mean) / self.std

    def takes(self, data_type: pa.DataType) -> bool:
        return category_kind(data_type) is not None


class Reconstruction(Model):
    """A reconstruction of the features by principal components.

    :param columns: encodings of the d features that are used
    :param left_out: orthonormal basis of the space that the components do not span, shape (d - components, d). The
        reconstruction error of a row is the length of its projection on this space
    :param variance: share of the variance of the split part `train` that the components explain
    :param errors: profile of the reconstruction errors in the held-out split part
    """

    columns: list[Annotated[Number | Category, Field(discriminator="kind")]]
    left_out: list[list[float]]
    variance: float
    errors: NumericColumn

    def mismatch(self, schema: pa.Schema) -> str | None:
        """Return why no reconstruction error can be computed for rows of ``schema``.

        :return: the reason as a clause; ``None`` if the error can be computed
        """
        for column in self.columns:
            index = schema.get_field_index(column.name)
            if index < 0:
                return f"column {column.name!r} is absent"
            if not column.takes(schema.field(index).type):
                before = "numeric" if isinstance(column, Number) else "categorical"
                return f"column {column.name!r} was {before} at training and is {plain(schema.field(index).type)} now"
        return None


class ReconstructionErrors:
    """Profiles the reconstruction errors of streamed rows. Memory does not grow with the number of rows.

    :ivar mismatch: the reason why the errors cannot be computed, as a clause that can follow "because"; ``None`` if
        they can be computed
    """

    def __init__(self, reconstruction: Reconstruction) -> None:
        self.mismatch: str | None = None
        self._reconstruction = reconstruction
        self._left_out = np.asarray(reconstruction.left_out)
        self._counter = NumericCounter()

    def count(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the batches unchanged, and count the errors of their rows."""
        for batch in batches:
            self.mismatch = self.mismatch or self._reconstruction.mismatch(batch.schema)
            if self.mismatch is None:
                self._counter.update(ERROR, pa.array(self._errors(batch)))
            yield batch

    def _errors(self, batch: pa.RecordBatch) -> Floats:
        # einsum does not use BLAS, whose threads would cost more time than they save on batches this small.
        along = np.einsum("ij,kj->ik", _encoded(self._reconstruction.columns, batch), self._left_out)
        errors: Floats = np.sqrt(np.einsum("ik,ik->i", along, along))
        return errors.round(_DECIMALS)

    def result(self) -> NumericColumn:
        """Return the profile of all errors that were counted."""
        return self._counter.result()


def learn(
    training: Iterable[pa.RecordBatch], features: Mapping[str, Any], held_out: Iterable[pa.RecordBatch]
) -> Reconstruction | None:
    """Fit principal components to the split part `train`, and profile the errors of the held-out split part.

    Each split part is read once. Only numeric and categorical features that are not constant are used, and at most the
    first hundred of them.

    :param training: rows of the split part `train`
    :param features: profiles of the features in the split part `train`, by name
    :param held_out: rows of the held-out split part
    :return: the reconstruction; ``None`` if fewer than two features can be used, or if no row is held out
    """
    varying = (_column(name, column) for name, column in features.items())
    columns = [column for column in varying if column is not None][:_MAX_COLUMNS]
    if len(columns) < 2:
        return None
    rows, sums, products = 0, np.zeros(len(columns)), np.zeros((len(columns), len(columns)))
    for batch in training:
        values = _encoded(columns, batch)
        rows, sums, products = rows + len(values), sums + values.sum(axis=0), products + values.T @ values
    means = sums / rows
    variances, directions = np.linalg.eigh(products / rows - np.outer(means, means))
    # Directions are ordered by ascending variance, so the directions that are left out precede the directions that are
    # used as components. At least one direction is left out, and at least one is used.
    left_over = np.cumsum(variances) / variances.sum()
    count = int(np.clip((left_over <= 1 - _VARIANCE).sum(), 1, len(columns) - 1))
    learned = Reconstruction(
        columns=columns,
        left_out=directions[:, :count].T.tolist(),
        variance=float(1 - left_over[count - 1]),
        errors=NumericCounter().result(),
    )
    errors = ReconstructionErrors(learned)
    for _ in errors.count(held_out):
        pass
    held_out_errors = errors.result()
    return learned.model_copy(update={"errors": held_out_errors}) if held_out_errors.rows else None


def _encoded(columns: Iterable[Number | Category], batch: pa.RecordBatch) -> Floats:
    """Encode and clip the rows, shape (n, columns)."""
    parts = [column.encoded(batch.column(column.name)) for column in columns]
    return np.clip(np.column_stack(parts), -_CLIP, _CLIP)


def _column(name: str, column: Any) -> Number | Category | None:
    """Return the encoding of a column; ``None`` if the column is constant, or neither numeric nor categorical."""
    if isinstance(column, NumericColumn) and column.std and column.mean is not None:
        return Number(name=name, mean=column.mean, std=column.std)
    if not isinstance(column, CategoricalColumn) or not column.rows:
        return None
    shares = {value: rows / column.rows for value, rows in column.top}
    missing = column.missing / column.rows
    # The mean and the standard deviation of the shares over the rows. The share of a value that is not in ``top`` is 0.
    every = np.asarray([*shares.values(), missing])
    mean = float(np.square(every).sum())
    std = float(np.sqrt(max(0.0, np.power(every, 3).sum() - mean * mean)))
    return Category(name=name, shares=shares, missing=missing, mean=mean, std=std) if std > 1e-9 else None
