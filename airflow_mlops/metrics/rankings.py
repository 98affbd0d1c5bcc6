"""The metric ``ndcg``: how well a regression model ranks the rows of each group, such as the results of a query.

The label of a row is its relevance, from 0 to :data:`LARGEST`. The gain of a row is ``2**label - 1``, and the discount of
the row at rank r is ``log2(1 + r)``. NDCG@k of a group is the sum of the discounted gains of the k rows with the highest
predictions, divided by the largest possible sum (C. Burges et al., "Learning to Rank using Gradient Descent", ICML 2005).
Rows with equal predictions share the mean of their gains (F. McSherry and M. Najork, "Computing Information Retrieval
Performance Measures Efficiently in the Presence of Tied Scores", ECIR 2008), so the order of the rows does not matter. The
metric is the mean over the groups. Groups without a label above 0 have no NDCG and are left out.

A declaration names the number of rows and the column of the groups: ``{"metric": "ndcg", "k": 10, "group": "query"}``.
Everywhere else, the name contains both parameters, such as ``ndcg_k10_by-query``, which is valid in MLflow.

This module imports no heavy library, because DAG files that declare gates import this module during parsing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

NDCG = "ndcg"
LARGEST = 31
"""The largest label, as in LightGBM and XGBoost. The gain of a larger label would dominate the metric."""

_COLUMN = r"[^\W\d]\w*"
_METRIC = re.compile(f"{NDCG}_k([1-9]\\d{{0,5}})_by-({_COLUMN})")


class Ranking(NamedTuple):
    """The parameters of ``ndcg``.

    :param k: number of rows of each group that count: those with the highest predictions
    :param group: name of the column whose values name the groups
    """

    k: int
    group: str


def ranking_of(metric: str) -> Ranking | None:
    """Return the parameters that the name of a metric contains; ``None`` for other metrics."""
    found = _METRIC.fullmatch(metric)
    return Ranking(int(found[1]), found[2]) if found else None


def group_columns(metrics: Iterable[str]) -> list[str]:
    """Return the names of the group columns of the rankings among ``metrics``, each once."""
    found = (ranking_of(metric) for metric in metrics)
    return list(dict.fromkeys(ranking.group for ranking in found if ranking is not None))


def name_ranking(declared: Any) -> Any:
    """Replace ``ndcg`` and its parameters in a declaration with the name of the metric.

    A declaration of another metric is returned unchanged.

    :param declared: the fields of a declaration, among others ``metric``
    :raises ValueError: a parameter is missing or invalid
    """
    if not isinstance(declared, Mapping) or declared.get("metric") != NDCG:
        return declared
    k, group = declared.get("k"), declared.get("group")
    name = f"{NDCG}_k{k}_by-{group}"
    if isinstance(k, bool) or not isinstance(group, str) or ranking_of(name) is None:
        raise ValueError(
            f"{NDCG} has k={k!r} and group={group!r}, but needs a whole number from 1 to 999999 and the name of a column (letters, "
            f"digits and underscores), such as {{'metric': {NDCG!r}, 'k': 10, 'group': 'query'}}"
        )
    return {**{key: value for key, value in declared.items() if key not in ("k", "group")}, "metric": name}
