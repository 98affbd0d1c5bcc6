"""What a drift check finds: drift of columns, schema changes and freshness."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import UtcDatetime
from airflow_mlops.drift.reference import TRAINING, at_reference

# Values named in a remark, and characters of each.
_NAMED, _LONG = 3, 24


class Bin(Model):
    """One bar of a histogram: its label, and its share of rows in the reference and in the window."""

    label: str
    reference: float
    current: float

    def prefixed(self, name: str) -> Bin:
        """The same bar, with ``name`` before its label."""
        return Bin(label=f"{name} {self.label}", reference=self.reference, current=self.current)


class Drift(Model):
    """How far a column moved from its reference, and whether by more than chance.

    For free text, ``psi``, ``jensen_shannon``, ``ks`` and ``wasserstein`` are those of the text lengths; for
    embeddings, those of the norms. For timestamps, ``psi`` and ``jensen_shannon`` are those of the hours; for dates,
    those of the weekdays.

    :param kind: ``numeric``, ``categorical``, ``boolean``, ``text`` (free text), ``timestamp``, ``date`` or
        ``embedding``
    :param reference: what the column is compared with: ``training``, or windows, as in ``2012-12``
    :param psi: population stability index over the bins of the reference and one more bin for missing values
    :param jensen_shannon: Jensen-Shannon distance over the same bins, from 0 (equal) to 1 (no bin in common)
    :param ks: largest distance between the two distribution functions, on the bins of both; not for categories
    :param wasserstein: mean distance between the two quantile functions, in standard deviations of the reference; not
        for categories
    :param total_variation: total variation distance of the shares of values, from 0 to 1; categories and booleans only.
        If a profile does not keep all values, shares are those of groups of values, which makes the distance smaller
    :param missing: share of rows that are missing, NaN, infinite, or not a value of this kind
    :param missing_reference: the same share in the reference
    :param unseen: share of rows with a value that the reference does not have; categories and booleans. If a profile
        does not keep all values, it is estimated from a sample of values. For free text: the share of rows whose drawn
        word was never drawn in the reference
    :param new_values: the most frequent values that the reference does not have, with their shares of rows
    :param gone_values: the most frequent values of the reference that the window does not have, although chance would
        hardly leave them out, with their shares of rows in the reference
    :param infinite: number of infinite rows, if the reference has none
    :param broken: the window has no value at all, or one and the same number in every row, and the reference does not
    :param p_values: p-value of each measure and test on its own. The tests that decide are ``ks``, ``cucconi`` (level
        and spread), ``chi_square``, ``unseen``, ``missing``, ``words`` (shares of rows with a word), ``hour``,
        ``weekday``, ``norm``, ``projection 1`` and so on
    :param test: the most significant of these tests, which decides
    :param effect: size of the change that this test found, as a share of rows: the Kolmogorov-Smirnov distance for
        ``ks``, ``cucconi``, ``norm`` and projections; the total variation distance for ``chi_square``, ``hour`` and
        ``weekday``; the share of ``unseen`` rows; the difference of the shares of ``missing`` rows, or of rows with the
        word that changed most
    :param tests: number of tests that could have decided
    :param p_value: p-value of the column: that of the deciding test times ``tests``
    :param adjusted_p_value: the p-value adjusted for the number of columns. It is at most the policy's
        ``false_alarm_rate`` if the column has drifted, and 1 if the effect is below the policy's ``min_effect``
    :param importance: the feature's share of the total permutation importance, from 0 to 1; ``None`` if unknown
    :param note: what is unusual about the column, or why it was not measured
    """

    column: str
    kind: str
    reference: str = TRAINING
    psi: float | None = None
    jensen_shannon: float | None = None
    ks: float | None = None
    wasserstein: float | None = None
    total_variation: float | None = None
    missing: float = 0.0
    missing_reference: float = 0.0
    unseen: float | None = None
    new_values: list[tuple[str, float]] = Field(default_factory=list)
    gone_values: list[tuple[str, float]] = Field(default_factory=list)
    infinite: int = 0
    broken: bool = False
    p_values: dict[str, float] = Field(default_factory=dict)
    test: str | None = None
    effect: float | None = None
    tests: int = 0
    p_value: float | None = None
    adjusted_p_value: float | None = None
    drifted: bool = False
    importance: float | None = None
    note: str | None = None
    bins: list[Bin] = Field(default_factory=list)

    @property
    def when(self) -> str:
        """The time of the reference: ``at training``, or as in ``in 2012-12``."""
        return at_reference(self.reference)

    def decided(self, adjusted_p_value: float, false_alarm_rate: float) -> Drift:
        """The same with the decision whether the column has drifted."""
        decision = {"adjusted_p_value": adjusted_p_value, "drifted": adjusted_p_value <= false_alarm_rate}
        return Drift(**{**dict(self), **decision})

    @property
    def remark(self) -> str:
        """The note, the new values and the gone values in one sentence; may be empty."""
        parts = [self.note] if self.note else []
        for name, values in (("new", self.new_values), ("gone", self.gone_values)):
            if values:
                named = (f"{_short(value)} {share:.1%}" for value, share in values[:_NAMED])
                parts.append(f"{name}: {', '.join(named)}")
        return "; ".join(parts)


def _short(value: str) -> str:
    return repr(value if len(value) <= _LONG else f"{value[: _LONG - 1]}…")


class DriftTests(Model):
    """How the drift of a window was tested.

    If nothing has changed, the share of windows with any column reported as drifted is at most ``false_alarm_rate``.

    :param min_effect: effects below this share of rows are not drift
    :param columns: number of tested columns: features, scores, labels, and the reconstruction error of all features
    :param tests: number of tests on these columns
    :param correction: the corrections for multiple tests
    """

    false_alarm_rate: float
    min_effect: float
    columns: int
    tests: int
    correction: str = "Bonferroni within a column, Benjamini-Hochberg over the columns"


class SchemaChange(Model):
    """A column that differs from the training set in its type or its presence.

    :param before: its type at training; ``None`` for a new column
    :param now: its type in the window; ``None`` if it is gone. If parts of the window differ: all types
    :param compared: whether drift could be measured nevertheless
    """

    column: str
    before: str | None
    now: str | None
    compared: bool

    def __str__(self) -> str:
        if self.now is None:
            return f"{self.column} is gone"
        return f"{self.column} was {self.before} and is {self.now}" if self.before else f"{self.column} is new"


class Freshness(Model):
    """How recent the rows of a window are.

    :param newest_event: event time of the newest row
    :param newest_score: time at which the last row was scored
    :param behind_days: days from ``newest_event`` to the end of the window
    """

    newest_event: UtcDatetime | None = None
    newest_score: UtcDatetime | None = None
    behind_days: float | None = None

    def age(self, at: UtcDatetime) -> timedelta | None:
        """The age of the newest row at a point in time."""
        return at - self.newest_event if self.newest_event is not None else None
