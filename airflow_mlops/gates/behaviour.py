"""How predictions must react to a change of one feature: the directional and invariance tests of M. Ribeiro, T. Wu,
C. Guestrin and S. Singh, "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList" (ACL 2020), on held-out rows.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, FiniteFloat, NonNegativeFloat, PositiveFloat

from airflow_mlops.core.base import choices
from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SchemaError, SpecError
from airflow_mlops.gates.base import Gate, percent
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from airflow_mlops.gates.evidence import Evidence
    from airflow_mlops.metrics.predictions import Predictions

ROWS, SEED = 20_000, 0


class Behaviour(Gate):
    """Limits the share of held-out rows that violate an expectation, measured on a random sample of 20,000 rows.

    :param feature: the feature that is changed; a model that does not use it passes
    :param tolerance: the largest share of violating rows
    :param slack: changes of the score up to this size are ignored; in the score's unit
    """

    feature: str
    tolerance: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.0
    slack: NonNegativeFloat = 1e-6

    def check(self, evidence: Evidence) -> GateResult:
        import numpy as np

        model, data = self._model(evidence), self._data(evidence)
        present = [column.name for column in data.dataset.manifest.columns]
        if self.feature not in present:
            raise SchemaError(
                f"Gate {self.name!r} names {self.feature!r}, which is not a column of dataset "
                f"{data.dataset.manifest.name}: {choices(self.feature, present)}."
            )
        features = [feature.name for feature in model.contract.features]
        if self.feature not in features:
            return self._result(0.0, self.tolerance, True, f"The model does not use {self.feature!r}.")
        random = np.random.default_rng(SEED)
        index = np.sort(random.permutation(len(data.truth))[:ROWS])
        rows = data.take(features, index)
        changed = self._changed(rows.column(self.feature).combine_chunks(), random)
        position = features.index(self.feature)
        violating = self._violations(
            model.predict(rows), model.predict(rows.set_column(position, self.feature, changed)), self.slack
        )
        measured = float(violating.mean())
        passed = measured <= self.tolerance
        return self._result(
            measured,
            self.tolerance,
            passed,
            f"{self._violation} for {percent(measured)} of {len(index):,} held-out rows; allowed: at most "
            f"{percent(self.tolerance)}.",
            rows=len(index),
        )

    @property
    @abstractmethod
    def _violation(self) -> str:
        """A violation in words."""

    @abstractmethod
    def _changed(self, values: pa.Array, random: Any) -> pa.Array:
        """The changed values of the feature."""

    @abstractmethod
    def _violations(self, before: Predictions, after: Predictions, slack: float) -> NDArray[Any]:
        """Which rows violate the expectation."""


class Direction(Behaviour):
    """``{"behaviour": "direction", "feature": "wind", "direction": "increasing", "tolerance": 0.01}``.

    A larger value of the feature never lowers the score (``increasing``) or never raises it (``decreasing``). The score
    is the probability of the positive class, or the predicted value.

    :param step: by how much the feature is raised; by default one standard deviation, rounded up for integers
    """

    tasks: ClassVar[tuple[Task, ...]] = ("binary", "regression")

    behaviour: Literal["direction"] = "direction"
    direction: Literal["increasing", "decreasing"]
    step: PositiveFloat | None = None

    @property
    def name(self) -> str:
        return f"score {self.direction} in {self.feature}"

    @property
    def _violation(self) -> str:
        return f"A larger {self.feature} {'lowers' if self.direction == 'increasing' else 'raises'} the score"

    def _changed(self, values: pa.Array, random: Any) -> pa.Array:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            numbers = np.asarray(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        except pa.ArrowException:
            raise SpecError(
                f"Gate {self.name!r} raises {self.feature!r}, which is {values.type} and not a number: use behaviour "
                '"invariance" for text.'
            ) from None
        spread = float(np.nanstd(numbers)) if np.isfinite(numbers).any() else 0.0
        if pa.types.is_integer(values.type):
            spread = math.ceil(spread)
        return pa.array(numbers + (self.step or spread), mask=np.isnan(numbers))

    def _violations(self, before: Predictions, after: Predictions, slack: float) -> NDArray[Any]:
        raised = after.score - before.score
        return (raised < -slack) if self.direction == "increasing" else (raised > slack)


class Invariance(Behaviour):
    """``{"behaviour": "invariance", "feature": "tail_number", "slack": 0.01}``: the score does not depend on
    the feature. Each row gets the value of another row, drawn at random.
    """

    behaviour: Literal["invariance"] = "invariance"

    @property
    def name(self) -> str:
        return f"score does not depend on {self.feature}"

    @property
    def _violation(self) -> str:
        return f"Another {self.feature} changes the score by more than {self.slack:g}"

    def _changed(self, values: pa.Array, random: Any) -> pa.Array:
        import pyarrow as pa

        return values.take(pa.array(random.permutation(len(values))))

    def _violations(self, before: Predictions, after: Predictions, slack: float) -> NDArray[Any]:
        import numpy as np

        if before.probabilities is None or after.probabilities is None:
            return np.abs(after.score - before.score) > slack
        return np.abs(after.probabilities - before.probabilities).max(axis=1) > slack
