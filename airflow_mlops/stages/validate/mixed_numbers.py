"""Refuse expectations for which pandas would round large integers when it compares or adds columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import SpecError
from airflow_mlops.stages.validate.checkpoint import title_of
from airflow_mlops.stages.validate.single_rows import columns_of

if TYPE_CHECKING:
    import pyarrow as pa
    from great_expectations import ExpectationSuite

    from airflow_mlops.data.frames import ColumnFacts

_COMPARE = frozenset({
    "expect_column_pair_values_a_to_be_greater_than_b", "expect_column_pair_values_to_be_equal",
    "expect_multicolumn_values_to_be_equal", "expect_select_column_values_to_be_unique_within_record",
})  # fmt: skip
_ADD = "expect_multicolumn_sum_to_equal"


def require_exact_columns(suite: ExpectationSuite, schema: pa.Schema, facts: Mapping[str, ColumnFacts]) -> None:
    """Check that no expectation compares integers beyond 2**53 with doubles, or adds such integers to other columns.

    pandas compares integers with doubles in double precision, and a sum of integers beyond 64 bits wraps.

    :param facts: the facts of all rows, by name of the column
    :raises SpecError: an expectation does
    """
    import pyarrow as pa

    # Great Expectations ignores the letter case of names.
    kinds = {field.name.casefold(): field.type for field in schema}
    large = {
        name.casefold() for name, fact in facts.items()
        if not fact.is_exact and pa.types.is_integer(schema.field(name).type)
    }  # fmt: skip
    doubles = {name.casefold() for name, fact in facts.items() if _are_doubles(schema.field(name).type, fact)}
    for one in suite.expectations:
        kind, columns = one.expectation_type, [name for name in columns_of(one) if name.casefold() in kinds]
        found = next((name for name in columns if name.casefold() in large), None)
        if found is None or kind not in _COMPARE | {_ADD}:
            continue
        what = f"The expectation {title_of(kind, one.configuration.kwargs)}"
        advice = "Remove the expectation, or ingest the column as decimals."
        if kind == _ADD:
            raise SpecError(
                f"{what} adds column {found!r}, which has integers beyond 2^53, and the sum of pandas may be wrong. {advice}"
            )
        other = next((name for name in columns if name.casefold() in doubles), None)
        if other is not None:
            raise SpecError(
                f"{what} compares column {found!r}, which has integers beyond 2^53, with column {other!r} of "
                f"{kinds[other.casefold()]}, and pandas rounds the integers to double precision. {advice}"
            )


def _are_doubles(kind: pa.DataType, fact: ColumnFacts) -> bool:
    """Return whether pandas gets the values as floating-point numbers, see :func:`airflow_mlops.data.frames.as_frame`."""
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or (pa.types.is_decimal(kind) and (kind.scale > 0 or fact.is_exact)))
