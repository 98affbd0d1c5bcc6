"""Drift of embedding columns: of their norms, and of their projections on random directions.

Each is compared by the Kolmogorov-Smirnov test. :mod:`airflow_mlops.profiles.columns.embeddings` says why projections
on random directions suffice.
"""

from __future__ import annotations

from dataclasses import replace

from airflow_mlops.drift import numeric
from airflow_mlops.drift.comparison import Comparison, Test
from airflow_mlops.profiles.columns.embeddings import EmbeddingColumn


def compare(reference: EmbeddingColumn, current: EmbeddingColumn) -> Comparison:
    """Compare two embedding columns. The measures are those of the norms.

    :param reference: has at least one value
    :param current: restricted to the reference's dimension by :meth:`EmbeddingColumn.with_dimension`
    """
    if not current.parts:
        return Comparison()
    before, now = reference.parts[0], current.parts[0]
    pairs = {"norm": (before.norm, now.norm)}
    for number, along in enumerate(zip(before.along, now.along, strict=True), 1):
        pairs[f"projection {number}"] = along
    compared = {name: numeric.compare(*pair) for name, pair in pairs.items()}
    tests = [
        Test(name, test.effect, test.p_value)
        for name, comparison in compared.items()
        for test in comparison.tests
        if test.name == "ks"
    ]
    # The norms are drawn, and below them the projection with the smallest p-value.
    strongest = min(tests, key=lambda test: (test.name == "norm", test.p_value, -test.effect), default=None)
    drawn = dict.fromkeys(["norm", strongest.name] if strongest else ["norm"])
    return replace(
        compared["norm"], tests=tests, bins=[bar.prefixed(name) for name in drawn for bar in compared[name].bins]
    )
