"""Columns of text that are categories, and of booleans.

Every value is counted exactly as long as there are at most 4,096 different ones with 32 KiB of text in all. Beyond that
the rows are counted by the hashes of their values (:mod:`hashing`), and the frequent values are those of an Apache
DataSketch, with an error of at most 0.4% of the rows. All but that sketch and what it says (``top``) depends on the
values alone: the same rows in another order, or profiled in parts that are merged, give the same profile, byte for byte.
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
# Characters of a frequent value where not all are kept.
_SHOWN = 100


class CategoricalColumn(Model):
    """A profile of text, or of booleans (values ``true`` and ``false``).

    :param rows: all rows, missing ones included
    :param missing: rows without a value
    :param distinct: how many different values there are; with a standard error of 3% where not all are kept
    :param top: the values that are certainly frequent and their rows, most frequent first; values beyond 100
        characters are cut where not all are kept
    :param values: every value and its rows, packed; ``None`` where there are too many
    :param hashed: only where there are too many: rows by hash, packed
    :param sketch: only where there are too many: a DataSketches frequent-strings sketch, base64
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
        """The number of rows with a value."""
        return self.rows - self.missing

    @property
    def exact(self) -> bool:
        """Whether every value was kept."""
        return self.values is not None

    def counts(self) -> dict[str, int]:
        """Rows of each value; where not all are kept, of the frequent ones, off by at most :attr:`error`."""
        if self.values is not None:
            found: dict[str, int] = json.loads(zlib.decompress(base64.b64decode(self.values)))
            return found
        every = self.frequent().get_frequent_items(datasketches.frequent_items_error_type.NO_FALSE_NEGATIVES)
        return {value: count for value, count, _, _ in every}

    def hashes(self) -> HashedCounts:
        """Rows by the hashes of their values."""
        if self.hashed is not None:
            return HashedCounts.unpacked(self.hashed)
        found = HashedCounts()
        found.update(self.counts())
        return found

    def frequent(self) -> Any:
        """A DataSketches frequent-strings sketch of the values."""
        if self.sketch is not None:
            return datasketches.frequent_strings_sketch.deserialize(base64.b64decode(self.sketch))
        return _frequent(self.counts())

    @property
    def error(self) -> float:
        """By how much the share of a value may be off; 0 where every value was kept."""
        if self.exact:
            return 0.0
        sketch = self.frequent()
        return float(sketch.get_upper_bound("") - sketch.get_lower_bound("")) / self.valid


def category_kind(data_type: pa.DataType) -> Literal["categorical", "boolean"] | None:
    """How a column of ``data_type`` is profiled; ``None`` if it is neither."""
    data_type = plain(data_type)
    if pa.types.is_boolean(data_type):
        return "boolean"
    if pa.types.is_string(data_type) or pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type):
        return "categorical"
    return None


class CategoricalCounter:
    """Counts text or booleans as they stream by."""

    def __init__(self, kind: Literal["categorical", "boolean"]) -> None:
        self.kind = kind
        self.rows = self.missing = 0
        self.counts: dict[str, int] = {}
        self.text = 0
        # Both only where there are too many values to count each.
        self.hashed: HashedCounts | None = None
        self.frequent: Any = None

    def update(self, name: str, array: pa.Array) -> None:
        if category_kind(array.type) != self.kind:
            raise SchemaError(f"Column {name!r} is {self.kind} in earlier rows and {array.type} in later ones.")
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
        """From now on count by hashes."""
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
