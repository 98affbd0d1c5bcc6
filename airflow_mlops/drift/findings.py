"""Drift: how far columns have moved, and how that was tested."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import UtcDatetime
from airflow_mlops.drift.reference import TRAINING

# In a sentence.
_NAMED, _LONG = 3, 24


class Bin(Model):
    """One bar of a histogram: its label and the shares of rows in it, in the reference and now."""

    label: str
    reference: float
    current: float


class Drift(Model):
    """How far a column has moved from what it was in its reference, and whether that is more than chance.

    Of free text ``psi``, ``jensen_shannon``, ``ks`` and ``wasserstein`` are those of the lengths, of embeddings those of the
    norms; of timestamps the first two are those of the hours, of dates those of the weekdays.

    :param kind: ``numeric``, ``categorical``, ``boolean``, ``text`` (free text), ``timestamp``, ``date`` or ``embedding``
    :param reference: what it is compared with: ``training``, or windows in a few words, as in ``2012-12``
    :param psi: population stability index over the bins of the reference, with one bin more for missing values
    :param jensen_shannon: Jensen-Shannon distance over the same bins, from 0 (the same) to 1 (nothing in common)
    :param ks: largest distance between the two distribution functions, on the bins of both; not of categories
    :param wasserstein: mean distance between the two quantile functions in standard deviations of the reference;
        not of categories
    :param total_variation: total variation distance, the share of values that would have to change to what they were in
        the reference; over groups of values where there are too many to keep, which makes it smaller; categories and
        booleans only
    :param missing: share of rows that are missing, NaN, infinite, or otherwise no value of their kind now
    :param missing_reference: the same in the reference
    :param unseen: share of rows with a value that the reference never had, estimated from a sample of values where there are
        too many to keep; categories and booleans. Of free text the share of rows of which one word was drawn that was never
        drawn in the reference
    :param new_values: the most frequent of these values, and their shares of the rows
    :param gone_values: values that no row has any more though chance would hardly have left them out, and their shares
        of the rows in the reference; the most frequent
    :param infinite: rows that are infinite, where none was in the reference
    :param broken: no row has a value now, or all numbers are the same one; in the reference that was not so
    :param p_values: of each measure and test by itself: how likely a value as large is at these numbers of rows if
        nothing has changed. Tests that decide: ``ks``, ``cucconi`` (level and spread), ``chi_square``, ``unseen``,
        ``missing``; ``words`` (their shares of rows), ``hour``, ``weekday``, ``norm``, ``projection 1`` and so on
    :param test: which of these decides: the surest
    :param effect: how large the change is that it found, as a share of rows: the Kolmogorov-Smirnov distance for
        ``ks``, ``cucconi``, ``norm`` and projections, total variation distance for ``chi_square``, ``hour`` and
        ``weekday``, the share that is ``unseen``, the difference of the shares that are ``missing`` or have the word that
        moved most
    :param tests: how many tests could have decided
    :param p_value: that of the column: the deciding test's times ``tests``
    :param adjusted_p_value: the same, adjusted for the number of columns; at most the policy's ``false_alarm_rate``
        where the column has drifted, and 1 where the effect is below the policy's ``min_effect``
    :param importance: the feature's share of the total permutation importance, from 0 to 1; ``None`` where it is not known
    :param note: what is odd about the column, or why it was not measured
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
        """``at training``, or in which windows."""
        return f"at {TRAINING}" if self.reference == TRAINING else f"in {self.reference}"

    @property
    def remark(self) -> str:
        """The note, and which values are new and which gone; empty where there is nothing to say."""
        parts = [self.note] if self.note else []
        for name, values in (("new", self.new_values), ("gone", self.gone_values)):
            if values:
                named = (f"{_short(value)} {share:.1%}" for value, share in values[:_NAMED])
                parts.append(f"{name}: {', '.join(named)}")
        return "; ".join(parts)


def _short(value: str) -> str:
    return repr(value if len(value) <= _LONG else f"{value[: _LONG - 1]}…")


class DriftTests(Model):
    """What the drift of a window was tested by: with nothing changed, the share of windows in which anything is said
    to have drifted is at most ``false_alarm_rate``.

    :param min_effect: the floor below which a change is no drift
    :param columns: columns tested: features, scores, labels, and the error of a reconstruction of all features together
    :param tests: tests done on them
    :param correction: for the tests within a column, and for the columns
    """

    false_alarm_rate: float
    min_effect: float
    columns: int
    tests: int
    correction: str = "Bonferroni within a column, Benjamini-Hochberg over the columns"


class SchemaChange(Model):
    """A column that is not what it was at training.

    :param before: its type at training; ``None`` where there was no such column
    :param now: its type in the window; ``None`` where it is gone, several where parts of the window differ
    :param compared: whether drift could be measured all the same
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
    """How recent the rows are.

    :param newest_event: event time of the newest row
    :param newest_score: when the last row was scored
    :param behind_days: from ``newest_event`` to the end of the window
    """

    newest_event: UtcDatetime | None = None
    newest_score: UtcDatetime | None = None
    behind_days: float | None = None

    def age(self, at: UtcDatetime) -> timedelta | None:
        """How old the newest row is."""
        return at - self.newest_event if self.newest_event is not None else None
