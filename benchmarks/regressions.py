"""Regressions with covariate shift, for :mod:`benchmarks.estimation`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

METRICS = ("rmse", "mae")
HELD_OUT = (500, 2_000, 20_000)
WINDOWS = (2_000, 20_000)
SHIFTS = ((0.0, False), (0.5, False), (0.5, True), (1.0, False), (1.0, True))
RELATIONS = {
    "interactions, noise grows with the prediction": 4,
    "interactions, constant noise": 4,
    "step and kink, noise grows with a feature": 8,
    "linear model of a linear relation, constant noise": 6,
    "saturation, noise grows with two features": 3,
}
"""The regression worlds, with the number of features."""


@dataclass(frozen=True)
class Case:
    """One estimate of one window.

    :param shift: how far the inputs have moved, in standard deviations
    :param everywhere: whether all features have moved, or the first one only
    :param held: whether the interval covers the realised value
    :param width: half of the interval, as a share of the realised value
    :param by_prediction: whether the interval by the prediction alone covers the realised value
    :param width_by_prediction: half of the interval by the prediction alone, as a share of the realised value
    """

    relation: str
    metric: str
    held_out: int
    rows: int
    shift: float
    everywhere: bool
    held: bool
    width: float
    by_prediction: bool
    width_by_prediction: float


def cases(relation: str, seed: int) -> Iterator[Case]:
    """Yield the estimates of the windows of one model for each number of held-out rows."""
    import numpy as np
    import pyarrow as pa
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import LinearRegression

    from airflow_mlops.metrics.realised import Outcomes, measure
    from airflow_mlops.performance.estimation import collect, estimate
    from airflow_mlops.profiles.calibration import LossModel, calibrate

    def table(inputs: Any) -> pa.RecordBatch:
        return pa.RecordBatch.from_pydict({f"x{number}": values for number, values in enumerate(inputs.T)})

    for held_out in HELD_OUT:
        random = np.random.default_rng([seed, held_out, list(RELATIONS).index(relation)])
        linear = relation.startswith("linear")
        model = LinearRegression() if linear else HistGradientBoostingRegressor(max_iter=60, random_state=seed)
        model.fit(*draw(random, relation, min(40_000, 4 * held_out)))
        inputs, truth = draw(random, relation, held_out)
        known = calibrate(
            "regression", Outcomes(truth, model.predict(inputs), np.zeros(held_out, bool)), [table(inputs)]
        )
        assert isinstance(known, LossModel)
        assert known.inputs is not None
        for rows, (shift, everywhere) in product(WINDOWS, SHIFTS):
            inputs, truth = draw(random, relation, rows, shift, everywhere)
            score = model.predict(inputs)
            alone = collect([score], known)
            scores = replace(alone, shift=known.inputs.shift([table(inputs)]))
            for metric in METRICS:
                true = measure(metric, Outcomes(truth, score, np.zeros(rows, bool)), 0.95).value
                new, old = (estimate(metric, item, known, 0.95) for item in (scores, alone))
                yield Case(
                    relation, metric, held_out, rows, shift, everywhere,
                    new.low <= true <= new.high, (new.high - new.low) / 2 / true,
                    old.low <= true <= old.high, (old.high - old.low) / 2 / true,
                )  # fmt: skip


def draw(random: Any, relation: str, rows: int, shift: float = 0.0, everywhere: bool = False) -> tuple[Any, Any]:
    """Draw inputs and outcomes."""
    import numpy as np

    x = random.normal(size=(rows, RELATIONS[relation]))
    x[:, slice(None) if everywhere else 0] += shift
    noise = random.normal(size=rows)
    if relation.startswith("interactions"):
        signal = -1 + x[:, 0] + 0.7 * np.sin(2 * x[:, 1]) + 0.5 * x[:, 0] * x[:, 2] - 0.3 * x[:, 3] ** 2
        return x, signal + noise * (np.exp(signal / 4) if "grows" in relation else 1.0)
    if relation.startswith("step"):
        signal = 2 * (x[:, 0] > 0.5) + x[:, 1] * x[:, 2] + np.abs(x[:, 3]) + 0.5 * x[:, 4]
        return x, signal + noise * np.exp(0.4 * x[:, 0])
    if relation.startswith("linear"):
        return x, x @ np.array([1, 0.8, 0.6, 0.4, 0.2, 0]) + noise
    return x, np.tanh(x[:, 0]) + 0.5 * x[:, 1] + noise * np.exp(0.3 * x[:, 2] + 0.2 * x[:, 0])
