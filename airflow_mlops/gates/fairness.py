"""A gate that limits the difference in treatment between groups, measured by Fairlearn."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError
from airflow_mlops.gates.base import Gate
from airflow_mlops.metrics.fairness_rule import FairnessRule
from airflow_mlops.registry.records.fairness import FairnessRates
from airflow_mlops.registry.records.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class Fairness(FairnessRule, Gate):
    """A gate that limits the difference between groups of rows in demographic parity or equalized odds.

    Example: ``{"fairness": "demographic_parity", "sensitive": "sex", "max_difference": 0.1}``.

    The demographic parity difference is the largest difference between two groups in the share of positive predictions.
    The equalized odds difference is the largest difference between two groups in the true positive rate or in the false
    positive rate, whichever is larger. A group without rows of a class has no rate for this class, and is left out of
    the comparison of this rate. Fairlearn (https://fairlearn.org) computes both differences from the labels that the
    model predicts at its threshold.

    The result contains the rates of the groups. Monitoring compares the difference in a window with the difference of
    these rates.

    :param fairness: ``demographic_parity`` or ``equalized_odds``
    :param sensitive: name of a column of the held-out data that defines the groups; the column need not be a feature.
        Numbers and times with more than twelve distinct values are binned at their quartiles. In other columns, each of
        the 20 most frequent values is a group, and all other values form one group
    :param max_difference: the largest allowed difference, from 0 to 1
    """

    tasks: ClassVar[tuple[Task, ...]] = ("binary",)

    @property
    def name(self) -> str:
        return f"{self.difference} over {self.sensitive} within {self.max_difference:g}"

    def check(self, evidence: Evidence) -> GateResult:
        import numpy as np

        try:
            from fairlearn import metrics
        except ImportError:
            raise SpecError(
                f"Gate {self.name!r} needs Fairlearn, which is not installed where the step runs. Install "
                "airflow-mlops[fairness] there."
            ) from None
        from airflow_mlops.gates.group_rates import group_rates
        from airflow_mlops.gates.slice_search import by_column

        data = self._data(evidence)
        rows, resampling = evidence.rows(evidence.candidate)
        values, groups = data.column(self.sensitive), np.empty(len(rows), dtype=object)
        for part in by_column(self.sensitive, values):
            groups[part.index] = part.name
        weight = np.ones(len(rows)) if rows.weight is None else rows.weight
        # The rates of a group are undefined if all its rows have a weight of 0.
        kept = weight > 0
        truth, predicted, groups, weight = rows.truth[kept], rows.predicted[kept], groups[kept], weight[kept]
        # The true and the false positive rate are shares of positive predictions among the rows of one class. Fairlearn's
        # own equalized odds count the rate of a group without such rows as 0.
        positive = truth.astype(bool)
        classes = [positive, ~positive] if self.needs_labels else [np.ones(len(truth), bool)]
        measured = max(
            metrics.demographic_parity_difference(
                truth[among], predicted[among], sensitive_features=groups[among], sample_weight=weight[among]
            )
            for among in classes
            if among.any()
        )
        shares = {
            name: float(np.average(predicted[groups == name], weights=weight[groups == name]))
            for name in np.unique(groups)
        }
        least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
        passed = measured <= self.max_difference
        return self._result(
            measured,
            self.max_difference,
            passed,
            f"The {self.difference} difference over {self.sensitive} is {measured:.3g} (predicted "
            f"positive: {shares[least]:.1%} where {least}, {shares[most]:.1%} where {most}; limit: "
            f"{self.max_difference:g}).",
            rows=len(rows),
            fairness=FairnessRates(
                metric=self.fairness,
                sensitive=self.sensitive,
                rates=group_rates(
                    self, values, rows.predicted.astype(bool), rows.truth.astype(bool), resampling.clusters
                ),
                compared=evidence.candidates + (evidence.champion is not None),
            ),
        )
