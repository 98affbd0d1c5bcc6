"""Retention: the rows of old predictions go, and those of what was joined from them; their manifests stay.

A manifest is marked first, and its files are deleted then. A run that dies in between leaves datasets that nobody reads any
more, and the next one deletes the rest of their files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone

from airflow_mlops.core.errors import SpecError
from airflow_mlops.data.datasets import Manifest, mark_purged, read_manifests
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.purge_predictions.spec import PurgePredictionsResult, PurgePredictionsSpec

# A file is written before its manifest, so a young one may still get its own.
_ORPHAN_AGE = timedelta(days=1)


def run(spec: PurgePredictionsSpec, context: StepContext) -> PurgePredictionsResult:
    """Delete what is older than the spec says."""
    return purge(spec, context.store, datetime.now(timezone.utc))


def purge(spec: PurgePredictionsSpec, store: ArtifactStore, now: datetime) -> PurgePredictionsResult:
    """Delete what is older than the spec says at the time ``now``.

    :raises SpecError: a dataset that it names holds something else
    """
    names = [spec.predictions or f"{spec.model}_predictions", spec.outcomes or f"{spec.model}_outcomes"]
    # Before the manifests: what is committed meanwhile is then neither deleted nor taken for an orphan.
    keys = [key for name in names for key in store.find(f"datasets/{name}/files")]
    predictions, outcomes = (list(read_manifests(store, name)) for name in names)
    _require(predictions, spec.model, "predictions", "model_version")
    _require(outcomes, spec.model, "predictions with labels", "label")
    named = {file.path for manifest in (*predictions, *outcomes) for file in manifest.files}

    before = now - spec.older_than
    own = [manifest for manifest in predictions if manifest.details["model"] == spec.model]
    old = [manifest for manifest in own if manifest.purged is None and _since(manifest) < before]
    gone = {manifest.id for manifest in own if manifest.purged} | {manifest.id for manifest in old}
    # They hold the same rows, so they go with the first of their predictions.
    joined = [manifest for manifest in outcomes if gone.intersection(manifest.parents)]
    theirs = [manifest for manifest in joined if manifest.purged is None]
    if not spec.dry_run:
        for manifest in (*theirs, *old):
            mark_purged(store, manifest, now)

    purged = [*joined, *(manifest for manifest in own if manifest.id in gone)]
    doomed = {file.path for manifest in purged for file in manifest.files}
    orphans = {key for key in keys if key not in named and _older(store, key, now - _ORPHAN_AGE)}
    files = [key for key in keys if key in doomed or key in orphans]
    size = _delete(store, files, dry_run=spec.dry_run)
    claims = store.keys(f"datasets/{names[0]}/claims")
    _delete(store, [key for key in claims if _older(store, key, now - _ORPHAN_AGE)], dry_run=spec.dry_run)
    return PurgePredictionsResult(
        before=before,
        predictions=len(old),
        outcomes=len(theirs),
        rows=sum(manifest.rows for manifest in (*old, *theirs)),
        files=len(files),
        bytes=size,
        orphans=len(orphans),
        summary=f"{'Would delete' if spec.dry_run else 'Deleted'} the rows of {len(old):,} datasets of predictions of "
        f"{spec.model} that are older than {before:%Y-%m-%d %H:%M} UTC, and of {len(theirs):,} joined from such ones: "
        f"{len(files):,} files ({size / 1e6:,.1f} MB), {len(orphans):,} of them named by no manifest.",
    )


def _require(found: Iterable[Manifest], model: str, what: str, detail: str) -> None:
    """:raises SpecError: one of the datasets is not of the kind that may be purged"""
    for manifest in found:
        if not {"model", detail} <= manifest.details.keys():
            raise SpecError(
                f"Dataset {manifest.name} ({manifest.id[:12]}) does not hold {what} of {model}, and nothing was deleted: "
                "give the names that ScoreOperator and JoinLabelsOperator were given."
            )


def _since(manifest: Manifest) -> datetime:
    """What the age of predictions counts from."""
    return max(manifest.created, manifest.window.end) if manifest.window else manifest.created


def _older(store: ArtifactStore, key: str, than: datetime) -> bool:
    written = store.modified(key)
    return written is not None and written < than


def _delete(store: ArtifactStore, keys: Sequence[str], *, dry_run: bool) -> int:
    """Delete files, or do not, and say how many bytes they have."""
    size = 0
    for key in keys:
        size += int((store.info(key) or {}).get("size") or 0)
        if not dry_run:
            store.delete(key)
    return size
