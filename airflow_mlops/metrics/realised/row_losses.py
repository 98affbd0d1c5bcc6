"""The loss of each row. The metric is the mean loss, or is computed from the mean loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from airflow_mlops.metrics import weighted
from airflow_mlops.metrics.catalog import BY_INFLUENCE, COVERAGE
from airflow_mlops.metrics.costs import costs_of
from airflow_mlops.metrics.deviances import power_of
from airflow_mlops.metrics.domain import wrong_rows
from airflow_mlops.metrics.forecasts import MASE, SCALE, SMAPE
from airflow_mlops.metrics.formulas import influence
from airflow_mlops.metrics.losses import (
    absolute_errors,
    at_most,
    binary_log_losses,
    deviances,
    percentage_errors,
    pinball,
    scaled_errors,
    squared_errors,
)
from airflow_mlops.metrics.ordered_ranks import ordered_placements
from airflow_mlops.metrics.quantiles import alpha_of, covered_alpha_of
from airflow_mlops.metrics.rankings import ranking_of
from airflow_mlops.metrics.realised.labelled import Floats, Labelled, Outcomes, UnmeasurableError
from airflow_mlops.metrics.realised.ranking import area_of, by_group, ordered_area_of, ordered_rows
from airflow_mlops.metrics.realised.shares import errors, missed

BY_CELL = ("f1", "precision", "recall")
"""Binary metrics for which all rows in the same cell of the confusion matrix have the same loss."""


def losses(metric: str, outcomes: Outcomes) -> Floats:
    """Compute the loss of each row. Higher losses are worse.

    For ``log_loss``, ``brier``, ``mae``, ``mase``, ``smape``, deviances, pinball losses and expected costs, the mean
    loss is the metric. For ``rmse``, it is the mean squared error. For the other metrics, it is 1 minus the metric.

    The area under the ROC curve is defined on pairs of rows. The loss of a row is therefore ``1 - area - n *
    influence``, where n is the number of rows. The influence of the row on the area is computed by the infinitesimal
    jackknife. The variance of the mean of these losses is DeLong's variance of the area.

    The losses of average precision, precision, recall, F1, balanced accuracy and NDCG are defined in the same way. For
    NDCG, the influence of a group is divided among its rows.

    MASE leaves out rows with the scale 0. The loss of such a row is the metric. The losses of the other rows are
    scaled, so that the variance of the mean loss is the variance of the ratio of two sums.

    The losses of a coverage gap are defined by influences, too. The gap is an absolute value, so the losses depend on
    the sign of the difference between coverage and quantile on all rows. In a part of the rows, the difference may have
    the other sign, so these losses must not be averaged over a part.

    If rows have weights, the weighted mean of the losses replaces the mean, and the influence of a row is divided by
    its weight.

    :param metric: a metric of :func:`airflow_mlops.metrics.realised.measure`, except custom metrics
    :param outcomes: the labelled predictions
    :return: losses, shape (n,)
    :raises UnmeasurableError: the metric is ``roc_auc`` and a class has fewer than two rows; a deviance is undefined
        for a label or a prediction; the rows lack a column that the metric needs; MASE finds only scales of 0; or NDCG
        cannot be computed (:func:`airflow_mlops.metrics.realised.ranking.by_group`)
    """
    if (costs := costs_of(metric)) is not None:
        false_positive, false_negative = errors(outcomes)
        each = [outcomes.cost(cost) for cost in costs]
        return np.asarray(each[0] * false_positive + each[1] * false_negative)
    if (ranking := ranking_of(metric)) is not None:
        value, of_groups, _ = by_group(metric, outcomes)
        _, first, codes = np.unique(outcomes.columns[ranking.group], return_index=True, return_inverse=True)
        # The influence of a group is divided among its rows.
        shared = (of_groups[first] / np.bincount(codes))[codes]
        return np.asarray((1 - value) - shared * outcomes.rows)
    if (alpha := alpha_of(metric)) is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            return pinball(alpha, outcomes.truth, outcomes.score)
    if (alpha := covered_alpha_of(metric)) is not None:
        covered = at_most(outcomes.truth, outcomes.score).astype(float)
        share = weighted.mean(covered, outcomes.weight)
        return np.asarray(abs(share - alpha) + (1 if share >= alpha else -1) * (covered - share))
    if (power := power_of(metric)) is not None:
        require_defined(metric, outcomes)
        return deviances(power, outcomes.truth, outcomes.score)
    with np.errstate(over="ignore", invalid="ignore"):
        return _LOSSES[metric](outcomes)


def losses_of_parts(metric: str, outcomes: Labelled) -> Iterator[Floats]:
    """Yield the losses of the rows of each part, see :func:`losses`, each of shape (n,).

    :param metric: a metric that is measured in parts (:func:`airflow_mlops.metrics.realised.is_measured_in_parts`)
    :param outcomes: the labelled predictions; for ``roc_auc``, in ascending order of the score
    :raises UnmeasurableError: see :func:`losses`
    """
    if metric == "roc_auc":
        rows = partial(ordered_rows, outcomes)
        found = ordered_area_of(outcomes)
        for batch, placed in zip(rows(), ordered_placements(rows, found.mass), strict=True):
            yield found.losses(batch.positive, placed)
        return
    if metric in BY_CELL:
        table = _losses_of_cells(metric, outcomes)
        for part in outcomes.parts():
            yield table[_cells(part)]
        return
    require_defined(metric, outcomes)
    for part in outcomes.parts():
        yield losses(metric, part)


def require_defined(metric: str, outcomes: Labelled) -> None:
    """Check that a metric is defined for all rows.

    :raises UnmeasurableError: the metric is a deviance that is undefined for a label or a prediction
    """
    if (power := power_of(metric)) is None:
        return
    if (wrong := wrong_rows(power, ((part.truth, part.score) for part in outcomes.parts()))) is not None:
        raise UnmeasurableError(wrong)


def _losses_of_cells(metric: str, outcomes: Labelled) -> Floats:
    """Return the loss of a row in each cell of the confusion matrix, shape (4,).

    The losses are computed for one row per cell, with the sum of the weights of the cell.
    """
    mass = np.zeros(4)
    for part in outcomes.parts():
        mass += np.bincount(_cells(part), part.weight, 4)
    cells, found = np.flatnonzero(mass), np.zeros(4)
    found[cells] = losses(metric, Outcomes(cells >= 2, np.zeros(len(cells)), cells % 2 == 1).weighted(mass[cells]))
    return found


def _cells(outcomes: Outcomes) -> npt.NDArray[np.int64]:
    return 2 * outcomes.truth.astype(np.int64) + outcomes.right


def _area_losses(outcomes: Outcomes) -> Floats:
    found = area_of(outcomes)
    return (1 - found.value) - _by_weight(found.influence, outcomes)


def _influence_losses(metric: str) -> Callable[[Outcomes], Floats]:
    def found(outcomes: Outcomes) -> Floats:
        rows = outcomes.prepared("binary" if outcomes.codes is None else "multiclass")
        value, by_row = influence(metric, rows)
        return np.asarray((1 - value) - _by_weight(by_row, outcomes))

    return found


def _by_weight(influence: Floats, outcomes: Outcomes) -> Floats:
    """Return the influence of each row, divided by its weight (with the mean 1), times the number of rows."""
    found = influence * outcomes.rows
    return found if outcomes.weight is None else np.asarray(found / outcomes.weight)


def _squared_errors(outcomes: Outcomes) -> Floats:
    return squared_errors(outcomes.truth, outcomes.score)


def _scaled_errors(outcomes: Outcomes) -> Floats:
    if SCALE not in outcomes.columns:
        raise UnmeasurableError(f"{MASE} needs column {SCALE!r}, which is not available here")
    scale = outcomes.columns[SCALE]
    counted = (scale > 0).astype(float)
    weight = counted if outcomes.weight is None else counted * outcomes.weight
    if not weight.any():
        raise UnmeasurableError(f"column {SCALE!r} is 0 in all rows, so there are no scaled errors")
    errors = scaled_errors(outcomes.truth, outcomes.score, scale)
    if counted.all():
        return errors
    middle = float(weight @ errors / weight.sum())
    share = weight.sum() / (len(counted) if outcomes.weight is None else outcomes.weight.sum())
    return np.asarray(middle + counted * (errors - middle) / share)


_LOSSES: dict[str, Callable[[Outcomes], Floats]] = {
    "roc_auc": _area_losses,
    "accuracy": lambda outcomes: (~outcomes.right).astype(float),
    "log_loss": lambda outcomes: binary_log_losses(outcomes.truth, outcomes.score),
    "brier": _squared_errors,
    "rmse": _squared_errors,
    "mae": lambda outcomes: absolute_errors(outcomes.truth, outcomes.score),
    MASE: _scaled_errors,
    SMAPE: lambda outcomes: percentage_errors(outcomes.truth, outcomes.score),
    **{metric: _influence_losses(metric) for metric in BY_INFLUENCE},
    COVERAGE: lambda outcomes: missed(outcomes).astype(float),
}
