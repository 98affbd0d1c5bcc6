"""Count positive predictions in groups of rows, for the fairness metrics of gates and monitoring."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.gates.divisions import Division
from airflow_mlops.gates.slice_search import by_column
from airflow_mlops.metrics.clusters import ClusterSums, design_of_share
from airflow_mlops.metrics.fairness_rule import FairnessRule
from airflow_mlops.registry.records.fairness import GroupRates

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_POSITIVES = "share of positive predictions"


def group_rates(
    rule: FairnessRule,
    values: pa.Array,
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_] | None = None,
    clusters: NDArray[np.int64] | None = None,
) -> list[GroupRates]:
    """Return the rates whose largest difference between two groups is the fairness metric. Each row counts once.

    :param rule: the fairness metric, and the column that defines the groups
    :param values: values of this column, shape (n,)
    :param predicted: whether the positive class is predicted, shape (n,)
    :param truth: whether the label is the positive class, shape (n,); needed for ``equalized_odds``
    :param clusters: number of the cluster of each row, shape (n,); ``None`` for independent rows
    """
    if not rule.needs_labels:
        among = {_POSITIVES: np.ones(len(predicted), bool)}
    else:
        assert truth is not None
        among = {"true positive rate": truth, "false positive rate": ~truth}
    groups = list(by_column(rule.sensitive, values))
    return [
        _rates(of, {part.name: part.index[counted[part.index]] for part in groups}, predicted, clusters)
        for of, counted in among.items()
    ]


def _rates(
    of: str,
    rows: dict[str, NDArray[np.integer[Any]]],
    predicted: NDArray[np.bool_],
    clusters: NDArray[np.int64] | None,
) -> GroupRates:
    """Count the positive predictions among the rows of each group."""
    designs: dict[str, tuple[float | None, float]] = {}
    for name, index in rows.items():
        if clusters is not None and len(index):
            found = design_of_share(predicted[index].astype(float), clusters[index])
            designs[name] = (found.effect if math.isfinite(found.effect) else None, found.clusters)
    counts = {name: (int(predicted[index].sum()), len(index)) for name, index in rows.items()}
    return GroupRates(of=of, groups=counts, designs=designs)


class CountedRates:
    """Counts the rates of :func:`group_rates` batch by batch. Memory does not grow with the number of rows.

    :param rule: the fairness metric
    :param division: the groups
    :param clusters: number of clusters; ``None`` for independent rows
    """

    def __init__(self, rule: FairnessRule, division: Division, clusters: int | None = None) -> None:
        self._division, size = division, len(division.names)
        self._of = ("true positive rate", "false positive rate") if rule.needs_labels else (_POSITIVES,)
        self._counts = {of: np.zeros((2, size), np.int64) for of in self._of}
        self._sums = {of: ClusterSums(clusters, size) for of in self._of} if clusters is not None else {}
        self._used = np.zeros(size, bool)

    def add(
        self,
        values: pa.Array,
        predicted: NDArray[np.bool_],
        truth: NDArray[np.bool_] | None = None,
        clusters: NDArray[np.int64] | None = None,
    ) -> None:
        """Add a batch of rows, see :func:`group_rates`.

        :param clusters: number of the cluster of each row, from 0, shape (n,)
        """
        codes = self._division.codes(values)
        self._used[codes] = True
        among: list[Any] = [slice(None)] if truth is None else [truth, ~truth]
        for of, rows in zip(self._of, among, strict=True):
            groups, hits = codes[rows], predicted[rows]
            size = len(self._division.names)
            self._counts[of] += np.stack(
                [np.bincount(groups[hits], minlength=size), np.bincount(groups, minlength=size)]
            )
            if clusters is not None:
                self._sums[of].add(hits.astype(float), clusters[rows], strata=groups)

    def rates(self) -> list[GroupRates]:
        """Return the rates. A group without rows is left out."""
        return [self._rates(of) for of in self._of]

    def _rates(self, of: str) -> GroupRates:
        groups = {name: number for number, name in enumerate(self._division.names) if self._used[number]}
        hits, rows = self._counts[of].tolist()
        counts = {name: (hits[number], rows[number]) for name, number in groups.items()}
        designs: dict[str, tuple[float | None, float]] = {}
        for name, number in groups.items():
            if of in self._sums and counts[name][1]:
                found = self._sums[of].design(number, of_share=True)
                designs[name] = (found.effect if math.isfinite(found.effect) else None, found.clusters)
        return GroupRates(of=of, groups=counts, designs=designs)
