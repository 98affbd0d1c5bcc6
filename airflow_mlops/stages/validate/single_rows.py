"""Check rows with the expectations about single rows.

Great Expectations copies all columns of a DataFrame several times for each expectation. An expectation therefore gets
only the columns that it names. Great Expectations also needs about 10 ms for each expectation and DataFrame, so several
batches are checked at once.

Values of text columns often repeat. Great Expectations then gets each value of such a column once, and its verdict on the
value applies to all rows with this value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.data.moments import is_text
from airflow_mlops.stages.validate.conditions import has_condition, row_condition
from airflow_mlops.stages.validate.garbage import collected
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.times import frame_of

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationValidationResult
    from numpy.typing import NDArray

    from airflow_mlops.stages.validate.checkpoint import Session

# Three batches have fewer than a million rows. With more, `Series.isin` of pandas uses another algorithm.
_MOST_BATCHES, _MOST_BYTES = 3, 128 << 20


@dataclass(frozen=True)
class Checked:
    """The result of one expectation for some rows.

    :param result: the result, whose lists have the positions of the rows in ``table``
    :param table: the rows, at least with the columns of the expectation
    :param frame: at least the unexpected rows, as Great Expectations sees them
    :param first_row: number of rows before ``table``
    """

    result: ExpectationValidationResult
    table: pa.Table
    frame: pd.DataFrame
    first_row: int


def check(
    session: Session,
    expectations: Sequence[Any],
    rows: Rows,
    facts: Mapping[str, ColumnFacts],
    part: int = 0,
    parts: int = 1,
) -> Iterator[Checked]:
    """Check the rows of a part, and yield the results in the order of the rows.

    :param expectations: expectations whose result for a row does not depend on other rows
    :param facts: the facts of all rows
    :param part: number of the part, from 0
    :param parts: number of parts
    :raises ValidationError: Great Expectations cannot run the expectations
    """
    groups = _groups(expectations, rows.schema)
    named = {name for group in groups for name in group.columns}
    if not named:
        return
    columns = [name for name in rows.schema.names if name in named]
    for batches in collected(_joined(rows.batches(part, parts, columns))):
        joined = [(batches[0][0], pa.concat_tables([table for _, table in batches]))]
        for group in groups:
            for first, table in joined if group.is_exact else batches:
                yield from group.check(session, first, table.select(group.columns), facts)
        # These rows are not kept while the next ones are read.
        del batches, joined, table


def columns_of(expectation: Any) -> Sequence[str]:
    """Return the columns that an expectation names, each once."""
    single = (getattr(expectation, name, None) for name in ("column", "column_A", "column_B"))
    listed = getattr(expectation, "column_list", None) or []
    return list(dict.fromkeys(name for name in (*single, *listed) if isinstance(name, str)))


class _Group:
    """Expectations that need the same columns.

    :param columns: the columns
    :param is_exact: whether the expectations have no condition, and name only existing columns in their letter case.
        Otherwise, Great Expectations may return only the first 200 unexpected values, so batches are checked one at a
        time
    :param repeats: whether values of the column may repeat so often that each is checked once
    """

    def __init__(self, columns: Sequence[str], *, is_exact: bool, repeats: bool) -> None:
        self.columns, self.is_exact, self._repeats = list(columns), is_exact, repeats
        self.expectations: list[Any] = []

    def check(
        self, session: Session, first: int, table: pa.Table, facts: Mapping[str, ColumnFacts]
    ) -> Iterator[Checked]:
        values = _Values(table) if self._repeats else None
        if values is not None and not values.repeat:
            # The values of later rows will hardly repeat either, so they are not compared.
            self._repeats, values = False, None
        frame = frame_of(table if values is None else values.distinct, facts)
        for result in session.check(self.expectations, frame):
            if values is None:
                yield Checked(result, table, frame, first)
            else:
                yield Checked(result, table, values.apply(result, frame), first)


def _groups(expectations: Sequence[Any], schema: pa.Schema) -> list[_Group]:
    """Group the expectations by the columns that they need."""
    # Great Expectations ignores the letter case of names.
    names = {name.casefold(): name for name in schema.names}
    found: dict[tuple[bool, tuple[str, ...]], _Group] = {}
    for expectation in expectations:
        given = columns_of(expectation)
        needed = [names[name.casefold()] for name in given if name.casefold() in names]
        condition = row_condition(expectation, schema) if has_condition(expectation) else None
        if condition is not None:
            needed, is_exact = [name for name in schema.names if name in {*needed, *condition.columns}], False
        elif not given or len(needed) < len(given) or has_condition(expectation):
            needed, is_exact = schema.names, False
        else:
            is_exact = needed == given
        repeats = is_exact and len(needed) == 1 and is_text(schema.field(needed[0]).type)
        key = (is_exact, tuple(needed))
        found.setdefault(key, _Group(needed, is_exact=is_exact, repeats=repeats)).expectations.append(expectation)
    return list(found.values())


def _joined(batches: Iterator[tuple[int, pa.Table]]) -> Iterator[list[tuple[int, pa.Table]]]:
    """Yield lists of batches, of limited size."""
    held: list[tuple[int, pa.Table]] = []
    size = 0
    for first, table in batches:
        if held and (len(held) == _MOST_BATCHES or size + table.nbytes > _MOST_BYTES):
            yield held
            held, size = [], 0
        held.append((first, table))
        size += table.nbytes
    if held:
        yield held


class _Values:
    """The values of a text column, each once, in the order of their first rows. Null is the last value.

    :param table: the column
    """

    def __init__(self, table: pa.Table) -> None:
        encoded = table.column(0).dictionary_encode().unify_dictionaries()
        self._nulls = encoded.null_count
        values = encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], table.schema.types[0])
        self.repeat = 2 * len(values) <= len(encoded)
        # For each row, the position of its value.
        self._places: NDArray[np.int32] = np.concatenate(
            [chunk.indices.fill_null(len(values)).to_numpy() for chunk in encoded.chunks] or [np.empty(0, np.int32)]
        )
        parts = [values, pa.nulls(1, values.type)] if self._nulls else [values]
        self.distinct = pa.table([pa.chunked_array(parts)], table.schema)

    def apply(self, result: ExpectationValidationResult, frame: pd.DataFrame) -> pd.DataFrame:
        """Change the result for the distinct values to that for all rows, and return the unexpected rows.

        :param frame: the distinct values
        """
        details = result.result
        if "unexpected_index_list" not in details:
            # Great Expectations could not compute the expectation.
            return frame
        is_unexpected = np.zeros(len(frame), bool)
        is_unexpected[np.array(details["unexpected_index_list"] or [], np.int64)] = True
        rows = np.flatnonzero(is_unexpected[self._places])
        details |= {"element_count": len(self._places), "unexpected_count": len(rows)}
        if details.get("missing_count"):
            details["missing_count"] = self._nulls
        details["unexpected_index_list"] = rows.tolist()
        return frame.take(self._places[rows]).set_axis(rows)
