"""A gate that limits the latency of a prediction."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from airflow_mlops.core.numbers import rounded
from airflow_mlops.gates.base import Gate, Positive
from airflow_mlops.registry.records.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence

WARM_UP, REPETITIONS, SECONDS = 5, 200, 5.0


class Latency(Gate):
    """A gate that limits the time of a prediction, measured where the evaluation runs.

    Examples: ``{"max_latency_ms": 5}``, ``{"max_latency_ms": 200, "rows": 10000, "quantile": "p50"}``.

    After five predictions for warm-up, 200 predictions are measured. After five seconds, the measurement ends early if
    at least ten predictions were measured. The measured time includes the conversion of Arrow columns to model inputs,
    as in ScoreOperator.

    :param max_latency_ms: the largest allowed time, in milliseconds
    :param rows: number of rows in one prediction
    :param quantile: the quantile of the measured times (``p50`` or ``p95``) that is compared with the limit
    """

    max_latency_ms: Positive
    rows: Annotated[int, Field(gt=0)] = 1
    quantile: Literal["p50", "p95"] = "p95"

    @property
    def name(self) -> str:
        return f"{self._what} within {self.max_latency_ms:g} ms ({self.quantile})"

    @property
    def _what(self) -> str:
        return f"prediction of {self.rows:,} row{'s' if self.rows > 1 else ''}"

    def check(self, evidence: Evidence) -> GateResult:
        import numpy as np
        import pyarrow as pa

        model, data = self._model(evidence), self._data(evidence)
        features = [feature.name for feature in model.contract.features]
        available = min(self.rows, len(data.truth))
        batch = data.take(features, np.arange(available))
        if available < self.rows:
            batch = batch.take(pa.array(np.arange(self.rows) % available))
        times: list[float] = []
        until = perf_counter() + SECONDS
        while len(times) < WARM_UP + 10 or (perf_counter() < until and len(times) < WARM_UP + REPETITIONS):
            start = perf_counter()
            model.predict(batch)
            times.append(1_000 * (perf_counter() - start))
        middle, slow = np.quantile(times[WARM_UP:], [0.5, 0.95])
        measured = float(slow if self.quantile == "p95" else middle)
        passed = measured <= self.max_latency_ms
        return self._result(
            measured,
            self.max_latency_ms,
            passed,
            f"A {self._what} takes {rounded(middle, 3)} ms (p50) and {rounded(slow, 3)} ms (p95). Limit: "
            f"{self.max_latency_ms:g} ms ({self.quantile}).",
        )
