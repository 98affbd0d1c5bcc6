"""Equal treatment of groups, measured by Fairlearn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, FiniteFloat

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError
from airflow_mlops.gates.base import Gate
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class Fairness(Gate):
    """``{"fairness": "demographic_parity", "sensitive": "sex", "max_difference": 0.1}``.

    Demographic parity: the largest difference between two groups in the share that is predicted positive. Equalized
    odds: the larger of the largest differences in the true positive rate and in the false positive rate. Both are
    Fairlearn's (https://fairlearn.org), on the labels predicted at the model's threshold.

    :param sensitive: a column of the held-out data, whether a feature or not; numbers are binned at their quartiles, and
        all but the 20 most frequent values form one group
    """

    tasks: ClassVar[tuple[Task, ...]] = ("binary",)

    fairness: Literal["demographic_parity", "equalized_odds"]
    sensitive: str
    max_difference: Annotated[FiniteFloat, Field(ge=0, le=1)]

    @property
    def name(self) -> str:
        return f"{self.fairness.replace('_', ' ')} over {self.sensitive} within {self.max_difference:g}"

    def check(self, evidence: Evidence) -> GateResult:
        import numpy as np

        try:
            from fairlearn import metrics
        except ImportError:
            raise SpecError(
                f"Gate {self.name!r} needs Fairlearn, which is not installed where the step runs: install "
                "airflow-mlops[fairness]."
            ) from None
        from airflow_mlops.gates.slice_search import by_column

        data = self._data(evidence)
        rows, _ = evidence.rows(evidence.candidate)
        groups = np.empty(len(rows), dtype=object)
        for part in by_column(self.sensitive, data.column(self.sensitive)):
            groups[part.index] = part.name
        measure = getattr(metrics, f"{self.fairness}_difference")
        measured = float(measure(rows.truth, rows.predicted, sensitive_features=groups))
        shares = {name: float(rows.predicted[groups == name].mean()) for name in np.unique(groups)}
        least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
        passed = measured <= self.max_difference
        return self._result(
            measured,
            self.max_difference,
            passed,
            f"The {self.fairness.replace('_', ' ')} difference over {self.sensitive} is {measured:.3g} (predicted "
            f"positive: {shares[least]:.1%} where {least}, {shares[most]:.1%} where {most}); allowed: at most "
            f"{self.max_difference:g}.",
            rows=len(rows),
        )
