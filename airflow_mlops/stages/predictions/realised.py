"""Measure the metrics that sum up the labelled predictions of one model version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.columns import LABEL
from airflow_mlops.data.datasets import Dataset, Manifest
from airflow_mlops.data.predictions.privacy import hashed_or_dropped
from airflow_mlops.metrics import realised as performance
from airflow_mlops.metrics.catalog import predicted_quantile
from airflow_mlops.metrics.columns import columns_of
from airflow_mlops.metrics.judged import headline_metrics
from airflow_mlops.stages.predictions.summary import MetricSummary, QuantileSummary

_CONFIDENCE = 0.95


def measured(
    joined: Dataset, predictions: Manifest, contract: ModelContract, outcomes: performance.Outcomes
) -> tuple[list[MetricSummary], QuantileSummary | None]:
    """Measure the metrics of :func:`~airflow_mlops.metrics.judged.headline_metrics`, and the coverage of a quantile.

    :param joined: the labelled predictions
    :param predictions: manifest of the predictions, which names the metrics of the training. For manifests of early
        versions, which do not name them, the default metric of the ML task is measured
    :param contract: contract of the version that made the predictions
    :param outcomes: the rows of this version
    :return: the metrics, the most important first; and the coverage of the quantile, ``None`` for models that do not
        predict one
    """
    trained = predictions.details.get("metrics", [])
    names = headline_metrics(contract.task, trained, predictions.details.get("judged_by"))
    if contract.task == "binary" and outcomes.rows and np.isin(outcomes.score, (0, 1)).all():
        # The scores of a model that predicts only labels have no order within a class.
        names[0] = "accuracy"
    found = [_measured(name, joined, predictions, contract, outcomes) for name in names]
    alpha = predicted_quantile(contract.task, trained)
    if alpha is None or not outcomes.rows:
        return found, None
    share = performance.quantile_coverage(outcomes, _CONFIDENCE)
    return found, QuantileSummary(alpha=alpha, value=share.value, low=share.low, high=share.high)


def _measured(
    name: str, joined: Dataset, predictions: Manifest, contract: ModelContract, outcomes: performance.Outcomes
) -> MetricSummary:
    try:
        rows = _with_columns(name, joined, predictions, contract, outcomes)
        found = performance.measure(name, rows, _CONFIDENCE, contract.task)
    except performance.UnmeasurableError as error:
        return MetricSummary(metric=name, note=str(error))
    return MetricSummary(metric=name, value=found.value, low=found.low, high=found.high)


def _with_columns(
    metric: str, joined: Dataset, predictions: Manifest, contract: ModelContract, outcomes: performance.Outcomes
) -> performance.Outcomes:
    """Return the rows with the columns that a metric names.

    :raises UnmeasurableError: the predictions lack a column, or some values are invalid
    """
    names = columns_of([metric])
    if not names or not outcomes.rows:
        return outcomes
    fates = hashed_or_dropped(joined.manifest.details)
    for name in names:
        if name in fates:
            raise performance.UnmeasurableError(
                f"scoring {fates[name]} column {name!r}, which the metric {metric} needs"
            )
        if name not in joined.schema.names:
            raise performance.UnmeasurableError(
                f"the predictions do not have column {name!r}, which the metric {metric} needs"
            )
    batches = _of_version(joined, predictions.details["model_version"], [LABEL, "score", *names])
    return replace(outcomes, columns=performance.columns(batches, contract, [metric]))


def _of_version(joined: Dataset, version: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for batch in joined.batches(columns=list(dict.fromkeys([*columns, "model_version"]))):
        yield batch.filter(pc.equal(batch.column("model_version"), version))
