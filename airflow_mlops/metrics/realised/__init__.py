"""Realised performance: a metric of logged predictions and their labels, with a confidence interval."""

from __future__ import annotations

from airflow_mlops.metrics.realised.labelled import (
    COLUMNS,
    Outcomes,
    UnmeasurableError,
    clusters,
    columns,
    measurable,
    outcomes,
    scored,
    scores,
)
from airflow_mlops.metrics.realised.measurement import clustered, measure, quantile_coverage, stretched, widened
from airflow_mlops.metrics.realised.row_losses import losses

__all__ = [
    "COLUMNS",
    "Outcomes",
    "UnmeasurableError",
    "clustered",
    "clusters",
    "columns",
    "losses",
    "measurable",
    "measure",
    "outcomes",
    "quantile_coverage",
    "scored",
    "scores",
    "stretched",
    "widened",
]
