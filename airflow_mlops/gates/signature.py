"""That what a model was trained on is what it will be served with."""

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
    """``{"can_score": {"name": "flights_to_score", "window": "2013-04"}}``: ScoreOperator could score this dataset.

    The dataset has every feature of the candidate, in types that it takes, and the candidate answers the first 1,000 rows
    with finite numbers. Training data is built by other code than what is scored every day, and a feature that only the
    one of the two has is found out when the first scoring fails.

    :param can_score: a dataset as it is scored in production: a reference, or a name and a window; of several the latest
    """

    can_score: DatasetLike

    @property
    def name(self) -> str:
        return f"can score {self.can_score.name}"

    def check(self, evidence: Evidence) -> GateResult:
        from airflow_mlops.data.selection import select

        model = self._model(evidence)
        if evidence.store is None:
            raise SpecError(f"Gate {self.name!r} needs the artifact store, and there are only numbers.")
        features = [feature.name for feature in model.contract.features]
        try:
            dataset = select(evidence.store, self.can_score)[-1]
        except DatasetNotFoundError as error:
            return self._answer(None, None, False, f"There is nothing to try it on: {error}")
        name = dataset.manifest.name
        present = {column.name for column in dataset.manifest.columns}
        if missing := [feature for feature in features if feature not in present]:
            return self._answer(
                float(len(missing)),
                0.0,
                False,
                f"{name} lacks {', '.join(map(repr, missing))} of the {len(features)} features that the model needs.",
            )
        rows = next((batch.slice(0, ROWS) for batch in dataset.batches(columns=features)), None)
        if rows is None or not rows.num_rows:
            return self._answer(
                0.0, 0.0, True, f"{name} has all {len(features)} features, and no row to score.", rows=0
            )
        try:
            found = model.predict(rows)
        except (SchemaError, EvaluationError) as error:
            return self._answer(None, 0.0, False, f"It cannot score {name}: {error}", rows=rows.num_rows)
        wrong = sum(not math.isfinite(score) for score in found.score.tolist())
        return self._answer(
            float(wrong),
            0.0,
            not wrong,
            f"{name} has all {len(features)} features, {'but' if wrong else 'and'} {wrong:,} of {rows.num_rows:,} rows get "
            "a score that is no number.",
            rows=rows.num_rows,
        )
