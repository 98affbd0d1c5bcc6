"""What monitoring finds out about a window's columns: which version made the predictions, and what has drifted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from airflow_mlops.artifacts.datasets import Dataset, open_dataset
from airflow_mlops.artifacts.store import ArtifactStore
from airflow_mlops.exceptions import DatasetNotFoundError, ModelFormatError, SpecError
from airflow_mlops.monitoring import drift, multivariate, schema
from airflow_mlops.monitoring.labels import labels
from airflow_mlops.monitoring.multivariate import Errors
from airflow_mlops.monitoring.performance import LABEL
from airflow_mlops.monitoring.profiles import ModelProfile, Profile, profile
from airflow_mlops.registry import models
from airflow_mlops.registry.contracts import Known
from airflow_mlops.registry.onnx_model import PROFILE_FILE
from airflow_mlops.specs.base import DatasetRef, ModelVersionRef
from airflow_mlops.specs.drift import Drift
from airflow_mlops.specs.model import ModelContract
from airflow_mlops.specs.monitor import Findings
from airflow_mlops.specs.policy import Policy
from airflow_mlops.steps.monitor_performance import unripe

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


def columns(
    found: Findings, datasets: Sequence[Dataset], reference: ModelProfile, contract: ModelContract
) -> dict[str, Any]:
    """The drift of the features, each by itself and all together, of the scores and of the labels.

    :param found: with what is known of the schema and of the labels
    """
    changed = {item.column: item for item in found.schema_changes if item.before and not item.compared}
    wanted = [*(name for name in reference.features.columns if name not in changed), "score"]
    batches = (batch for item in datasets for batch in item.batches(columns=wanted, batch_rows=BATCH_ROWS))
    errors = Errors(reference.multivariate) if reference.multivariate is not None else None
    current = profile(batches if errors is None else errors.beside(batches))
    parts = {
        "features": drift.measure(reference.features, current, found.policy),
        "prediction": drift.measure(reference.scores, current, found.policy),
        "multivariate": _together(errors, found.policy) if errors is not None else [],
        "label": _labels(found, datasets, reference, contract),
    }
    # Judged together: a false alarm is one whatever it is about.
    judged = drift.judge([item for part in parts.values() for item in part], found.policy)
    rest = iter(judged)
    features, *others = ([next(rest) for _ in part] for part in parts.values())
    features = [item.model_copy(update={"importance": reference.importance.get(item.column)}) for item in features]
    unmeasured = [schema.unmeasured(item, reference.features.columns[name].kind) for name, item in changed.items()]
    return {
        "features": [*drift.ranked(features), *unmeasured],
        **{name: next(iter(part), None) for name, part in zip(list(parts)[1:], others, strict=True)},
        "drift_tests": drift.tests_of(judged, found.policy),
    }


def _together(errors: Errors, policy: Policy) -> list[Drift]:
    if errors.unfit is not None:
        return [Drift(column=multivariate.ERROR, kind="numeric", note=f"not measured: {errors.unfit}")]
    before, now = (
        Profile(rows=column.rows, columns={multivariate.ERROR: column})
        for column in (errors.of.errors, errors.result())
    )
    return drift.measure(before, now, policy)


def _labels(
    found: Findings, datasets: Sequence[Dataset], reference: ModelProfile, contract: ModelContract
) -> list[Drift]:
    if reference.labels is None or unripe(found) is not None:
        return []
    batches = (batch for item in datasets for batch in item.batches(columns=[LABEL], batch_rows=BATCH_ROWS))
    return drift.measure(reference.labels, profile(labels(batches, contract), [LABEL]), found.policy)
