"""Measure candidates, baselines and the champion on the same held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import EvaluationError, SpecError
from airflow_mlops.core.numbers import rounded
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.sample_weights import numbers
from airflow_mlops.gates.evidence import HeldOut, Measurement
from airflow_mlops.metrics.catalog import Metric, is_coverage_gap, is_quantile
from airflow_mlops.metrics.clusters import codes
from airflow_mlops.metrics.predictions import Predictions, concatenate
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import predicted
from airflow_mlops.metrics.values import baseline, measure
from airflow_mlops.models import importance as permutation
from airflow_mlops.registry.integrity import download_promoted, require_promoted
from airflow_mlops.registry.versions import champion
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import champion as champions
from airflow_mlops.stages.evaluate import live as logged
from airflow_mlops.stages.evaluate.baselines import small_tree, statistical_columns, untrainable
from airflow_mlops.stages.evaluate.candidates import Candidate, check_contract, for_positive
from airflow_mlops.stages.evaluate.champion import Champion, attempt, comparable, unmeasured
from airflow_mlops.stages.evaluate.live import Live

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from numpy.typing import NDArray


class Predicted(Protocol):
    """Existing predictions of models for the held-out rows."""

    def predictions(self, candidate: Candidate) -> Predictions:
        """Return the predictions of a model for all rows, in the order of the rows."""


class Scored(Predicted, Protocol):
    """The predictions of the candidates and of the champion that the shards of the task have computed."""

    @property
    def champion(self) -> Champion:
        """Return the champion that the shards have found."""


@dataclass(frozen=True)
class Measured:
    """A candidate and its metrics on the held-out rows."""

    candidate: Candidate
    measurement: Measurement


@dataclass(frozen=True)
class Compared:
    """The metrics of all candidates, the baselines and the champion on the same held-out rows.

    :param baseline: metrics of a model without features, which always predicts the mean or the class frequencies
    :param tree: metrics of a decision tree of depth 3; ``None`` if no tree could be fitted
    :param champion: version of the champion; ``None`` if the model has no champion
    :param measured_champion: metrics of the champion; ``None`` if the model has no champion, or if the champion could
        not be measured
    :param problem: a sentence that says why the champion could not be measured; ``None`` if the champion was measured
        or the model has no champion
    :param resampling: bootstrap resampling of the rows, the same for all models
    :param stand_in: the version that was measured instead of the champion, if the champion is a refit on held-out rows;
        otherwise ``None``
    :param statistical: metrics of the statistical models whose forecasts are columns of the held-out rows
    """

    data: HeldOut
    candidates: Sequence[Measured]
    baseline: Measurement
    tree: Measurement | None
    champion: ModelVersionRef | None
    measured_champion: Measurement | None
    problem: str | None
    resampling: Resampling
    stand_in: ModelVersionRef | None = None
    statistical: Sequence[Measurement] = ()


def compare(
    client: MlflowClient,
    model: str,
    candidates: Sequence[Candidate],
    data: HeldOut,
    context: StepContext,
    *,
    own: Sequence[str] = (),
    allow_pyfunc: bool,
    groups: str | None = None,
    live: Live | None = None,
    scored: Scored | None = None,
) -> Compared:
    """Measure the candidates, the baselines and the champion of ``model`` on the held-out rows.

    :param model: name of the registered model
    :param candidates: the candidates
    :param data: the held-out rows
    :param own: metrics that are computed only on request, such as custom metrics and expected costs. They are computed
        in addition to the other metrics of the ML task
    :param allow_pyfunc: whether code that is stored with a model may run
    :param groups: the column that names the cluster of each row; by default, rows are independent
    :param live: logged predictions, which are measured instead of new predictions of the models
    :param scored: the predictions of the shards of the task; ``None`` without shards
    :raises SpecError: the champion was trained on rows of live evidence, or the dataset has no column ``groups``
    :raises EvaluationError: predictions are not finite, or no metric can be computed on the rows
    :raises MetricError: a custom metric fails
    """
    first = candidates[0].contract
    measured = []
    for candidate in candidates:
        measured.append(Measured(candidate, measurement := _measure(candidate, data, own, live or scored)))
        context.progress(f"{measurement.name}: {_numbers(measurement.metrics)}")
    dummy = Measurement("baseline", _baseline(data, first, own))
    tree = _measure_tree(data, first, own)
    context.progress(
        f"{tree.name.capitalize()}: {_numbers(tree.metrics)}"
        if tree is not None
        else f"Candidates are not compared with a simple decision tree, because {untrainable(data)}."
    )
    statistical = [_measure_column(name, data, first, own) for name in statistical_columns(data)]
    for each in statistical:
        context.progress(f"{each.name}: {_numbers(each.metrics)}")
    found, measured_champion = (
        _measure_champion(client, model, data, first, context, own, scored, allow_pyfunc)
        if live is None
        else _logged_champion(client, model, data, first, context, own, live, allow_pyfunc)
    )
    if measured_champion is not None:
        context.progress(f"Champion {measured_champion.name}: {_numbers(measured_champion.metrics)}")
    elif found.problem is not None:
        context.progress(found.problem)
    resampling = Resampling(len(data.truth), clusters=_clusters(data, groups))
    return Compared(
        data,
        measured,
        dummy,
        tree,
        found.ref,
        measured_champion,
        found.problem,
        resampling,
        found.stand_in,
        statistical,
    )


def _baseline(data: HeldOut, contract: ModelContract, own: Sequence[str]) -> dict[str, float]:
    return baseline(
        data.task,
        data.truth,
        contract.classes,
        positive=contract.positive,
        own=own,
        weight=data.weight,
        columns=data.columns,
    )


def _clusters(data: HeldOut, column: str | None) -> NDArray[np.int64] | None:
    if column is None:
        return None
    if column not in data.dataset.manifest.column_names:
        raise SpecError(
            f"`groups` is {column!r}, which is not a column of dataset {data.dataset.manifest.name!r}. Keep this column in the "
            "training set, for example as a key, or set another column."
        )
    return codes(pa.chunked_array([data.column(column)]))


def _measure(
    candidate: Candidate, data: HeldOut, own: Sequence[str], predicted_before: Predicted | None = None
) -> Measurement:
    contract = candidate.contract
    if predicted_before is not None:
        predictions = predicted_before.predictions(candidate)
    else:
        batches = data.batches([item.name for item in contract.features])
        predictions = concatenate((candidate.model.predict(batch) for batch in batches), contract)
    try:
        rows = predicted(data.truth, predictions, contract, data.weight, data.columns)
        if contract.task == "binary":
            # The score contains the same information. Without the probabilities, memory falls to a third.
            predictions = replace(predictions, probabilities=None)
        return Measurement(str(candidate.ref), measure(rows, own), predictions, rows)
    except EvaluationError as error:
        raise EvaluationError(
            f"{candidate.ref} cannot be measured on split part {data.part!r} of dataset {data.dataset.manifest.name!r}. {error}"
        ) from None


def _measure_tree(data: HeldOut, contract: ModelContract, own: Sequence[str]) -> Measurement | None:
    predictions = small_tree(data, contract)
    if predictions is None:
        return None
    return _measure_mean("a decision tree of depth 3", predictions, data, contract, own)


def _measure_column(name: str, data: HeldOut, contract: ModelContract, own: Sequence[str]) -> Measurement:
    values = numbers(pa.chunked_array([data.column(name)]))
    return _measure_mean(name, Predictions(values, values, None), data, contract, own)


def _measure_mean(
    name: str, predictions: Predictions, data: HeldOut, contract: ModelContract, own: Sequence[str]
) -> Measurement:
    """Measure a simple model, which predicts the mean.

    A model that predicts a quantile would beat it by quantile metrics even without skill, so quantile metrics are left
    out.
    """
    rows = predicted(data.truth, predictions, contract, data.weight, data.columns)
    fair = [metric for metric in own if not is_quantile(metric) and not is_coverage_gap(metric)]
    return Measurement(name, measure(rows, fair, skip_undefined=True), predictions, rows)


def _measure_champion(
    client: MlflowClient,
    model: str,
    data: HeldOut,
    contract: ModelContract,
    context: StepContext,
    own: Sequence[str],
    scored: Scored | None,
    allow_pyfunc: bool,
) -> tuple[Champion, Measurement | None]:
    """Measure the champion, or the version that is measured for it, on the held-out rows.

    :return: the champion, and its metrics; ``None`` instead of the metrics if there is nothing to measure
    """
    found, loaded = (
        champions.find(client, model, data, context, allow_pyfunc=allow_pyfunc)
        if scored is None
        else champions.open_measured(client, scored.champion, data, context.store, allow_pyfunc=allow_pyfunc)
    )
    if found.ref is None or loaded is None:
        return found, None
    measurement, problem = attempt(
        found.ref, lambda: _measure(comparable(loaded, data, contract.positive), data, own, scored)
    )
    if measurement is not None and found.stand_in is not None:
        named = f"{found.stand_in}, champion v{found.ref.version} before its refit"
        measurement = replace(measurement, name=named)
    return found.with_problem(problem), measurement


def _logged_champion(
    client: MlflowClient,
    model: str,
    data: HeldOut,
    contract: ModelContract,
    context: StepContext,
    own: Sequence[str],
    live: Live,
    allow_pyfunc: bool,
) -> tuple[Champion, Measurement | None]:
    """Measure the logged predictions of the champion.

    :return: the champion, and its metrics; ``None`` instead of the metrics if there is nothing to measure
    :raises SpecError: the champion was trained on some of the rows
    """
    ref = champion(client, model)
    if ref is None:
        return Champion(), None
    require_promoted(context.store, ref)
    found = Champion(ref=ref)
    if ref.version not in live.logged:
        return found.with_problem(unmeasured(ref, "its predictions are not part of the evidence")), None

    def work() -> Measurement:
        folder = download_promoted(client, context.store, ref)
        loaded = logged.load(client, context.store, folder, ref, allow_pyfunc)
        check_contract(loaded, data, features=False)
        logged.refuse_training_rows({ref: loaded.contract}, data, context.store)
        return _measure(for_positive(loaded, contract.positive), data, own, live)

    measurement, problem = attempt(ref, work)
    return found.with_problem(problem), measurement


def _numbers(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {rounded(value)}" for name, value in metrics.items())


def importance(candidate: Candidate, data: HeldOut, metric: Metric) -> dict[str, float]:
    """Measure the permutation importance of the candidate's features on a sample of the held-out rows.

    :return: the importance by feature name; empty if the importance cannot be measured
    """
    return permutation.measure(candidate.model, data.truth, data.take, metric, data.weight, data.columns)
