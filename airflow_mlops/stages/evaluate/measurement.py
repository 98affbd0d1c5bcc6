"""Measure candidates, baselines and the champion on the same held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import (
    DatasetNotFoundError,
    EvaluationError,
    ModelFormatError,
    RegistryError,
    RegistryUnavailableError,
    SchemaError,
    SpecError,
)
from airflow_mlops.core.numbers import rounded
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.row_identity import shared_rows
from airflow_mlops.data.sample_weights import numbers
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates.evidence import HeldOut, Measurement
from airflow_mlops.metrics.catalog import Metric, is_coverage_gap, is_quantile
from airflow_mlops.metrics.clusters import codes
from airflow_mlops.metrics.predictions import Predictions, concatenate
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import predicted
from airflow_mlops.metrics.values import baseline, measure
from airflow_mlops.models import importance as permutation
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.integrity import download_promoted, require_promoted
from airflow_mlops.registry.records.received import VERSION_TAG
from airflow_mlops.registry.versions import champion, version
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import live as logged
from airflow_mlops.stages.evaluate.baselines import small_tree, statistical_columns, untrainable
from airflow_mlops.stages.evaluate.candidates import Candidate, check_contract, for_positive, load
from airflow_mlops.stages.evaluate.live import Live

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from numpy.typing import NDArray


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
    :raises SpecError: the champion was trained on rows of live evidence, or the dataset has no column ``groups``
    :raises EvaluationError: predictions are not finite, or no metric can be computed on the rows
    :raises MetricError: a custom metric fails
    """
    first = candidates[0].contract
    measured = []
    for candidate in candidates:
        measured.append(Measured(candidate, measurement := _measure(candidate, data, own, live)))
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
    ref = champion(client, model)
    if ref is not None:
        require_promoted(context.store, ref)
    measured_champion, problem, stand_in = None, None, None
    if ref is not None and live is not None:
        measured_champion, problem = _logged_champion(client, ref, data, first, context, own, live, allow_pyfunc)
    elif ref is not None:
        try:
            loaded = load(download_promoted(client, context.store, ref), ref, data, allow_pyfunc=allow_pyfunc)
            if (stand_in := _stand_in(client, loaded, data, context.store)) is not None:
                context.progress(
                    f"The champion {ref} is a refit of {stand_in} on all rows of the training set. These include held-out rows, so "
                    f"{stand_in} is measured instead."
                )
                loaded = load(
                    download_promoted(client, context.store, stand_in), stand_in, data, allow_pyfunc=allow_pyfunc
                )
            measured_champion = _measure_champion(loaded, data, first, own)
            if stand_in is not None:
                named = f"{stand_in}, champion v{ref.version} before its refit"
                measured_champion = replace(measured_champion, name=named)
        except RegistryUnavailableError:
            raise
        except (EvaluationError, ModelFormatError, RegistryError, SchemaError) as error:
            cause = str(error).rstrip(".")
            problem = f"The champion {ref} could not be measured, so no candidate can be compared with it ({cause})."
    if measured_champion is not None:
        context.progress(f"Champion {measured_champion.name}: {_numbers(measured_champion.metrics)}")
    elif problem is not None:
        context.progress(problem)
    resampling = Resampling(len(data.truth), clusters=_clusters(data, groups))
    return Compared(data, measured, dummy, tree, ref, measured_champion, problem, resampling, stand_in, statistical)


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


def _measure(candidate: Candidate, data: HeldOut, own: Sequence[str], live: Live | None = None) -> Measurement:
    contract = candidate.contract
    if live is not None:
        predictions = live.predictions(candidate)
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

    A model that predicts a quantile would beat it by quantile metrics even without skill, so these are left out.
    """
    rows = predicted(data.truth, predictions, contract, data.weight, data.columns)
    fair = [metric for metric in own if not is_quantile(metric) and not is_coverage_gap(metric)]
    return Measurement(name, measure(rows, fair, skip_undefined=True), predictions, rows)


def _measure_champion(loaded: Candidate, data: HeldOut, contract: ModelContract, own: Sequence[str]) -> Measurement:
    check_contract(loaded, data)
    return _measure(for_positive(loaded, contract.positive), data, own)


def _logged_champion(
    client: MlflowClient,
    ref: ModelVersionRef,
    data: HeldOut,
    contract: ModelContract,
    context: StepContext,
    own: Sequence[str],
    live: Live,
    allow_pyfunc: bool,
) -> tuple[Measurement | None, str | None]:
    """Measure the logged predictions of the champion.

    :return: the metrics, or a sentence that says why the champion could not be measured
    :raises SpecError: the champion was trained on some of the rows
    """
    start = f"The champion {ref} could not be measured, so no candidate can be compared with it"
    if ref.version not in live.logged:
        return None, f"{start} (its predictions are not part of the evidence)."
    try:
        folder = download_promoted(client, context.store, ref)
        loaded = logged.load(client, context.store, folder, ref, allow_pyfunc)
        check_contract(loaded, data, features=False)
        logged.refuse_training_rows({ref: loaded.contract}, data, context.store)
        return _measure(for_positive(loaded, contract.positive), data, own, live), None
    except RegistryUnavailableError:
        raise
    except (EvaluationError, ModelFormatError, RegistryError, SchemaError) as error:
        return None, f"{start} ({str(error).rstrip('.')})."


def _stand_in(client: MlflowClient, champion: Candidate, data: HeldOut, store: ArtifactStore) -> ModelVersionRef | None:
    """Return the version to measure instead of a champion that was fitted again on held-out rows.

    :return: if the champion is a refit that was fitted to the rows of ``data``, the version before the refit, which was
        not fitted to the held-out rows; otherwise ``None``
    :raises EvaluationError: the champion was received from another registry
    """
    contract = champion.contract
    if contract.refit_of is None:
        return None
    try:
        trained_on = open_dataset(store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0))
    except DatasetNotFoundError:
        return None
    # If rows are identified by other columns, it is not known whether the champion was fitted to them.
    if shared_rows(data.dataset, data.part, trained_on, None) == 0:
        return None
    with registry_errors(f"{champion.ref} cannot be read"):
        tags = client.get_model_version(champion.ref.model, str(champion.ref.version)).tags
    if VERSION_TAG in tags:
        # The contract was copied from the source registry, and its version numbers refer to the registered model there.
        raise EvaluationError(
            f"{champion.ref} was received from another registry, where it was fitted again on rows of the dataset "
            f"{data.dataset.manifest.name!r}, so it cannot be measured on them."
        )
    return version(client, champion.ref.model, contract.refit_of)


def _numbers(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {rounded(value)}" for name, value in metrics.items())


def importance(candidate: Candidate, data: HeldOut, metric: Metric) -> dict[str, float]:
    """Measure the permutation importance of the candidate's features on a sample of the held-out rows.

    :return: the importance by feature name; empty if the importance cannot be measured
    """
    return permutation.measure(candidate.model, data.truth, data.take, metric, data.weight, data.columns)
