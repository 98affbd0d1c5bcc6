"""Decide whether a column is broken in a window: its values went missing, froze at one value, or changed their unit.

A broken column carries no information, or wrong information, so no model can learn from the window. A column that
merely drifted is not broken.

- **Missing**: the share of rows with a value is at most a tenth of this share in the reference.
- **Frozen**: all values of a numeric column in the window (at least two) are the same number, and the values in the
  reference differ. There are three exceptions:

  - The column was also constant in at least 5% of the calendar spans of the training data. These spans are hours, days,
    weeks, months or years, whichever have about the length of the window. Examples are the month and a holiday flag.
  - About 1% or more of the reference's rows have this value.
  - It is unknown how often the column was constant in calendar spans, and the reference has at most 100 distinct
    values. This number is estimated as the reciprocal of the probability that two rows have the same value (Simpson's
    index; M. O. Hill, "Diversity and Evenness", Ecology 54, 1973).

- **Unit**: at least half of the rows would need a different value to match the reference, but at most a fifth would
  after a conversion of units. The conversions are the factors 10, 60, 100, 1,000, 3,600, 1e6 and 1e9, their
  reciprocals, and conversions between Celsius, Fahrenheit and Kelvin. A temperature lies between -100 and 100 degrees
  Celsius before and after the conversion. Smaller factors, such as from miles to kilometres, cannot be distinguished
  from drift.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from airflow_mlops.profiles.columns.histogram import Histogram
from airflow_mlops.profiles.columns.numeric import NumericColumn
from airflow_mlops.profiles.profile import ColumnProfile

# A column counts as missing if its share of rows with a value is at most this multiple of the share in the reference.
_LEFT = 0.1
# A constant column is not frozen if it was constant in at least the share _SPANS of the training data's calendar spans,
# or if at least the share _KNOWN of the reference's rows lie in the histogram bins that contain its value.
_SPANS, _KNOWN = 0.05, 0.01
# If it is unknown how often a column was constant in calendar spans, a column with at most this number of distinct
# values in the reference counts as a calendar feature, such as the day of the month, and is not frozen.
_VALUES = 100
# A changed unit is reported if the Kolmogorov-Smirnov distance of reference and window is at least _APART before the
# conversion of units, and at most _ALIKE after the conversion.
_APART, _ALIKE = 0.5, 0.2
# Units are not checked in a column with fewer distinct values in the window, because such values may be codes.
_DISTINCT = 20
# The range of temperatures, in degrees Celsius.
_COLDEST, _HOTTEST = -100, 100


class _Conversion(NamedTuple):
    """A conversion of units, ``factor * value + offset``.

    :param looks: a clause without a subject that describes a converted column, with ``{when}`` for the time of the
        reference
    :param before: the smallest and the largest value that can be converted
    :param now: the smallest and the largest value after the conversion
    """

    factor: float
    offset: float
    looks: str
    before: tuple[float, float] = (-np.inf, np.inf)
    now: tuple[float, float] = (-np.inf, np.inf)

    def fits(self, before: Histogram, now: Histogram) -> bool:
        """Return whether all values lie in the ranges of the conversion."""
        pairs = ((self.before, before), (self.now, now))
        return all(low <= found.low and found.high <= high for (low, high), found in pairs)


def _conversions() -> list[_Conversion]:
    found = []
    for factor, text in (
        (10, "10"),
        (60, "60"),
        (100, "100"),
        (1e3, "1,000"),
        (3_600, "3,600"),
        (1e6, "1e6"),
        (1e9, "1e9"),
    ):
        found.append(_Conversion(factor, 0.0, f"is about {text} times as large as {{when}}"))
        found.append(_Conversion(1 / factor, 0.0, f"is about 1/{text} of its size {{when}}"))
    scales = {"Celsius": (1.0, 0.0), "Fahrenheit": (1.8, 32.0), "Kelvin": (1.0, 273.15)}
    for before, (scale, zero) in scales.items():
        for now, (other, start) in scales.items():
            if before != now:
                text, factor = f"looks converted from {before} to {now}", other / scale
                ranges = ((_COLDEST * a + b, _HOTTEST * a + b) for a, b in ((scale, zero), (other, start)))
                found.append(_Conversion(factor, start - zero * factor, text, *ranges))
    return found


_CONVERSIONS = _conversions()


def fault(
    reference: ColumnProfile,
    current: ColumnProfile,
    when: str,
    ks: float | None = None,
    constant: float | None = None,
) -> str | None:
    """Return a clause without a subject about what is broken, such as ``has no values``; ``None`` if nothing is broken.

    :param reference: profile of the column in the reference
    :param current: profile of the column in the window
    :param when: the time of the reference as text, such as ``at training`` or ``in 2012-12``
    :param ks: Kolmogorov-Smirnov distance of the two columns; ``None`` if it was not computed
    :param constant: share of the calendar spans of the training data in which the column had a single value; ``None``
        if unknown. The spans have about the length of the window
    """
    if not current.rows or not reference.valid:
        return None
    if not current.valid:
        return "has no values"
    missing = 1 - current.valid / current.rows
    if current.valid / current.rows <= _LEFT * reference.valid / reference.rows:
        return f"has no value in {missing:.0%} of the rows"
    if not isinstance(reference, NumericColumn) or not isinstance(current, NumericColumn):
        return None
    if is_constant(reference, current):
        if not _is_frozen(reference, current, constant):
            return None
        return "has one value in all rows" if not missing else "has one value in all rows with a value"
    looks = _unit(reference, current) if ks is not None and ks >= _APART else None
    return looks and looks.format(when=when)


def is_constant(reference: NumericColumn, current: NumericColumn) -> bool:
    """Return whether a column has a single distinct value in the window, and several distinct values in the reference.

    Only finite values count. The window must contain at least two of them.
    """
    return current.valid > 1 and current.min == current.max and reference.min != reference.max


def _is_frozen(reference: NumericColumn, current: NumericColumn, constant: float | None) -> bool:
    if constant is not None and constant >= _SPANS:
        return False
    known = reference.distribution()
    assert known is not None
    assert current.min is not None
    if _share(known, current.min) >= _KNOWN:
        return False
    # A bin holds one or several values, so the number of values computed from the bins is a lower bound.
    shares = known.counts / known.counts.sum()
    return constant is not None or 1 / float(np.square(shares).sum()) > _VALUES


def _share(known: Histogram, value: float) -> float:
    """Return the share of rows in the bins whose range contains ``value``."""
    inside = (known.lows <= value) & (value <= known.highs)
    return float(known.counts[inside].sum() / known.counts.sum())


def _unit(reference: NumericColumn, current: NumericColumn) -> str | None:
    before, now = reference.distribution(), current.distribution()
    if before is None or now is None or len(now.keys) < _DISTINCT:
        return None
    found = [(_distance(before, now, item), item.looks) for item in _CONVERSIONS if item.fits(before, now)]
    distance, looks = min(found)
    return looks if distance <= _ALIKE else None


def _distance(before: Histogram, now: Histogram, conversion: _Conversion) -> float:
    """Return the Kolmogorov-Smirnov distance of the converted reference and the window.

    The distribution functions are compared at the upper ends of the bins of both histograms.
    """
    points = np.concatenate([conversion.factor * before.highs + conversion.offset, now.highs])
    back = np.concatenate([before.highs, (now.highs - conversion.offset) / conversion.factor])
    return float(np.abs(before.cdf(back) - now.cdf(points)).max())
