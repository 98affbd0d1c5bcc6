"""Reading of JSON without infinite numbers, which Python's parser accepts and JSON does not have."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def loads(text: str | bytes) -> Any:
    """Parse JSON as :func:`json.loads` does.

    :raises ValueError: the text is not JSON, or contains ``NaN``, ``Infinity`` or a number that is too large for a
        double, such as ``1e400``
    """
    return json.loads(text, parse_float=_finite, parse_constant=_refuse)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")
