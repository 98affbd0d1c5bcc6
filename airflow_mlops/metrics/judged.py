"""The default metric of a model: the metric by which it is judged if no metric is named.

The training chooses the metric (:func:`chosen`) and records it in the contract of the model. All code that needs a
default metric calls :func:`default_metric` for one model, or :func:`common_metric` for several: evaluations, searches,
refits, canaries, monitoring, challengers, permutation importance, plots and summaries.

RMSE is smallest for the mean and has the unit of the label. It is therefore the default of a regression, except for:

- a quantile, which has its pinball loss;
- a ranking, which has NDCG, because the scores have no unit;
- a forecast, which has the first metric of :func:`airflow_mlops.metrics.forecasts.metrics_of` (MASE), because the errors of
  series of different sizes cannot be averaged;
- counts and positive amounts, which have the deviance of the objective, because errors are larger for larger labels.

This module imports no heavy library, because DAG files import it while they are parsed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from airflow_mlops.core.contract import ModelContract, Task
from airflow_mlops.metrics.catalog import (
    MAIN_METRIC,
    REALISED,
    is_coverage_gap,
    is_deviance,
    is_forecast_error,
    is_on_request,
    is_quantile,
    is_ranking,
    pinball_of,
    realised,
)
from airflow_mlops.metrics.forecasts import MASE, SMAPE, metrics_of


class NoCommonMetricError(ValueError):
    """Several models have no common default metric.

    :ivar metrics: the default metrics of the models, in alphabetical order
    """

    def __init__(self, metrics: Iterable[str]) -> None:
        self.metrics = sorted(metrics)
        super().__init__(f"the models have the default metrics {', '.join(self.metrics)}")


def chosen(
    task: Task, measured: Iterable[str], details: Mapping[str, Any], *, learned: str | None, known: bool
) -> str | None:
    """Choose the metric by which a model is judged, at training.

    A metric that could not be measured is not chosen. For example, MASE is undefined for series that never change.

    :param task: the ML task (binary, multiclass, regression)
    :param measured: names of the metrics that were measured on held-out rows
    :param details: details of the manifest of the training set
    :param learned: the metric of the objective (:func:`airflow_mlops.models.trainers.objectives.own_metric`)
    :param known: whether the objective is known. For an unknown objective, a single measured deviance declares that the
        model predicts counts or positive amounts
    :return: the metric; ``None`` for the default of the ML task
    """
    names = list(measured)
    if task != "regression":
        return None
    deviances = list(filter(is_deviance, names))
    found = [
        pinball_of(task, names),
        *filter(is_ranking, names),
        *metrics_of(details),
        learned,
        *(deviances if len(deviances) == 1 and not known else []),
    ]
    return next((name for name in found if name in names), None)


def default_metric(contract: ModelContract, *, logged: bool = False) -> str:
    """Return the metric by which a model is judged if no metric is named.

    :param contract: the contract of the model. For contracts of earlier releases, which do not record the metric, it is
        the pinball loss if exactly one was measured, otherwise the default of the ML task
    :param logged: whether the model is judged by logged predictions and labels instead of held-out rows. Logged
        predictions of a multiclass model lack the probabilities of ``roc_auc_ovr``
    """
    return own_metric(contract) or (_logged([contract]) if logged else MAIN_METRIC[contract.task])


def own_metric(contract: ModelContract) -> str | None:
    """Return the metric by which a model is judged instead of the default of the ML task; ``None`` for the default."""
    return contract.judged_by or pinball_of(contract.task, contract.metrics)


def has_other_unit(contract: ModelContract) -> bool:
    """Return whether an absolute bound that names no metric may be meant for a metric other than the default.

    Releases before the field ``judged_by`` judged forecasts, rankings, counts and positive amounts by RMSE. A bound for
    RMSE would then be compared with a metric in another unit.
    """
    return contract.judged_by is not None and not is_quantile(contract.judged_by)


def common_metric(contracts: Sequence[ModelContract], *, logged: bool = False) -> str:
    """Return the metric by which several models are compared if no metric is named.

    Models with different defaults that all predict the mean are compared by the default of the ML task.

    :param contracts: the contracts of the models, which have the same ML task
    :param logged: whether the models are compared by logged predictions and labels
    :raises NoCommonMetricError: the models have different defaults, and some predict a quantile or a ranking
    """
    found = {default_metric(contract, logged=logged) for contract in contracts}
    if len(found) == 1:
        return found.pop()
    if any(is_quantile(name) or is_ranking(name) for name in found):
        raise NoCommonMetricError(found)
    return _logged(contracts) if logged else MAIN_METRIC[contracts[0].task]


def common_metric_of_rows(contracts: Sequence[ModelContract]) -> str | None:
    """Return the metric by which models are compared row by row, by logged predictions and labels alone.

    It is :func:`common_metric`, except for forecasts: MASE needs a further column and leaves rows out, so SMAPE is used
    instead.

    :param contracts: the contracts of the models, which have the same ML task
    :return: ``None`` for rankings, which have no metric of single rows
    :raises NoCommonMetricError: as :func:`common_metric`
    """
    metric = common_metric(contracts, logged=True)
    if is_ranking(metric):
        return None
    if metric != MASE:
        return metric
    return SMAPE if all(SMAPE in contract.metrics for contract in contracts) else _logged(contracts)


def headline_metrics(task: Task, measured: Iterable[str], judged_by: str | None = None) -> list[str]:
    """Return the metrics that sum up a model in a few numbers, on logged predictions and labels. The first is the most important.

    - A model of a quantile: its pinball loss.
    - A regression with NDCG: NDCG, because the scores of a ranking are not in the unit of the label.
    - Other regressions: the metric by which the model is judged, the metrics of forecasts, then deviances and pinball
      losses, then ``rmse``.
    - Classifiers: the default in :data:`airflow_mlops.metrics.catalog.REALISED`, then expected costs.

    :param task: the ML task (binary, multiclass, regression)
    :param measured: names of the metrics that were measured at training
    :param judged_by: the metric by which the model is judged, from its contract
    """
    names = list(measured)
    if (pinball := pinball_of(task, names)) is not None:
        return [pinball]
    own = [name for name in realised(task, names) if is_on_request(name) and not is_coverage_gap(name)]
    if ndcg := list(filter(is_ranking, own)):
        return ndcg
    default = REALISED[task][0]
    if task != "regression":
        return [default, *own]
    return [*sorted(own, key=lambda name: (name != judged_by, not is_forecast_error(name))), default]


def _logged(contracts: Sequence[ModelContract]) -> str:
    """Return the first metric of :data:`REALISED` that was measured for each model at training, if any was."""
    # A classifier that predicts only labels has no roc_auc at training, but has an accuracy.
    known = REALISED[contracts[0].task]
    measured = (name for name in known if all(name in item.metrics for item in contracts if item.metrics))
    return next(measured, known[0])
