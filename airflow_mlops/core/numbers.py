"""Numbers in messages and pages, and the range of costs."""

from __future__ import annotations

import math

# Doubles from here on do not represent every integer exactly.
_INEXACT = 1e15

SMALLEST_COST, LARGEST_COST = 1e-100, 1e100
"""The smallest cost above 0, and the largest one. Sums of their squares are neither 0 nor infinite."""


def rounded(value: float, digits: int = 4) -> str:
    """Format a number, such as ``0.7123`` or ``12,345``.

    Below 1e15, the digits before the decimal point are not rounded. From 1e15 on, the number is in scientific notation,
    such as ``1.235e+15``.

    :param digits: number of significant digits. More digits are shown only before the decimal point
    """
    whole = 10**digits - 0.5 <= abs(value) < _INEXACT
    return f"{value:,.0f}" if whole else f"{value:,.{digits}g}"


def percent(share: float) -> str:
    """Format a share from 0 to 1 as a percentage with one decimal, such as ``94.6%``.

    A share below 1 is never shown as 100%, and a share above 0 never as 0%. The pages in Airflow's UI use the same rule.

    :param share: the share, from 0 to 1
    """
    tenths = math.floor(1000 * share + 0.5)
    if share > 0 and tenths == 0:
        return "< 0.1%"
    return f"{(min(tenths, 999) if share < 1 else tenths) / 10:.1f}%"
