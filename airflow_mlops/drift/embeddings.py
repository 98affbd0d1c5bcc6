"""Drift of embedding columns.

The Euclidean norms of the embeddings and their projections on random directions are compared by Kolmogorov-Smirnov
tests. :mod:`airflow_mlops.profiles.columns.embeddings` explains why projections on random directions suffice.
"""

from __future__ import annotations

from dataclasses import replace

from airflow_mlops.drift import numeric
from airflow_mlops.drift.comparison import Comparison, Test
from airflow_mlops.profiles.columns.embeddings import EmbeddingColumn


def compare(reference: EmbeddingColumn, current: EmbeddingColumn, design: float = 1.0) -> Comparison:
    """Compare two embedding columns. The measures (PSI and others) are computed from the Euclidean norms.

    :param reference: profile of the reference column, with at least one embedding
    :param current: profile of the column in the window, restricted to the dimension of the reference by
        :meth:`EmbeddingColumn.with_dimension`
    :param design: the design effect of clustered rows, see :mod:`airflow_mlops.drift.clusters`
    """
    if not current.parts:
        return Comparison()
    before, now = reference.parts[0], current.parts[0]
    pairs = {"norm": (before.norm, now.norm)}
    for number, along in enumerate(zip(before.along, now.along, strict=True), 1):
        pairs[f"projection {number}"] = along
    compared = {name: numeric.compare(*pair, design) for name, pair in pairs.items()}
    tests = [
        Test(name, test.effect, test.p_value)
        for name, comparison in compared.items()
        for test in comparison.tests
        if test.name == "ks"
    ]
    # The report draws the norms, and below them the projection with the smallest p-value.
    strongest = min(tests, key=lambda test: (test.name == "norm", test.p_value, -test.effect), default=None)
    drawn = dict.fromkeys(["norm", strongest.name] if strongest else ["norm"])
    return replace(
        compared["norm"], tests=tests, bins=[bar.prefixed(name) for name in drawn for bar in compared[name].bins]
    )
