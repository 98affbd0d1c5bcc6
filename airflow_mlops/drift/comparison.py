"""The result of comparing two profiles of one column: measures of distance, and the tests that decide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from airflow_mlops.drift.findings import Bin


class Test(NamedTuple):
    """A significance test that takes part in the decision about a column.

    :param name: as in the field ``p_values`` of :class:`~airflow_mlops.drift.findings.Drift`
    :param effect: size of the change as a share of rows, from 0 to 1
    :param p_value: of this test alone, before any correction
    """

    name: str
    effect: float
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Measures and tests of one column. :class:`~airflow_mlops.drift.findings.Drift` explains the measures.

    A measure is ``None`` if it is not defined for the kind of the column, or cannot be computed.

    :param measure_p_values: p-value of each measure that has one; these do not take part in the decision
    :param tests: the tests that do
    :param note: a remark for the reader of the report
    :param bins: shares of rows to draw
    """

    psi: float | None = None
    jensen_shannon: float | None = None
    ks: float | None = None
    wasserstein: float | None = None
    total_variation: float | None = None
    unseen: float | None = None
    new_values: list[tuple[str, float]] = field(default_factory=list)
    gone_values: list[tuple[str, float]] = field(default_factory=list)
    measure_p_values: dict[str, float] = field(default_factory=dict)
    tests: list[Test] = field(default_factory=list)
    note: str | None = None
    bins: list[Bin] = field(default_factory=list)
