"""Amounts of memory in the notation of Kubernetes: a number with an optional unit, such as ``1.5Gi`` or ``1048576``."""

from __future__ import annotations

import re

_AMOUNT = re.compile(r"^(\d+(?:\.\d+)?)([EPTGMK]i|[EPTGMk])?$")
_PREFIXES = "kMGTPE"


def is_amount(text: str) -> bool:
    """Return whether Kubernetes accepts ``text`` as an amount of memory."""
    return _AMOUNT.match(text) is not None


def multiply(amount: str, factor: float) -> str:
    """Multiply an amount of memory and keep its unit. Text that is not an amount is returned unchanged."""
    found = _AMOUNT.match(amount)
    if found is None:
        return amount
    number, unit = found.groups()
    return f"{float(number) * factor:.10g}{unit or ''}"


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
    base = 1024 if unit.endswith("i") else 1000
    return float(number) * base ** (_PREFIXES.index(unit[0].replace("K", "k")) + 1)
