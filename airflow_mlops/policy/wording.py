"""Format names, numbers, periods and lists for sentences of limited length."""

from __future__ import annotations

import re
from collections.abc import Sequence

from airflow_mlops.core.counts import counted
from airflow_mlops.metrics.catalog import is_expected_cost
from airflow_mlops.metrics.deviances import TWEEDIE
from airflow_mlops.performance.findings import METRIC_NAMES

HEADLINE_LENGTH = 90
"""The largest number of characters in a headline."""
DETAIL_LENGTH = 300
"""The largest number of characters in a detail."""
_NAME_LENGTH, _NAMES_SHOWN = 24, 3
# Larger numbers are written with an exponent, so that they fit into a headline.
_LARGE = 1e9
_UNITS = {"Y": "year", "M": "month", "W": "week", "D": "day", "TH": "hour", "TM": "minute"}


def metric_name(metric: str) -> str:
    """Return a metric's usual name, such as ``ROC AUC``, or the function name of a custom metric."""
    if is_expected_cost(metric):
        # The costs would not fit into a headline.
        return "expected cost"
    if metric.startswith(TWEEDIE):
        return "Tweedie deviance"
    return METRIC_NAMES.get(metric) or name(metric.rpartition(":")[2])


def name(text: str) -> str:
    """Shorten the name of a column, a model or a metric so that it fits into a headline."""
    return shorten(text, _NAME_LENGTH)


def listed(names: Sequence[str], shown: int = _NAMES_SHOWN) -> str:
    """Join names into a list such as ``temp, wind and 2 more``.

    :param names: at least one name
    :param shown: the largest number of names that are written out
    """
    parts = list(names[:shown])
    if more := len(names) - len(parts):
        parts.append(f"{more} more")
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def number(value: float) -> str:
    """Format a metric's value, such as ``0.712`` or ``15,227``.

    A value has three decimals, from 1,000 on none. Very large and very small values have three significant digits.
    """
    if 999.9995 <= abs(value) < _LARGE:
        return f"{value:,.0f}"
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < _LARGE else f"{value:.3g}"


def effect(value: float | None) -> str:
    """Format the effect of drift (a share of rows) with two significant digits, such as ``0.54``."""
    return f"{value or 0:.2g}"


def share(value: float, decimals: int = 1) -> str:
    """Format a share as a percentage, such as ``12.3%``."""
    return f"{value:.{decimals}%}" if abs(value) < 1_000 else f"{100 * value:.3g}%"


def duration_text(days: float) -> str:
    """Format a number of days with its unit, such as ``1 day`` or ``2.5 days``.

    Less than a day is written in hours, and less than an hour in minutes.
    """
    value, unit = days, "day"
    for smaller, count in (("hour", 24), ("minute", 60)):
        if value == 0 or abs(value) >= 1:
            break
        value, unit = value * count, smaller
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{text} {unit}" if text == "1" else f"{text} {unit}s"


def only(count: int, noun: str) -> str:
    """Return the rest of a clause that begins with ``there``, such as ``are only 12 labels``."""
    return f"{'is' if count == 1 else 'are'} only {counted(count, noun)}"


def period(iso: str) -> str:
    """Write an ISO 8601 period in words, such as ``1 year`` for ``P1Y``."""
    date, _, time = iso.removeprefix("P").partition("T")
    parts = [(number, unit) for number, unit in re.findall(r"(\d+)([YMWD])", date)]
    parts += [(number, f"T{unit}") for number, unit in re.findall(r"(\d+)([HM])", time)]
    return " ".join(counted(int(number), _UNITS[unit]) for number, unit in parts) or iso


def capitalized(text: str) -> str:
    """Make the first letter of ``text`` upper-case and leave the rest unchanged."""
    return f"{text[:1].upper()}{text[1:]}"


def fitting(*variants: str, length: int = HEADLINE_LENGTH) -> str:
    """Return the first variant of a text with at most ``length`` characters; if none fits, shorten the last variant."""
    return next((text for text in variants if len(text) <= length), shorten(variants[-1], length))


def shorten(text: str, length: int) -> str:
    """Write ``text`` on one line of at most ``length`` characters.

    A longer text is cut, after a word if possible, and ends with an ellipsis.
    """
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    cut = line[: length - 1]
    # If the second half of the text has no space, the text is cut within a word.
    if line[length - 1] != " " and (space := cut.rfind(" ")) >= length // 2:
        cut = cut[:space]
    return f"{cut.rstrip(' ,;:(-')}…"
