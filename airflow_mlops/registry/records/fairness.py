"""The rates of groups of rows that the gate ``fairness`` measured, with which monitoring compares a window."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from airflow_mlops.core.base import Model


class GroupRates(Model):
    """A rate in each group of rows. Each row counts once.

    :param of: the meaning of the rate, such as ``share of positive predictions``
    :param groups: number of rows that have the property, and number of all rows, by name of the group. A group without
        rows has no rate
    :param designs: for clustered rows, the design effect and the effective number of clusters of the rate of each group
        with rows. The design effect is ``None`` if all rows of the group are of one cluster. Empty for independent rows
    """

    of: str
    groups: dict[str, tuple[int, int]]
    designs: dict[str, tuple[float | None, float]] = Field(default_factory=dict)


class FairnessRates(Model):
    """The rates of which a fairness metric is the largest difference between two groups.

    :param metric: ``demographic_parity`` or ``equalized_odds``
    :param sensitive: the column that defines the groups
    :param rates: the rates on the rows of the evaluation
    :param compared: number of models that were compared on these rows: the candidates, and the champion if it was measured
    """

    metric: Literal["demographic_parity", "equalized_odds"]
    sensitive: str
    rates: list[GroupRates]
    compared: int = Field(default=1, ge=1)
