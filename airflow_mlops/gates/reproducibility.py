"""A gate that requires the training of a candidate to be reproducible."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from airflow_mlops.core.errors import MLOpsError, SpecError
from airflow_mlops.gates.base import Gate
from airflow_mlops.registry.records.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class Reproducible(Gate):
    """A gate that fails if training again with the same data, code and seed gives different metrics.

    Example: ``{"reproducible": true}``.

    The candidate is trained again where the evaluation runs, as by ``airflow mlops reproduce``. Only candidates that
    pass every other gate are trained again. Metrics must be exactly equal. The metrics of a network may differ by 1e-6
    of their value, or by 2% if the network was trained on a GPU, in half precision or by several processes.
    """

    costly: ClassVar[bool] = True

    reproducible: Literal[True]

    @property
    def name(self) -> str:
        return "training can be reproduced"

    def check(self, evidence: Evidence) -> GateResult:
        if evidence.reproduce is None:
            raise SpecError(
                f"Gate {self.name!r} must train the candidate again, but only metrics are available. Set `Evidence.reproduce`."
            )
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
