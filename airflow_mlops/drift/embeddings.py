"""The drift of a column of embeddings: of their norms, and of their projections on random directions.

Kolmogorov and Smirnov's test on each projection; if two distributions differ at all, then so do these.
"""

from __future__ import annotations

from typing import Any

from airflow_mlops.drift import numeric as numeric_drift
from airflow_mlops.drift.findings import Bin
from airflow_mlops.profiles.columns.embeddings import EmbeddingColumn
from airflow_mlops.profiles.significance import Test


def compare(reference: EmbeddingColumn, current: EmbeddingColumn) -> tuple[dict[str, Any], list[Test]]:
    """The measures of a :class:`~airflow_mlops.drift.findings.Drift`, which are those of the norms, and the tests that decide.

    :param current: with rows of the reference's number of components, see :meth:`EmbeddingColumn.of`
    """
    if not current.parts:
        return {"p_values": {}}, []
    before, now = reference.parts[0], current.parts[0]
    pairs = {"norm": (before.norm, now.norm)}
    for number, along in enumerate(zip(before.along, now.along, strict=True), 1):
        pairs[f"projection {number}"] = along
    measured = {name: numeric_drift.compare(*pair) for name, pair in pairs.items()}
    tests = [_shape(name, tests) for name, (_, tests) in measured.items() if tests]
    found, _ = measured["norm"]
    # The projection that moved most is drawn below the norms.
    surest = min(tests, key=lambda test: (test.name == "norm", test.p_value, -test.effect), default=None)
    shown = dict.fromkeys(["norm", surest.name] if surest else ["norm"])
    return {**found, "bins": [_named(bar, name) for name in shown for bar in measured[name][0]["bins"]]}, tests


def _shape(name: str, tests: list[Test]) -> Test:
    _, effect, p_value = next(test for test in tests if test.name == "ks")
    return Test(name, effect, p_value)


def _named(bar: Bin, name: str) -> Bin:
    return bar.model_copy(update={"label": f"{name} {bar.label}"})
