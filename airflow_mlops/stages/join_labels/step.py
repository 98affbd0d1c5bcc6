"""Join labels to predictions that were made before the labels were known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import DatasetNotFoundError, SchemaError, SpecError
from airflow_mlops.core.numbers import percent
from airflow_mlops.data.columns import kept_apart
from airflow_mlops.data.datasets import TIMESTAMP_IS_DATE, Dataset, DatasetWriter
from airflow_mlops.data.kept_selections import KeptSelections
from airflow_mlops.data.predictions import log as log
from airflow_mlops.data.selection import coverage, require_given, select, window_of
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.presence import require_store_of
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import on_executors, shards
from airflow_mlops.stages.join_labels.counts import Counts, check, total
from airflow_mlops.stages.join_labels.hashing import pseudonymizers
from airflow_mlops.stages.join_labels.joining import Join
from airflow_mlops.stages.join_labels.spec import JoinLabelsResult, JoinLabelsSpec
from airflow_mlops.stages.shards import for_newer_round, with_rows

_ATTRIBUTIONS = ("attribution_scale", "attribution_method")
_QUARANTINED = ("quarantined", "quarantined_estimated")


def run(spec: JoinLabelsSpec, context: StepContext) -> JoinLabelsResult:
    """Write a copy of the predictions with the column ``label``. The label is null while it is not known.

    If the parameter ``labels_timestamp`` names a column of times, the copy also has the column ``label_at`` with the
    time at which each label became known.

    With ``shards``, look up the labels of one shard of the predictions. The task that finishes the last missing shard
    checks the counts of all shards and writes the dataset, with the same id as in a single pass. All other tasks return a
    result without a dataset. See :mod:`airflow_mlops.stages.shards`.

    If there are executors and ``shards`` is not set, the executors look up the labels. This process then checks the
    counts and writes the dataset, with the same id as in a single pass.

    :raises DatasetNotFoundError: there is no dataset of predictions or no dataset of labels, and ``on_missing`` is
        ``fail`` or the dataset was given by reference
    :raises StoreError: a dataset is missing, and the store does not have the ledger of the model, for example because its
        file system is not mounted
    :raises SchemaError: a dataset has no predictions; a column is absent; key columns have incomparable types; a prediction
        has several labels, and no column decides which label is valid; or more predictions lack a label only because of
        the form of their keys (:mod:`~airflow_mlops.stages.join_labels.near_misses`) than match a row of the labels
    :raises SpecError: scoring hashed a key column, and ``hash_conn_id`` is not set or has a different secret key; or
        predictions of a shadow or a canary would be mixed with those of the champion
    :raises DatasetCorruptError: the files of another shard were deleted or changed before they became a dataset
    """
    shard = shards.join(spec, context) if spec.shards is not None else None
    kept = shard.kept if shard else context.kept
    found, missing = None, ""
    try:
        found = _selected(spec, context, kept)
    except DatasetNotFoundError as error:
        if spec.on_missing == "fail":
            raise
        _require_store(spec, context)
        missing = str(error)
    if shard is not None and spec.on_missing == "skip":
        missing = shard.claim("missing", lambda: missing)
    if missing:
        return JoinLabelsResult(dataset=None, summary=f"No labels were joined. {missing}")
    # If the first shard has found the datasets, this shard now finds them as well.
    predictions, labels = found or _selected(spec, context, kept)
    _require_predictions(predictions)
    _keep_apart(predictions, spec)
    join = Join(predictions, labels, spec, pseudonymizers(predictions, spec, context))
    window = window_of(predictions)
    writer = partial(DatasetWriter, context.store, spec.name, log.folder(window))
    if shard is None:
        if context.executors is None:
            with writer() as opened:
                result = _commit(opened, join, [join.write(opened)], context)
        else:
            result = _commit_pieces(writer, join, on_executors.pieces(join, log.folder(window), context), context)
        context.processed(result.rows)
        return result
    piece = join.one_shard(shard, writer)
    if not shard.is_newest:
        context.progress(
            "Another shard was cleared, so all shards select the datasets again. This shard is joined again."
        )
        return run(for_newer_round(spec), context)
    context.processed(piece.counts.rows)
    pieces = shard.pieces_to_commit()
    if pieces is None:
        return JoinLabelsResult(
            dataset=None,
            **_numbers(piece.counts),
            shard=shard.shard,
            summary=f"Looked up the labels of {counted(piece.counts.rows, 'prediction')}"
            f"{f' of {window.label}' if window else ''}, shard {shard.shard} of {shard.shards}; the last shard writes the "
            "dataset.",
        )
    result = _commit_pieces(writer, join, pieces, context)
    return result.model_copy(update={"shard": shard.shard})


def _require_store(spec: JoinLabelsSpec, context: StepContext) -> None:
    """Check that missing datasets are not due to a store that is not mounted."""
    for chosen in (spec.predictions, spec.labels):
        require_given(context.store, chosen)
    if spec.model is not None and spec.mlflow is not None:
        require_store_of(connect(spec.mlflow, context.connection), context.store, spec.model)


def _selected(
    spec: JoinLabelsSpec, context: StepContext, kept: KeptSelections | None
) -> tuple[list[Dataset], list[Dataset]]:
    return select(context.store, spec.predictions, kept=kept), select(context.store, spec.labels, kept=kept)


def _commit_pieces(
    writer: Callable[[], DatasetWriter], join: Join, pieces: Sequence[shards.Piece], context: StepContext
) -> JoinLabelsResult:
    with writer() as opened:
        for piece in with_rows(pieces):
            opened.include(piece.written)
        return _commit(opened, join, [piece.counts for piece in pieces], context)


def _commit(writer: DatasetWriter, join: Join, counts: list[Counts], context: StepContext) -> JoinLabelsResult:
    """Check the counts of all predictions, and commit the dataset.

    :param counts: the counts of each shard, or of a single pass
    :raises SchemaError: see :func:`check`
    """
    spec, predictions, labels = join.spec, join.predictions, join.labels
    name, window = labels[0].manifest.name, window_of(predictions)
    note = check(counts, spec, name)
    found = total(counts)
    numbers = _numbers(found)
    share = numbers["coverage"]
    manifest, _ = writer.commit(
        window=window,
        description=f"{predictions[0].manifest.name} with {spec.label.name} from {name}",
        source={"predictions": predictions[0].manifest.name, "labels": name},
        parents=[dataset.ref for dataset in (*predictions, *labels)],
        details={
            **_without(predictions, spec.sample_weight),
            "label": spec.label.name,
            "label_expression": spec.label.expression,
            "labelled": found.labelled,
            "coverage": share,
            **coverage(predictions),
            **_versions(predictions),
            **log.sampled((dataset.manifest.details, dataset.rows) for dataset in predictions),
            **({"repeated": found.repeated} if found.repeated else {}),
        },
        provenance=context.provenance,
        check=context.require_unfinished,
        slots=slots(predictions),
    )
    return JoinLabelsResult(
        dataset=manifest.ref,
        **numbers,
        summary=f"{found.labelled:,} of {found.rows:,} predictions{f' of {window.label}' if window else ''} have a label"
        f"{f' ({percent(share)})' if share is not None else ''}."
        + (f" Several rows of {name} match {counted(found.repeated, 'prediction')}." if found.repeated else "")
        + (f" {note}" if note else ""),
    )


def _numbers(counts: Counts) -> dict[str, Any]:
    share = counts.labelled / counts.rows if counts.rows else None
    return {"rows": counts.rows, "labelled": counts.labelled, "coverage": share, "repeated": counts.repeated}


def slots(predictions: Sequence[Dataset]) -> list[str]:
    """Return the names of the slots for the labelled predictions: the ids of the datasets that were read whole."""
    return [dataset.manifest.id for dataset in predictions if dataset.window == dataset.manifest.window]


def _require_predictions(predictions: Sequence[Dataset]) -> None:
    """Check that all rows are predictions. A column `score` alone is not enough: other data may have scores, too.

    :raises SchemaError: a dataset has no predictions
    """
    for manifest in (dataset.manifest for dataset in predictions):
        if not manifest.details.get("model") or "score" not in manifest.column_names:
            raise SchemaError(
                f"Dataset {manifest.name!r} has no predictions of a model, so no labels can be joined to it. Set `predictions` to the "
                "output of ScoreOperator, or to predictions that an endpoint logged."
            )


def _keep_apart(predictions: Sequence[Dataset], spec: JoinLabelsSpec) -> None:
    """Check that labelled predictions of a shadow or a canary are not mixed with those of the champion.

    :raises SpecError: the joined dataset would have the name of the champion's labelled predictions, or the predictions
        are of several kinds
    """
    found = {kept_apart(dataset.manifest.details): dataset.manifest for dataset in predictions}
    kind = next((kind for kind in found if kind is not None), None)
    if kind is None:
        return
    manifest = found[kind]
    model = manifest.details["model"]
    if len(found) > 1:
        raise SpecError(
            f"Dataset {manifest.name!r} has {kind} predictions, but other datasets of predictions are of another kind. Join "
            "labels to each kind in a separate task."
        )
    if spec.name == f"{model}_outcomes":
        raise SpecError(
            f"Dataset {manifest.name!r} has {kind} predictions, but `name` is {spec.name!r}, the dataset of the champion's "
            f"labelled predictions. Set `name` to another name, such as {model}_{kind}_outcomes."
        )


def _without(predictions: Sequence[Dataset], replaced: str | None) -> dict[str, Any]:
    """Return the details of predictions that apply to the joined dataset.

    The name of a replaced column is left out of the hashed and dropped columns. The number of quarantined rows is left
    out, because :func:`coverage` sums it over all predictions. Event times count as dates only if they are dates in all
    predictions. Datasets without rows, such as the windows in which a server got no requests, do not count.
    """
    predictions = [dataset for dataset in predictions if dataset.rows] or predictions
    details = dict(predictions[-1].manifest.details)
    if not all(dataset.manifest.details.get(TIMESTAMP_IS_DATE) for dataset in predictions):
        details.pop(TIMESTAMP_IS_DATE, None)
    kept: dict[str, Any] = {
        key: [name for name in details[key] if name != replaced] for key in ("hashed", "dropped") if key in details
    }
    kept |= _attributions(predictions)
    return {**{key: value for key, value in details.items() if key not in _QUARANTINED}, **kept}


def _attributions(predictions: Sequence[Dataset]) -> dict[str, str]:
    """Return the method and the scale of the attributions of the last version; empty without attributions.

    Only some of its predictions may have attributions. If the datasets have different methods or scales, all are named.
    """
    version = predictions[-1].manifest.details.get("model_version")
    known = [item.manifest.details for item in predictions if item.manifest.details.get("model_version") == version]
    found = {key: {details[key]: None for details in known if key in details} for key in _ATTRIBUTIONS}
    return {key: " and ".join(names) for key, names in found.items() if names}


def _versions(predictions: Sequence[Dataset]) -> dict[str, dict[str, int]]:
    """Return the number of predictions of each model version. If the version of a dataset is unknown, return ``{}``."""
    counts: Counter[str] = Counter()
    for dataset in predictions:
        details = dataset.manifest.details
        counts.update(details.get("model_versions") or {str(details.get("model_version")): dataset.rows})
    return {"model_versions": dict(counts)} if "None" not in counts else {}
