"""Text of bounded length for people: names, numbers, and the headline of a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.performance.findings import METRIC_NAMES

HEADLINE_LENGTH = 90
"""The most characters that a headline has."""
DETAIL_LENGTH = 300
_NAME_LENGTH, _NAMES_SHOWN = 24, 3


def metric_name(metric: str) -> str:
    """A metric's name as people write it, such as ``ROC AUC``; an unknown name is only shortened."""
    return METRIC_NAMES.get(metric) or name(metric)


def name(text: str) -> str:
    """The name of a column, a model or a metric, shortened to fit into a headline."""
    return shorten(text, _NAME_LENGTH)


def listed(names: Sequence[str]) -> str:
    """Join ``names`` as in ``temp, wind and 2 more``; the first three are named."""
    shown = list(names[:_NAMES_SHOWN])
    if more := len(names) - len(shown):
        shown.append(f"{more} more")
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]


def number(value: float) -> str:
    """A metric's value: three decimals, or three significant digits if it is very large or very small."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 100_000 else f"{value:.3g}"


def share(value: float, decimals: int = 1) -> str:
    """A share as a percentage, such as ``12.3%``."""
    return f"{value:.{decimals}%}" if abs(value) < 1_000 else f"{100 * value:.3g}%"


def counted(count: int, noun: str) -> str:
    """A count with its noun, such as ``1 row`` or ``1,200 rows``."""
    return f"1 {noun}" if count == 1 else f"{count:,} {noun}s"


def in_days(days: float) -> str:
    """A number of days with its unit, such as ``1 day`` or ``2.5 days``."""
    text = f"{days:,.0f}" if days >= 100 else f"{days:.3g}"
    return f"{text} day" if text == "1" else f"{text} days"


def capitalized(text: str) -> str:
    """``text`` with an upper-case first letter; the rest stays."""
    return f"{text[:1].upper()}{text[1:]}"


def shorten(text: str, length: int) -> str:
    """``text`` on one line, in at most ``length`` characters: cut after a word if possible, and marked by an ellipsis."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    cut = line[: length - 1]
    # A word that would take more than half of the text with it is cut instead.
    if line[length - 1] != " " and (space := cut.rfind(" ")) >= length // 2:
        cut = cut[:space]
    return f"{cut.rstrip(' ,;:(-')}…"
