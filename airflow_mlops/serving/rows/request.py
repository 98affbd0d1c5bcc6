"""Check the rows of a request against the model's contract, and convert them to Arrow for the log."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from math import hypot, isfinite, isinf
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.core.moments import parse_instant
from airflow_mlops.data.moments import as_utc, is_time
from airflow_mlops.data.predictions.privacy import Pseudonymizer, require_private
from airflow_mlops.metrics.costs import cost_columns
from airflow_mlops.metrics.forecasts import forecast_columns
from airflow_mlops.metrics.rankings import group_columns
from airflow_mlops.serving.layout import REQUEST_COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: From this number of rows on, a feature whose values are all numbers is checked once and then kept as an array of
#: doubles. Scoring and the log read the array in a tenth of the time that a list takes, above all if other requests have
#: evicted the values from the processor's caches.
MANY_ROWS = 20
_NULL = type(None)
_NUMBERS = {int, float, bool, _NULL}
_DOUBLES = {float}
_PLAIN = {int, float}
# A column with at most this number of times is parsed value by value, which is faster for few values.
_FEW = 20
_INT64, _LARGEST = 2**63, sys.float_info.max
# Doubles represent all integers up to this one, so a larger double may be the rounded value of another integer.
_EXACT = 2**53
_WHAT = {"number": "a finite number or null", "integer": "an integer", "string": "a text or null"}
_LOGGED = {"number": pa.float64(), "integer": pa.int64(), "string": pa.string()}
_UTC = pa.timestamp("us", "UTC")


class InputColumns:
    """The fields that a row of a request has: all features, and optionally the columns that are only logged.

    These columns are the keys, the event time, the watched columns, the weight, and the columns that metrics name. They
    have their types in the training set, with two exceptions: times are UTC timestamps in microseconds, and weights,
    costs and forecasts are floating-point numbers.

    :param contract: contract of the model
    :param training: columns of the training set; ``None`` if its manifest no longer exists
    :param keys: names of the key columns of the training set
    """

    def __init__(self, contract: ModelContract, training: pa.Schema | None = None, keys: Sequence[str] = ()) -> None:
        self.features = contract.features
        self._names = [feature.name for feature in self.features]
        known = {*self._names}
        numbers = [*cost_columns(contract.metrics), *forecast_columns(contract.metrics)]
        amounts = [*numbers, *([contract.sample_weight] if contract.sample_weight else [])]
        others = [*([contract.timestamp] if contract.timestamp else []), *amounts, *group_columns(contract.metrics)]
        wanted = [*keys, *others, *contract.watched]
        self.carried: dict[str, pa.DataType] = {}
        for name in dict.fromkeys(wanted):
            # Features and the columns of the request are logged anyway, so they are not carried a second time.
            logged = name in known or name in REQUEST_COLUMNS
            if training is not None and name in training.names and not logged:
                # These numbers may be fractions, even if all of them are whole numbers in the training set.
                kind = pa.float64() if name in amounts else training.field(name).type
                self.carried[name] = _UTC if is_time(kind) else kind
        self.keys = [name for name in keys if name in self.carried or name in known]
        self.timestamp = contract.timestamp if contract.timestamp in self.carried else None
        self._known = known | self.carried.keys()
        self._only_numbers = {feature.kind for feature in self.features} == {"number"}
        # Returns the features of a row as a tuple.
        self._values = itemgetter(*self._names) if len(known) > 1 else lambda row: tuple(map(row.__getitem__, known))
        #: Columns of a logged row, without the columns of the prediction.
        self.schema = pa.schema(
            [
                *(pa.field(feature.name, _LOGGED[feature.kind]) for feature in self.features),
                *(pa.field(name, kind) for name, kind in self.carried.items()),
            ]
        )

    def has(self, name: str) -> bool:
        """Return whether a row may have the field ``name``."""
        return name in self._known

    def require_private(self, hashed: Sequence[str], dropped: Sequence[str], where: str | None) -> None:
        """Check that columns of the log can be hashed or dropped.

        :param hashed: columns to hash
        :param dropped: columns to drop
        :param where: start of the error message about an absent column, such as ``The predictions have``; ``None`` if
            columns may be absent
        :raises SchemaError: ``where`` is set and a column is absent, or a column has a type that cannot be hashed
        """
        if where is not None:
            require_private(hashed, dropped, [*self.schema.names, *REQUEST_COLUMNS], where)
        for name in hashed:
            if name in self.schema.names:
                Pseudonymizer(b"").hash_column(pa.array([], self.schema.field(name).type))

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> Rows:
        """Check rows, which are JSON objects.

        :raises SchemaError: a field is missing, unknown or of the wrong type. The message names the row, from 1, and
            the field
        """
        if set(map(type, rows)) == {dict} and set(map(len, rows)) == {len(self.features)}:
            # The most frequent case: rows with all features and no other fields.
            with suppress(KeyError):
                if len(rows) == 1 and self._only_numbers:
                    values = self._values(rows[0])
                    if set(map(type, values)) == _DOUBLES and isfinite(sum(values)):
                        return Rows(1, {name: [value] for name, value in zip(self._names, values, strict=True)}, {})
                found = zip(*map(self._values, rows), strict=True)
                return self.checked(dict(zip(self._names, map(list, found), strict=True)), {}, len(rows))
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict):
                raise SchemaError(
                    f"Row {number} is not a JSON object. Send each row as an object with a field for each feature."
                )
            if not row.keys() <= self._known:
                unknown = row.keys() - self._known
                raise SchemaError(
                    f"Row {number} has the unknown field {min(unknown)[:60]!r}. The fields are: {', '.join(sorted(self._known))}."
                )
        features = {}
        for feature in self.features:
            try:
                features[feature.name] = [row[feature.name] for row in rows]
            except KeyError:
                number = next(number for number, row in enumerate(rows, 1) if feature.name not in row)
                raise SchemaError(
                    f"Row {number} has no field {feature.name!r}, which is a feature of the model. Send null if its value is "
                    "unknown."
                ) from None
        carried = {name: [row.get(name) for row in rows] for name in self.carried if any(name in row for row in rows)}
        return self.checked(features, carried, len(rows))

    def checked(
        self,
        features: Mapping[str, list[Any]],
        carried: Mapping[str, list[Any]],
        count: int,
        infinite: Collection[str] = (),
    ) -> Rows:
        """Check columns of Python values.

        :param features: values of each feature
        :param carried: values of columns that are only logged; missing columns become null
        :param count: number of rows
        :param infinite: names of the columns that may contain infinite numbers. By default, none may, because a number
            of JSON that is too large for double precision is read as infinite
        :raises SchemaError: a value has the wrong type. The message names the row, from 1, and the field
        """
        return Rows(
            count,
            {
                feature.name: _checked(features[feature.name], feature, feature.name in infinite)
                for feature in self.features
            },
            {
                name: as_column(carried[name], name, kind, name in infinite)
                for name, kind in self.carried.items()
                if name in carried
            },
        )

    def logged(self, parts: Sequence[Rows]) -> pa.RecordBatch:
        """Return the rows of several requests as one batch with the columns :attr:`schema`."""
        arrays = []
        for feature in self.features:
            columns = [part.features[feature.name] for part in parts]
            runs = [_logged(run, feature.kind) for _, run in groupby(columns, type)]
            arrays.append(runs[0] if len(runs) == 1 else pa.concat_arrays(runs))
        for name, kind in self.carried.items():
            chunks, without = [], 0
            for part in parts:
                if name in part.carried:
                    # Consecutive requests without the column need only one array.
                    chunks += [pa.nulls(without, kind), part.carried[name]]
                    without = 0
                else:
                    without += part.count
            chunks.append(pa.nulls(without, kind))
            arrays.append(pa.concat_arrays(chunks))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


@dataclass(frozen=True)
class Rows:
    """The checked rows of a request.

    :param count: number of rows
    :param features: values of each feature: a list or, for many rows, an array of doubles without NaN. In the process
        that writes the log, the texts of many rows are one value, from :func:`joined`
    :param carried: columns that are only logged, if the request has them
    """

    count: int
    features: dict[str, Any]
    carried: dict[str, pa.Array]


def _checked(values: list[Any], feature: FeatureColumn, infinite: bool) -> list[Any] | NDArray[np.float64]:
    if len(values) == 1:
        # The check of the most frequent values of a single row takes half the time.
        kind, value = type(values[0]), values[0]
        if (kind is float and feature.kind == "number" and isfinite(value)) or (
            kind is str and feature.kind == "string"
        ):
            return values
    kinds = set(map(type, values))
    if kinds == _DOUBLES and feature.kind == "number" and isfinite(sum(values)):
        # This check of the most frequent case is faster: the sum of doubles is finite only if all of them are finite.
        return values if len(values) < MANY_ROWS else np.frombuffer(array("d", values))
    if len(values) >= MANY_ROWS and feature.kind == "number" and kinds <= _PLAIN:
        # An integer may be too large for a double. The half leaves room for rounding.
        with suppress(OverflowError):
            if hypot(*values) < _EXACT / 2:
                return np.frombuffer(array("d", values))
    if feature.kind == "string":
        if not kinds <= {str, _NULL}:
            raise _wrong(values, feature, lambda value: not isinstance(value, (str, _NULL)))
        return values
    if feature.kind == "integer":
        if not kinds <= {int, bool}:
            raise _wrong(values, feature, lambda value: type(value) not in (int, bool))
        if not all(-_INT64 <= value < _INT64 for value in values):
            raise _wrong(values, feature, lambda value: not -_INT64 <= value < _INT64)
    elif not kinds <= _NUMBERS:
        raise _wrong(values, feature, lambda value: type(value) not in _NUMBERS)
    elif not all(value is None or -_LARGEST <= value <= _LARGEST for value in values):

        def is_wrong(value: Any) -> bool:
            is_finite = value is None or -_LARGEST <= value <= _LARGEST
            return not is_finite and not (infinite and type(value) is float and isinf(value))

        if any(map(is_wrong, values)):
            raise _wrong(values, feature, is_wrong)
    return [int(value) if type(value) is bool else value for value in values] if bool in kinds else values


def as_list(values: list[Any] | NDArray[Any]) -> list[Any]:
    """Return the values of a feature of :class:`Rows` as Python values."""
    return values.tolist() if isinstance(values, np.ndarray) else values


def joined(texts: Sequence[str | None]) -> bytes | None:
    """Return texts in a form that takes less time to send and to log than a list.

    :return: the texts in UTF-8, with a zero byte after each; ``None`` if a text is null or contains a zero character
    :raises UnicodeEncodeError: a text is not Unicode
    """
    try:
        found = "\0".join([*texts, ""])  # type: ignore[list-item]
    except TypeError:
        return None
    return found.encode() if found.count("\0") == len(texts) else None


def _logged(columns: Iterable[Any], kind: str) -> pa.Array:
    """Return the values of a feature of several requests, which all have the same form, as one array."""
    columns = list(columns)
    if isinstance(columns[0], np.ndarray):
        return pa.array(np.concatenate(columns), _LOGGED[kind])
    if isinstance(columns[0], bytes):
        content = b"".join(columns)
        ends = np.flatnonzero(np.frombuffer(content, np.uint8) == 0)
        # The zero bytes before the end of a text are removed.
        offsets = np.zeros(len(ends) + 1, np.int32)
        offsets[1:] = ends - np.arange(len(ends))
        texts = content.translate(None, b"\0")
        return pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(texts))
    values = [value for column in columns for value in column]
    if kind == "number":
        values = [value if value is None else float(value) for value in values]
    return pa.array(values, _LOGGED[kind])


def _wrong(values: list[Any], feature: FeatureColumn, is_wrong: Any) -> SchemaError:
    number, value = next((number, value) for number, value in enumerate(values, 1) if is_wrong(value))
    return SchemaError(
        f"Row {number} has the value {_short(value)} in the field {feature.name!r}, which must be {_WHAT[feature.kind]}."
    )


def as_column(values: list[Any], name: str, kind: pa.DataType, infinite: bool = False) -> pa.Array:
    """Convert the values of a field to an array of the type ``kind``.

    No value is changed: a fraction is not an integer, and an object has only the fields of its type.

    :param values: the values
    :param name: name of the field, for the error message
    :param kind: type of the array
    :param infinite: whether numbers may be infinite
    :raises SchemaError: a value has another type
    """
    try:
        if kind == _UTC:
            if len(values) <= _FEW:
                with suppress(ValueError, TypeError, AttributeError):
                    return pa.array([None if value is None else parse_instant(value).micros for value in values], _UTC)
            texts = pa.array(values, pa.string())
            return texts.cast(_UTC) if texts.null_count == len(texts) else as_utc(texts, f"The field {name!r}")
        if pa.types.is_decimal(kind):
            # repr() gives the shortest text of the number, which is usually the text in the JSON body.
            values = [Decimal(repr(value)) if isinstance(value, float) else value for value in values]
        _require_unchanged(values, kind, infinite)
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError, AttributeError):
        raise SchemaError(
            f"The field {name!r} has a value that is not of the type {kind}, the type of this column in the training set."
        ) from None


def _require_unchanged(values: Sequence[Any], kind: pa.DataType, infinite: bool) -> None:
    """Check for values that Arrow would change: it cuts off the fraction of an integer, and ignores unknown fields.

    :raises ValueError: Arrow would change a value, or a value is infinite and ``infinite`` is false
    :raises TypeError: a value cannot have the type ``kind``
    :raises AttributeError: a value is not an object, but must be one
    """
    if pa.types.is_integer(kind):
        if float in set(map(type, values)):
            for value in values:
                if type(value) is float and not (value.is_integer() and abs(value) <= _EXACT):
                    raise ValueError(value)
    elif pa.types.is_floating(kind):
        if not infinite and any(type(value) is float and isinf(value) for value in values):
            raise ValueError("inf")
    elif pa.types.is_list(kind):
        _require_unchanged([item for value in values if value is not None for item in value], kind.value_type, infinite)
    elif pa.types.is_struct(kind):
        objects = [value for value in values if value is not None]
        names = {field.name for field in kind}
        if not all(value.keys() <= names for value in objects):
            raise ValueError(names)
        for field in kind:
            _require_unchanged([value.get(field.name) for value in objects], field.type, infinite)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
