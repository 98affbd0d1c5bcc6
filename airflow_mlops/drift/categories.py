"""Which values of a column of categories are new, and which are gone."""

from __future__ import annotations

import math
from typing import Any

from airflow_mlops.profiles.columns.categorical import CategoricalColumn

_NAMED = 5
# A value is gone if fewer windows of this size than this would lack it by chance.
_CHANCE = 0.001


def named(reference: CategoricalColumn, current: CategoricalColumn) -> dict[str, Any]:
    """``new_values`` and ``gone_values`` of a :class:`~airflow_mlops.drift.findings.Drift`, the most frequent first.

    Nothing where not every value was kept: one that is not among those kept may have been there all the same.
    """
    if reference.error or current.error or not current.valid:
        return {}
    known, seen = reference.counts(), current.counts()
    new = {value: rows / current.rows for value, rows in seen.items() if value not in known}
    gone = {
        value: rows / reference.rows
        for value, rows in known.items()
        if value not in seen and _expected(rows / reference.valid, current.valid)
    }
    return {"new_values": _first(new), "gone_values": _first(gone)}


def _expected(share: float, rows: int) -> bool:
    """Whether so many rows would hardly be without a value of this share."""
    return share >= 1 or rows * math.log1p(-share) < math.log(_CHANCE)


def _first(shares: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:_NAMED]
