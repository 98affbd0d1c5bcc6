"""That a candidate's numbers are earned: no feature gives the answer away, and no held-out row was learned from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, FiniteFloat

from airflow_mlops.core.errors import DatasetNotFoundError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.gates.base import Gate, percent
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence

LEARNED_FROM = "train"


class Leakage(Gate):
    """``{"max_single_feature_score": 0.99}``: what BuildTrainingSetOperator asks of a training set, asked of a candidate.

    Two things make a model look better than it is, so both are looked at. A feature that alone predicts the held-out
    labels all but perfectly (area under the ROC curve, or R2 in a regression) is mostly known only after the event. And
    a held-out row that the model learned from is no test: rows are compared by their keys and event time with those of
    the part ``train`` of the dataset it was trained on. Where it is not known what that was, the gate is not passed.
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
        named = identity_columns(data.dataset)
        table = data.dataset.table(data.part, list(dict.fromkeys([*features, *named, data.label])))
        found = single_features(table, features, data.label, data.task, row_ids(table, named))
        best = max(found.scores, key=lambda name: found.scores[name], default=None)
        asked = self.max_single_feature_score
        problems = []
        if telling := found.above(asked):
            problems.append(f"{', '.join(telling)} alone predicts {data.label!r} better than {asked:g}")
        if problem := self._seen(evidence):
            problems.append(problem)
        if problems:
            explanation = f"{', and '.join(problems)}."
        elif best is None:
            explanation = "No held-out row was learned from; there are too few rows to look at single features."
        else:
            explanation = (
                f"No held-out row was learned from, and no feature alone predicts {data.label!r} better than "
                f"{found.measure} {found.scores[best]:.4g} ({best})."
            )
        measured = found.scores[best] if best is not None else None
        return self._answer(measured, asked, not problems, explanation[:1].upper() + explanation[1:], rows=len(table))

    def _seen(self, evidence: Evidence) -> str | None:
        """What is wrong with the rows, if anything: one clause."""
        import numpy as np

        from airflow_mlops.data.datasets import open_dataset
        from airflow_mlops.data.row_identity import identity_columns, row_ids

        contract, data = self._model(evidence).contract, self._data(evidence)
        if contract.dataset_id == data.dataset.manifest.id:
            if data.part != LEARNED_FROM:
                # That no row is in two parts is proven when a training set is built, and written into its manifest.
                return None
            return f"the part {data.part!r} is what it learned from"
        unknown = f"what {evidence.candidate.name} learned from is not known, so it may have seen these rows"
        if not contract.dataset_id or evidence.store is None:
            return unknown
        try:
            ref = DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0)
            learned_from = open_dataset(evidence.store, ref)
        except DatasetNotFoundError:
            return f"{unknown}: dataset {contract.dataset_name} ({contract.dataset_id[:12]}) is gone"
        if LEARNED_FROM not in learned_from.ref.parts:
            return f"{unknown}: dataset {contract.dataset_name} has no part {LEARNED_FROM!r}"
        named = identity_columns(data.dataset)
        if set(named) != set(identity_columns(learned_from)):
            return f"{unknown}: its training set {contract.dataset_name} names its rows by other columns"
        here, there = (
            row_ids(dataset.table(part, named), named)
            for dataset, part in ((data.dataset, data.part), (learned_from, LEARNED_FROM))
        )
        seen = int(np.isin(here, there).sum())
        return (
            f"it learned from {seen:,} of the {len(here):,} held-out rows ({percent(seen / len(here))})"
            if seen
            else None
        )
