"""Population stability index and Jensen-Shannon distance between two vectors of counts over the same bins."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from airflow_mlops.drift.findings import Bin
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.significance import Pair


class Divergence(NamedTuple):
    """The population stability index and the Jensen-Shannon distance, with their p-values by measure name."""

    psi: float
    jensen_shannon: float
    p_values: dict[str, float]


def psi(reference: Floats, current: Floats) -> Any:
    """Compute the population stability index. Half a row is added to each bin, so that empty bins give a finite index.

    :param reference: rows of the reference in each of k bins, shape (..., k)
    :param current: rows of the window in the same bins, shape (..., k)
    :return: the index, shape (...)
    """
    p, q = ((counts + 0.5) / (counts + 0.5).sum(axis=-1, keepdims=True) for counts in (reference, current))
    return np.sum((q - p) * np.log(q / p), axis=-1)


def jensen_shannon(reference: Floats, current: Floats) -> Any:
    """Compute the Jensen-Shannon distance to base 2, from 0 (equal shares) to 1 (no bin has rows of both samples).

    :param reference: rows of the reference in each of k bins, shape (..., k)
    :param current: rows of the window in the same bins, shape (..., k)
    :return: the distance, shape (...)
    """
    p, q = (counts / counts.sum(axis=-1, keepdims=True) for counts in (reference, current))
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(p > 0, p * np.log2(p / middle), 0) + np.where(q > 0, q * np.log2(q / middle), 0)
    return np.sqrt(np.clip(parts.sum(axis=-1) / 2, 0, 1))


def divergence(pair: Pair, design: float = 1.0) -> Divergence:
    """Compute the population stability index and the Jensen-Shannon distance of two samples, with their p-values.

    :param pair: the row counts of the reference and of the window in the same k bins
    :param design: the design effect of clustered rows, for the p-values
    """
    of_psi, of_jensen_shannon = significance.measures(pair.thinned(design), (psi, jensen_shannon))
    return Divergence(
        float(psi(*pair)), float(jensen_shannon(*pair)), {"psi": of_psi, "jensen_shannon": of_jensen_shannon}
    )


def bins(labels: list[str], pair: Pair) -> list[Bin]:
    """Return the bars of a histogram, one for each label. The first bar and the last two bars are left out if empty.

    :param labels: label of each of the k bins
    :param pair: the row counts of the reference and of the window in these bins
    """
    p, q = (counts / counts.sum() for counts in pair)
    margins = {0, len(labels) - 2, len(labels) - 1}
    return [
        Bin(label=label, reference=float(p[index]), current=float(q[index]))
        for index, label in enumerate(labels)
        if p[index] or q[index] or index not in margins
    ]
