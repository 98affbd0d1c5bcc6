"""Cache support of the stage ``score``, see :mod:`airflow_mlops.stages.cache`.

Each prediction contains its time, so scoring again writes a different dataset. Cached predictions are returned only if
they are still the current predictions of their version, and if no newer predictions overlap their window.
"""

from __future__ import annotations

from typing import Any

from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset, in_slots, open_dataset
from airflow_mlops.data.predictions import log as predictions
from airflow_mlops.data.predictions.privacy import Privacy
from airflow_mlops.data.selection import contents, select
from airflow_mlops.overview import index
from airflow_mlops.registry.integrity import download_promoted, require_promoted
from airflow_mlops.registry.reader import connect_to_read
from airflow_mlops.registry.versions import CHAMPION
from airflow_mlops.stages import cached_versions
from airflow_mlops.stages.cache import point_to, require_unpurged, verified
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score.spec import ScoreResult, ScoreSpec
from airflow_mlops.stages.score.step import version_of
from airflow_mlops.stages.score.windows import window_of_predictions


def inputs(spec: ScoreSpec, context: StepContext) -> dict[str, Any]:
    """Return the inputs of the scoring: the rows, the version to score with, the id of the key for hashes, and the DAG.

    :raises NotCacheableError: the rows are divided into shards or were purged; the predictions are written to a table
        or have no window; there is no version to score with; or TrainOperator did not train the version
    """
    if spec.shards is not None:
        raise NotCacheableError("scoring in shards is not cached")
    if spec.write_to is not None:
        raise NotCacheableError("the predictions are written to a table, which others may change")
    datasets, _ = _rows(spec, context)
    require_unpurged(datasets)
    client = connect_to_read(spec.mlflow, context.connection)
    version = version_of(spec, client)
    if version is None:
        raise NotCacheableError("there is no version to score with")
    # As in the step, a person may name any version. The champion needs a signed promotion if signatures are required.
    if spec.version is None and spec.alias in (None, CHAMPION):
        require_promoted(context.store, version)
    folder = download_promoted(client, context.store, version)
    cached_versions.contract_of(version, folder)
    return {
        "spec": spec.model_dump(mode="json", exclude={"dataset"}),
        "datasets": contents(datasets),
        "version": cached_versions.content(version, folder),
        "privacy": Privacy.of(spec.hash_columns, spec.drop_columns, spec.hash_conn_id, context.connection).details,
        # The index names the DAG that wrote the predictions.
        "dag": context.provenance.dag_id,
    }


def _rows(spec: ScoreSpec, context: StepContext) -> tuple[list[Dataset], Window]:
    datasets = select(context.store, spec.dataset, kept=context.kept)
    window = window_of_predictions(spec, datasets)
    if window is None:
        raise NotCacheableError("the predictions have no window")
    return datasets, window


def artifacts(result: ScoreResult, spec: ScoreSpec, context: StepContext) -> dict[str, str]:
    """Check the files of the predictions against their hashes, and return the name and id of the dataset.

    :raises NotCacheableError: the predictions were replaced, newer predictions overlap their window, or a new scoring
        would use another version
    :raises MLOpsError: the predictions were purged or changed
    """
    if result.dataset is None or result.scored_by is None:
        raise NotCacheableError("no predictions were written")
    # The champion may have changed after the inputs were read, and may have changed back.
    if result.scored_by != version_of(spec, connect_to_read(spec.mlflow, context.connection)):
        raise NotCacheableError(f"scoring again would use a version other than {result.scored_by}")
    found = verified(context.store, result.dataset)
    manifest = open_dataset(context.store, result.dataset).manifest
    current = in_slots(context.store, manifest.name, manifest.window)
    own = current.get(_slot(result.scored_by, spec, context))
    if own is None or own.id != manifest.id:
        raise NotCacheableError("its predictions were replaced")
    # Pages and the index show the newest predictions of a window.
    if newer := next((item for item in current.values() if item.created > manifest.created), None):
        raise NotCacheableError(f"v{newer.details.get('model_version')} has predicted rows of the window since")
    return found


def _slot(version: ModelVersionRef, spec: ScoreSpec, context: StepContext) -> str:
    datasets, window = _rows(spec, context)
    return predictions.slot(version, window, datasets, spec.part)


def replay(result: ScoreResult, spec: ScoreSpec, context: StepContext) -> None:
    """Claim the predictions for the task, make them the current ones of their window, and update the index.

    :raises SpecError: another task of the DAG run scores other rows of the window
    """
    assert result.dataset is not None  # artifacts() requires it
    assert result.scored_by is not None
    store, name = context.store, result.dataset.name
    slot = _slot(result.scored_by, spec, context)
    predictions.claim(store, name, slot, _rows(spec, context)[0], spec.part, context.provenance)
    point_to(store, result.dataset, [slot])
    if not spec.shadow:
        index.update(store, spec.model, "scoring", name)
