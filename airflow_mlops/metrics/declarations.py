"""Read metrics that are declared with parameters: expected costs, Tweedie deviances, metrics of quantiles and NDCG.

This module imports no heavy library, because DAG files that declare gates import this module during parsing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_mlops.metrics import costs, deviances, quantiles, rankings


def name_metric(declared: Any) -> Any:
    """Combine the metric and its parameters in a declaration into one name, such as ``expected_cost_fp1_fn20``.

    A declaration of a metric without parameters is returned unchanged.

    :param declared: the fields of a declaration, among others ``metric``
    :raises ValueError: the costs of ``expected_cost`` (:func:`airflow_mlops.metrics.costs.name_costs`), the power of
        ``tweedie_deviance`` (:func:`airflow_mlops.metrics.deviances.name_power`), the quantile of ``pinball`` or ``quantile_coverage_gap``
        (:func:`airflow_mlops.metrics.quantiles.name_alpha`) or the parameters of ``ndcg``
        (:func:`airflow_mlops.metrics.rankings.name_ranking`) are missing or invalid
    """
    return rankings.name_ranking(quantiles.name_alpha(deviances.name_power(costs.name_costs(declared))))


def metric_name(declared: Any) -> Any:
    """Convert a metric in a declaration to its name.

    A metric with parameters is a mapping such as ``{"metric": "tweedie_deviance", "power": 1.5}``. Any other value is
    returned unchanged.

    :param declared: the value of the key ``metric``
    :raises ValueError: the mapping names a metric without parameters or has further keys, or a parameter is missing or
        invalid, see :func:`name_metric`
    """
    if not isinstance(declared, Mapping):
        return declared
    named = name_metric(declared)
    if named is declared or len(named) > 1:
        raise ValueError(
            f"`metric` is {dict(declared)!r}, but must be a name, or a metric with its parameters, such as "
            f"{{'metric': {costs.NAME!r}, 'false_positive': 1, 'false_negative': 20}} or "
            f"{{'metric': {deviances.TWEEDIE!r}, 'power': 1.5}}"
        )
    return named["metric"]
