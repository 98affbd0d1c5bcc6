"""Gates that change one feature of the held-out rows and test how the predictions react.

The gates implement the directional and invariance tests of M. Ribeiro, T. Wu, C. Guestrin and S. Singh, "Beyond
Accuracy: Behavioral Testing of NLP Models with CheckList" (ACL 2020).
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
from airflow_mlops.registry.records.verdict import GateResult

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from airflow_mlops.gates.evidence import Evidence
    from airflow_mlops.metrics.predictions import Predictions

ROWS, SEED = 20_000, 0


class Behaviour(Gate):
    """A gate that limits the share of held-out rows whose predictions violate an expectation.

    The share is measured on a random sample of at most 20,000 rows.

    :param feature: name of the changed feature. A model that does not use this feature passes
    :param tolerance: maximum share of violating rows, from 0 to 1
    :param slack: largest change of the score that does not count as a violation, in the unit of the score
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
                f"Feature {self.feature!r} of gate {self.name!r} is not a column of dataset "
                f"{data.dataset.manifest.name!r}: {choices(self.feature, present)}."
            )
        features = [feature.name for feature in model.contract.features]
        if self.feature not in features:
            return self._result(0.0, self.tolerance, True, f"The model does not use {self.feature!r}.")
        random = np.random.default_rng(SEED)
        index = np.sort(random.permutation(len(data.truth))[:ROWS])
        rows = data.take(features, index)
        changed = self._changed(rows.column(self.feature).combine_chunks(), random)
        if changed is None:
            return self._result(
                None,
                self.tolerance,
                True,
                f"Nothing was checked, because {self.feature!r} {self._unchangeable}.",
                rows=0,
            )
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
            f"{self._violation} for {percent(measured)} of {len(index):,} held-out rows (limit: "
            f"{percent(self.tolerance)}).",
            rows=len(index),
        )

    @property
    @abstractmethod
    def _violation(self) -> str:
        """Return the beginning of the explanation, which describes a violation."""

    @property
    @abstractmethod
    def _unchangeable(self) -> str:
        """Return why :meth:`_changed` returns ``None``, as the predicate of a sentence about the feature."""

    @abstractmethod
    def _changed(self, values: pa.Array, random: Any) -> pa.Array | None:
        """Return changed values of the feature for all rows; ``None`` if no value would change.

        :param values: the original values, shape (n,)
        :param random: a NumPy random generator
        """

    @abstractmethod
    def _violations(self, before: Predictions, after: Predictions, slack: float) -> NDArray[Any]:
        """Return whether each row violates the expectation, shape (n,).

        :param before: predictions with the original values of the feature
        :param after: predictions with the changed values of the feature
        :param slack: largest change of the score that does not count as a violation
        """


class Direction(Behaviour):
    """A gate that requires the score to react in one direction if a numeric feature is increased.

    Example: ``{"behaviour": "direction", "feature": "wind", "direction": "increasing", "tolerance": 0.01}``.

    The score is the probability of the positive class, or the predicted value of a regression.

    :param direction: ``increasing`` if a larger value of the feature must not lower the score; ``decreasing`` if a
        larger value must not raise the score
    :param step: the amount that is added to the feature; by default one standard deviation, rounded up for integers
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

    @property
    def _unchangeable(self) -> str:
        if self.step:
            return "has no finite value in the held-out rows"
        return "has the same value in all held-out rows. To check the gate on such rows, set `step`"

    def _changed(self, values: pa.Array, random: Any) -> pa.Array | None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            numbers = np.asarray(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        except pa.ArrowException:
            raise SpecError(
                f"Gate {self.name!r} needs a numeric feature, but {self.feature!r} has the type {values.type}. Use the "
                'behaviour "invariance" for text features.'
            ) from None
        finite = numbers[np.isfinite(numbers)]
        spread = float(finite.std()) if finite.size else 0.0
        if pa.types.is_integer(values.type):
            spread = math.ceil(spread)
        step = self.step or spread
        if not step or not finite.size:
            return None
        return pa.array(numbers + step, mask=np.isnan(numbers))

    def _violations(self, before: Predictions, after: Predictions, slack: float) -> NDArray[Any]:
        raised = after.score - before.score
        # A score that is not a number violates every expectation.
        return ~(raised >= -slack) if self.direction == "increasing" else ~(raised <= slack)


class Invariance(Behaviour):
    """A gate that requires the score not to depend on a feature.

    Example: ``{"behaviour": "invariance", "feature": "tail_number", "slack": 0.01}``. The values of the feature are
    shuffled over the rows. A row violates the expectation if its score, or the probability of any class, changes by
    more than ``slack``.
    """

    behaviour: Literal["invariance"] = "invariance"

    @property
    def name(self) -> str:
        return f"score does not depend on {self.feature}"

    @property
    def _violation(self) -> str:
        return f"A different value of {self.feature} changes the score by more than {self.slack:g}"

    @property
    def _unchangeable(self) -> str:
        return "has the same value in all held-out rows"

    def _changed(self, values: pa.Array, random: Any) -> pa.Array | None:
        import pyarrow as pa

        shuffled = values.take(pa.array(random.permutation(len(values))))
        return None if shuffled.equals(values) else shuffled

    def _violations(self, before: Predictions, after: Predictions, slack: float) -> NDArray[Any]:
        import numpy as np

        if before.probabilities is None or after.probabilities is None:
            return ~(np.abs(after.score - before.score) <= slack)
        return ~(np.abs(after.probabilities - before.probabilities).max(axis=1) <= slack)
