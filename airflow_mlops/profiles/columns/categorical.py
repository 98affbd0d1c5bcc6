"""Categorical text columns and boolean columns.

Every value is counted exactly as long as a column has at most 4,096 distinct values with at most 32 KiB of text in
total. With more values, rows are counted by the hashes of their values (:mod:`hashing`). The frequent values then come
from a frequent-items sketch of Apache DataSketches. The error of the sketch is at most 0.4% of the rows.

A profile depends on the values alone, except for this sketch and the field ``top``, which is derived from the sketch.
Profiling the same rows in a different order, or merging the profiles of subsets, gives the same profile byte for byte.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any, Literal

import datasketches
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.profiles.columns.base import decoded, plain
from airflow_mlops.profiles.columns.hashing import HashedCounts

TOP = 50
_MOST_VALUES, _MOST_TEXT = 4_096, 32_768
_FREQUENT_LG_K = 10
# Frequent values are cut to this number of characters in the sketch.
_SHOWN = 100


class CategoricalColumn(Model):
    """The profile of a text column or of a boolean column (values ``true`` and ``false``).

    :param rows: number of rows, including null rows
    :param missing: number of null rows
    :param distinct: number of distinct values; if not all values are kept, an estimate with a standard error of 3%
    :param top: up to 50 frequent values and their row counts, most frequent first. If not all values are kept, the list
        contains only values that are certainly frequent, given the error of the sketch. Values are cut to 100
        characters
    :param values: every value and the number of rows with this value, as zlib-compressed JSON in base64; ``None`` if
        there are too many values to keep
    :param hashed: row counts by hash, from :meth:`HashedCounts.packed`; ``None`` if all values are kept
    :param sketch: a DataSketches frequent-strings sketch in base64; ``None`` if all values are kept
    """

    kind: Literal["categorical", "boolean"]
    rows: int
    missing: int
    distinct: int
    top: list[tuple[str, int]]
    values: str | None
    hashed: str | None = None
    sketch: str | None = None

    @property
    def valid(self) -> int:
        """Return the number of rows with a value."""
        return self.rows - self.missing

    @property
    def exact(self) -> bool:
        """Return whether the profile keeps every value."""
        return self.values is not None

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each value.

        If the profile does not keep all values, only the frequent values are included. The share of rows of each
        included value then has an error of at most :attr:`error`.
        """
        if self.values is not None:
            found: dict[str, int] = json.loads(zlib.decompress(base64.b64decode(self.values)))
            return found
        every = self.frequent().get_frequent_items(datasketches.frequent_items_error_type.NO_FALSE_NEGATIVES)
        return {value: count for value, count, _, _ in every}

    def hashes(self) -> HashedCounts:
        """Return the row counts by the hash of the value."""
        if self.hashed is not None:
            return HashedCounts.unpacked(self.hashed)
        found = HashedCounts()
        found.update(self.counts())
        return found

    def frequent(self) -> Any:
        """Return a DataSketches frequent-strings sketch of the values."""
        if self.sketch is not None:
            return datasketches.frequent_strings_sketch.deserialize(base64.b64decode(self.sketch))
        return _frequent(self.counts())

    @property
    def error(self) -> float:
        """Return the upper bound of the error in the share of rows of a value; 0 if the profile keeps every value."""
        if self.exact:
            return 0.0
        sketch = self.frequent()
        return float(sketch.get_upper_bound("") - sketch.get_lower_bound("")) / self.valid


def category_kind(data_type: pa.DataType) -> Literal["categorical", "boolean"] | None:
    """Return the kind of profile for columns of ``data_type``; ``None`` if this type is neither text nor boolean."""
    data_type = plain(data_type)
    if pa.types.is_boolean(data_type):
        return "boolean"
    if pa.types.is_string(data_type) or pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type):
        return "categorical"
    return None


class CategoricalCounter:
    """Computes the profile of a categorical or boolean column from a stream of values."""

    def __init__(self, kind: Literal["categorical", "boolean"]) -> None:
        self.kind = kind
        self.rows = self.missing = 0
        self.counts: dict[str, int] = {}
        self.text = 0
        # Set as soon as there are too many values to keep all of them.
        self.hashed: HashedCounts | None = None
        self.frequent: Any = None

    def update(self, name: str, array: pa.Array) -> None:
        if category_kind(array.type) != self.kind:
            raise SchemaError(
                f"Column {name!r} is {self.kind} in earlier rows and {array.type} in later rows: convert it to one type."
            )
        self.rows += len(array)
        self.missing += array.null_count
        counts = pc.value_counts(decoded(array).drop_null().cast(pa.string()))
        self._count(dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))

    def add(self, column: Any) -> None:
        self.rows += column.rows
        self.missing += column.missing
        if column.exact:
            self._count(column.counts())
            return
        self._hash()
        assert self.hashed is not None
        self.hashed.add(column.hashes())
        self.frequent.merge(column.frequent())

    def result(self) -> CategoricalColumn:
        if self.hashed is None:
            top = list(self.counts.items())
        else:
            every = self.frequent.get_frequent_items(datasketches.frequent_items_error_type.NO_FALSE_POSITIVES)
            top = [(value, count) for value, count, _, _ in every]
        return CategoricalColumn(
            kind=self.kind,
            rows=self.rows,
            missing=self.missing,
            distinct=len(self.counts) if self.hashed is None else round(self.hashed.distinct),
            top=sorted(top, key=lambda item: (-item[1], item[0]))[:TOP],
            values=_packed(self.counts) if self.hashed is None else None,
            hashed=None if self.hashed is None else self.hashed.packed(),
            sketch=None if self.hashed is None else base64.b64encode(self.frequent.serialize()).decode(),
        )

    def _count(self, counts: dict[str, int]) -> None:
        if self.hashed is not None:
            self.hashed.update(counts)
            _count_frequent(self.frequent, counts)
            return
        for value, count in counts.items():
            known = self.counts.get(value)
            self.text += 0 if known is not None else len(value.encode())
            self.counts[value] = (known or 0) + count
        if len(self.counts) > _MOST_VALUES or self.text > _MOST_TEXT:
            self._hash()

    def _hash(self) -> None:
        """Switch to counting by hashes."""
        if self.hashed is None:
            self.hashed, self.frequent = HashedCounts(), _frequent(self.counts)
            self.hashed.update(self.counts)
            self.counts = {}


def _frequent(counts: dict[str, int]) -> Any:
    sketch = datasketches.frequent_strings_sketch(_FREQUENT_LG_K)
    _count_frequent(sketch, counts)
    return sketch


def _count_frequent(sketch: Any, counts: dict[str, int]) -> None:
    for value, count in counts.items():
        sketch.update(value[:_SHOWN], count)


def _packed(counts: dict[str, int]) -> str:
    text = json.dumps(counts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()
