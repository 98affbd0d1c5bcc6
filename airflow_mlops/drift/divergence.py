"""Measures of how far apart two vectors of counts are."""

from __future__ import annotations

from typing import Any

import numpy as np

from airflow_mlops.drift.findings import Bin
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.significance import Pair


def psi(reference: Floats, current: Floats) -> Any:
    """Population stability index of two vectors of counts, smoothed by half a row a bin.

    :param reference: shape (..., k), as ``current``
    :return: shape (...)
    """
    p, q = ((counts + 0.5) / (counts + 0.5).sum(axis=-1, keepdims=True) for counts in (reference, current))
    return np.sum((q - p) * np.log(q / p), axis=-1)


def jensen_shannon(reference: Floats, current: Floats) -> Any:
    """Jensen-Shannon distance, base 2, of two vectors of counts: from 0 to 1.

    :param reference: shape (..., k), as ``current``
    :return: shape (...)
    """
    p, q = (counts / counts.sum(axis=-1, keepdims=True) for counts in (reference, current))
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(p > 0, p * np.log2(p / middle), 0) + np.where(q > 0, q * np.log2(q / middle), 0)
    return np.sqrt(np.clip(parts.sum(axis=-1) / 2, 0, 1))


def binned_measures(before: Floats, now: Floats) -> dict[str, Any]:
    """``psi`` and ``jensen_shannon`` of two vectors of counts, and the p-values of both."""
    found = {"psi": float(psi(before, now)), "jensen_shannon": float(jensen_shannon(before, now))}
    p_values = significance.measures(Pair(before, now), (psi, jensen_shannon))
    return {**found, "p_values": dict(zip(found, p_values, strict=True))}


def bins(labels: list[str], before: Floats, now: Floats) -> list[Bin]:
    """Bars to draw, one a label."""
    p, q = before / before.sum(), now / now.sum()
    outer = {0, len(labels) - 2, len(labels) - 1}
    return [
        Bin(label=label, reference=float(p[index]), current=float(q[index]))
        for index, label in enumerate(labels)
        # An empty bin at the margin says nothing.
        if p[index] or q[index] or index not in outer
    ]
