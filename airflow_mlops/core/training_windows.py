"""Rules that derive the time window of a training set from the window that a DAG run processes."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from airflow_mlops.core.base import Model
from airflow_mlops.core.durations import Duration, Period, subtract_period
from airflow_mlops.core.windows import Moment, Window
from airflow_mlops.core.zones import instant, local

# A period with years or months, before the T that begins hours and minutes.
_CALENDAR_UNITS = re.compile(r"\s*P[^T]*[YM]")


def _fixed_length(value: Any) -> Any:
    # pydantic would read a month as 30 days and a year as 365 days.
    if isinstance(value, str) and _CALENDAR_UNITS.match(value):
        raise ValueError(f"{value!r} has years or months, which have no fixed length. Write days, for example P60D.")
    return value


class RollingSpec(Model):
    """A window of a fixed length that ends with the window that the DAG run processes.

    :param length: ISO 8601 period. Years, months, weeks and days are counted in the time zone of the run's window, and
        hours and minutes as elapsed time
    """

    kind: Literal["rolling"] = "rolling"
    length: Period

    def resolve(self, run: Window, first: Callable[[], datetime]) -> Window:
        """Return the window of the training set.

        :param run: window that the run processes
        :param first: function that returns the start of the oldest data; not used
        :raises ValueError: the window would begin before year 1
        """
        days, _, times = self.length.partition("T")
        try:
            start = run.end
            if times:
                start = subtract_period(start, f"PT{times}")
            if days != "P":
                start = instant(subtract_period(local(start, run.zone), days), run.zone)
        except (ValueError, OverflowError):
            raise ValueError(
                f"The window of {self} for {run.label} would begin before year 1. Use a shorter length."
            ) from None
        return Window(start=start, end=run.end, zone=run.zone)

    def __str__(self) -> str:
        return f"Rolling({self.length})"


class ExpandingSpec(Model):
    """The time from a fixed instant to the end of the window of the run.

    :param since: first instant. Text without a time zone is local time in the time zone of the DAG run
    """

    kind: Literal["expanding"] = "expanding"
    since: Moment

    def resolve(self, run: Window, first: Callable[[], datetime]) -> Window:
        """Return the window of the training set.

        :param run: window that the run processes
        :param first: function that returns the start of the oldest data; not used
        :raises ValueError: ``since`` is at or after the end of the run's window
        """
        if self.since >= run.end:
            raise ValueError(
                f"{self} begins at or after the end of the window {run.label} of the run. Use an earlier `since`."
            )
        return Window(start=self.since, end=run.end, zone=run.zone)

    def __str__(self) -> str:
        return f"Expanding(since={self.since.isoformat().replace('+00:00', 'Z')})"


class DecaySpec(Model):
    """The time from the oldest data to the end of the window of the run, with row weights that halve with age.

    The weight of a row is ``0.5 ** (age / half_life)``. The age is the elapsed time from the event to the end of the
    window.

    :param half_life: age at which a row has the weight 0.5. Years and months are not allowed, because they have no
        fixed length
    """

    kind: Literal["decay"] = "decay"
    half_life: Annotated[Duration, BeforeValidator(_fixed_length)]

    def resolve(self, run: Window, first: Callable[[], datetime]) -> Window:
        """Return the window of the training set.

        :param run: window that the run processes
        :param first: function that returns the start of the oldest data
        :raises ValueError: the oldest data begins at or after the end of the run's window
        """
        start = first()
        if start >= run.end:
            raise ValueError(
                f"{self} selects no data, because the oldest data begins at or after the end of the window {run.label}."
            )
        return Window(start=start, end=run.end, zone=run.zone)

    def __str__(self) -> str:
        return f"Decay(half_life={_text(self.half_life)})"


def _text(length: timedelta) -> str:
    """Return a duration in ISO 8601 with days and, if it has a fraction of a day, seconds."""
    rest = length - timedelta(days=length.days)
    days = f"{length.days}D" if length.days else ""
    return f"P{days}" + (f"T{rest.total_seconds():g}S" if rest or not days else "")


def _kind(value: Any) -> str:
    return str(value.get("kind", "") if isinstance(value, dict) else getattr(value, "kind", ""))


TrainingWindow = Annotated[
    Annotated[RollingSpec, Tag("rolling")]
    | Annotated[ExpandingSpec, Tag("expanding")]
    | Annotated[DecaySpec, Tag("decay")],
    Discriminator(
        _kind,
        custom_error_type="training_window",
        custom_error_message="it must be a Rolling, an Expanding or a Decay of airflow_mlops.operators. Write a fixed "
        'window into entities, as in {"name": ..., "window": ...}',
    ),
]
"""A rule for the window of a training set."""


class WindowRule(Model):
    """A model whose only field is a rule, so that pydantic can validate a rule on its own."""

    window: TrainingWindow = Field()
