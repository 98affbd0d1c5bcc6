"""The loss of each row. The metric is the mean loss, or is computed from the mean loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from airflow_mlops.metrics import weighted
from airflow_mlops.metrics.catalog import COVERAGE
from airflow_mlops.metrics.costs import costs_of
from airflow_mlops.metrics.deviances import power_of
from airflow_mlops.metrics.domain import wrong_rows
from airflow_mlops.metrics.forecasts import MASE, SCALE, SMAPE
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
from airflow_mlops.metrics.realised.confusion import BY_CELL, confusion
from airflow_mlops.metrics.realised.labelled import Floats, Labelled, Outcomes, UnmeasurableError
from airflow_mlops.metrics.realised.ranking import (
    area_of,
    average_precision_losses,
    by_group,
    ordered_area_of,
    ordered_rows,
)
from airflow_mlops.metrics.realised.shares import missed, row_costs


def losses(metric: str, outcomes: Outcomes) -> Floats:
    """Compute the loss of each row. Higher losses are worse.

    For ``log_loss``, ``brier``, ``mae``, ``mase``, ``smape``, deviances, pinball losses, expected costs and coverage
    gaps, the mean loss is the metric. For ``rmse``, it is the mean squared error. For the other metrics, it is 1 minus
    the metric.

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
    :raises UnmeasurableError: see :func:`losses_of_parts`
    """
    (found,) = losses_of_parts(metric, outcomes)
    return found


def losses_of_parts(metric: str, outcomes: Labelled) -> Iterator[Floats]:
    """Yield the losses of the rows of each part, see :func:`losses`, each of shape (n,).

    :param metric: as in :func:`losses`. Metrics that are not measured in parts
        (:func:`airflow_mlops.metrics.realised.is_measured_in_parts`) need all rows in one part
    :param outcomes: the labelled predictions. Several parts are in the order that the metric needs
        (:func:`airflow_mlops.metrics.realised.order_of_scores`)
    :raises UnmeasurableError: the metric is ``roc_auc`` and a class has fewer than two rows, or ``average_precision`` and
        all labels are of one class; a deviance is undefined for a label or a prediction; the rows lack a column that the
        metric needs; MASE finds only scales of 0; or NDCG cannot be computed
        (:func:`airflow_mlops.metrics.realised.ranking.by_group`)
    """
    if metric == "roc_auc":
        yield from _area_losses(outcomes)
    elif metric == "average_precision":
        yield from average_precision_losses(outcomes)
    elif ranking_of(metric) is not None:
        yield from _group_losses(metric, outcomes)
    else:
        each = _loss_of_rows(metric, outcomes)
        for part in outcomes.parts():
            with np.errstate(over="ignore", invalid="ignore"):
                found = each(part)
            yield found


def _loss_of_rows(metric: str, outcomes: Labelled) -> Callable[[Outcomes], Floats]:
    """Return a function that computes the losses of the rows of a part.

    :param outcomes: all rows, from which the function derives sums
    """
    if metric in BY_CELL:
        matrix = confusion(outcomes)
        value, influence = matrix.influence(metric)
        table = (1 - value) - outcomes.rows * influence
        return lambda part: table[matrix.cells(part)]
    if (costs := costs_of(metric)) is not None:
        return lambda part: row_costs(costs, part).astype(float)
    if (alpha := alpha_of(metric)) is not None:
        return lambda part: pinball(alpha, part.truth, part.score)
    if (covered := covered_alpha_of(metric)) is not None:
        return _gap_losses(covered, outcomes)
    if (power := power_of(metric)) is not None:
        require_defined(metric, outcomes)
        return lambda part: deviances(power, part.truth, part.score)
    return _scaled_errors(outcomes) if metric == MASE else _LOSSES[metric]


def require_defined(metric: str, outcomes: Labelled) -> None:
    """Check that a metric is defined for all rows.

    :raises UnmeasurableError: the metric is a deviance that is undefined for a label or a prediction
    """
    if (power := power_of(metric)) is None:
        return
    if (wrong := wrong_rows(power, ((part.truth, part.score) for part in outcomes.parts()))) is not None:
        raise UnmeasurableError(wrong)


def _area_losses(outcomes: Labelled) -> Iterator[Floats]:
    if isinstance(outcomes, Outcomes):
        area = area_of(outcomes)
        found = area.influence * outcomes.rows
        yield (1 - area.value) - (found if outcomes.weight is None else found / outcomes.weight)
        return
    rows = partial(ordered_rows, outcomes)
    known = ordered_area_of(outcomes)
    for batch, placed in zip(rows(), ordered_placements(rows, known.mass), strict=True):
        yield known.losses(batch.positive, placed)


def _group_losses(metric: str, outcomes: Labelled) -> Iterator[Floats]:
    (rows,) = outcomes.parts()
    value, of_groups, _ = by_group(metric, rows)
    ranking = ranking_of(metric)
    assert ranking is not None
    _, first, codes = np.unique(rows.columns[ranking.group], return_index=True, return_inverse=True)
    # The influence of a group is divided among its rows.
    shared = (of_groups[first] / np.bincount(codes))[codes]
    yield np.asarray((1 - value) - shared * rows.rows)


def _gap_losses(alpha: float, outcomes: Labelled) -> Callable[[Outcomes], Floats]:
    share = weighted.mean_of((at_most(part.truth, part.score), part.weight) for part in outcomes.parts())
    side = 1 if share >= alpha else -1
    return lambda part: np.asarray(abs(share - alpha) + side * (at_most(part.truth, part.score) - share))


def _squared_errors(outcomes: Outcomes) -> Floats:
    return squared_errors(outcomes.truth, outcomes.score)


def _scaled_errors(outcomes: Labelled) -> Callable[[Outcomes], Floats]:
    sums, every = np.zeros(3), True
    for part in outcomes.parts():
        if SCALE not in part.columns:
            raise UnmeasurableError(f"{MASE} needs column {SCALE!r}, which is not available here")
        counted = part.columns[SCALE] > 0
        every &= bool(counted.all())
        weight = np.ones(part.rows) if part.weight is None else part.weight
        with np.errstate(over="ignore", invalid="ignore"):
            errors = scaled_errors(part.truth, part.score, part.columns[SCALE])
            sums += weight.sum(), weight @ counted, (weight * counted) @ errors
    mass, measured, total = sums.tolist()
    if not measured:
        raise UnmeasurableError(f"column {SCALE!r} is 0 in all rows, so there are no scaled errors")
    middle, share = total / measured, measured / mass

    def found(part: Outcomes) -> Floats:
        errors = scaled_errors(part.truth, part.score, part.columns[SCALE])
        if every:
            return errors
        return np.asarray(middle + (part.columns[SCALE] > 0) * (errors - middle) / share)

    return found


_LOSSES: dict[str, Callable[[Outcomes], Floats]] = {
    "accuracy": lambda outcomes: (~outcomes.right).astype(float),
    "log_loss": lambda outcomes: binary_log_losses(outcomes.truth, outcomes.score),
    "brier": _squared_errors,
    "rmse": _squared_errors,
    "mae": lambda outcomes: absolute_errors(outcomes.truth, outcomes.score),
    SMAPE: lambda outcomes: percentage_errors(outcomes.truth, outcomes.score),
    COVERAGE: lambda outcomes: missed(outcomes).astype(float),
}
