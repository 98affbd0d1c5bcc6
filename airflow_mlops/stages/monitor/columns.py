"""What monitoring finds out about a window's columns: which version made the predictions, and what has drifted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import ValidationError

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import DatasetNotFoundError, ModelFormatError, SpecError
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.data.columns import LABEL
from airflow_mlops.data.datasets import Dataset, open_dataset
from airflow_mlops.data.privacy import hashed_or_dropped
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift import schema
from airflow_mlops.drift import univariate as drift
from airflow_mlops.drift.findings import Drift, SchemaChange
from airflow_mlops.models.contracts import VersionContract
from airflow_mlops.models.onnx.scorer import PROFILE_FILE
from airflow_mlops.policy.findings import Findings
from airflow_mlops.profiles import multivariate, shards
from airflow_mlops.profiles.labels import labels
from airflow_mlops.profiles.multivariate import Reconstruction, ReconstructionErrors
from airflow_mlops.profiles.profile import ModelProfile, Profile, profile
from airflow_mlops.profiles.spec import ProfileRef
from airflow_mlops.registry import versions as models
from airflow_mlops.stages.monitor.performance import unripe

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airflow_mlops.stages.monitor.references import Baselines

# Smaller than elsewhere, so that a check fits beside other tasks; it takes no longer.
BATCH_ROWS = 16_384


def about_champion(
    found: Findings, champion: ModelVersionRef, known: VersionContract, store: ArtifactStore
) -> dict[str, Any]:
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


def stored_profile(known: VersionContract, scored_by: ModelVersionRef) -> ModelProfile:
    """What the version that made the predictions was made with."""
    if known.profile is None:
        raise ModelFormatError(f"{scored_by} has no {PROFILE_FILE} to compare with: train it with TrainOperator.")
    try:
        return ModelProfile.model_validate(known.profile)
    except ValidationError as error:
        raise ModelFormatError(f"The profile of {scored_by} is not one: {error.errors()[0]['msg']}.") from None


def compared(reference: ModelProfile, changes: Iterable[SchemaChange], datasets: Sequence[Dataset]) -> list[str]:
    """The columns of predictions that can be compared with what is stored with the version that made them."""
    gone = {item.column for item in changes if item.before and not item.compared} | _unwatched(
        reference, datasets
    ).keys()
    known = [*reference.features.columns, *reference.watched.columns]
    return [*(name for name in known if name not in gone), "score"]


def _unwatched(reference: ModelProfile, datasets: Sequence[Dataset]) -> dict[str, SchemaChange]:
    """What is watched beside the features, and cannot be compared; told with the columns alone, as no model needs it."""
    changes = schema.changes(reference.watched.columns, {}, [item.schema for item in datasets])
    return {item.column: item for item in changes}


def profiled(
    batches: Iterable[pa.RecordBatch], columns: Sequence[str], datasets: Sequence[Dataset], reference: ModelProfile
) -> Profile:
    """What ``columns`` look like and, if they have one, the reconstruction error of all of them together.

    :param batches: rows of ``datasets``
    """
    if reference.multivariate is None or _unfit(reference.multivariate, columns, datasets) is not None:
        return profile(batches, columns)
    errors = ReconstructionErrors(reference.multivariate)
    found = profile(errors.count(batches), columns)
    return Profile(rows=found.rows, columns={**found.columns, multivariate.ERROR: errors.result()})


def current(
    found: Findings,
    datasets: Sequence[Dataset],
    reference: ModelProfile,
    profiles: Sequence[ProfileRef],
    store: ArtifactStore,
) -> Profile:
    """What the window looks like: read now, or merged from ``profiles`` of its shards.

    :param found: with what is known of the schema
    :raises SpecError: the profiles are not those of all the rows, or lack a column
    """
    wanted = compared(reference, found.schema_changes, datasets)
    if not profiles:
        batches = (batch for item in datasets for batch in item.batches(columns=wanted, batch_rows=BATCH_ROWS))
        return profiled(batches, wanted, datasets, reference)
    merged = shards.whole([shards.read(store, ref) for ref in profiles], datasets)
    if missing := [name for name in wanted if name not in merged.columns and name not in reference.watched.columns]:
        raise SpecError(
            f"The profiles of {datasets[0].manifest.name} have no column {', '.join(map(repr, missing))}: give "
            "ProfileOperator the model, or name them in its columns."
        )
    known = {name: merged.columns[name] for name in [*wanted, multivariate.ERROR] if name in merged.columns}
    return Profile(rows=merged.rows, columns=known)


def kept(reference: ModelProfile, datasets: Sequence[Dataset]) -> tuple[ModelProfile, list[str]]:
    """The profile without the columns that were hashed in the predictions or dropped from them, and a note on those."""
    lost = {name: fate for item in datasets for name, fate in hashed_or_dropped(item.manifest.details).items()}
    away = [name for name in (*reference.features.columns, *reference.watched.columns) if name in lost]
    if not away:
        return reference, []
    update: dict[str, Any] = {
        "features": _without(lost, reference.features),
        "watched": _without(lost, reference.watched),
    }
    if reference.segments is not None:
        cuts = {name: cut for name, cut in reference.segments.cuts.items() if name not in lost}
        update["segments"] = reference.segments.model_copy(update={"cuts": cuts})
    listed = ", ".join(f"{name} ({lost[name]})" for name in away)
    note = f"Not compared with training, because the predictions do not keep them: {listed}."
    return reference.model_copy(update=update), [note]


def _without(lost: Iterable[str], of: Profile) -> Profile:
    return of.model_copy(update={"columns": {name: item for name, item in of.columns.items() if name not in set(lost)}})


def columns(
    found: Findings,
    datasets: Sequence[Dataset],
    current: Profile,
    baselines: Baselines,
    reference: ModelProfile,
    contract: ModelContract,
) -> dict[str, Any]:
    """The drift of the features, each by itself and all together, of what is watched beside them, of the scores and of the
    labels.

    :param found: with what is known of the schema and of the labels
    """
    changed = {item.column: item for item in found.schema_changes if item.before and not item.compared}

    def measured(baseline: Mapping[str, Profile]) -> list[Drift]:
        return [item for of, before in baseline.items() for item in drift.measure(before, current, found.policy, of)]

    parts = {
        "features": measured(baselines.features),
        "watched": measured(baselines.watched),
        "prediction": measured(baselines.scores),
        "multivariate": measured(baselines.together) or _not_together(found, datasets, reference),
        "label": _labels(found, datasets, reference, contract),
    }
    # Judged together: a false alarm is one whatever it is about.
    judged = drift.decide([item for part in parts.values() for item in part], found.policy)
    rest = iter(judged)
    features, watched, *others = ([next(rest) for _ in part] for part in parts.values())
    features = [item.model_copy(update={"importance": reference.importance.get(item.column)}) for item in features]
    return {
        "features": [*drift.ranked(features), *_unmeasured(changed, reference.features)],
        "watched": [*drift.ranked(watched), *_unseen(current, datasets, reference)],
        **{name: next(iter(part), None) for name, part in zip(list(parts)[2:], others, strict=True)},
        "drift_tests": drift.tests_summary(judged, found.policy),
    }


def _unmeasured(changes: Mapping[str, SchemaChange], reference: Profile) -> list[Drift]:
    return [schema.unmeasured(item, reference.columns[name].kind) for name, item in changes.items()]


def _unseen(current: Profile, datasets: Sequence[Dataset], reference: ModelProfile) -> list[Drift]:
    """That columns which are watched were not measured, and why."""
    changes = _unwatched(reference, datasets)
    kinds = {name: column.kind for name, column in reference.watched.columns.items()}
    note = "not measured: the profiles of its shards do not have it"
    left_out = [name for name in kinds if name not in current.columns and name not in changes]
    return [
        *_unmeasured(changes, reference.watched),
        *(Drift(column=name, kind=kinds[name], note=note) for name in left_out),
    ]


def _not_together(found: Findings, datasets: Sequence[Dataset], reference: ModelProfile) -> list[Drift]:
    """That the features together were not measured, and why."""
    if reference.multivariate is None:
        return []
    unfit = _unfit(reference.multivariate, compared(reference, found.schema_changes, datasets), datasets)
    why = unfit or "the profiles of its shards were made without the model"
    return [Drift(column=multivariate.ERROR, kind="numeric", note=f"not measured: {why}")]


def _unfit(together: Reconstruction, columns: Sequence[str], datasets: Sequence[Dataset]) -> str | None:
    schemas = (pa.schema([dataset.schema.field(name) for name in columns]) for dataset in datasets)
    return next((unfit for schema in schemas if (unfit := together.mismatch(schema)) is not None), None)


def _labels(
    found: Findings, datasets: Sequence[Dataset], reference: ModelProfile, contract: ModelContract
) -> list[Drift]:
    if reference.labels is None or unripe(found) is not None:
        return []
    batches = (batch for item in datasets for batch in item.batches(columns=[LABEL], batch_rows=BATCH_ROWS))
    return drift.measure(reference.labels, profile(labels(batches, contract), [LABEL]), found.policy)
