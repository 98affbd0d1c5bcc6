"""The findings of a drift check: drift of columns, schema changes and freshness."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import UtcDatetime
from airflow_mlops.drift.reference import TRAINING, at_reference

# Largest number of values named in a remark, and largest number of characters of each value.
_NAMED, _LONG = 3, 24


class Bin(Model):
    """One bar of a histogram: its label, and its share of rows in the reference and in the window."""

    label: str
    reference: float
    current: float

    def prefixed(self, name: str) -> Bin:
        """Return the same bar, with ``name`` before its label."""
        return Bin(label=f"{name} {self.label}", reference=self.reference, current=self.current)


class ChangedShare(Model):
    """The value of a categorical column whose odds changed most, among the values that changed significantly.

    :param value: the value
    :param reference: its share of the non-null rows in the reference
    :param current: its share of the non-null rows in the window
    :param odds_ratio: ratio of the larger to the smaller odds of the two shares; ``None`` if one of the shares is 0 or
        1
    """

    value: str
    reference: float
    current: float
    odds_ratio: float | None


class Drift(Model):
    """The drift of one column: the distance from the reference, and whether the difference is significant.

    For free text, ``psi``, ``jensen_shannon``, ``ks`` and ``wasserstein`` compare the text lengths, and for embeddings
    the Euclidean norms. For timestamps, ``psi`` and ``jensen_shannon`` compare the hours of the day, and for dates the
    weekdays.

    :param kind: ``numeric``, ``categorical``, ``boolean``, ``text`` (free text), ``timestamp``, ``date``, ``embedding``
        or ``attributions``
    :param reference: what the column is compared with: ``training``, or the label of earlier windows, such as
        ``2012-12``
    :param psi: population stability index over the bins of the reference and one more bin for null rows
    :param jensen_shannon: Jensen-Shannon distance over the same bins, from 0 (equal shares) to 1 (no bin contains rows
        of the reference and of the window)
    :param ks: largest distance between the two cumulative distribution functions on common bins; ``None`` for
        categories
    :param wasserstein: mean distance between the two quantile functions, in standard deviations of the reference;
        ``None`` for categories
    :param total_variation: total variation distance of the shares of values, from 0 to 1; categories and booleans only.
        If a profile does not keep all values, groups of values are compared instead, and the distance is smaller
    :param missing: share of rows in the window without a usable value: null, NaN, infinite, or not a value of this kind
    :param missing_reference: share of rows in the reference without a usable value
    :param unseen: share of rows with a value that does not occur in the reference; categories and booleans. If a
        profile does not keep all values, the share is estimated from a sample of values. For free text, one word is
        drawn from each row. ``unseen`` is the share of rows with a word that was never drawn in the reference
    :param new_values: the most frequent values that do not occur in the reference, with their shares of rows
    :param gone_values: the most frequent values that occur in the reference but not in the window, with their shares of
        rows in the reference. Values so rare that the window may lack them by chance are not included
    :param infinite: number of rows with an infinite value in the window if the reference has no such row, otherwise 0
    :param broken: whether the column is broken in the window, see :mod:`airflow_mlops.drift.breakage`: it went missing,
        froze at an unlikely value, or changed its unit. In reports of old versions, also every number that is constant
        in the window and not in the reference
    :param fault: what is broken, as a clause without a subject, such as ``has no values``; ``None`` if nothing is
        broken, and in reports of old versions
    :param p_values: p-value of each measure and test before any correction. Only the p-values of these tests decide
        whether the column has drifted: ``ks``, ``cucconi`` (level and spread), ``chi_square``, ``unseen``, ``missing``,
        ``words`` (shares of rows with a word), ``hour``, ``weekday``, ``norm``, ``projection 1`` and so on, and
        ``ndcg`` (order of the features' attributions)
    :param test: the test that decides whether the column has drifted. It has the smallest p-value of the tests with an
        effect of at least ``min_effect``, or of all tests if no test has such an effect
    :param effect: size of the change that ``test`` found, as a share of rows: the Kolmogorov-Smirnov distance for
        ``ks``, ``cucconi``, ``norm`` and projections; the total variation distance for ``chi_square``, ``hour`` and
        ``weekday``; the share of ``unseen`` rows; the difference of the shares of ``missing`` rows, or of rows with the
        word that changed most. For ``ndcg``, the share of the total importance that moved between features
    :param tests: number of tests of the column, from which ``test`` was chosen
    :param p_value: p-value of the column: the p-value of the deciding test times ``tests`` (Bonferroni)
    :param adjusted_p_value: the p-value of the column, adjusted for the number of columns. If the column has drifted,
        the adjusted p-value is at most the policy's ``false_alarm_rate``. It is 1 if the effect is below the policy's
        ``min_effect`` and the odds of no value changed much, see ``changed``
    :param changed: a value whose odds changed by a factor of at least 1.5, if ``chi_square`` decides and the effect is
        below ``min_effect``. The change then counts as drift although the effect is small
    :param drifted: whether the column has drifted
    :param importance: the feature's share of the total permutation importance, from 0 to 1; ``None`` if unknown
    :param note: remark about unusual values, or the reason why drift was not measured
    :param bins: bars of the histogram in the report
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
    fault: str | None = None
    p_values: dict[str, float] = Field(default_factory=dict)
    test: str | None = None
    effect: float | None = None
    tests: int = 0
    p_value: float | None = None
    adjusted_p_value: float | None = None
    changed: ChangedShare | None = None
    drifted: bool = False
    importance: float | None = None
    note: str | None = None
    bins: list[Bin] = Field(default_factory=list)

    @property
    def when(self) -> str:
        """Return the time of the reference as text, such as ``at training`` or ``in 2012-12``."""
        return at_reference(self.reference)

    def decided(self, adjusted_p_value: float, false_alarm_rate: float) -> Drift:
        """Return a copy with the decision whether the column has drifted.

        :param adjusted_p_value: p-value adjusted for the number of columns
        :param false_alarm_rate: largest adjusted p-value that counts as drift
        """
        decision = {"adjusted_p_value": adjusted_p_value, "drifted": adjusted_p_value <= false_alarm_rate}
        return Drift(**{**dict(self), **decision})

    @property
    def remark(self) -> str:
        """Return the note, the changed share of a drifted column, and new and disappeared values as text.

        The text is empty if there are none of these.
        """
        parts = [self.note] if self.note else []
        if (share := self.changed) is not None and self.drifted and share.reference and share.current:
            parts.append(f"{_short(share.value)} {share.reference:.1%} before, {share.current:.1%} now")
        for name, values in (("new", self.new_values), ("disappeared", self.gone_values)):
            if values:
                named = (f"{_short(value)} {share:.1%}" for value, share in values[:_NAMED])
                parts.append(f"{name}: {', '.join(named)}")
        return "; ".join(parts)


def _short(value: str) -> str:
    return repr(value if len(value) <= _LONG else f"{value[: _LONG - 1]}…")


class DriftTests(Model):
    """The settings and the number of the drift tests of a window.

    :param false_alarm_rate: largest share of windows in which any column is reported as drifted although nothing has
        changed
    :param min_effect: smallest effect, as a share of rows, that counts as drift
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
    """A column that was added, disappeared or changed its type since training.

    :param column: name of the column
    :param before: type of the column at training; ``None`` for a new column
    :param now: type of the column in the window; ``None`` if the column disappeared. If the column has different types
        in the datasets of the window, all types are listed
    :param compared: whether the drift of the column could be measured despite the change
    """

    column: str
    before: str | None
    now: str | None
    compared: bool

    def __str__(self) -> str:
        if self.now is None:
            return f"{self.column} is absent"
        return f"{self.column} changed from {self.before} to {self.now}" if self.before else f"{self.column} is new"


class Freshness(Model):
    """The age of the rows of a window.

    :param newest_event: event time of the newest row
    :param newest_score: time at which the last row was scored
    :param behind_days: days from ``newest_event`` to the end of the window; ``None`` if the rows have no event time
    """

    newest_event: UtcDatetime | None = None
    newest_score: UtcDatetime | None = None
    behind_days: float | None = None

    def age(self, at: UtcDatetime) -> timedelta | None:
        """Return the time from the event time of the newest row to ``at``; ``None`` if the rows have no event time."""
        return at - self.newest_event if self.newest_event is not None else None
