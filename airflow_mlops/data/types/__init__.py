"""The column types of datasets. Ingestion converts all columns of a source to these types, and all stages read them.

========================  ======================================================================================
stored as                 converted from
========================  ======================================================================================
``bool``                  bool
``int64``                 all signed integers, and unsigned integers of up to 32 bits
``uint64``                uint64
``double``                half, single and double precision, durations (in seconds)
``decimal128(p, s)``      all decimals of up to 38 digits
``string``                text of any kind, UUIDs, times of day (``10:30:00``), JSON
``binary``                bytes of any kind
``date32[day]``           dates
``timestamp[us, tz=UTC]``  timestamps of any unit and time zone. Those without a time zone are read as UTC
``list``, ``struct``      lists and arrays of any kind, maps (as lists of keys and values), structs
========================  ======================================================================================

Dictionaries (categoricals) are stored as their values. A struct without fields is stored as null. All conversions keep
the value, except that nanoseconds are rounded down to microseconds.
"""

from __future__ import annotations

from airflow_mlops.data.types.conversion import as_column, as_stored, can_cast, cast, one_sentence
from airflow_mlops.data.types.numbers import (
    as_doubles,
    as_numbers,
    decimal_text,
    decimals_of_text,
    double_text,
    doubles_of_text,
    exact_decimal,
    without_final_zeros,
)
from airflow_mlops.data.types.schemas import common_schema, concatenated, conformed
from airflow_mlops.data.types.stored import (
    DECIMAL_DIGITS,
    common_type,
    find_type,
    is_binary,
    is_list,
    is_same_kind,
    stored_type,
)

__all__ = [
    "DECIMAL_DIGITS",
    "as_column",
    "as_doubles",
    "as_numbers",
    "as_stored",
    "can_cast",
    "cast",
    "common_schema",
    "common_type",
    "concatenated",
    "conformed",
    "decimal_text",
    "decimals_of_text",
    "double_text",
    "doubles_of_text",
    "exact_decimal",
    "find_type",
    "is_binary",
    "is_list",
    "is_same_kind",
    "one_sentence",
    "stored_type",
    "without_final_zeros",
]
