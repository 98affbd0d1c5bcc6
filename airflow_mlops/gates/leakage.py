"""A gate against leakage.

The gate fails if a single feature predicts the label too well, or if held-out rows are also in the training set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, FiniteFloat

from airflow_mlops.core.errors import DatasetNotFoundError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.gates.base import Gate, percent
from airflow_mlops.registry.records.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence

TRAINED_ON = "train"


class Leakage(Gate):
    """A gate that fails if a feature is too predictive, or if the candidate was trained on held-out rows.

    Example: ``{"max_single_feature_score": 0.99}``. BuildTrainingSetOperator checks the features in the same way
    when it builds a training set.

    Both problems make a model look better than it is. A feature that alone predicts the held-out labels almost
    perfectly is usually known only after the event. To find held-out rows that the candidate was trained on, the gate
    compares entity keys and event times with the split part ``train`` of the candidate's training set. The gate fails
    if this training set is unknown.

    :param max_single_feature_score: the largest allowed score of a single feature: area under the ROC curve (binary,
        multiclass) or R2 (regression)
    """

    max_single_feature_score: Annotated[FiniteFloat, Field(gt=0.5, le=1)]

    @property
    def name(self) -> str:
        return "no leakage"

    def check(self, evidence: Evidence) -> GateResult:
        from airflow_mlops.data.row_identity import identity_columns, row_ids
        from airflow_mlops.gates.single_features import single_features

        model, data = self._model(evidence), self._data(evidence)
        features = [feature.name for feature in model.contract.features]
        keys = identity_columns(data.dataset)
        table = data.dataset.table(data.part, list(dict.fromkeys([*keys, data.label])))
        found = single_features(table[data.label], features, data.task, row_ids(table, keys), data.take)
        best = max(found.scores, key=lambda name: found.scores[name], default=None)
        limit = self.max_single_feature_score
        problems = []
        if too_predictive := found.above(limit):
            each = "" if len(too_predictive) == 1 else "each of "
            problems.append(f"{each}{', '.join(too_predictive)} alone predicts {data.label!r} better than {limit:g}")
        if problem := self._overlap(evidence):
            problems.append(problem)
        if problems:
            explanation = f"{', and '.join(problems)}."
        elif best is None:
            explanation = (
                "The model was not trained on any held-out row. There are too few rows to measure how well single features "
                "predict the label."
            )
        else:
            explanation = (
                f"The model was not trained on any held-out row, and no feature alone predicts {data.label!r} better than "
                f"{best!r} ({found.measure} {found.scores[best]:.4g}; limit: {limit:g})."
            )
        measured = found.scores[best] if best is not None else None
        return self._result(measured, limit, not problems, explanation[:1].upper() + explanation[1:], rows=len(table))

    def _overlap(self, evidence: Evidence) -> str | None:
        """Return a clause about held-out rows on which the candidate was trained, or possibly was trained.

        :return: ``None`` if it is certain that the candidate was not trained on any held-out row
        """
        from airflow_mlops.data.datasets import open_dataset
        from airflow_mlops.data.row_identity import shared_rows

        contract, data = self._model(evidence).contract, self._data(evidence)
        if contract.dataset_id == data.dataset.manifest.id:
            if contract.refit_of is None and data.part != TRAINED_ON:
                # BuildTrainingSetOperator has verified that the split parts have no row in common.
                return None
            return f"the model was trained on the split part {data.part!r}"
        # A version from RefitOperator was trained on all rows of its training set, including its split part ``test``.
        trained_part = TRAINED_ON if contract.refit_of is None else None
        training_set = f"the training set of {evidence.candidate.name}"
        if not contract.dataset_id or evidence.store is None:
            return f"{training_set} is unknown, so it may contain these rows"
        training_set += f" (dataset {contract.dataset_name!r}, id {contract.dataset_id[:12]})"
        try:
            ref = DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0)
            trained_on = open_dataset(evidence.store, ref)
        except DatasetNotFoundError:
            return f"{training_set} no longer exists, so it may have contained these rows"
        if trained_part is not None and trained_part not in trained_on.ref.parts:
            return f"{training_set} has no split part {TRAINED_ON!r}, so it may contain these rows"
        shared = shared_rows(data.dataset, data.part, trained_on, trained_part)
        if shared is None:
            return f"{training_set} identifies rows by different columns, so it may contain these rows"
        rows = len(data.truth)
        return (
            f"the model was trained on {shared:,} of the {rows:,} held-out rows ({percent(shared / rows)})"
            if shared
            else None
        )
