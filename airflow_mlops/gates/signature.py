"""The columns of training and scoring data match."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import DatasetNotFoundError, EvaluationError, SchemaError, SpecError
from airflow_mlops.core.references import DatasetLike
from airflow_mlops.gates.base import Gate
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence

ROWS = 1_000


class Signature(Gate):
    """``{"can_score": {"name": "flights_to_score", "window": "2013-04"}}``: ScoreOperator can score this dataset.

    The dataset must have every feature of the candidate in a type that it accepts, and the scores of the first 1,000 rows
    must be finite. Other code builds the training data than the data that is scored, so a feature may exist in one of the
    two only; without this gate the first scoring task fails.

    :param can_score: a dataset as in production: a reference, or a name and a window, of which the latest is used
    """

    can_score: DatasetLike

    @property
    def name(self) -> str:
        return f"can score {self.can_score.name}"

    def check(self, evidence: Evidence) -> GateResult:
        from airflow_mlops.data.selection import select

        model = self._model(evidence)
        if evidence.store is None:
            raise SpecError(f"Gate {self.name!r} needs the artifact store, and only metrics are given.")
        features = [feature.name for feature in model.contract.features]
        try:
            dataset = select(evidence.store, self.can_score)[-1]
        except DatasetNotFoundError as error:
            return self._result(None, None, False, f"There is no dataset to score: {error}")
        name = dataset.manifest.name
        present = {column.name for column in dataset.manifest.columns}
        if missing := [feature for feature in features if feature not in present]:
            return self._result(
                float(len(missing)),
                0.0,
                False,
                f"{name} lacks {', '.join(map(repr, missing))} of the {len(features)} features that the model needs.",
            )
        rows = next((batch.slice(0, ROWS) for batch in dataset.batches(columns=features)), None)
        if rows is None or not rows.num_rows:
            return self._result(0.0, 0.0, True, f"{name} has all {len(features)} features and no rows.", rows=0)
        try:
            predictions = model.predict(rows)
        except (SchemaError, EvaluationError) as error:
            return self._result(None, 0.0, False, f"The candidate cannot score {name}: {error}", rows=rows.num_rows)
        invalid = sum(not math.isfinite(score) for score in predictions.score.tolist())
        return self._result(
            float(invalid),
            0.0,
            not invalid,
            f"{name} has all {len(features)} features; {invalid:,} of {rows.num_rows:,} rows get a score that is not a "
            "finite number.",
            rows=rows.num_rows,
        )
