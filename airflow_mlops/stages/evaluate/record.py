"""Record an evaluation in the candidate's MLflow run, the registry and the artifact store."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import DatasetNotFoundError
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.datasets import Manifest, open_dataset
from airflow_mlops.data.datasets.by_id import Finder, parents_of
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates.base import Gate
from airflow_mlops.gates.evidence import HeldOut
from airflow_mlops.models import contracts, importance
from airflow_mlops.models.explanation import FILE, FOLDER, Explanation
from airflow_mlops.models.pyfunc.scorer import PyfuncModel
from airflow_mlops.models.training_data import TEST, TRAIN
from airflow_mlops.profiles.spans import with_constant_spans
from airflow_mlops.profiles.training import model_profile
from airflow_mlops.profiles.watched import with_watched_columns
from airflow_mlops.registry import run_files
from airflow_mlops.registry.aliases import COMPARED_TAG
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.names import EVALUATION_FOLDER, TRAINING_FILE
from airflow_mlops.registry.records.verdict import Verdict
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import card as model_card
from airflow_mlops.stages.evaluate.card_spec import Card
from airflow_mlops.stages.evaluate.measurement import Compared, Measured

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = EVALUATION_FOLDER
# Maximum length of a version's description in MLflow, in characters.
_DESCRIPTION = 5_000


@dataclass(frozen=True)
class Evaluation:
    """What is recorded about each candidate of an evaluation.

    :param compared: metrics of the candidates, the baselines and the champion
    :param gates: the gates that the candidates had to pass
    :param verdict: the verdict on all candidates
    :param card: what the user states in the model card
    :param importances: permutation importance of each feature, for each candidate
    :param intervals: 95% confidence interval of each metric, for each candidate
    :param finder: finds the parents of the datasets, for all candidates
    """

    compared: Compared
    gates: Sequence[Gate]
    verdict: Verdict
    card: Card
    importances: Mapping[ModelVersionRef, Mapping[str, float]]
    intervals: Mapping[ModelVersionRef, model_card.Intervals]
    finder: Finder


def keep_contract(
    client: MlflowClient, store: ArtifactStore, item: Measured, data: HeldOut, importances: Mapping[str, float]
) -> str | None:
    """Write a model contract and a training profile for a version that TrainOperator did not train.

    Scoring and monitoring read both files. TrainOperator writes them for the versions that it trains.

    :param importances: permutation importance of each feature
    :return: the SHA-256 of the contract; ``None`` for a version that TrainOperator trained
    """
    candidate, measurement = item.candidate, item.measurement
    if not isinstance(candidate.model, PyfuncModel):
        return None
    dataset = data.dataset
    contract = candidate.contract.model_copy(
        update={
            "metrics": dict(measurement.metrics),
            "dataset_name": dataset.manifest.name,
            "dataset_id": dataset.manifest.id,
            "timestamp": dataset.manifest.details.get("timestamp"),
            "sample_weight": data.weight_column,
        }
    )
    assert measurement.predictions is not None
    names = [feature.name for feature in contract.features]
    part = TRAIN if TRAIN in dataset.ref.parts else data.part
    held_out = None if part == data.part else lambda: dataset.batches(data.part, names)
    profile = model_profile(
        lambda: dataset.batches(part, names),
        held_out,
        contract,
        data.truth,
        measurement.predictions,
        importance.shares(importances),
        data.weight,
        data.columns,
    )
    profile, contract = with_watched_columns(profile, contract, dataset, part)
    profile = with_constant_spans(profile, contract, dataset, part)
    return contracts.write(client, store, candidate.ref, contract, profile.model_dump(mode="json"))


def tag_compared(client: MlflowClient, item: Measured, compared: Compared) -> None:
    """Tag a version with the number of models that were compared on the held-out rows of its training set.

    The metrics of the best of several models are biased upwards (selection bias). Monitoring corrects the metrics at
    training for this number of models. A version that TrainOperator trained is not tagged if the models were compared
    on other rows, because this does not affect its metrics at training.

    :raises RegistryError: MLflow cannot be used
    """
    candidate, data = item.candidate, compared.data
    trained = not isinstance(candidate.model, PyfuncModel)
    if trained and (candidate.contract.dataset_id, TEST) != (data.dataset.manifest.id, data.part):
        return
    models = len(compared.candidates) + (compared.measured_champion is not None)
    ref = candidate.ref
    with registry_errors(f"{ref} cannot be tagged"):
        client.set_model_version_tag(ref.model, str(ref.version), COMPARED_TAG, str(models))


def log(client: MlflowClient, context: StepContext, item: Measured, evaluation: Evaluation) -> None:
    """Log verdict, plots, model card and tags to the candidate's MLflow run, and write a description to the registry.

    A description that a person has written is kept.

    :raises RegistryError: MLflow cannot be used
    """
    from airflow_mlops.models import explanation_plots
    from airflow_mlops.stages.evaluate import plots

    candidate, measurement = item.candidate, item.measurement
    ref = candidate.ref
    if not ref.run_id:
        context.progress(
            f"Verdict, plots and model card of {ref} are not logged, because this version has no MLflow run."
        )
        return
    compared, verdict = evaluation.compared, evaluation.verdict
    facts = _facts(client, context, item, evaluation)
    with temporary_folder("evaluation") as folder, registry_errors(f"The evaluation of {ref} cannot be logged"):
        (folder / "verdict.json").write_text(verdict.model_dump_json(indent=1))
        drawn = plots.draw(
            folder,
            compared.data.truth,
            candidate.contract,
            measurement,
            compared.measured_champion,
            facts.importance,
            verdict.metric,
        )
        explained = explanation_plots.draw(folder, facts.explanation) if facts.explanation else []
        about = model_card.write(folder, facts, drawn, explained)
        client.log_artifacts(ref.run_id, str(folder), ARTIFACTS)
        client.set_tag(ref.run_id, "mlops.evaluated_on", verdict.dataset_id)
        client.set_tag(ref.run_id, "mlops.verdict", facts.outcome)
        # A description that a person wrote is not overwritten.
        if not client.get_model_version(ref.model, str(ref.version)).description:
            description = textwrap.shorten(about, _DESCRIPTION, placeholder=" …")
            client.update_model_version(ref.model, str(ref.version), description)


def _facts(client: MlflowClient, context: StepContext, item: Measured, evaluation: Evaluation) -> model_card.Facts:
    """Collect the contents of the candidate's model card."""
    candidate, data = item.candidate, evaluation.compared.data
    ref = candidate.ref
    with registry_errors(f"The MLflow run of {ref} cannot be read"):
        run = client.get_run(ref.run_id).data
        files = run_files.paths(client, ref.run_id)
    measured_on, trained_on = data.dataset.manifest, _trained_on(candidate.contract, data, context.store)
    return model_card.Facts(
        ref=ref,
        stated=evaluation.card,
        contract=candidate.contract,
        verdict=evaluation.verdict,
        gates=evaluation.gates,
        rows=data.truth.size,
        intervals=evaluation.intervals[ref],
        importance=evaluation.importances[ref],
        importance_rows=min(data.truth.size, importance.ROWS),
        measured_on=measured_on,
        trained_on=trained_on,
        parents=parents_of(evaluation.finder, [measured_on, *([trained_on] if trained_on else [])]),
        tags=run.tags,
        params=run.params,
        reproducible=TRAINING_FILE in files,
        explanation=_explanation(client, context, ref) if {TRAINING_FILE, FOLDER} <= files else None,
    )


def _explanation(client: MlflowClient, context: StepContext, ref: ModelVersionRef) -> Explanation | None:
    with registry_errors(f"The MLflow run of {ref} cannot be read"):
        content = run_files.read(client, ref.run_id, f"{FOLDER}/{FILE}")
    try:
        return Explanation.model_validate_json(content)
    except ValidationError:
        context.progress(
            f"The model card of {ref} does not show the model's shape functions, because an incompatible version of "
            "airflow-mlops wrote the file with the shape functions."
        )
        return None


def _trained_on(contract: ModelContract, data: HeldOut, store: ArtifactStore) -> Manifest | None:
    if contract.dataset_id == data.dataset.manifest.id:
        return data.dataset.manifest
    if not contract.dataset_id:
        return None
    try:
        return open_dataset(store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0)).manifest
    except DatasetNotFoundError:
        return None
