"""The training reference, with which monitoring compares predictions.

The training reference belongs to the model version that made the predictions. It consists of the profile and the
contract of the version, and the names of the columns that can be compared with the profile.
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
from airflow_mlops.data.columns import ADDED_COLUMNS, LABEL, LABEL_AT
from airflow_mlops.data.datasets import Dataset, open_dataset
from airflow_mlops.data.predictions.privacy import hashed_or_dropped
from airflow_mlops.data.predictions.versions import latest_version
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift import schema
from airflow_mlops.drift.findings import SchemaChange
from airflow_mlops.models.contract_file import PROFILE_FILE
from airflow_mlops.models.contracts import VersionContract
from airflow_mlops.profiles import multivariate
from airflow_mlops.profiles.multivariate import Reconstruction, ReconstructionErrors
from airflow_mlops.profiles.profile import ModelProfile, Profile, profile
from airflow_mlops.registry import versions
from airflow_mlops.registry.records.fairness import FairnessRates

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class TrainingReference:
    """The training reference: the facts about training with which monitoring compares predictions.

    :param version: the model version that made the predictions
    :param contract: model contract (features, label, ML task) of this version
    :param profile: profile of this version from training, without the columns that ScoreOperator hashes or drops
    :param notes: a sentence that lists the columns that ScoreOperator hashes or drops; empty without such columns
    :param schema_changes: differences between the columns of the predictions and the columns of the training set
    :param watched_changes: changes of watched columns that prevent a comparison, by column name
    :param datasets: the datasets of predictions
    :param compared: number of models from which the version was selected on the held-out rows
    :param fairness: the rates of groups that the gates measured on the held-out rows
    """

    version: ModelVersionRef
    contract: ModelContract
    profile: ModelProfile
    notes: Sequence[str]
    schema_changes: Sequence[SchemaChange]
    watched_changes: Mapping[str, SchemaChange]
    datasets: Sequence[Dataset]
    compared: int = 1
    fairness: Sequence[FairnessRates] = ()

    @property
    def incompatible(self) -> dict[str, SchemaChange]:
        """Return, by feature name, the schema changes that prevent a comparison."""
        return {item.column: item for item in self.schema_changes if item.before and not item.compared}

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns that can be compared with the profile.

        They are the features, the watched columns (columns that are monitored although they are not features), and
        ``score`` as the last name.
        """
        excluded = self.incompatible.keys() | self.watched_changes.keys()
        known = [*self.profile.features.columns, *self.profile.watched.columns]
        return [*(name for name in known if name not in excluded), "score"]

    def profile_of(self, batches: Iterable[pa.RecordBatch], columns: Sequence[str]) -> Profile:
        """Profile rows of the predictions, including the reconstruction error of all features if it can be computed.

        :param batches: rows of the predictions
        :param columns: names of the columns to profile
        """
        return profile_with_errors(batches, columns, self.reconstruction(columns))

    def reconstruction(self, columns: Sequence[str]) -> Reconstruction | None:
        """Return the reconstruction of the features by principal components.

        :param columns: names of the columns of the predictions
        :return: ``None`` if there is no reconstruction, or if its error cannot be computed from ``columns``
        """
        return self.profile.multivariate if self.unfit(columns) is None else None

    def unfit(self, columns: Sequence[str]) -> str | None:
        """Return why the reconstruction error of all features cannot be computed from ``columns``.

        :param columns: names of the columns of the predictions
        :return: the reason as a clause; ``None`` if the error can be computed, or if the profile has no principal
            components
        """
        reconstruction = self.profile.multivariate
        if reconstruction is None:
            return None
        # Each schema is read from a file only when it is needed.
        whole = (dataset.schema for dataset in self.datasets)
        schemas = (pa.schema([schema.field(name) for name in columns]) for schema in whole)
        return next((unfit for item in schemas if (unfit := reconstruction.mismatch(item)) is not None), None)


def profile_with_errors(
    batches: Iterable[pa.RecordBatch], columns: Sequence[str], reconstruction: Reconstruction | None
) -> Profile:
    """Profile rows of predictions.

    :param batches: rows of the predictions
    :param columns: names of the columns to profile
    :param reconstruction: computes the reconstruction error of all features, which is profiled as well; by default none
    """
    if reconstruction is None:
        return profile(batches, columns)
    errors = ReconstructionErrors(reconstruction)
    found = profile(errors.count(batches), columns)
    return Profile(rows=found.rows, columns={**found.columns, multivariate.ERROR: errors.result()})


def load(
    version: ModelVersionRef, stored: VersionContract, datasets: Sequence[Dataset], store: ArtifactStore
) -> TrainingReference:
    """Build the training reference of predictions.

    :param version: the model version that made the predictions, from :func:`version_of`
    :param stored: the stored contract and profile of this version
    :param datasets: the datasets of predictions, at least one
    :param store: the artifact store, from which the columns of the training set are read
    :raises ModelFormatError: the version has no profile, or the profile cannot be read
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
        compared=stored.compared,
        fairness=stored.fairness,
    )


def version_of(
    datasets: Sequence[Dataset], champion: ModelVersionRef, client: MlflowClient, number: int | None = None
) -> ModelVersionRef:
    """Return the model version that made the predictions, which may differ from the current champion.

    :param datasets: the datasets of predictions, at least one
    :param champion: the current champion of the monitored model
    :param client: MLflow client, which finds a version other than the champion
    :param number: number of the version; by default the version that made the latest predictions
    :raises SpecError: the predictions come from a different model
    """
    manifest = datasets[-1].manifest
    made_by = manifest.details.get("model", champion.model)
    if made_by != champion.model:
        raise SpecError(
            f"Dataset {manifest.name!r} holds predictions of model {made_by!r}, not of {champion.model!r}: correct "
            "model= or dataset=."
        )
    number = latest_version(datasets) if number is None else number
    return champion if number in (None, champion.version) else versions.version(client, champion.model, number)


def _stored_profile(stored: VersionContract, version: ModelVersionRef) -> ModelProfile:
    if stored.profile is None:
        raise ModelFormatError(
            f"Model version {version} has no {PROFILE_FILE!r} to compare with: train the model with TrainOperator."
        )
    try:
        return ModelProfile.model_validate(stored.profile)
    except ValidationError as error:
        raise ModelFormatError(
            f"{PROFILE_FILE!r} of model version {version} is not a valid profile ({error.errors()[0]['msg']}): train the "
            "model again with TrainOperator."
        ) from None


def _without_lost_columns(known: ModelProfile, datasets: Sequence[Dataset]) -> tuple[ModelProfile, list[str]]:
    """Remove from the profile the columns that ScoreOperator hashes or drops.

    :return: the remaining profile, and a note that lists the removed columns
    """
    fates = {name: fate for item in datasets for name, fate in hashed_or_dropped(item.manifest.details).items()}
    lost = {name: fates[name] for name in (*known.features.columns, *known.watched.columns) if name in fates}
    if not lost:
        return known, []
    segments = known.segments
    if segments is not None:
        cuts = {name: cut for name, cut in segments.cuts.items() if name not in lost}
        segments = type(segments)(**{**dict(segments), "cuts": cuts})
    weighted = known.weighted
    if weighted is not None and segments is not None:
        own = weighted.segments.model_copy(update={"cuts": segments.cuts})
        weighted = weighted.model_copy(update={"segments": own})
    parts = {
        "features": _without(lost, known.features),
        "watched": _without(lost, known.watched),
        "segments": segments,
        "weighted": weighted,
    }
    listed = ", ".join(f"{name} ({fate})" for name, fate in lost.items())
    note = f"Columns that are not compared with training because the predictions do not keep their values: {listed}."
    return ModelProfile(**{**dict(known), **parts}), [note]


def _without(lost: Mapping[str, str], columns: Profile) -> Profile:
    kept = {name: column for name, column in columns.columns.items() if name not in lost}
    return Profile(**{**dict(columns), "columns": kept})


def _schema_changes(
    known: ModelProfile, contract: ModelContract, schemas: Sequence[pa.Schema], store: ArtifactStore
) -> list[SchemaChange]:
    """Find features that disappeared or changed their type, and find new columns.

    If the training set is no longer in the store, only the kinds of the features are compared, and new columns cannot
    be found.
    """
    try:
        training_set = open_dataset(store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0))
    except DatasetNotFoundError:
        return schema.changes(known.features.columns, {}, schemas)
    trained = {column.name: column.type for column in training_set.manifest.columns}
    found = schema.changes(known.features.columns, trained, schemas)
    return [*found, *schema.added(trained, schemas, (*ADDED_COLUMNS, LABEL, LABEL_AT))]
