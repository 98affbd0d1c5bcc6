"""The reference from training for a dataset of predictions: the profile and the contract of the version that made them, and the
columns of the predictions that can be compared with that profile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import ValidationError

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import DatasetNotFoundError, ModelFormatError, SpecError
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.data.columns import LABEL, LABEL_AT, PREDICTION_COLUMNS
from airflow_mlops.data.datasets import Dataset, open_dataset
from airflow_mlops.data.privacy import hashed_or_dropped
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift import schema
from airflow_mlops.drift.findings import SchemaChange
from airflow_mlops.models.contracts import VersionContract
from airflow_mlops.models.onnx.scorer import PROFILE_FILE
from airflow_mlops.profiles import multivariate
from airflow_mlops.profiles.multivariate import ReconstructionErrors
from airflow_mlops.profiles.profile import ModelProfile, Profile, profile
from airflow_mlops.registry import versions

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class TrainingReference:
    """What predictions are compared with.

    :param version: the version that made the predictions
    :param contract: its contract
    :param profile: its profile from training, without the columns that the predictions do not keep
    :param notes: which columns the predictions do not keep; one sentence
    :param schema_changes: differences between the columns of the predictions and those of the training set
    :param watched_changes: the same for watched columns that cannot be compared; by name
    :param datasets: the datasets of predictions
    """

    version: ModelVersionRef
    contract: ModelContract
    profile: ModelProfile
    notes: Sequence[str]
    schema_changes: Sequence[SchemaChange]
    watched_changes: Mapping[str, SchemaChange]
    datasets: Sequence[Dataset]

    @property
    def incompatible(self) -> dict[str, SchemaChange]:
        """The features that cannot be compared, by name."""
        return {item.column: item for item in self.schema_changes if item.before and not item.compared}

    @property
    def columns(self) -> list[str]:
        """The columns of the predictions that can be compared with the profile, and ``score``."""
        gone = self.incompatible.keys() | self.watched_changes.keys()
        known = [*self.profile.features.columns, *self.profile.watched.columns]
        return [*(name for name in known if name not in gone), "score"]

    def profile_of(self, batches: Iterable[pa.RecordBatch], columns: Sequence[str]) -> Profile:
        """Profile rows of the predictions, with the reconstruction error of all features together if it can be computed.

        :param batches: rows with ``columns``
        :param columns: what is profiled
        """
        reconstruction = self.profile.multivariate
        if reconstruction is None or self.unfit(columns) is not None:
            return profile(batches, columns)
        errors = ReconstructionErrors(reconstruction)
        found = profile(errors.count(batches), columns)
        return Profile(rows=found.rows, columns={**found.columns, multivariate.ERROR: errors.result()})

    def unfit(self, columns: Sequence[str]) -> str | None:
        """Why the reconstruction error cannot be computed from ``columns``; ``None`` if it can, or is not part of the profile."""
        reconstruction = self.profile.multivariate
        if reconstruction is None:
            return None
        schemas = (pa.schema([dataset.schema.field(name) for name in columns]) for dataset in self.datasets)
        return next((unfit for item in schemas if (unfit := reconstruction.mismatch(item)) is not None), None)


def load(
    version: ModelVersionRef, stored: VersionContract, datasets: Sequence[Dataset], store: ArtifactStore
) -> TrainingReference:
    """Build the reference for predictions.

    :param version: the version that made them, see :func:`version_of`
    :param stored: what is stored with the version
    :param datasets: the predictions, at least one dataset
    :raises ModelFormatError: the version has no profile, or one that cannot be read
    """
    known, notes = _without_lost_columns(_stored_profile(stored, version), datasets)
    schemas = [dataset.schema for dataset in datasets]
    watched = schema.changes(known.watched.columns, {}, schemas)
    return TrainingReference(
        version=version,
        contract=stored.contract,
        profile=known,
        notes=notes,
        schema_changes=_schema_changes(known, stored.contract, schemas, store),
        watched_changes={item.column: item for item in watched},
        datasets=datasets,
    )


def version_of(datasets: Sequence[Dataset], champion: ModelVersionRef, client: MlflowClient) -> ModelVersionRef:
    """The version that made the predictions; the champion may have replaced it since.

    :raises SpecError: another model made them
    """
    manifest = datasets[-1].manifest
    made_by = manifest.details.get("model", champion.model)
    if made_by != champion.model:
        raise SpecError(f"Dataset {manifest.name} holds predictions of {made_by}, not of {champion.model}.")
    number = int(manifest.details.get("model_version", champion.version))
    return champion if number == champion.version else versions.version(client, champion.model, number)


def _stored_profile(stored: VersionContract, version: ModelVersionRef) -> ModelProfile:
    if stored.profile is None:
        raise ModelFormatError(f"{version} has no {PROFILE_FILE} to compare with: train it with TrainOperator.")
    try:
        return ModelProfile.model_validate(stored.profile)
    except ValidationError as error:
        raise ModelFormatError(
            f"{PROFILE_FILE} of {version} is not a valid profile: {error.errors()[0]['msg']}."
        ) from None


def _without_lost_columns(known: ModelProfile, datasets: Sequence[Dataset]) -> tuple[ModelProfile, list[str]]:
    """The profile without the columns that the predictions hash or drop, and a note about them."""
    fates = {name: fate for item in datasets for name, fate in hashed_or_dropped(item.manifest.details).items()}
    lost = {name: fates[name] for name in (*known.features.columns, *known.watched.columns) if name in fates}
    if not lost:
        return known, []
    segments = known.segments
    if segments is not None:
        cuts = {name: cut for name, cut in segments.cuts.items() if name not in lost}
        segments = type(segments)(**{**dict(segments), "cuts": cuts})
    parts = {"features": _without(lost, known.features), "watched": _without(lost, known.watched), "segments": segments}
    listed = ", ".join(f"{name} ({fate})" for name, fate in lost.items())
    note = f"Not compared with training, because the predictions do not keep them: {listed}."
    return ModelProfile(**{**dict(known), **parts}), [note]


def _without(lost: Mapping[str, str], columns: Profile) -> Profile:
    kept = {name: column for name, column in columns.columns.items() if name not in lost}
    return Profile(**{**dict(columns), "columns": kept})


def _schema_changes(
    known: ModelProfile, contract: ModelContract, schemas: Sequence[pa.Schema], store: ArtifactStore
) -> list[SchemaChange]:
    """Features that are gone or of another type, and new columns.

    Without the training set in the store, only the kinds of the features are compared.
    """
    try:
        training_set = open_dataset(store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0))
    except DatasetNotFoundError:
        return schema.changes(known.features.columns, {}, schemas)
    trained = {column.name: column.type for column in training_set.manifest.columns}
    found = schema.changes(known.features.columns, trained, schemas)
    return [*found, *schema.added(trained, schemas, (*PREDICTION_COLUMNS, LABEL, LABEL_AT))]
