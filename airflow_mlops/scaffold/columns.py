"""Properties of the columns of a sample: whether they contain times, identify rows, or can be features."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import told_apart
from airflow_mlops.core.moments import parse_instant
from airflow_mlops.core.zones import zone
from airflow_mlops.data import moments
from airflow_mlops.data.window_rows import DATE
from airflow_mlops.stages.ingest.sources.formats.csv_columns import NULL_TEXT

if TYPE_CHECKING:
    import pyarrow as pa

_SHORTEST_DATE = len("2024-3-5")
# The years 2001 to 2100 in seconds since 1970.
_EPOCH = 978_307_200, 4_133_980_800
# Dates such as 31.12.2024, 12/31/24 and 31-Dec-2024, with or without a time of day.
_FOREIGN_DATE = re.compile(r"\s*(\d{1,2}([./-])(\d{1,2}|[A-Za-z]{3})\2(\d{4}|\d{2})|\d{4}([./])\d{1,2}\5\d{1,2})(?!\S)")
# Amounts that a CSV reader does not recognise as numbers: $1,234.50, 1.234,50 €, 12%.
_CURRENCY = r"([$\u00a2-\u00a5\u20a0-\u20cf%]|EUR|USD|GBP|CHF|JPY|kr|zł)"
_AMOUNT = re.compile(
    rf"\s*[-+(\u2212]?\s*({_CURRENCY}\s*)?[-+\u2212]?\d+([.,'\u2019 \u00a0\u202f]\d{{3}})*([.,]\d+)?\s*{_CURRENCY}?\s*\)?\s*"
)
_AMOUNT_MARK = re.compile(rf"{_CURRENCY}|\u2212|\d[.,'\u2019]\d")
_ZONE = re.compile(r"(Z|[+-]\d{2}(:?\d{2})?)\s*$", re.IGNORECASE)
_OFFSET = re.compile(r"[T ]\d{2}.*([+-]\d{2}(:?\d{2})?)\s*$")
# Numbers in text. A number that begins with a zero is part of a code, such as a postcode.
_NUMBER = r"^\s*[-+]?(0|[1-9]\d*|(0|[1-9]\d*)?[.,]\d+)([eE][-+]?\d+)?\s*$"
# In a column with at least this many different numbers, a few other texts are probably input errors.
_ERRORS_SHARE, _ERRORS_KINDS, _NUMBERS_KINDS = 0.01, 3, 20
# Numbers that often mean a missing value, such as -9, -999 and 9999.
_CODE = re.compile(r"(-9+|99+)(\.0+)?")
# A column needs at least this number of distinct values for one of them to be such a number.
_FEWEST_BESIDE_CODE = 3
# A column whose values are almost all distinct is an id or free text, unless it has very few values.
ALMOST_ALL, FEWEST = 0.9, 20
# Smallest rank correlation of two columns in the same order.
_SAME_ORDER = 0.99
# Number of values of a text column that are read to decide whether the column contains times or amounts.
_TEXTS = 1_000


@dataclass(frozen=True)
class Column:
    """A column of a sample.

    :param name: name of the column
    :param values: the values in the order of the rows
    """

    name: str
    values: pa.ChunkedArray

    @property
    def type(self) -> pa.DataType:
        return self.values.type

    @cached_property
    def nulls(self) -> int:
        return int(self.values.null_count)

    @cached_property
    def distinct(self) -> int:
        """Return the number of distinct values, without null; 0 for lists and structs, which are not counted."""
        import pyarrow as pa
        import pyarrow.compute as pc

        return 0 if pa.types.is_nested(self.type) else int(pc.count_distinct(self.values, mode="only_valid").as_py())

    @cached_property
    def is_time(self) -> bool:
        """Return whether the values are times or dates, by their type or as ISO 8601 text with at least a day."""
        if moments.is_time(self.type):
            return self.nulls < len(self.values)
        if not moments.is_text(self.type):
            return False
        texts = self.values.drop_null()[:_TEXTS].to_pylist()
        return bool(texts) and all(map(_is_moment, texts))

    @cached_property
    def not_times(self) -> list[str]:
        """Return the first three different texts that are not times, of a text column of which most values are times."""
        if not self.is_text or self.is_time:
            return []
        texts = self.values.drop_null()[:_TEXTS].to_pylist()
        others = [text for text in texts if not _is_moment(text)]
        return list(dict.fromkeys(others))[:3] if 2 * len(others) < len(texts) else []

    @cached_property
    def epoch_unit(self) -> str | None:
        """Return the unit of a column of integers that are probably times since 1970: ``s``, ``ms``, ``us`` or ``ns``.

        Return ``None`` if the values are not between the years 2001 and 2100 in one of these units.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if not pa.types.is_integer(self.type) or self.nulls == len(self.values):
            return None
        found = pc.min_max(self.values).as_py()
        units = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
        return next(
            (
                unit
                for unit, parts in units.items()
                if _EPOCH[0] * parts <= found["min"] and found["max"] < _EPOCH[1] * parts
            ),
            None,
        )

    @cached_property
    def offset(self) -> str | None:
        """Return the first offset other than UTC in a text column of times, such as ``+01:00``; ``None`` without one."""
        found = (_OFFSET.search(text) for text in self._texts) if self.is_time else ()
        return next((one[1] for one in found if one and one[1].strip("+-0:")), None)

    @property
    def is_naive(self) -> bool:
        """Return whether the values are points in time without a time zone. Dates are not points in time."""
        import pyarrow as pa

        if pa.types.is_timestamp(self.type):
            return self.type.tz is None
        return self.is_time and any(not re.match(DATE, text) and not _ZONE.search(text) for text in self._texts)

    @cached_property
    def is_foreign_date(self) -> bool:
        """Return whether the values are text with days, months and years in a form other than ISO 8601."""
        texts = self._texts
        return bool(texts) and not self.is_time and all(map(_FOREIGN_DATE.match, texts))

    @cached_property
    def is_amount(self) -> bool:
        """Return whether the values are text that looks like amounts, such as ``$1,234.50``, ``1.234,50 €`` or ``12%``."""
        texts = self._texts
        return bool(texts) and all(map(_AMOUNT.fullmatch, texts)) and any(map(_AMOUNT_MARK.search, texts))

    @cached_property
    def missing(self) -> list[str]:
        """Return the distinct texts that mean a missing value, such as ``n/a`` or ``-``, in the order of their first rows."""
        if not self.is_text:
            return []
        return [text for text in self.values.drop_null().unique().to_pylist() if NULL_TEXT.match(text)]

    @cached_property
    def not_numbers(self) -> list[str]:
        """Return the distinct texts that are not numbers, of a text column that contains numbers.

        The list is not empty in two cases: all other texts mean a missing value, or at most three different other texts
        occur in at most 1% of the values.
        """
        import pyarrow.compute as pc

        if not self.is_text:
            return []
        number = pc.match_substring_regex(self.values, _NUMBER)
        numbers, others = self.values.filter(number), self.values.filter(pc.invert(number))
        if not len(numbers) or not len(others):
            return []
        found: list[str] = others.unique().to_pylist()
        if set(found) <= set(self.missing):
            return found
        share = len(others) / (len(numbers) + len(others))
        errors = share <= _ERRORS_SHARE and len(found) <= _ERRORS_KINDS and len(numbers.unique()) >= _NUMBERS_KINDS
        return found if errors else []

    @cached_property
    def is_numbers(self) -> bool:
        """Return whether a text column contains only numbers, some with decimals, and at least 20 different ones."""
        import pyarrow.compute as pc

        if not self.is_text or self.distinct < _NUMBERS_KINDS:
            return False
        texts = self.values.drop_null()
        decimals = pc.match_substring_regex(texts, r"[.,]\d")
        return bool(pc.all(pc.match_substring_regex(texts, _NUMBER)).as_py() and pc.any(decimals).as_py())

    @cached_property
    def _texts(self) -> list[str]:
        """Return the first texts of a text column, without null and without texts that mean a missing value."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not self.is_text:
            return []
        texts = self.values.drop_null()
        if self.missing:
            texts = texts.filter(pc.invert(pc.is_in(texts, pa.array(self.missing, texts.type))))
        found: list[str] = texts[:_TEXTS].to_pylist()
        return found

    def with_nan_as_null(self) -> Column:
        """Return a column in which null replaces NaN."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not pa.types.is_floating(self.type):
            return self
        return Column(self.name, pc.if_else(pc.is_nan(self.values), pa.scalar(None, self.type), self.values))

    @property
    def example(self) -> Any:
        """Return the first value that is neither null nor a text that means a missing value."""
        return self._texts[0] if self._texts else self.values.drop_null()[0].as_py()

    @property
    def is_text(self) -> bool:
        return moments.is_text(self.type)

    @property
    def is_number(self) -> bool:
        import pyarrow as pa

        return bool(pa.types.is_integer(self.type) or pa.types.is_floating(self.type) or pa.types.is_decimal(self.type))

    @property
    def is_whole(self) -> bool:
        """Return whether values of this type can identify a row: integers and text can, fractions and times cannot."""
        import pyarrow as pa

        return bool(pa.types.is_integer(self.type)) or self.is_text

    @property
    def is_unique(self) -> bool:
        """Return whether no value is null and no two rows have the same value."""
        return not self.nulls and self.distinct == len(self.values)

    def local_times(self, timezone: str) -> pa.ChunkedArray:
        """Return the values as local times in a time zone, without nulls. A date is the start of this day in any zone.

        :param timezone: name of the time zone
        :raises MLOpsError: a value is not a point in time
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        values = self.values.drop_null()
        utc = moments.as_utc(values, f"Column {self.name!r}")
        wall = pc.local_timestamp(utc)
        if pa.types.is_date(self.type):
            return wall
        local = pc.local_timestamp(utc.cast(pa.timestamp("us", timezone)))
        return pc.if_else(pc.match_substring_regex(values, DATE), wall, local) if self.is_text else local

    @cached_property
    def missing_rows(self) -> int:
        """Return the number of rows that Great Expectations counts as missing: null or NaN."""
        import pyarrow.compute as pc

        return int(pc.sum(pc.is_null(self.values, nan_is_null=True)).as_py() or 0)

    @cached_property
    def infinite_rows(self) -> int:
        """Return the number of rows with an infinite value. The column must be numeric."""
        import pyarrow.compute as pc

        return int(pc.sum(pc.is_inf(self.values)).as_py() or 0)

    @cached_property
    def too_large_rows(self) -> int:
        """Return the number of rows with a finite value that is infinite in single precision, which models use."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        if not pa.types.is_float64(self.type):
            return 0
        beyond = pc.greater(pc.abs(self.values), float(np.finfo(np.float32).max))
        return int(pc.sum(pc.and_(beyond, pc.is_finite(self.values))).as_py() or 0)

    def bounds(self) -> tuple[Any, Any]:
        """Return the smallest and the largest finite value of a column of numbers.

        Return ``(None, None)`` if the column has no finite value.
        """
        import pyarrow.compute as pc

        found = pc.min_max(self.values.filter(pc.is_finite(self.values))).as_py()
        return found["min"], found["max"]

    @cached_property
    def code(self) -> Any:
        """Return the number that probably means a missing value, such as -999 among ages; ``None`` if there is none.

        It consists of nines, is the smallest or the largest value, and is further from all others than these are from each
        other.
        """
        import pyarrow.compute as pc

        if not self.is_number:
            return None
        values = sorted(self.values.filter(pc.is_finite(self.values)).unique().to_pylist())
        if len(values) < _FEWEST_BESIDE_CODE:
            return None
        for code, others in ((values[0], values[1:]), (values[-1], values[:-1])):
            distance = min(abs(code - others[0]), abs(code - others[-1]))
            if _CODE.fullmatch(f"{code:f}") and distance > others[-1] - others[0]:
                return code
        return None

    @cached_property
    def alike(self) -> list[str]:
        """Return the first two texts that differ only by blanks at their ends, letter case or Unicode form, as in Python source.

        A letter with an accent, for example, can be one or two characters. The list is empty without such texts. Only columns
        with few distinct values are compared.
        """
        if not self.is_text or self.distinct > _TEXTS:
            return []
        seen: dict[str, str] = {}
        for text in self.values.drop_null().unique().to_pylist():
            if (other := seen.setdefault(_plain(text), text)) != text:
                return told_apart(other, text)
        return []

    def categories(self) -> list[str]:
        """Return the distinct values of a text column in sorted order, without null."""
        return sorted(self.values.drop_null().unique().to_pylist())


def of(table: pa.Table) -> dict[str, Column]:
    """Return the columns of a table by name, in the order of the table."""
    return {name: Column(name, table[name]) for name in table.column_names}


def twins(names: Collection[str], name: str) -> list[str]:
    """Return the other names that differ from ``name`` only by letter case."""
    return [other for other in names if other != name and other.casefold() == name.casefold()]


def lookalikes(names: Collection[str]) -> list[str]:
    """Return the first two names that differ only by Unicode form, as in Python source; empty without such names."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(unicodedata.normalize("NFKC", name), name)) != name:
            return told_apart(other, name)
    return []


def rises_with(column: Column, time: Column) -> bool:
    """Return whether almost all values of a column of integers are different, and their order is that of the times."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pc.and_(pc.is_valid(column.values), pc.is_valid(time.values))
    values = column.values.filter(known)
    if not pa.types.is_integer(column.type) or pc.count_distinct(values).as_py() <= max(
        FEWEST, ALMOST_ALL * len(values)
    ):
        return False
    moment = moments.as_utc(time.values.filter(known), f"Column {time.name!r}")
    ranks = [
        pc.rank(one.combine_chunks() if isinstance(one, pa.ChunkedArray) else one).to_numpy()
        for one in (values, moment)
    ]
    return bool(abs(np.corrcoef(*ranks)[0, 1]) > _SAME_ORDER)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().casefold()


def span(column: Column, timezone: str) -> tuple[datetime, datetime]:
    """Return the first and the last point in time of a column of times, in a time zone.

    :param timezone: name of the time zone
    :raises MLOpsError: a value is not a point in time
    """
    import pyarrow.compute as pc

    found = pc.min_max(column.local_times(timezone)).as_py()
    return found["min"].replace(tzinfo=zone(timezone)), found["max"].replace(tzinfo=zone(timezone))


def _is_moment(text: str) -> bool:
    if len(text.strip()) < _SHORTEST_DATE or text.strip().isdigit():
        return False
    try:
        parse_instant(text)
    except ValueError:
        return False
    return True
