"""The declaration of a fairness metric and of its limit, for gates and for monitoring.

This module imports no heavy library, because DAG files that declare a limit import this module during parsing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from airflow_mlops.core.base import Model


class FairnessRule(Model):
    """The largest allowed difference in treatment between groups of rows.

    :param fairness: ``demographic_parity`` (the share of positive predictions) or ``equalized_odds`` (the true positive
        rate and the false positive rate)
    :param sensitive: name of the column that defines the groups
    :param max_difference: the largest allowed difference of a rate between two groups, from 0 to 1
    """

    fairness: Literal["demographic_parity", "equalized_odds"]
    sensitive: str
    max_difference: Annotated[FiniteFloat, Field(ge=0, le=1)]

    @property
    def difference(self) -> str:
        """Return the name of the metric: ``demographic parity`` or ``equalized odds``."""
        return self.fairness.replace("_", " ")

    @property
    def metric_name(self) -> str:
        """Return the name in the metrics of a task, such as ``demographic_parity_over_sex``."""
        return f"{self.fairness}_over_{self.sensitive}"

    @property
    def needs_labels(self) -> bool:
        """Return whether the metric is computed from labels, in addition to predictions."""
        return self.fairness == "equalized_odds"
