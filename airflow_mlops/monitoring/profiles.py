"""What a column looked like, in a few kilobytes: one streaming pass, mergeable, stored as JSON.

Quantiles, frequent values and distinct counts are Apache DataSketches, whose errors are proven: a rank is off by at
most 0.7% with 99% confidence; counts of values are exact for columns with up to about 700 different ones, and off by
at most 0.4% of the rows beyond that.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import datasketches
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from airflow_mlops.exceptions import SchemaError
from airflow_mlops.monitoring.calibration import Calibration
from airflow_mlops.specs.base import Model

BINS = 10
TOP = 50
_QUANTILES_K = 512
_FREQUENT_LG_K = 10
_DISTINCT_LG_K = 11
# The sketch's errors are stated at 99% confidence, two-sided.
_Z99 = 2.576

Floats = npt.NDArray[np.float64]


class NumericColumn(Model):
    """A profile of numbers.

    :param rows: all rows, missing ones included
    :param missing: rows without a value
    :param nan: rows whose value is not a number
    :param infinite: rows whose value is plus or minus infinity
    :param mean: of the finite values, as are ``std`` (of the sample), ``min``, ``max``, ``edges`` and ``sketch``
    :param edges: ``min``, quantiles, ``max``: at most ten bins of about equal counts, fewer where values tie
    :param counts: finite values per bin; a bin holds its upper edge, and the first one ``min`` too. Where many values
        equal ``min`` the first bin is of width nought and holds them
    :param sketch: a DataSketches KLL sketch of doubles, base64
    """

    kind: Literal["numeric"] = "numeric"
    rows: int
    missing: int
    nan: int
    infinite: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    edges: list[float]
    counts: list[int]
    sketch: str

    @property
    def valid(self) -> int:
        """The number of finite values."""
        return self.rows - self.missing - self.nan - self.infinite

    def cdf(self, points: Sequence[float] | Floats) -> Floats:
        """Share of the finite values at or below each of ``points``, which rise strictly.

        :return: one share a point, shape ``(len(points),)``; zeros where there is no finite value
        """
        if not self.valid:
            return np.zeros(len(points))
        return np.asarray(_numbers(self.sketch).get_cdf(list(points), True)[:-1], dtype=float)

    def quantiles(self, ranks: Sequence[float] | Floats) -> Floats:
        """The finite values at ``ranks`` between 0 and 1; empty where there is no finite value."""
        return np.asarray(_numbers(self.sketch).get_quantiles(list(ranks), True) if self.valid else [], dtype=float)

    def points(self) -> tuple[Floats, Floats]:
        """The finite values that the sketch has kept, and how many rows each stands for: 1 up to 512 values."""
        kept = np.asarray(list(_numbers(self.sketch)) if self.valid else [], dtype=float).reshape(-1, 2)
        return kept[:, 0], kept[:, 1]

    @property
    def rank_error(self) -> float:
        """Standard error of the share of values up to a point; 0 where every value was kept."""
        return self._error(False)

    @property
    def bin_error(self) -> float:
        """Standard error of the share of values between two points; 0 where every value was kept."""
        return self._error(True)

    def _error(self, pmf: bool) -> float:
        sketch = _numbers(self.sketch)
        return sketch.normalized_rank_error(pmf) / _Z99 if sketch.is_estimation_mode() else 0.0


class CategoricalColumn(Model):
    """A profile of text, or of booleans (values ``true`` and ``false``).

    :param rows: all rows, missing ones included
    :param missing: rows without a value
    :param distinct: about how many different values there are
    :param top: the values that are certainly frequent and their rows, most frequent first
    :param sketch: a DataSketches frequent-strings sketch, base64
    :param distinct_sketch: a DataSketches HLL sketch, base64
    """

    kind: Literal["categorical", "boolean"]
    rows: int
    missing: int
    distinct: int
    top: list[tuple[str, int]]
    sketch: str
    distinct_sketch: str

    @property
    def valid(self) -> int:
        """The number of rows with a value."""
        return self.rows - self.missing

    def counts(self) -> dict[str, int]:
        """Rows of each value, without those too rare to be kept."""
        if not self.valid:
            return {}
        every = _frequent(self.sketch).get_frequent_items(datasketches.frequent_items_error_type.NO_FALSE_NEGATIVES)
        return {value: count for value, count, _, _ in every}

    @property
    def error(self) -> float:
        """By how much the share of a value may be off; 0 where every value was kept."""
        sketch = _frequent(self.sketch)
        return (sketch.get_upper_bound("") - sketch.get_lower_bound("")) / self.valid if self.valid else 0.0


ColumnProfile = Annotated[NumericColumn | CategoricalColumn, Field(discriminator="kind")]


class Profile(Model):
    """Profiles of some columns of a dataset, by column name.

    :param rows: rows of the dataset
    """

    rows: int
    columns: dict[str, ColumnProfile]


class ModelProfile(Model):
    """What a model was made with, stored beside it as ``mlops/profile.json``; monitoring compares windows with it. For a
    model from elsewhere evaluation makes it, from the dataset that it measures on.

    :param features: a profile of the features in the training part
    :param scores: a profile of the column ``score`` predicted for the held-out part
    :param calibration: what such a score says about the outcome; ``None`` where the held-out part could not tell, and
        in profiles of earlier versions of this package
    """

    features: Profile
    scores: Profile
    calibration: Calibration | None = None


def profile(batches: Iterable[pa.RecordBatch], columns: Sequence[str] | None = None) -> Profile:
    """Profile ``columns`` in one pass; memory does not grow with the rows.

    :param columns: names; ``None`` means every column of numbers, text or booleans
    :raises SchemaError: a column is missing, changes its kind, or is neither numbers, text nor booleans
    """
    rows = 0
    counters: dict[str, _Numbers | _Values] = {}
    for batch in batches:
        if not counters:
            counters = _counters(batch.schema, columns)
        rows += batch.num_rows
        for name, counter in counters.items():
            index = batch.schema.get_field_index(name)
            if index < 0:
                raise SchemaError(f"Column {name!r} is gone: it is in earlier rows, not in later ones.")
            counter.update(name, batch.column(index))
    return Profile(rows=rows, columns={name: counter.result() for name, counter in counters.items()})


def merge(profiles: Iterable[Profile]) -> Profile:
    """The profile of all rows together, from profiles of parts of them.

    :raises SchemaError: a column is not in all of them with the same kind
    """
    rows = 0
    counters: dict[str, _Numbers | _Values] = {}
    for number, item in enumerate(profiles):
        rows += item.rows
        if number == 0:
            counters = {
                name: _Numbers() if isinstance(c, NumericColumn) else _Values(c.kind)
                for name, c in item.columns.items()
            }
        if item.columns.keys() != counters.keys():
            raise SchemaError(
                f"Profiles cannot be merged: columns {sorted(item.columns.keys() ^ counters.keys())} are not in all."
            )
        for name, column in item.columns.items():
            counter = counters[name]
            if counter.kind != column.kind:
                raise SchemaError(
                    f"Profiles cannot be merged: column {name!r} is {counter.kind} in one and {column.kind} in another."
                )
            counter.add(column)
    return Profile(rows=rows, columns={name: counter.result() for name, counter in counters.items()})


def kind_of(data_type: pa.DataType) -> Literal["numeric", "categorical", "boolean"] | None:
    """How a column of ``data_type`` is profiled; ``None`` if it cannot be."""
    if pa.types.is_dictionary(data_type):
        data_type = data_type.value_type
    if pa.types.is_integer(data_type) or pa.types.is_floating(data_type) or pa.types.is_decimal(data_type):
        return "numeric"
    if pa.types.is_boolean(data_type):
        return "boolean"
    if pa.types.is_string(data_type) or pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type):
        return "categorical"
    # A column in which nothing was ever seen has no type of its own.
    return "numeric" if pa.types.is_null(data_type) else None


def _counters(schema: pa.Schema, columns: Sequence[str] | None) -> dict[str, _Numbers | _Values]:
    counters: dict[str, _Numbers | _Values] = {}
    for name in schema.names if columns is None else columns:
        index = schema.get_field_index(name)
        if index < 0:
            raise SchemaError(f"There is no column {name!r} to profile: there are {', '.join(schema.names)}.")
        kind = kind_of(schema.field(index).type)
        if kind is None and columns is not None:
            raise SchemaError(
                f"Column {name!r} is {schema.field(index).type}: only numbers, text and booleans have a profile."
            )
        if kind is not None:
            counters[name] = _Numbers() if kind == "numeric" else _Values(kind)
    return counters


def nothing(kind: Literal["numeric", "categorical", "boolean"], rows: int) -> NumericColumn | CategoricalColumn:
    """The profile of ``rows`` missing values."""
    counter = _Numbers() if kind == "numeric" else _Values(kind)
    counter.rows = counter.missing = rows
    return counter.result()


class _Numbers:
    """Counts numbers as they stream by."""

    kind: Literal["numeric"] = "numeric"

    def __init__(self) -> None:
        self.rows = self.missing = self.nan = self.infinite = self.valid = 0
        self.mean = self.squares = 0.0
        self.sketch = datasketches.kll_doubles_sketch(_QUANTILES_K)

    def update(self, name: str, array: pa.Array) -> None:
        if kind_of(array.type) != "numeric":
            raise SchemaError(f"Column {name!r} holds numbers in earlier rows and {array.type} in later ones.")
        self.rows += len(array)
        self.missing += array.null_count
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        values = array.drop_null().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        # A copy, since the sketch takes nothing that is read-only.
        finite = values[np.isfinite(values)]
        nan = int(np.isnan(values).sum()) if len(finite) < len(values) else 0
        self.nan += nan
        self.infinite += len(values) - len(finite) - nan
        if len(finite):
            self.sketch.update(finite)
            with np.errstate(over="ignore", invalid="ignore"):
                mean = float(finite.mean())
                apart = finite - mean
                self._moments(len(finite), mean, float(np.square(apart, out=apart).sum()))

    def add(self, column: Any) -> None:
        self.rows += column.rows
        self.missing += column.missing
        self.nan += column.nan
        self.infinite += column.infinite
        if column.valid:
            self.sketch.merge(_numbers(column.sketch))
            std = math.nan if column.std is None and column.valid > 1 else column.std or 0.0
            self._moments(
                column.valid, math.nan if column.mean is None else column.mean, std * std * (column.valid - 1)
            )

    def _moments(self, count: int, mean: float, squares: float) -> None:
        # Chan, Golub and LeVeque: means and squared deviations of two parts make those of the whole.
        total, distance = self.valid + count, mean - self.mean
        self.squares += squares + (distance * self.valid / total) * (distance * count)
        self.mean += distance * count / total
        self.valid = total

    def result(self) -> NumericColumn:
        edges, counts = self._bins()
        return NumericColumn(
            rows=self.rows,
            missing=self.missing,
            nan=self.nan,
            infinite=self.infinite,
            mean=_json_number(self.mean) if self.valid else None,
            std=_json_number(math.sqrt(self.squares / (self.valid - 1))) if self.valid > 1 else None,
            min=self.sketch.get_min_value() if self.valid else None,
            max=self.sketch.get_max_value() if self.valid else None,
            edges=edges,
            counts=counts,
            sketch=_text(self.sketch.serialize()),
        )

    def _bins(self) -> tuple[list[float], list[int]]:
        if not self.valid:
            return [], []
        low, high = self.sketch.get_min_value(), self.sketch.get_max_value()
        if low == high:
            return [low, high], [self.valid]
        inner = self.sketch.get_quantiles(list(np.linspace(0, 1, BINS + 1)[1:-1]), True)
        edges = [low, *sorted(set(inner) - {high}), high]
        ranks = [0.0, *self.sketch.get_cdf(edges[1:], True)[:-1]]
        bounds = [round(rank * self.valid) for rank in ranks]
        return edges, [high - low for low, high in pairwise(bounds)]


class _Values:
    """Counts text or booleans as they stream by."""

    def __init__(self, kind: Literal["categorical", "boolean"]) -> None:
        self.kind = kind
        self.rows = self.missing = 0
        self.frequent = datasketches.frequent_strings_sketch(_FREQUENT_LG_K)
        self.distinct = datasketches.hll_union(_DISTINCT_LG_K)

    def update(self, name: str, array: pa.Array) -> None:
        if kind_of(array.type) != self.kind:
            raise SchemaError(f"Column {name!r} is {self.kind} in earlier rows and {array.type} in later ones.")
        self.rows += len(array)
        self.missing += array.null_count
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        counts = pc.value_counts(array.drop_null().cast(pa.string()))
        seen = datasketches.hll_sketch(_DISTINCT_LG_K)
        for value, count in zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True):
            self.frequent.update(value, count)
            seen.update(value)
        self.distinct.update(seen)

    def add(self, column: Any) -> None:
        self.rows += column.rows
        self.missing += column.missing
        self.frequent.merge(_frequent(column.sketch))
        self.distinct.update(datasketches.hll_sketch.deserialize(base64.b64decode(column.distinct_sketch)))

    def result(self) -> CategoricalColumn:
        every = self.frequent.get_frequent_items(datasketches.frequent_items_error_type.NO_FALSE_POSITIVES)
        top = sorted(((value, count) for value, count, _, _ in every), key=lambda item: (-item[1], item[0]))[:TOP]
        distinct = self.distinct.get_result()
        return CategoricalColumn(
            kind=self.kind,
            rows=self.rows,
            missing=self.missing,
            distinct=round(distinct.get_estimate()),
            top=top,
            sketch=_text(self.frequent.serialize()),
            distinct_sketch=_text(distinct.serialize_compact()),
        )


def _numbers(sketch: str) -> Any:
    return datasketches.kll_doubles_sketch.deserialize(base64.b64decode(sketch))


def _frequent(sketch: str) -> Any:
    return datasketches.frequent_strings_sketch.deserialize(base64.b64decode(sketch))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None
