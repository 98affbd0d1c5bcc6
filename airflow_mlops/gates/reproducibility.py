"""Training can be repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from airflow_mlops.core.errors import MLOpsError, SpecError
from airflow_mlops.gates.base import Gate
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class Reproducible(Gate):
    """``{"reproducible": true}``: the same data, code and seed give the same metrics.

    The candidate is trained again where the evaluation runs, as ``airflow mlops reproduce`` does. As that costs a
    training, only candidates that pass every other gate are checked. Metrics must be equal to the last digit; those of a
    network may differ by 1e-6, or by 2% if it was trained on a GPU, in half precision or by several processes.
    """

    costly: ClassVar[bool] = True

    reproducible: Literal[True]

    @property
    def name(self) -> str:
        return "training can be reproduced"

    def check(self, evidence: Evidence) -> GateResult:
        if evidence.reproduce is None:
            raise SpecError(f"Gate {self.name!r} needs to train again, and only metrics are given.")
        try:
            reproduction = evidence.reproduce()
        except MLOpsError as error:
            if error.retryable:
                raise
            return self._result(None, None, False, str(error))
        compared = [item for item in reproduction.comparisons if item.what.startswith("metric ")]
        differing = [f"{item.what} was {item.then} and is {item.now}" for item in compared if item.verdict == "differs"]
        numbers = f" ({', '.join(differing)})" if differing else ""
        return self._result(
            float(len(differing)), 0.0, reproduction.reproduced, f"{reproduction.summary.rstrip('.')}{numbers}."
        )
