"""Sizes in bytes, in the text form that settings and parameters use."""

from __future__ import annotations

import re

from airflow_mlops.core.errors import SpecError

MEMORY_VARIABLE = "MLOPS_MEMORY"
"""Environment variable with the setting ``[mlops] memory``, which Airflow passes to the process of a step."""

SIZE = r"^[1-9]\d*(\.\d+)? ?[KMGT]i?B$"
_UNITS = {"": 1_000, "i": 1_024}


def parse_size(text: str, name: str) -> int:
    """Return a size such as ``500MB``, ``1.5 GB`` or ``2GiB`` in bytes.

    :param text: the size
    :param name: name of the setting or parameter, for the error message
    :raises SpecError: the text is not a size
    """
    if not re.match(SIZE, text.strip()):
        raise SpecError(f"{name} is {text!r}, which is not a size. Write it for example as 10GB, 500MB or 1.5GiB.")
    number, power, kind = re.findall(r"([\d.]+) ?([KMGT])(i?)B", text)[0]
    return int(float(number) * _UNITS[kind] ** ("KMGT".index(power) + 1))
