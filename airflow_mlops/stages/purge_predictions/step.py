"""Delete the files of old predictions, and of the datasets that were made from them.

These are labelled predictions, live evidence and the differences that CompareFeaturesOperator found.

The manifests of the datasets are kept. A manifest is marked as purged before its files are deleted. If a purge crashes
between the two steps, reading the dataset raises an error, and the next purge deletes the remaining files.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError
from airflow_mlops.data.datasets import Manifest, mark_purged, read_manifests
from airflow_mlops.data.leftovers import delete_files, older_than, orphans
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.purge_predictions.spec import PurgePredictionsResult, PurgePredictionsSpec

# Files are written before their manifest, so a new file that no manifest lists may belong to a running task.
_ORPHAN_AGE = timedelta(days=1)


def run(spec: PurgePredictionsSpec, context: StepContext) -> PurgePredictionsResult:
    """Delete the predictions that are now older than ``older_than``, and the labelled predictions joined from them.

    :raises SpecError: see :func:`purge`
    """
    return purge(spec, context.store, datetime.now(timezone.utc))


def purge(spec: PurgePredictionsSpec, store: ArtifactStore, now: datetime) -> PurgePredictionsResult:
    """Delete the predictions that are older than ``older_than`` at the time ``now``.

    With the predictions, these are deleted: the labelled predictions that were joined from them, the rows of live
    evidence that were made from these labelled predictions, and the differences of features that were found in the
    predictions. Orphaned files and claims of scoring tasks are deleted if they are more than a day old.

    :raises SpecError: a dataset named by ``predictions`` or ``outcomes`` does not contain predictions or labelled
        predictions
    """
    names = [
        spec.predictions or f"{spec.model}_predictions",
        spec.outcomes or f"{spec.model}_outcomes",
        f"{spec.model}_evidence",
        f"{spec.model}_feature_differences",
    ]
    # Files are listed before manifests are read, so a file that is committed in between is not treated as orphaned.
    keys = [key for name in names for key in store.find(f"datasets/{name}/files")]
    predictions, outcomes, evidence, differences = (list(read_manifests(store, name)) for name in names)
    _require_kind(predictions, spec.model, "predictions", "model_version")
    _require_kind(outcomes, spec.model, "labelled predictions", "label")
    listed = {file.path for manifest in (*predictions, *outcomes, *evidence, *differences) for file in manifest.files}

    before = now - spec.older_than
    own = [manifest for manifest in predictions if manifest.details["model"] == spec.model]
    old = [manifest for manifest in own if manifest.purged is None and _since(manifest) < before]
    purged_ids = {manifest.id for manifest in own if manifest.purged} | {manifest.id for manifest in old}
    # Labelled predictions may be joined from several datasets. They are deleted when the first of these is deleted.
    joined = [manifest for manifest in outcomes if purged_ids.intersection(manifest.parents)]
    joined_ids = {manifest.id for manifest in joined}
    joined += [manifest for manifest in evidence if joined_ids.intersection(manifest.parents)]
    joined += [manifest for manifest in differences if purged_ids.intersection(manifest.parents)]
    old_outcomes = [manifest for manifest in joined if manifest.purged is None]
    if not spec.dry_run:
        for manifest in (*old_outcomes, *old):
            mark_purged(store, manifest, now)

    purged = [*joined, *(manifest for manifest in own if manifest.id in purged_ids)]
    purged_files = {file.path for manifest in purged for file in manifest.files}
    orphaned = set(orphans(store, keys, listed, now - _ORPHAN_AGE))
    files = [key for key in keys if key in purged_files or key in orphaned]
    size = delete_files(store, files, dry_run=spec.dry_run)
    claims = store.keys(f"datasets/{names[0]}/claims")
    delete_files(store, [key for key in claims if older_than(store, key, now - _ORPHAN_AGE)], dry_run=spec.dry_run)
    return PurgePredictionsResult(
        before=before,
        predictions=len(old),
        outcomes=len(old_outcomes),
        rows=sum(manifest.rows for manifest in (*old, *old_outcomes)),
        files=len(files),
        bytes=size,
        orphans=len(orphaned),
        summary=f"{'Would delete' if spec.dry_run else 'Deleted'} {counted(len(old), 'dataset')} of predictions of {spec.model} older than "
        f"{before:%Y-%m-%d %H:%M} UTC and {counted(len(old_outcomes), 'dataset')} of labelled predictions "
        f"({counted(len(files), 'file')}, {size / 1e6:,.1f} MB, including {counted(len(orphaned), 'orphaned file')}).",
    )


def _require_kind(found: Iterable[Manifest], model: str, what: str, detail: str) -> None:
    """Check that all datasets contain the expected kind of rows, so that no other data is deleted.

    :param found: manifests of the datasets
    :param what: name of the expected kind of rows, for the error message
    :param detail: a key that only manifests of this kind have in ``details``
    :raises SpecError: a manifest has no such key
    """
    for manifest in found:
        if not {"model", detail} <= manifest.details.keys():
            raise SpecError(
                f"Dataset {manifest.name!r} ({manifest.id[:12]}) does not contain {what} of a model, so nothing was "
                f"deleted for model {model!r}. Set `predictions` to the `name` of ScoreOperator, and `outcomes` to the "
                "`name` of JoinLabelsOperator."
            )


def _since(manifest: Manifest) -> datetime:
    """Return the time from which the age of predictions is counted: the later of window end and creation."""
    return max(manifest.created, manifest.window.end) if manifest.window else manifest.created
