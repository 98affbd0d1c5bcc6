"""What gates judge by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_mlops.specs.model import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.registry.onnx_model import Predictions


@dataclass(frozen=True)
class Measurement:
    """One model on the held-out data.

    :param name: what to call it in an explanation, such as ``flight_delays v3``
    :param predictions: its predictions, one for each row of the held-out data; ``None`` where only numbers are known
    """

    name: str
    metrics: Mapping[str, float]
    predictions: Predictions | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Evidence:
    """A candidate, the present champion and the baseline, all measured on the same held-out data.

    :param truth: the true labels or values, shape (n,)
    :param baseline: always predicting the mean or the labels' distribution
    :param champion: ``None`` if there is no champion, or if it could not be measured
    :param champion_problem: why the present champion could not be measured, if so; one sentence
    """

    task: Task
    truth: NDArray[Any] = field(repr=False)
    candidate: Measurement
    baseline: Measurement
    champion: Measurement | None = None
    champion_problem: str | None = None
