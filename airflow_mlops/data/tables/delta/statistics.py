"""Find the columns of a Delta table for which ``deltalake`` would write inexact statistics."""

from __future__ import annotations

from airflow_mlops.data.tables.lake_types import DECIMAL

STATISTICS_DIGITS, STATISTICS_SCALE = 15, 5
"""Up to this precision and scale, the minimum and maximum of a decimal column are stored exactly, as JSON numbers.

Numbers below 0.00001 are written with an exponent, which readers of decimals do not accept.
"""


def has_inexact_statistics(found: str) -> bool:
    """Return whether inexact minima and maxima of a column can make readers skip files that contain a value.

    :param found: the Delta type of the column
    """
    decimal = DECIMAL.fullmatch(found)
    return decimal is not None and (int(decimal["p"]) > STATISTICS_DIGITS or int(decimal["s"]) > STATISTICS_SCALE)
