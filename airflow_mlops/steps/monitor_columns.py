"""What monitoring finds out about a window's columns: which version made the predictions, and what has drifted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from airflow_mlops.artifacts.datasets import Dataset, open_dataset
from airflow_mlops.artifacts.store import ArtifactStore
from airflow_mlops.exceptions import DatasetNotFoundError, ModelFormatError, SpecError
from airflow_mlops.monitoring import drift
from airflow_mlops.monitoring.profiles import ModelProfile, profile
from airflow_mlops.registry import models
from airflow_mlops.registry.contracts import Known
from airflow_mlops.registry.onnx_model import PROFILE_FILE
from airflow_mlops.specs.base import DatasetRef, ModelVersionRef
from airflow_mlops.specs.monitor import Findings

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Smaller than elsewhere, so that a check fits beside other tasks; it takes no longer.
BATCH_ROWS = 16_384


def about_champion(found: Findings, champion: ModelVersionRef, known: Known, store: ArtifactStore) -> dict[str, Any]:
    """The age of the champion's training data, where it is known."""
    trained_on = DatasetRef(name=known.contract.dataset_name, id=known.contract.dataset_id, rows=0)
    try:
        trained = open_dataset(store, trained_on).manifest.window
    except DatasetNotFoundError:
        trained = None
    if trained is None:
        unknown = f"The age of {champion} is not known: its training set has no time window in this artifact store."
        return {"notes": [*found.notes, unknown]} if found.policy.max_age else {}
    age: dict[str, Any] = {"age_days": (found.window.end - trained.end) / timedelta(days=1)}
    if known.elsewhere and found.policy.max_age:
        guessed = f"{champion} came from elsewhere: its age is that of the training set it was measured on."
        age["notes"] = [*found.notes, guessed]
    return age


def scored_by(datasets: Sequence[Dataset], champion: ModelVersionRef, client: MlflowClient) -> ModelVersionRef:
    """The version that made the predictions, which may have been replaced since."""
    details = datasets[-1].manifest.details
    made_by = details.get("model", champion.model)
    if made_by != champion.model:
        raise SpecError(
            f"Dataset {datasets[-1].manifest.name} holds predictions of {made_by}, not of {champion.model}."
        )
    number = int(details.get("model_version", champion.version))
    return champion if number == champion.version else models.version(client, champion.model, number)


def stored_profile(known: Known, scored_by: ModelVersionRef) -> ModelProfile:
    """What the version that made the predictions was made with."""
    if known.profile is None:
        raise ModelFormatError(f"{scored_by} has no {PROFILE_FILE} to compare with: train it with TrainOperator.")
    try:
        return ModelProfile.model_validate(known.profile)
    except ValidationError as error:
        raise ModelFormatError(f"The profile of {scored_by} is not one: {error.errors()[0]['msg']}.") from None


def columns(found: Findings, datasets: Sequence[Dataset], reference: ModelProfile) -> dict[str, Any]:
    """The drift of the features and of the scores."""
    features = list(reference.features.columns)
    wanted = [*features, "score"]
    current = profile(batch for item in datasets for batch in item.batches(columns=wanted, batch_rows=BATCH_ROWS))
    measured = drift.measure(reference.features, current, found.policy)
    scores = drift.measure(reference.scores, current, found.policy)
    # Judged together: a false alarm is one whatever it is about.
    judged = drift.judge([*measured, *scores], found.policy)
    return {
        "features": drift.ranked(judged[: len(measured)]),
        "prediction": next((item for item in judged[len(measured) :] if item.column == "score"), None),
        "drift_tests": drift.tests_of(judged, found.policy),
    }
