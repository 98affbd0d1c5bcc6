"""That training can be repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from airflow_mlops.core.errors import MLOpsError, SpecError
from airflow_mlops.gates.base import Gate
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class Reproducible(Gate):
    """``{"reproducible": true}``: the same data, code and seed give the same metrics.

    The candidate is trained again, as ``airflow mlops reproduce`` does, in the place where the evaluation runs. That
    costs a training, so only a candidate that passes every other gate is asked. Metrics repeat to the last digit; those of
    a network within 1e-6, or 2% where a GPU, half precision or several processes made it.
    """

    costly: ClassVar[bool] = True

    reproducible: Literal[True]

    @property
    def name(self) -> str:
        return "training can be reproduced"

    def check(self, evidence: Evidence) -> GateResult:
        if evidence.reproduce is None:
            raise SpecError(f"Gate {self.name!r} needs a way to train again, and there are only numbers.")
        try:
            found = evidence.reproduce()
        except MLOpsError as error:
            if error.retryable:
                raise
            return self._answer(None, None, False, str(error))
        compared = [item for item in found.comparisons if item.what.startswith("metric ")]
        differing = [f"{item.what} was {item.then} and is {item.now}" for item in compared if item.verdict == "differs"]
        numbers = f" ({', '.join(differing)})" if differing else ""
        return self._answer(float(len(differing)), 0.0, found.reproduced, f"{found.summary.rstrip('.')}{numbers}.")
