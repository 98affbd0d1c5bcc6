"""Conversion of Arrow columns to points in time. No other module converts them.

Timestamps of any unit and time zone, dates (read as midnight) and ISO 8601 text (:mod:`airflow_mlops.core.moments`)
become ``timestamp[us, tz=UTC]``. Values without a time zone are read as UTC. One column may have values with and
without a time zone. Nanoseconds are rounded down to microseconds, unless a function says otherwise. A value before the
year 1 or after the year 9999 raises an error. Integer overflow does not occur.
"""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.core.moments import FIRST, LAST, TOO_EARLY, TOO_LATE, Instant, parse_instant

UTC = pa.timestamp("us", "UTC")
"""The type of columns of moments."""

_DAY = 86_400_000_000
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# The forms that Arrow converts. All other text is parsed in Python, value by value.
_DATE = r"^\d{4}-\d\d-\d\d$"
_ARROW_FORM = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d(:?\d\d)?)?)?$"
_ZONE = r"(Z|:\d\d(\.\d+)?[+-]\d\d(:?\d\d)?)$"


class _Instants(NamedTuple):
    """The values of a column, like :class:`~airflow_mlops.core.moments.Instant`.

    :param micros: microseconds since 1970, int64
    :param nanos: nanoseconds after ``micros``, 0 to 999, int64; ``None`` if they are all 0
    :param naive: boolean array that is true for values without a time zone, or one boolean for the whole column
    """

    micros: Any
    nanos: Any
    naive: Any


def is_time(kind: pa.DataType) -> bool:
    """Return whether columns of the type ``kind`` hold timestamps or dates."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def is_text(kind: pa.DataType) -> bool:
    """Return whether columns of the type ``kind`` hold text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def as_utc(values: Any, what: str, *, round_up: bool = False, first_row: int = 0) -> Any:
    """Convert a column to points in time in UTC.

    :param values: an Arrow array or chunked array of timestamps, dates or ISO 8601 text
    :param what: subject of error messages: the column and its origin, such as ``Column 'time' of dataset flights``
    :param round_up: whether nanoseconds are rounded up to the next microsecond instead of down
    :param first_row: number of rows before ``values``, for the row numbers in error messages
    :return: an array of the same length, of the type ``timestamp[us, tz=UTC]``
    :raises SchemaError: a value is not a point in time in the years 1 to 9999
    """

    def convert(array: pa.Array, row: int) -> pa.Array:
        found = _read(array, what, row)
        micros = found.micros
        if round_up and found.nanos is not None:
            micros = _in_range(pc.add(micros, pc.cast(pc.greater(found.nanos, 0), pa.int64())), array, what, row)
        return micros.cast(pa.timestamp("us")).cast(UTC)

    return _by_chunk(values, convert, UTC, first_row)


def ranks(values: Any, what: str) -> pa.Array:
    """Rank the values of a column by time, exact to the nanosecond.

    The earliest time has the rank 1. Equal times have the same rank. Nulls have the rank 0.

    :param values: an Arrow array or chunked array of timestamps, dates or ISO 8601 text
    :param what: subject of error messages: the column and its origin
    :return: an int64 array of the same length
    :raises SchemaError: a value is not a point in time in the years 1 to 9999
    """
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return ranks_of(*instants(array, what))


def instants(values: pa.Array, what: str, *, first_row: int = 0) -> tuple[pa.Array, pa.Array]:
    """Return the values of a column exact to the nanosecond.

    :param values: an Arrow array of timestamps, dates or ISO 8601 text
    :param what: subject of error messages: the column and its origin
    :param first_row: number of rows before ``values``, for the row numbers in error messages
    :return: two int64 arrays: microseconds since 1970, and the nanoseconds after them (0 to 999). A null stays null
    :raises SchemaError: a value is not a point in time in the years 1 to 9999
    """
    found = _read(values, what, first_row)
    nanos = pa.repeat(0, len(values)) if found.nanos is None else pc.fill_null(found.nanos, 0)
    return found.micros, pc.if_else(pc.is_valid(found.micros), nanos, None)


def ranks_of(micros: pa.Array, nanos: pa.Array) -> pa.Array:
    """Rank moments like :func:`ranks`.

    :param micros: microseconds since 1970, from :func:`instants`
    :param nanos: nanoseconds after ``micros``, from :func:`instants`
    """
    places = pc.rank(micros, tiebreaker="dense").cast(pa.int64())
    if pc.any(pc.greater(nanos, 0)).as_py():
        places = pc.rank(pc.add(pc.multiply(places, 1000), pc.fill_null(nanos, 0)), tiebreaker="dense").cast(pa.int64())
    return pc.if_else(pc.is_valid(micros), places, 0)


def as_type(values: Any, kind: pa.DataType, what: str, *, first_row: int = 0) -> Any:
    """Convert a column to an Arrow timestamp or date type.

    Values without a time zone are read as local times in the time zone of ``kind``, or as UTC if ``kind`` has no time
    zone. A local time that occurs twice, at the end of summer time, is read as the first of the two instants.

    :param values: an Arrow array or chunked array of timestamps, dates or ISO 8601 text
    :param kind: timestamp or date type. Nanoseconds are rounded down if the unit of ``kind`` is microseconds
    :param what: subject of error messages: the column and its origin
    :param first_row: number of rows before ``values``, for the row numbers in error messages
    :raises SchemaError: a value is not a point in time in the years 1 to 9999, or ``kind`` cannot store it. A date
        cannot store a time of day, a unit longer than microseconds cannot store smaller fractions, and nanoseconds can
        only store the years 1677 to 2262
    """
    return _by_chunk(values, lambda array, row: _fit(array, kind, what, row), kind, first_row)


def from_integers(values: Any, kind: pa.DataType, what: str, *, first_row: int = 0) -> Any:
    """Convert integers that count time units since 1970 to timestamps or dates.

    If ``kind`` is a date type and all integers have the form YYYYMMDD, they become these dates. As numbers of days,
    they would be after the year 9999.

    :param values: an Arrow array or chunked array of integers
    :param kind: timestamp type with the unit of the integers, or date type
    :param what: subject of error messages: the column and its origin
    :param first_row: number of rows before ``values``, for the row numbers in error messages
    :raises SchemaError: a value is outside the years 1 to 9999; all values look like years, such as 2024; some values
        look like dates, such as 20240305, and others do not; or all values look like dates, but ``kind`` is a timestamp
        type
    """

    def convert(array: pa.Array, row: int) -> pa.Array:
        ticks = array.cast(pa.int64())
        is_day, is_year = _looks_like_day(ticks), _is_between(ticks, 1900, 2100)
        # In a date32 column, 20240305 would be a number of days and after the year 9999, so it is refused below.
        if not pa.types.is_date32(kind) and _is_mixed(ticks, is_day):
            reason = "looks like a date, but other values look like numbers of units since 1970. Write all values in one form"
            _refuse(array, is_day, what, reason, row)
        if pa.types.is_date(kind):
            if pc.all(is_day).as_py():
                return as_type(ticks.cast(pa.string()), kind, what, first_row=row)
            if pc.all(is_year).as_py():
                reason = "looks like a year, not like a number of days since 1970. Convert it to a date in the source"
                _refuse(array, is_year, what, reason, row)
            if pa.types.is_date32(kind):
                _in_range(ticks, array, what, row, _DAY)
                return ticks.cast(pa.int32()).cast(kind)
            return ticks.cast(kind)
        per_second = _PER_SECOND[kind.unit]
        if kind.unit != "ns":
            first, last = (bound * per_second // 1_000_000 for bound in (FIRST, LAST))
            outside = pc.or_(pc.less(ticks, first), pc.greater(ticks, last))
            if pc.any(outside).as_py():
                reason = f"is outside the years 1 to 9999 in the unit of {kind}. Declare the unit that the source has"
                _refuse(array, outside, what, reason, row)
        if pc.all(is_day).as_py():
            reason = "looks like a date, not like a number of units since 1970. Declare it as date32"
            _refuse(array, is_day, what, reason, row)
        if pc.all(is_year).as_py():
            reason = "looks like a year, not like a number of units since 1970. Convert it to a date in the source"
            _refuse(array, is_year, what, reason, row)
        return ticks.cast(pa.timestamp(kind.unit)).cast(pa.timestamp(kind.unit, "UTC")).cast(kind)

    return _by_chunk(values, convert, kind, first_row)


def _looks_like_day(numbers: pa.Array) -> pa.Array:
    """Return whether each number has the form YYYYMMDD, from 1900 to 2100.

    Such a number, read as seconds since 1970, would be a time in 1970.
    """
    month, day = _remainder(_floor_divide(numbers, 100), 100), _remainder(numbers, 100)
    is_day = pc.and_(pc.is_in(month, pa.array(range(1, 13))), pc.is_in(day, pa.array(range(1, 32))))
    return pc.and_(_is_between(numbers, 1900_01_01, 2100_12_31), is_day)


def _is_mixed(numbers: pa.Array, is_day: pa.Array) -> bool:
    """Return whether some numbers, but not all, have the form YYYYMMDD.

    A column of counts since 1970 can contain such numbers by chance. In this case, the column also contains numbers
    between 19000101 and 21001231 without this form, and the result is ``False``.
    """
    same_size = _is_between(numbers, 1900_01_01, 2100_12_31)
    others = pc.any(pc.and_not(same_size, is_day)).as_py()
    return bool(pc.any(is_day).as_py()) and not others and not pc.all(is_day).as_py()


def _is_between(numbers: pa.Array, first: int, last: int) -> pa.Array:
    return pc.and_(pc.greater_equal(numbers, first), pc.less_equal(numbers, last))


def _by_chunk(values: Any, convert: Any, kind: pa.DataType, row: int) -> Any:
    if not isinstance(values, pa.ChunkedArray):
        return convert(values, row)
    chunks = []
    for chunk in values.chunks:
        chunks.append(convert(chunk, row))
        row += len(chunk)
    return pa.chunked_array(chunks, kind)


def _fit(array: pa.Array, kind: pa.DataType, what: str, row: int) -> pa.Array:
    """Convert an array for :func:`as_type`."""
    zone = getattr(kind, "tz", None)
    zone = None if zone == "UTC" else zone
    same_unit = pa.types.is_timestamp(array.type) and getattr(kind, "unit", None) == array.type.unit
    if pa.types.is_null(array.type) or (same_unit and (zone is None or array.type.tz is not None)):
        return array.cast(kind)
    found = _read(array, what, row)
    micros, nanos = found.micros, found.nanos
    if zone is not None and found.naive is not False:
        micros = _local(micros, found.naive, zone, array, what, row)

    def refuse(lost: pa.Array, reason: str) -> None:
        if pc.any(lost).as_py():
            _refuse(array, lost, what, reason, row)

    if pa.types.is_date(kind):
        lost = pc.not_equal(_remainder(micros, _DAY), 0)
        refuse(lost, f"has a time, which the type {kind} would lose. Use a type such as timestamp[us]")
        return micros.cast(pa.timestamp("us")).cast(pa.date32()).cast(kind)
    if kind.unit == "ns":
        limit = 2**63 // 1000 - 1
        outside = pc.or_(pc.less(micros, -limit), pc.greater_equal(micros, limit))
        refuse(outside, f"is outside the years 1677 to 2262, which the type {kind} can hold. Use timestamp[us]")
        ticks = pc.multiply(micros, 1000)
        ticks = ticks if nanos is None else pc.add(ticks, nanos)
    else:
        per_tick = 1_000_000 // _PER_SECOND[kind.unit]
        lost = pc.not_equal(_remainder(micros, per_tick), 0)
        if per_tick > 1 and nanos is not None:
            lost = pc.or_(lost, pc.not_equal(nanos, 0))
        refuse(lost, f"has a fraction of a second, which the type {kind} would lose. Use timestamp[us]")
        ticks = _floor_divide(micros, per_tick)
    return ticks.cast(pa.timestamp(kind.unit)).cast(pa.timestamp(kind.unit, "UTC")).cast(kind)


def _read(array: pa.Array, what: str, row: int) -> _Instants:
    """Read the values of an array.

    :raises SchemaError: a value is not a point in time in the years 1 to 9999
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if is_text(kind):
        return _read_text(array, what, row)
    if pa.types.is_null(kind):
        return _Instants(array.cast(pa.int64()), None, True)
    if pa.types.is_date32(kind):
        days = array.view(pa.int32()).cast(pa.int64())
        _in_range(days, array, what, row, _DAY)
        return _Instants(pc.multiply(days, _DAY), None, True)
    if not is_time(kind):
        raise SchemaError(
            f"{what} has the type {kind}, which is not a time. Convert it to timestamps, dates or ISO 8601 text, or "
            "declare the unit of numbers at ingestion, for example types={'time': 'timestamp[s, tz=UTC]'} for seconds "
            "since 1970."
        )
    unit = "ms" if pa.types.is_date64(kind) else kind.unit
    ticks, naive = array.view(pa.int64()), getattr(kind, "tz", None) is None
    if unit == "ns":
        micros, nanos = _floor_divide(ticks, 1000), _remainder(ticks, 1000)
        return _Instants(micros, nanos, naive)
    per_tick = 1_000_000 // _PER_SECOND[unit]
    _in_range(ticks, array, what, row, per_tick)
    return _Instants(pc.multiply(ticks, per_tick), None, naive)


def _in_range(ticks: Any, array: pa.Array, what: str, row: int, per_tick: int = 1) -> Any:
    """Check that all values are in the years 1 to 9999, and return ``ticks``.

    :param ticks: the values of ``array`` in units of ``per_tick`` microseconds since 1970
    :raises SchemaError: a value is outside these years
    """
    bounds = pc.min_max(ticks).as_py()
    if bounds["min"] is not None:
        if bounds["min"] < FIRST // per_tick:
            _refuse(array, pc.less(ticks, FIRST // per_tick), what, TOO_EARLY, row)
        if bounds["max"] > LAST // per_tick:
            _refuse(array, pc.greater(ticks, LAST // per_tick), what, TOO_LATE, row)
    return ticks


def _read_text(array: pa.Array, what: str, row: int) -> _Instants:
    """Parse a column of text with Arrow or, if Arrow cannot parse a value, with :func:`parse_instant`."""
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    found = _read_simple(array)
    if found is None:
        # Databases write time zones as " UTC" or " +0000" too.
        shorter = pc.replace_substring_regex(array, r"(:\d\d(?:\.\d+)?) (?:UTC|GMT)$", r"\1Z")
        found = _read_simple(pc.replace_substring_regex(shorter, r"(:\d\d(?:\.\d+)?) ([+-]\d\d)", r"\1\2"))
    if found is not None:
        _in_range(found.micros, array, what, row)
        return found
    known: dict[str, Instant] = {}
    for value in pc.unique(array).drop_null().to_pylist():
        try:
            known[value] = parse_instant(value)
        except ValueError as error:
            _refuse(array, pc.equal(array, pa.scalar(value, array.type)), what, str(error), row)
    place = pc.index_in(array, value_set=pa.array(list(known), array.type))
    columns = (
        pa.array([getattr(item, name) for item in known.values()], kind).take(place)
        for name, kind in (("micros", pa.int64()), ("nanos", pa.int64()), ("naive", pa.bool_()))
    )
    return _Instants(*columns)


def _read_simple(array: pa.Array) -> _Instants | None:
    """Parse a column of text with Arrow.

    The result is ``None`` if a value does not match :data:`_ARROW_FORM`, or Arrow refuses it, such as 24:00.
    """
    if pc.any(pc.invert(pc.match_substring_regex(array, _ARROW_FORM))).as_py():
        return None
    nanos = None
    if pc.any(pc.match_substring_regex(array, r"\.\d{7}")).as_py():
        digits = pc.struct_field(pc.extract_regex(array, r"\.\d{6}(?P<nanos>\d{1,3})"), "nanos")
        nanos = pc.if_else(pc.is_null(digits), "0", pc.ascii_rpad(digits, 3, "0")).cast(pa.int64())
        array = pc.replace_substring_regex(array, r"(\.\d{6})\d+", r"\1")
    naive = pc.invert(pc.match_substring_regex(array, _ZONE))
    # Arrow converts only text with a time zone to timestamps with a time zone.
    ending = pc.if_else(pc.match_substring_regex(array, _DATE), "T00Z", pc.if_else(naive, "Z", ""))
    try:
        times = pc.binary_join_element_wise(array, ending.cast(array.type), pa.scalar("", array.type)).cast(UTC)
    except pa.ArrowInvalid:
        return None
    return _Instants(times.cast(pa.int64()), nanos, naive)


def _local(micros: Any, naive: Any, zone: str, array: pa.Array, what: str, row: int) -> Any:
    """Convert the values without a time zone from local time in ``zone`` to UTC.

    :raises SchemaError: a local time does not exist, because summer time begins
    """
    wall = micros.cast(pa.timestamp("us"))

    def instants(nonexistent: str) -> Any:
        times = pc.assume_timezone(wall, zone, ambiguous="earliest", nonexistent=nonexistent)
        return times.cast(UTC).cast(pa.int64())

    try:
        first, last = instants("earliest"), instants("latest")
    except pa.ArrowInvalid as error:
        raise SchemaError(
            f"{what} is declared with the time zone {zone!r}, which is not known where the step runs "
            f"({str(error).splitlines()[0]}). Correct the name of the time zone, or install the time zone database "
            "(tzdata)."
        ) from None
    naive = naive if isinstance(naive, pa.Array) else pa.repeat(naive, len(micros))
    absent = pc.and_(naive, pc.not_equal(first, last))
    if pc.any(absent).as_py():
        _refuse(array, absent, what, f"does not exist in the time zone {zone}, because summer time begins", row)
    return _in_range(pc.if_else(naive, first, micros), array, what, row)


def _floor_divide(values: Any, divisor: int) -> Any:
    """Divide integers and round down. Arrow itself rounds towards zero."""
    quotient = pc.divide(values, divisor)
    inexact = pc.and_(pc.less(values, 0), pc.not_equal(pc.multiply(quotient, divisor), values))
    return pc.subtract(quotient, inexact.cast(pa.int64()))


def _remainder(values: Any, divisor: int) -> Any:
    """Return the remainders of :func:`_floor_divide`, which are never negative."""
    # The product may be below the smallest int64. Product and difference are computed modulo 2**64, so the result is
    # exact.
    return pc.subtract(values, pc.multiply(_floor_divide(values, divisor), divisor))


def _refuse(array: pa.Array, refused: Any, what: str, reason: str, row: int) -> NoReturn:
    """Raise an error that names the first refused value.

    :param array: the values
    :param refused: boolean array that is true for each refused value
    :param reason: why the value is refused, as a clause such as ``is before the year 1 in UTC``
    :raises SchemaError: always
    """
    index = pc.index(refused.fill_null(False), True).as_py()
    # Arrow formats every value, while Python's datetime has only the years 1 to 9999.
    shown = array.slice(index, 1).cast(pa.string())[0].as_py()
    fix = "" if ". " in reason else ". Write it for example as 2024-03-05T06:30:00Z, or correct it in the source"
    raise SchemaError(f"{what} contains {shown!r} in row {row + index + 1:,}, which {reason}{fix}.")
