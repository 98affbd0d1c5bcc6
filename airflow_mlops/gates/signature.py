"""A gate that requires scoring data to have the features of the candidate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import DatasetNotFoundError, EvaluationError, SchemaError, SpecError
from airflow_mlops.core.references import Chosen, DatasetLike, DatasetSelection, names
from airflow_mlops.gates.base import Gate
from airflow_mlops.registry.records.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.data.datasets import Dataset
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.gates.evidence import Evidence

ROWS = 1_000


class Signature(Gate):
    """A gate that fails if ScoreOperator cannot score a given dataset with the candidate.

    Example: ``{"can_score": {"name": "flights_to_score", "window": "2013-04"}}``.

    The dataset must have every feature of the candidate in a type that the candidate accepts, and the scores of the
    first 1,000 rows must be finite. Training data and scoring data are usually built by different code, so the scoring
    data may lack a feature. Without this gate, only the first scoring task would detect the problem.

    :param can_score: a dataset like those that are scored in production, as a reference or as a name with an optional
        window; the newest matching dataset is used
    """

    can_score: DatasetLike

    @property
    def name(self) -> str:
        return f"can score {', '.join(names(self.can_score))}"

    def check(self, evidence: Evidence) -> GateResult:
        model = self._model(evidence)
        if evidence.store is None:
            raise SpecError(
                f"Gate {self.name!r} needs the artifact store, but only metrics are available. Set `Evidence.store`."
            )
        features = [feature.name for feature in model.contract.features]
        try:
            dataset = self.newest(evidence.store)
        except DatasetNotFoundError as error:
            return self._result(None, None, False, f"The dataset of `can_score` does not exist: {error}")
        name = f"Dataset {dataset.manifest.name!r}"
        present = {column.name for column in dataset.manifest.columns}
        if missing := [feature for feature in features if feature not in present]:
            return self._result(
                float(len(missing)),
                0.0,
                False,
                f"{name} lacks {len(missing)} of the {len(features)} features of the model: {', '.join(map(repr, missing))}.",
            )
        rows = next((batch.slice(0, ROWS) for batch in dataset.batches(columns=features)), None)
        if rows is None or not rows.num_rows:
            return self._result(0.0, 0.0, True, f"{name} has all {len(features)} features and no rows.", rows=0)
        try:
            predictions = model.predict(rows)
        except (SchemaError, EvaluationError) as error:
            return self._result(
                None,
                0.0,
                False,
                f"The candidate cannot score dataset {dataset.manifest.name!r}: {error}",
                rows=rows.num_rows,
            )
        invalid = sum(not math.isfinite(score) for score in predictions.score.tolist())
        return self._result(
            float(invalid),
            0.0,
            not invalid,
            f"{name} has all {len(features)} features. {invalid:,} of {rows.num_rows:,} rows have a score that is not a "
            "finite number.",
            rows=rows.num_rows,
        )

    def newest(self, store: ArtifactStore) -> Dataset:
        """Open the dataset that the gate scores.

        :raises DatasetNotFoundError: there is no such dataset
        """
        from airflow_mlops.data.selection import select

        chosen: Chosen = self.can_score
        if isinstance(chosen, DatasetSelection):
            # Only the newest dataset is used, so a selected window need not be complete.
            chosen = chosen.model_copy(update={"gaps": "allow"})
        return select(store, chosen)[-1]
