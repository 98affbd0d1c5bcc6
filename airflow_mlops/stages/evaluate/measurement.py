"""Measures candidates, baselines and the present champion on the same held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import (
    EvaluationError,
    ModelFormatError,
    RegistryError,
    RegistryUnavailableError,
    SchemaError,
)
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.gates.evidence import HeldOut, Measurement
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import predicted
from airflow_mlops.metrics.values import baseline, measure
from airflow_mlops.models import importance as permutation
from airflow_mlops.registry.versions import champion, download
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate.baselines import small_tree
from airflow_mlops.stages.evaluate.candidates import Candidate, check_contract, load

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Measured:
    """A candidate, and what was measured of it."""

    candidate: Candidate
    measurement: Measurement


@dataclass(frozen=True)
class Compared:
    """All that was measured on the same rows.

    :param baseline: a guess that looks at no feature
    :param tree: a decision tree of depth 3, where the dataset has other rows to fit it to
    :param champion: the present champion, where the model has one
    :param rival: its measurement
    :param problem: one sentence that says why it could not be measured
    """

    data: HeldOut
    candidates: Sequence[Measured]
    baseline: Measurement
    tree: Measurement | None
    champion: ModelVersionRef | None
    rival: Measurement | None
    problem: str | None
    resampling: Resampling


def compare(
    client: MlflowClient,
    model: str,
    candidates: Sequence[Candidate],
    data: HeldOut,
    context: StepContext,
    *,
    allow_pyfunc: bool,
) -> Compared:
    """Measure the candidates, what needs no model, and the champion of ``model``, if there is one.

    :raises EvaluationError: a candidate's predictions are no numbers, or the rows cannot be measured on
    """
    measured = []
    for candidate in candidates:
        measured.append(Measured(candidate, measurement := _measure(candidate, data)))
        context.progress(f"{measurement.name}: {_numbers(measurement.metrics)}")
    first = candidates[0].contract
    dummy = Measurement("baseline", baseline(data.task, data.truth, first.classes, positive=first.positive))
    tree = _measure_tree(data, first)
    context.progress(
        f"{tree.name.capitalize()}: {_numbers(tree.metrics)}"
        if tree is not None
        else f"Dataset {data.dataset.manifest.name} has no other rows to fit a simple model to."
    )
    ref = champion(client, model)
    rival, problem = _measure_champion(client, ref, data, first, allow_pyfunc) if ref else (None, None)
    if rival is not None:
        context.progress(f"Champion {rival.name}: {_numbers(rival.metrics)}")
    elif problem is not None:
        context.progress(problem)
    return Compared(data, measured, dummy, tree, ref, rival, problem, Resampling(len(data.truth)))


def _measure(candidate: Candidate, data: HeldOut) -> Measurement:
    contract = candidate.contract
    parts = [candidate.model.predict(batch) for batch in data.batches([item.name for item in contract.features])]
    predictions = Predictions(
        np.concatenate([part.prediction for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.probabilities for part in parts]) if parts[0].probabilities is not None else None,
    )
    try:
        rows = predicted(data.truth, predictions, contract)
        return Measurement(str(candidate.ref), measure(rows), predictions, rows)
    except EvaluationError as error:
        raise EvaluationError(
            f"{candidate.ref} on part {data.part!r} of {data.dataset.manifest.name}: {error}"
        ) from None


def _measure_tree(data: HeldOut, contract: ModelContract) -> Measurement | None:
    predictions = small_tree(data, contract)
    if predictions is None:
        return None
    rows = predicted(data.truth, predictions, contract)
    return Measurement("a decision tree of depth 3", measure(rows), predictions, rows)


def _measure_champion(
    client: MlflowClient, ref: ModelVersionRef, data: HeldOut, contract: ModelContract, allow_pyfunc: bool
) -> tuple[Measurement | None, str | None]:
    """The champion's measurement, or one sentence that says why there is none."""
    try:
        present = load(download(client, ref), ref, data, allow_pyfunc=allow_pyfunc)
        check_contract(present, data)
        if present.contract.positive != contract.positive:
            raise SchemaError(
                f"its positive class is {present.contract.positive!r}, that of the candidates {contract.positive!r}"
            )
        return _measure(present, data), None
    except RegistryUnavailableError:
        raise
    except (EvaluationError, ModelFormatError, RegistryError, SchemaError) as error:
        problem = str(error).rstrip(".")
        return None, f"The champion {ref} could not be measured, so nothing can be compared with it ({problem})."


def _numbers(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def importance(candidate: Candidate, data: HeldOut, metric: str) -> dict[str, float]:
    """How much worse ``metric`` gets when one feature is shuffled, on a sample; empty where that cannot be measured."""
    return permutation.measure(candidate.model, data.truth, data.take, metric)
