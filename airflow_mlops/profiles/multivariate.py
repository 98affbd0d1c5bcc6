"""Whether features still relate to each other as at training: the error of a reconstruction by principal components.

The relations between columns may change while each column keeps its distribution. Principal components that hold most
of the variance of the training part describe these relations. The distance of a row from its reconstruction by them is
its reconstruction error: a numeric column, whose drift is measured as that of any other. After A. Qahtan et al., "A
PCA-Based Change Detection Framework for Multidimensional Data Streams", KDD (2015), and NannyML's multivariate drift
detection: the components hold 65% of the variance, and categories are encoded by their frequency.

The reference errors are those of the held-out part: rows to which the components were fitted lie closer to them.
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
# Share of the variance that the components hold.
_VARIANCE = 0.65
_MAX_COLUMNS = 100
# Standardised values are clipped here; squares of larger ones could overflow.
_CLIP = 100.0
# Of errors in standard deviations. Further digits are rounding errors, which differ between machines.
_DECIMALS = 6


class Number(Model):
    """A numeric column, standardised by mean and standard deviation at training. Values that are missing or not finite
    are encoded as the mean.
    """

    kind: Literal["number"] = "number"
    name: str
    mean: float
    std: float

    def encoded(self, array: pa.Array) -> Floats:
        """The standardised values, shape (n,)."""
        values = decoded(array).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(np.isfinite(values), (values - self.mean) / self.std, 0.0)

    def takes(self, data_type: pa.DataType) -> bool:
        return is_numeric(data_type)


class Category(Model):
    """A column of text or booleans. Each value is encoded as its share of rows at training, standardised.

    :param shares: shares of the frequent values; all other values are encoded as 0
    :param missing: share of rows without a value, which form a category of their own
    """

    kind: Literal["category"] = "category"
    name: str
    shares: dict[str, float]
    missing: float
    mean: float
    std: float

    def encoded(self, array: pa.Array) -> Floats:
        """The standardised shares, shape (n,)."""
        known = pa.array([*self.shares, None], pa.string())
        place = pc.index_in(decoded(array).cast(pa.string()), value_set=known)
        shares = np.asarray([*self.shares.values(), self.missing, 0.0])
        found: Floats = shares[pc.fill_null(place, len(known)).to_numpy(zero_copy_only=False)]
        return (found - self.mean) / self.std

    def takes(self, data_type: pa.DataType) -> bool:
        return category_kind(data_type) is not None


class Reconstruction(Model):
    """A reconstruction of the features by principal components.

    :param columns: the d features that are used, with their encodings
    :param left_out: orthonormal directions that the components do not span, shape (d - components, d). The length of an
        encoded row along them is its reconstruction error
    :param variance: share of the variance that the components hold
    :param errors: a profile of the reconstruction errors of the held-out part
    """

    columns: list[Annotated[Number | Category, Field(discriminator="kind")]]
    left_out: list[list[float]]
    variance: float
    errors: NumericColumn

    def mismatch(self, schema: pa.Schema) -> str | None:
        """Why rows of ``schema`` have no reconstruction error, as a clause; ``None`` if they have one."""
        for column in self.columns:
            index = schema.get_field_index(column.name)
            if index < 0:
                return f"there is no column {column.name}"
            if not column.takes(schema.field(index).type):
                return f"{column.name} was a {column.kind} at training and is {plain(schema.field(index).type)} now"
        return None


class ReconstructionErrors:
    """Profiles the reconstruction errors of streamed rows. Memory does not grow with the number of rows.

    :ivar mismatch: why there are no errors, as a clause; ``None`` if there are
    """

    def __init__(self, reconstruction: Reconstruction) -> None:
        self.mismatch: str | None = None
        self._reconstruction = reconstruction
        self._left_out = np.asarray(reconstruction.left_out)
        self._counter = NumericCounter()

    def count(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the batches unchanged, and count the errors of each."""
        for batch in batches:
            self.mismatch = self.mismatch or self._reconstruction.mismatch(batch.schema)
            if self.mismatch is None:
                self._counter.update(ERROR, pa.array(self._errors(batch)))
            yield batch

    def _errors(self, batch: pa.RecordBatch) -> Floats:
        # BLAS would start threads, which cost more than they gain on batches this small.
        along = np.einsum("ij,kj->ik", _encoded(self._reconstruction.columns, batch), self._left_out)
        errors: Floats = np.sqrt(np.einsum("ik,ik->i", along, along))
        return errors.round(_DECIMALS)

    def result(self) -> NumericColumn:
        """A profile of all errors so far."""
        return self._counter.result()


def learn(
    training: Iterable[pa.RecordBatch], features: Mapping[str, Any], held_out: Iterable[pa.RecordBatch]
) -> Reconstruction | None:
    """Learn the components in one pass over the training part, and the errors in one pass over the held-out part.

    Numeric and categorical features that vary are used, at most the first hundred.

    :param features: profiles of the columns of the training part, by name
    :return: ``None`` if fewer than two features can be used, or no row is held out
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
    # In order of ascending variance, so the directions left out come first. At least one direction is kept and one left
    # out.
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
    """The encoded rows, clipped, shape (n, columns)."""
    parts = [column.encoded(batch.column(column.name)) for column in columns]
    return np.clip(np.column_stack(parts), -_CLIP, _CLIP)


def _column(name: str, column: Any) -> Number | Category | None:
    """The encoding of a column; ``None`` if the column does not vary or is of another kind."""
    if isinstance(column, NumericColumn) and column.std and column.mean is not None:
        return Number(name=name, mean=column.mean, std=column.std)
    if not isinstance(column, CategoricalColumn) or not column.rows:
        return None
    shares = {value: rows / column.rows for value, rows in column.top}
    missing = column.missing / column.rows
    # Mean and standard deviation of the encoding of a row. Rarer values are encoded as 0.
    every = np.asarray([*shares.values(), missing])
    mean = float(np.square(every).sum())
    std = float(np.sqrt(max(0.0, np.power(every, 3).sum() - mean * mean)))
    return Category(name=name, shares=shares, missing=missing, mean=mean, std=std) if std > 1e-9 else None
