"""Realised performance: a metric of logged predictions and their labels, with a confidence interval."""

from __future__ import annotations

from airflow_mlops.metrics.realised.labelled import (
    COLUMNS,
    Labelled,
    Outcomes,
    UnmeasurableError,
    columns,
    measurable,
    outcomes,
    scored,
    scores,
)
from airflow_mlops.metrics.realised.measurement import (
    clustered,
    is_measured_in_parts,
    measure,
    order_of_scores,
    quantile_coverage,
    stretched,
    widened,
)
from airflow_mlops.metrics.realised.row_losses import losses, losses_of_parts
from airflow_mlops.metrics.realised.spooled import Spooled, spooled

__all__ = [
    "COLUMNS",
    "Labelled",
    "Outcomes",
    "Spooled",
    "UnmeasurableError",
    "clustered",
    "columns",
    "is_measured_in_parts",
    "losses",
    "losses_of_parts",
    "measurable",
    "measure",
    "order_of_scores",
    "outcomes",
    "quantile_coverage",
    "scored",
    "scores",
    "spooled",
    "stretched",
    "widened",
]
