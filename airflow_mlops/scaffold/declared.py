"""Choose the columns of files whose types the proposed DAGs declare, because a single window may not show the type."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from airflow_mlops.data import moments
from airflow_mlops.data.incoming.inference import Notation
from airflow_mlops.scaffold.columns import Column

if TYPE_CHECKING:
    from airflow_mlops.scaffold.proposal import Proposal

# Expected number of values in a window that show the type. If fewer are expected, some windows may have no such value.
_ENOUGH = 20
# Numbers and booleans. If a text column has no other value in a window, it is read as numbers or booleans.
_OTHER_TYPE = r"^\s*([-+]?(0|[1-9]\d*|\d*\.\d+)([eE][-+]?\d+)?|(?i:true|false)|)\s*$"


def types(
    proposal: Proposal, known: Collection[str] = (), csv: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, str]:
    """Return the Arrow types to declare by column name.

    The types of columns of files are inferred from each window. A column with the numbers 12 and 12.5 has the type int64
    in a window without 12.5, and the next window fails.

    :param proposal: the proposal, with the columns of the sample
    :param known: names of the columns whose types are already declared
    :param csv: the options of CSV files
    """
    notation = Notation(csv.get("decimal") or ".", csv.get("thousands") or "")
    rows = max(1, len(proposal.columns[proposal.time].values))
    return {
        name: str(column.type).replace("double", "float64")
        for name, column in proposal.columns.items()
        if name not in known
        and (shown := _showing(column, notation)) is not None
        and shown * proposal.window_rows / rows < _ENOUGH
    }


def _showing(column: Column, notation: Notation) -> int | None:
    """Return the number of values that show the type of a column; ``None`` if every value shows it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = column.values.drop_null()
    if pa.types.is_float64(column.type):
        shown = pc.and_(pc.is_finite(values), pc.not_equal(values, pc.floor(values)))
    elif pa.types.is_decimal(column.type):
        # Decimals are inferred if a number ends with a zero.
        shown = pc.ends_with(values.cast(pa.string()), "0")
    elif moments.is_text(column.type) and not column.is_time:
        shown = pc.invert(pc.match_substring_regex(notation.normalised(values), _OTHER_TYPE))
    else:
        return None
    return int(pc.sum(shown).as_py() or 0)
