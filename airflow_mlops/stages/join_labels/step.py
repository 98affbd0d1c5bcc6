"""Join labels to predictions that were made before the labels were known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import DatasetNotFoundError, SchemaError, SpecError, named
from airflow_mlops.data import prediction_log as log
from airflow_mlops.data import relational
from airflow_mlops.data.columns import LABEL, LABEL_AT, kept_apart
from airflow_mlops.data.datasets import TIMESTAMP_IS_DATE, Dataset, DatasetWriter
from airflow_mlops.data.moments import UTC
from airflow_mlops.data.privacy import Pseudonymizer
from airflow_mlops.data.selection import coverage, select, window_of
from airflow_mlops.data.types import common_schema, conformed
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import near_misses
from airflow_mlops.stages.join_labels.lookup import Tally, look_up
from airflow_mlops.stages.join_labels.sources import Labels, Predictions, sources
from airflow_mlops.stages.join_labels.spec import JoinLabelsResult, JoinLabelsSpec

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from numpy.typing import NDArray


_QUARANTINED = ("quarantined", "quarantined_estimated")


def run(spec: JoinLabelsSpec, context: StepContext) -> JoinLabelsResult:
    """Write a copy of the predictions with the column ``label``. The label is null while it is not known.

    If the parameter ``labels_timestamp`` names a column of times, the copy also has the column ``label_at`` with the
    time at which each label became known.

    :raises DatasetNotFoundError: there is no dataset of predictions or no dataset of labels, and ``on_missing`` is
        ``fail``
    :raises SchemaError: a column is absent; key columns have incomparable types; a prediction has several labels, and
        no column decides which label is valid; or more predictions lack a label only because of the form of their keys
        (:mod:`~airflow_mlops.stages.join_labels.near_misses`) than have a label
    :raises SpecError: scoring hashed a key column, and ``hash_conn_id`` is not set or has a different secret key; or
        predictions of a shadow or a canary would be mixed with those of the champion
    """
    try:
        predictions = select(context.store, spec.predictions, kept=context.kept)
        labels = select(context.store, spec.labels, kept=context.kept)
    except DatasetNotFoundError as error:
        if spec.on_missing == "skip":
            return JoinLabelsResult(dataset=None, summary=f"No labels were joined. {error}")
        raise
    _keep_apart(predictions, spec)
    hashed = pseudonymizers(predictions, spec, context)
    keys, rows_of_labels = sources(predictions, labels, spec, hashed)
    tally, window = Tally(), window_of(predictions)
    with (
        relational.connect() as connection,
        DatasetWriter(context.store, spec.name, log.folder(window)) as writer,
    ):
        found = look_up(connection, keys, rows_of_labels, tally)
        for batch in _with_labels(predictions, found, _empty(rows_of_labels), spec.sample_weight):
            if not tally.contradicted:
                writer.write(batch)
        note = _check(connection, keys, rows_of_labels, tally, spec, hashed)
        rows, labelled, repeated = tally.rows, tally.labelled, tally.repeated
        share = labelled / rows if rows else None
        manifest, _ = writer.commit(
            window=window,
            description=f"{predictions[0].manifest.name} with {spec.label.name} from {labels[0].manifest.name}",
            source={"predictions": predictions[0].manifest.name, "labels": labels[0].manifest.name},
            parents=[dataset.ref for dataset in (*predictions, *labels)],
            details={
                **_without(predictions, spec.sample_weight),
                "label": spec.label.name,
                "label_expression": spec.label.expression,
                "labelled": labelled,
                "coverage": share,
                **coverage(predictions),
                **_versions(predictions),
                **log.sampled((dataset.manifest.details, dataset.rows) for dataset in predictions),
                **({"repeated": repeated} if repeated else {}),
            },
            provenance=context.provenance,
            slots=slots(predictions),
        )
    context.processed(rows)
    return JoinLabelsResult(
        dataset=manifest.ref,
        rows=rows,
        labelled=labelled,
        coverage=share,
        repeated=repeated,
        summary=f"{labelled:,} of {rows:,} predictions{f' of {window.label}' if window else ''} have a label"
        f"{f' ({share:.1%})' if share is not None else ''}."
        + (f" Several rows of {labels[0].manifest.name} match {counted(repeated, 'prediction')}." if repeated else "")
        + (f" {note}" if note else ""),
    )


def slots(predictions: Sequence[Dataset]) -> list[str]:
    """Return the names of the slots that point at the labelled predictions: the ids of the datasets that were read whole."""
    return [dataset.manifest.id for dataset in predictions if dataset.window == dataset.manifest.window]


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
            f"Dataset {manifest.name!r} has {kind} predictions and other datasets have others. Join labels to them in "
            "separate tasks."
        )
    if spec.name == f"{model}_outcomes":
        raise SpecError(
            f"Dataset {manifest.name!r} has {kind} predictions, and {spec.name!r} has the labelled predictions of the "
            f"champion. Set `name` to another name, such as {model}_{kind}_outcomes."
        )


def _without(predictions: Sequence[Dataset], replaced: str | None) -> dict[str, Any]:
    """Return the details of predictions that apply to the joined dataset.

    The name of a replaced column is left out of the hashed and dropped columns. The number of quarantined rows is left
    out, because :func:`coverage` sums it over all predictions. Event times are dates if they are in all predictions.
    """
    details = dict(predictions[-1].manifest.details)
    if not all(dataset.manifest.details.get(TIMESTAMP_IS_DATE) for dataset in predictions):
        details.pop(TIMESTAMP_IS_DATE, None)
    kept: dict[str, Any] = {
        key: [name for name in details[key] if name != replaced] for key in ("hashed", "dropped") if key in details
    }
    return {**{key: value for key, value in details.items() if key not in _QUARANTINED}, **kept}


def _with_labels(
    predictions: Sequence[Dataset], found: Iterator[pa.Table], empty: pa.Table, replaced: str | None
) -> Iterator[pa.RecordBatch]:
    """Append the labels to the predictions.

    :param found: the columns of the labels, for consecutive predictions
    :param empty: the same columns without rows
    :param replaced: column of the predictions that the labels replace; ``None`` if they replace none
    """
    name = predictions[0].manifest.name
    what = f"The windows of dataset {name!r}"
    fields = ([field for field in dataset.schema if field.name != replaced] for dataset in predictions)
    schema = common_schema(map(pa.schema, fields), what, "Score the windows again.")
    none = _append(pa.RecordBatch.from_pylist([], schema=schema), empty)
    rest, rows = empty, 0
    for dataset in predictions:
        for batch in dataset.batches(columns=[name for name in dataset.schema.names if name != replaced]):
            while rest.num_rows < batch.num_rows:
                rest = pa.concat_tables([rest, next(found)])
            yield _append(conformed(batch, schema, what), rest.slice(0, batch.num_rows).combine_chunks())
            rest = rest.slice(batch.num_rows)
            rows += batch.num_rows
    for _ in found:
        raise AssertionError("The join of labels returned more rows than there are predictions.")
    if not rows:
        yield none


def _empty(labels: Labels) -> pa.Table:
    has_times = labels.by_time is not None and labels.by_time.is_time
    weight = [labels.weight] if labels.weight else []
    return pa.schema([(LABEL, labels.kind), *weight, *([(LABEL_AT, UTC)] if has_times else [])]).empty_table()


def _versions(predictions: Sequence[Dataset]) -> dict[str, dict[str, int]]:
    """Return the number of predictions of each model version. If the version of a dataset is unknown, return ``{}``."""
    counts: Counter[str] = Counter()
    for dataset in predictions:
        details = dataset.manifest.details
        counts.update(details.get("model_versions") or {str(details.get("model_version")): dataset.rows})
    return {"model_versions": dict(counts)} if "None" not in counts else {}


def _append(batch: pa.RecordBatch, added: pa.Table) -> pa.RecordBatch:
    for name in added.column_names:
        if name in batch.schema.names:
            raise SchemaError(
                f"The predictions already have a column {name!r}, but joining labels adds a column with this name. "
                "Rename the column before scoring."
            )
    arrays = [column.combine_chunks() for column in added.columns]
    return pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=pa.schema([*batch.schema, *added.schema]))


def pseudonymizers(
    predictions: Sequence[Dataset], spec: JoinLabelsSpec, context: StepContext
) -> dict[str, Pseudonymizer]:
    """Return the pseudonymizer for each column of ``on`` that scoring hashed, by name of the column.

    :raises SchemaError: scoring dropped a column of ``on``, or hashed it only in some windows
    :raises SpecError: ``hash_conn_id`` is not set, or the secret key of the connection differs from the key that
        scoring used
    """
    details = [dataset.manifest.details for dataset in predictions]
    name = predictions[0].manifest.name
    if dropped := [key for key in spec.on if any(key in item.get("dropped", ()) for item in details)]:
        raise SchemaError(
            f"Dataset {name!r} has no {named('column', dropped)}, because scoring has "
            "`drop_columns`. Use `hash_columns` for scoring instead, or set `on` to columns that exist."
        )
    hashed = [key for key in spec.on if any(key in item.get("hashed", ()) for item in details)]
    if not hashed:
        return {}
    if not all(key in item.get("hashed", ()) for key in hashed for item in details):
        raise SchemaError(
            f"In dataset {name!r}, scoring hashed the {named('column', hashed)} in some windows but not in "
            "others. Join labels to these windows in separate tasks."
        )
    if spec.hash_conn_id is None:
        raise SpecError(
            f"In dataset {name!r}, scoring hashed the {named('column', hashed)}. "
            "Set `hash_conn_id` to the connection whose password scoring used as the secret key."
        )
    pseudonymizer = Pseudonymizer.from_connection(context.connection(spec.hash_conn_id))
    if any(item["hash_key_id"] != pseudonymizer.key_id for item in details):
        raise SpecError(
            f"Dataset {name!r} was hashed with a secret key different from the password of connection "
            f"{spec.hash_conn_id!r}, so no label would match. Set `hash_conn_id` to the connection whose password "
            "scoring used as the secret key."
        )
    return dict.fromkeys(hashed, pseudonymizer)


def _check(
    connection: DuckDBPyConnection,
    predictions: Predictions,
    labels: Labels,
    tally: Tally,
    spec: JoinLabelsSpec,
    hashed: dict[str, Pseudonymizer],
) -> str:
    """Check the result of the join.

    :return: a sentence that explains why predictions have no label; empty if no explanation was found
    :raises SchemaError: key columns have incomparable types or are written in different forms, a label is infinite, or
        a prediction has several labels or weights and no column says which of them is valid
    """
    name = labels.name
    for key in labels.keys:
        key.check()
    if tally.contradicted:
        raise _ambiguous(_distinct(predictions, np.concatenate(tally.contradicted)), name, spec)
    if tally.infinite:
        raise SchemaError(
            f"Label {spec.label.name!r} of dataset {name} is infinite for {counted(tally.infinite, 'prediction')}. Correct the label, or "
            "make it null."
        )
    missed = None
    if tally.matched < tally.rows and labels.rows:
        missed = near_misses.find(
            connection, lambda: tally.unmatched(predictions.tables()), labels.tables, predictions.comparable, hashed
        )
    if missed is not None and missed.rows > tally.matched:
        raise SchemaError(missed.explain(tally.rows, name))
    if missed is not None:
        return missed.note(name)
    if not tally.rows or tally.labelled:
        return ""
    if tally.matched:
        return f"{name} has rows for {counted(tally.matched, 'prediction')}, but the labels in these rows are null."
    return f"{name} has no row for any of their keys, such as {_example(predictions.first)}."


def _distinct(predictions: Predictions, rows: NDArray[np.int64]) -> pa.Table:
    """Return the distinct keys of the predictions with the row numbers ``rows``, which are in ascending order."""
    found: list[pa.Table] = []
    for first, table in predictions.tables():
        here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + table.num_rows)] - first
        if not len(here):
            continue
        # Arrow reads a name that starts with a dot or a bracket as a path, so keys are grouped by their position.
        places = [str(place) for place in range(table.num_columns)]
        both = pa.concat_tables([*found, table.take(pa.array(here)).rename_columns(places)])
        found = [both.group_by(places, use_threads=False).aggregate([])]
    return found[0].rename_columns(predictions.comparable.names)


def _ambiguous(keys: pa.Table, name: str, spec: JoinLabelsSpec) -> SchemaError:
    """Create the error for predictions that match several different labels or weights.

    :param keys: the distinct keys of these predictions
    :param name: name of the dataset of labels
    """
    order = spec.labels_version or spec.labels_timestamp
    same = f" with the same {order!r}" if order else ""
    return SchemaError(
        f"Dataset {name!r} has more than one label{' or weight' if spec.sample_weight else ''}{same} for {keys.num_rows:,} keys of the predictions, for example "
        f"{_example({key: keys[key][0].as_py() for key in keys.column_names})}. Set `labels_version` to a column that grows with each correction of a label, or add key columns to "
        "`on`."
    )


def _example(values: dict[str, Any]) -> str:
    """Return the values of a key, such as ``carrier='UA', flight=1``."""
    return ", ".join(f"{key}={value if isinstance(value, date) else repr(value)}" for key, value in values.items())
