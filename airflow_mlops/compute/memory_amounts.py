"""Amounts of memory in the notation of Kubernetes: a number with an optional unit or exponent.

Examples are ``1.5Gi``, ``1048576``, ``129e6`` and ``128974848000m`` (thousandths of a byte).
"""

from __future__ import annotations

import re
from decimal import Decimal

_AMOUNT = re.compile(r"^(\d+\.?\d*|\.\d+)([EPTGMK]i|[EPTGMkmun]|[eE][+-]?\d+)?$")
_PREFIXES = "kMGTPE"
_SMALL = {"m": 1e-3, "u": 1e-6, "n": 1e-9}


def is_amount(text: str) -> bool:
    """Return whether Kubernetes accepts ``text`` as an amount of memory."""
    return _AMOUNT.match(text) is not None


def multiply(amount: str, factor: float) -> str:
    """Multiply an amount of memory and keep its unit. Text that is not an amount is returned unchanged."""
    found = _AMOUNT.match(amount)
    if found is None:
        return amount
    number, unit = found.groups()
    # A float with many digits would be written with an exponent, and Kubernetes allows no unit after an exponent.
    return f"{round(Decimal(number) * Decimal(str(factor)), 9).normalize():f}{unit or ''}"


def in_bytes(amount: str) -> float:
    """Convert an amount of memory to bytes.

    :raises ValueError: ``amount`` is not an amount of memory
    """
    found = _AMOUNT.match(amount)
    if found is None:
        raise ValueError(amount)
    number, unit = found.groups()
    if not unit:
        return float(number)
    if unit in _SMALL:
        return float(number) * _SMALL[unit]
    if len(unit) > 1 and unit[0] in "eE" and not unit.endswith("i"):
        return float(amount)
    base = 1024 if unit.endswith("i") else 1000
    return float(number) * base ** (_PREFIXES.index(unit[0].replace("K", "k")) + 1)
