"""Whether the features still hang together as they did: the error of a reconstruction by principal components.

Columns may each keep their distribution while what they have to do with one another changes. Components that hold most of
the variance of the training part say what they have to do with one another; how far a row lies from what those make of
it is its reconstruction error, a column of numbers like any other, whose drift is measured as that of any other. After
A. Qahtan et al., "A PCA-Based Change Detection Framework for Multidimensional Data Streams", KDD (2015), and NannyML's
multivariate drift detection: 65% of the variance, categories encoded by their frequency.

The errors to compare with are those of the held-out part: rows that the components were fitted to lie nearer.
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
_HELD = 0.65
_MOST_COLUMNS = 100
# Standard deviations beyond which a value is no further away; squares of larger ones could overflow.
_FAR = 100.0
# Of errors in standard deviations: less than that is rounding, which differs between machines.
_DECIMALS = 6


class Number(Model):
    """A column of numbers in standard deviations from its mean; where there is no finite number, the mean."""

    kind: Literal["number"] = "number"
    name: str
    mean: float
    std: float

    def encoded(self, array: pa.Array) -> Floats:
        """Shape (n,)."""
        values = decoded(array).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(np.isfinite(values), (values - self.mean) / self.std, 0.0)

    def takes(self, data_type: pa.DataType) -> bool:
        return is_numeric(data_type)


class Category(Model):
    """A column of text or booleans, each value as its share at training, in standard deviations from their mean.

    :param shares: of the frequent values; the others have none
    :param missing: the share of rows without a value, which are a category of their own
    """

    kind: Literal["category"] = "category"
    name: str
    shares: dict[str, float]
    missing: float
    mean: float
    std: float

    def encoded(self, array: pa.Array) -> Floats:
        """Shape (n,)."""
        known = pa.array([*self.shares, None], pa.string())
        place = pc.index_in(decoded(array).cast(pa.string()), value_set=known)
        shares = np.asarray([*self.shares.values(), self.missing, 0.0])
        found: Floats = shares[pc.fill_null(place, len(known)).to_numpy(zero_copy_only=False)]
        return (found - self.mean) / self.std

    def takes(self, data_type: pa.DataType) -> bool:
        return category_kind(data_type) is not None


class Reconstruction(Model):
    """What the features have to do with one another.

    :param columns: the features that are used, d of them, and how each is made a number
    :param left_out: orthonormal directions that the components do not span, shape (d - components, d): the length of a
        row along them is its reconstruction error
    :param variance: the share of the variance that the components hold
    :param errors: a profile of the reconstruction errors of the held-out part
    """

    columns: list[Annotated[Number | Category, Field(discriminator="kind")]]
    left_out: list[list[float]]
    variance: float
    errors: NumericColumn

    def unfit(self, schema: pa.Schema) -> str | None:
        """Why rows of ``schema`` have no reconstruction error, in one clause; ``None`` where they have."""
        for column in self.columns:
            index = schema.get_field_index(column.name)
            if index < 0:
                return f"there is no column {column.name}"
            if not column.takes(schema.field(index).type):
                return f"{column.name} was a {column.kind} at training and is {plain(schema.field(index).type)} now"
        return None


class Errors:
    """Counts the reconstruction errors of rows as they stream by; memory does not grow with the rows.

    :ivar of: what they are errors of
    :ivar unfit: why the errors are not known, in one clause; ``None`` where they are
    """

    def __init__(self, of: Reconstruction) -> None:
        self.unfit: str | None = None
        self.of = of
        self._left_out = np.asarray(of.left_out)
        self._counter = NumericCounter()

    def beside(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same batches, counted when they are taken."""
        for batch in batches:
            self.unfit = self.unfit or self.of.unfit(batch.schema)
            if self.unfit is None:
                self._counter.update(ERROR, pa.array(self._errors(batch)))
            yield batch

    def _errors(self, batch: pa.RecordBatch) -> Floats:
        # Not by BLAS, whose threads cost more than they bring for so little.
        along = np.einsum("ij,kj->ik", _encoded(self.of.columns, batch), self._left_out)
        errors: Floats = np.sqrt(np.einsum("ik,ik->i", along, along))
        return errors.round(_DECIMALS)

    def result(self) -> NumericColumn:
        """A profile of the errors."""
        return self._counter.result()


def learn(
    training: Iterable[pa.RecordBatch], features: Mapping[str, Any], held_out: Iterable[pa.RecordBatch]
) -> Reconstruction | None:
    """Find the components in one pass over the training part, and the errors in one over the held-out part.

    :param features: profiles of the columns of the training part, by name
    :return: ``None`` where fewer than two features can be used (of more than a hundred the first hundred are), or
        nothing is held out
    """
    varying = (_column(name, column) for name, column in features.items())
    columns = [column for column in varying if column is not None][:_MOST_COLUMNS]
    if len(columns) < 2:
        return None
    rows, sums, products = 0, np.zeros(len(columns)), np.zeros((len(columns), len(columns)))
    for batch in training:
        values = _encoded(columns, batch)
        rows, sums, products = rows + len(values), sums + values.sum(axis=0), products + values.T @ values
    means = sums / rows
    variances, directions = np.linalg.eigh(products / rows - np.outer(means, means))
    # By rising variance: those left out come first. One component at least, and one direction left out at least.
    left_over = np.cumsum(variances) / variances.sum()
    count = int(np.clip((left_over <= 1 - _HELD).sum(), 1, len(columns) - 1))
    learned = Reconstruction(
        columns=columns,
        left_out=directions[:, :count].T.tolist(),
        variance=float(1 - left_over[count - 1]),
        errors=NumericCounter().result(),
    )
    errors = Errors(learned)
    for _ in errors.beside(held_out):
        pass
    held = errors.result()
    return learned.model_copy(update={"errors": held}) if held.rows else None


def _encoded(columns: Iterable[Number | Category], batch: pa.RecordBatch) -> Floats:
    """Shape (n, columns)."""
    parts = [column.encoded(batch.column(column.name)) for column in columns]
    return np.clip(np.column_stack(parts), -_FAR, _FAR)


def _column(name: str, column: Any) -> Number | Category | None:
    """How the column is made a number; ``None`` where it does not vary, or is of another kind."""
    if isinstance(column, NumericColumn) and column.std and column.mean is not None:
        return Number(name=name, mean=column.mean, std=column.std)
    if not isinstance(column, CategoricalColumn) or not column.rows:
        return None
    shares = {value: rows / column.rows for value, rows in column.top}
    missing = column.missing / column.rows
    # The mean and the variance of what a row is encoded as; rarer values than these are encoded as nought.
    every = np.asarray([*shares.values(), missing])
    mean = float(np.square(every).sum())
    std = float(np.sqrt(max(0.0, np.power(every, 3).sum() - mean * mean)))
    return Category(name=name, shares=shares, missing=missing, mean=mean, std=std) if std > 1e-9 else None
