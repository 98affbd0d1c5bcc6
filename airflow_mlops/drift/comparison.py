"""The result of comparing two profiles of one column: distance measures and significance tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from airflow_mlops.drift.findings import Bin, ChangedShare


class Test(NamedTuple):
    """A significance test that takes part in the decision whether a column has drifted.

    :param name: name of the test, a key of the field ``p_values`` of :class:`~airflow_mlops.drift.findings.Drift`
    :param effect: size of the change as a share of rows, from 0 to 1
    :param p_value: p-value before any correction for multiple tests
    :param changed: a value whose odds changed by a large factor; the change then counts as drift even if its effect is
        small
    """

    name: str
    effect: float
    p_value: float
    changed: ChangedShare | None = None

    def counts(self, min_effect: float) -> bool:
        """Return whether the change is large enough to count as drift."""
        return self.effect >= min_effect or self.changed is not None


@dataclass(frozen=True)
class Comparison:
    """Distance measures and significance tests of one column.

    :class:`~airflow_mlops.drift.findings.Drift` explains the measures. A measure is ``None`` if it is undefined for the
    kind of the column, or cannot be computed.

    :param measure_p_values: p-values by measure name. The report shows these p-values, but they do not decide whether
        the column has drifted
    :param tests: the tests that decide whether the column has drifted
    :param note: a remark for the reader of the report
    :param bins: bars of the histogram in the report
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
