"""Joins labels to predictions that were made before the labels were known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import DatasetNotFoundError, SchemaError, SpecError
from airflow_mlops.data import expressions
from airflow_mlops.data import prediction_log as log
from airflow_mlops.data.columns import LABEL, LABEL_AT, kept_apart
from airflow_mlops.data.datasets import Dataset, DatasetWriter
from airflow_mlops.data.moments import as_utc, is_text, is_time, ranks
from airflow_mlops.data.privacy import Pseudonymizer
from airflow_mlops.data.selection import coverage, select, window_of
from airflow_mlops.data.types import as_numbers, as_stored, common_schema, concatenated, conformed
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import near_misses
from airflow_mlops.stages.join_labels.choice import Found
from airflow_mlops.stages.join_labels.keys import comparable
from airflow_mlops.stages.join_labels.spec import JoinLabelsResult, JoinLabelsSpec

_LABEL_ROW, _PREDICTION_ROW = "__label_row__", "__prediction_row__"


@dataclass(frozen=True)
class _Joined:
    """The labels of the predictions.

    :param columns: the column ``label`` and, if ``labels_timestamp`` contains times, the column ``label_at``, by name.
        They have one row per prediction, which is null for a prediction without a label
    :param repeated: number of predictions that match several rows of the labels
    :param note: sentence for the summary that says why predictions have no label; empty if nothing is known
    """

    columns: dict[str, pa.Array]
    repeated: int
    note: str


def run(spec: JoinLabelsSpec, context: StepContext) -> JoinLabelsResult:
    """Write a copy of the predictions with the column ``label``. The label is null while it is not known.

    If the parameter ``labels_timestamp`` names a column of times, the copy also has the column ``label_at`` with the
    time at which each label became known.

    :raises DatasetNotFoundError: there is no dataset of predictions or no dataset of labels, and ``on_missing`` is
        ``fail``
    :raises SchemaError: a column is absent, key columns have incomparable types, a prediction has several labels and no
        column says which label is valid, or more predictions miss a label because of the form of their keys than match
        one (:mod:`~airflow_mlops.stages.join_labels.near_misses`)
    :raises SpecError: scoring hashed a key column, and ``hash_conn_id`` is not set or has a different secret key; or
        shadow predictions would get among those of the champion
    """
    try:
        predictions = select(context.store, spec.predictions, kept=context.kept)
        labels = select(context.store, spec.labels, kept=context.kept)
    except DatasetNotFoundError as error:
        if spec.on_missing == "skip":
            return JoinLabelsResult(dataset=None, summary=f"No labels were joined. {error}")
        raise
    _keep_apart(predictions, spec)
    joined = _join(predictions, labels, spec, _pseudonymizers(predictions, spec, context))
    label, repeated = joined.columns[LABEL], joined.repeated
    rows, labelled = len(label), len(label) - label.null_count
    share = labelled / rows if rows else None
    window = window_of(predictions)
    with DatasetWriter(context.store, spec.name, log.folder(window)) as writer:
        for batch in _with_labels(predictions, joined.columns):
            writer.write(batch)
        manifest, _ = writer.commit(
            window=window,
            description=f"{predictions[0].manifest.name} with {spec.label.name} from {labels[0].manifest.name}",
            source={"predictions": predictions[0].manifest.name, "labels": labels[0].manifest.name},
            parents=[dataset.ref for dataset in (*predictions, *labels)],
            details={
                **predictions[-1].manifest.details,
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
            # For each dataset of predictions, its slot points at the current dataset with labels.
            slots=[dataset.manifest.id for dataset in predictions],
        )
    return JoinLabelsResult(
        dataset=manifest.ref,
        rows=rows,
        labelled=labelled,
        coverage=share,
        repeated=repeated,
        summary=f"{labelled:,} of {rows:,} predictions{f' of {window.label}' if window else ''} have a label"
        f"{f' ({share:.1%})' if share is not None else ''}."
        + (f" {repeated:,} predictions match several rows of {labels[0].manifest.name}." if repeated else "")
        + (f" {joined.note}" if joined.note else ""),
    )


def _keep_apart(predictions: Sequence[Dataset], spec: JoinLabelsSpec) -> None:
    """Check that labelled predictions of the shadow or the canary do not get among those of the champion.

    :raises SpecError: the name is that of the champion's labelled predictions, or the predictions are of both kinds
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


def _with_labels(predictions: Sequence[Dataset], added: dict[str, pa.Array]) -> Iterator[pa.RecordBatch]:
    done = 0
    name = predictions[0].manifest.name
    what = f"The windows of dataset {name!r}"
    schema = common_schema((dataset.schema for dataset in predictions), what, "Score the windows again.")
    for dataset in predictions:
        for batch in dataset.batches():
            batch = conformed(batch, schema, what)
            yield _append(batch, {name: values.slice(done, batch.num_rows) for name, values in added.items()})
            done += batch.num_rows
    if not done:
        yield _append(pa.RecordBatch.from_pylist([], schema=schema), added)


def _versions(predictions: Sequence[Dataset]) -> dict[str, dict[str, int]]:
    """Return the number of predictions by model version; empty if the model version of a dataset is not known."""
    counts: Counter[str] = Counter()
    for dataset in predictions:
        details = dataset.manifest.details
        counts.update(details.get("model_versions") or {str(details.get("model_version")): dataset.rows})
    return {"model_versions": dict(counts)} if "None" not in counts else {}


def _append(batch: pa.RecordBatch, added: dict[str, pa.Array]) -> pa.RecordBatch:
    for name in added:
        if name in batch.schema.names:
            raise SchemaError(
                f"The predictions already have a column {name!r}, but joining labels adds a column with this name. "
                "Rename the column before scoring."
            )
    fields = [*batch.schema, *(pa.field(name, values.type) for name, values in added.items())]
    return pa.RecordBatch.from_arrays([*batch.columns, *added.values()], schema=pa.schema(fields))


def _pseudonymizers(
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
            f"Dataset {name!r} has no column {', '.join(map(repr, dropped))}, because scoring dropped it "
            "(`drop_columns`). Let scoring hash the column instead (`hash_columns`), or set `on` to columns that exist."
        )
    hashed = [key for key in spec.on if any(key in item.get("hashed", ()) for item in details)]
    if not hashed:
        return {}
    if not all(key in item.get("hashed", ()) for key in hashed for item in details):
        raise SchemaError(
            f"In dataset {name!r}, the column {', '.join(map(repr, hashed))} is hashed in some windows but not in "
            "others. Join labels to these windows in separate tasks."
        )
    if spec.hash_conn_id is None:
        raise SpecError(
            f"In dataset {name!r}, scoring hashed the column {', '.join(map(repr, hashed))}. "
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


def _join(
    predictions: Sequence[Dataset],
    labels: Sequence[Dataset],
    spec: JoinLabelsSpec,
    pseudonymizers: dict[str, Pseudonymizer],
) -> _Joined:
    """Find the label of each prediction.

    :param pseudonymizers: pseudonymizer of each key column that scoring hashed, by name of the column
    :raises SchemaError: a column is absent, key columns have incomparable types or are written in different forms, or a
        prediction has several labels and no column says which label is valid
    """
    name = labels[0].manifest.name
    times_in_keys = [key for key in spec.on if key not in pseudonymizers and _holds_times(key, predictions, labels)]
    keys = list(dict.fromkeys(spec.on))
    left = _read(predictions, keys, keys, times_in_keys)
    right, values, times, order = _label_table(labels, spec, pseudonymizers, times_in_keys)
    left, right = comparable(left, right, name)
    pairs = _numbered(left, _PREDICTION_ROW).join(
        _numbered(right, _LABEL_ROW), keys=_places(left), join_type="left outer"
    )
    pairs = pairs.filter(pc.is_valid(pairs[_LABEL_ROW]))
    found = Found(pairs[_PREDICTION_ROW].to_numpy(), pairs[_LABEL_ROW].to_numpy(), left.num_rows)
    row, contradicted = found.choose(values, order)
    if len(contradicted):
        raise _ambiguous(left.take(pa.array(contradicted)), name, spec)
    missed = near_misses.find(left, right, found.matched, pseudonymizers)
    if missed is not None and missed.rows > found.matched.sum():
        raise SchemaError(missed.explain(left.num_rows, name))
    rows = pa.array(row, mask=row < 0)
    label = values.take(rows)
    note = missed.note(name) if missed is not None else _why_none(left, label, found, name)
    if times is None:
        return _Joined({LABEL: label}, found.repeated, note)
    known_since = pc.if_else(pc.is_null(label, nan_is_null=True), None, times.take(rows))
    return _Joined({LABEL: label, LABEL_AT: known_since}, found.repeated, note)


def _why_none(keys: pa.Table, label: pa.Array, found: Found, name: str) -> str:
    """Return why no prediction has a label, as a sentence; empty if a prediction has a label, or there are none.

    :param keys: the key columns of the predictions
    :param label: the label of each prediction
    :param name: name of the dataset of labels
    """
    if not len(label) or label.null_count < len(label):
        return ""
    if matched := int(found.matched.sum()):
        return f"{name} has rows for {matched:,} predictions, but their labels are null."
    return f"{name} has no row for any of their keys, such as {_example(keys)}."


def _places(table: pa.Table) -> list[str]:
    # Arrow reads a name that starts with a dot or a bracket as a path, so keys are joined by their position.
    return [str(place) for place in range(table.num_columns)]


def _numbered(keys: pa.Table, name: str) -> pa.Table:
    return keys.rename_columns(_places(keys)).append_column(name, pa.array(np.arange(keys.num_rows)))


def _read(datasets: Sequence[Dataset], columns: Sequence[str], keys: Sequence[str], times: Sequence[str]) -> pa.Table:
    """Read columns of several windows of a dataset as one table.

    :param columns: names of the columns to read
    :param keys: key columns, which are converted to the column types that a dataset can store
    :param times: key columns that are converted to UTC timestamps
    """
    name = datasets[0].manifest.name
    tables = [_with_times(dataset, dataset.table(columns=columns), times) for dataset in datasets]
    table = concatenated(tables, f"The windows of dataset {name!r}", "Ingest the windows again with equal types.")
    for column in keys:
        stored = as_stored(table[column], f"Column {column!r} of dataset {name!r}")
        if pa.types.is_nested(stored.type):
            raise SchemaError(
                f"The key column {column!r} of dataset {name!r} has the type {stored.type}, which cannot be a key. Set "
                "`on` to columns of numbers, text, booleans or times."
            )
        table = table.set_column(table.schema.get_field_index(column), column, stored)
    return table


def _holds_times(key: str, predictions: Sequence[Dataset], labels: Sequence[Dataset]) -> bool:
    """Return whether the key column ``key`` contains timestamps or dates in at least one dataset."""
    schemas = (dataset.schema for dataset in (*predictions, *labels))
    return any(is_time(schema.field(key).type) for schema in schemas if key in schema.names)


def _with_times(dataset: Dataset, table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Return ``table`` with the columns ``keys`` converted to UTC timestamps.

    :param dataset: dataset of the rows, for error messages
    """
    for key in keys:
        times = as_utc(table[key], f"The key column {key!r} of dataset {dataset.manifest.name!r}")
        table = table.set_column(table.schema.get_field_index(key), key, times)
    return table


def _label_table(
    labels: Sequence[Dataset],
    spec: JoinLabelsSpec,
    pseudonymizers: dict[str, Pseudonymizer],
    times_in_keys: Sequence[str],
) -> tuple[pa.Table, pa.Array, pa.Array | None, pa.Array | None]:
    """Read the labels in descending order of ``labels_timestamp``, so the row with the earliest time is the last row.

    :param labels: the windows of the dataset of labels
    :param pseudonymizers: pseudonymizer of each key column that scoring hashed, by name of the column
    :param times_in_keys: key columns that are compared as UTC timestamps
    :return: the key columns; the labels; the times at which the labels became known, or ``None`` if
        ``labels_timestamp`` is not set or does not contain times; and the rank of each row by ``labels_version`` or
        ``labels_timestamp``, or ``None`` if neither parameter is set
    :raises SchemaError: the type of a column cannot be a key or a label, or the values of a column have no order
    """
    times = None
    expression = spec.label.expression or spec.label.name
    wanted = {*spec.on, *(expressions.columns(expression) if spec.label.expression else [spec.label.name])}
    wanted.update(name for name in (spec.labels_timestamp, spec.labels_version) if name)
    table, name = _read(labels, sorted(wanted), spec.on, times_in_keys), labels[0].manifest.name
    if spec.labels_timestamp:
        what = f"The `labels_timestamp` {spec.labels_timestamp!r} of dataset {name!r}"
        places = _ranks(table[spec.labels_timestamp], what)
        known = pc.if_else(pc.equal(places, 0), None, places)
        table = table.take(pc.array_sort_indices(known, order="descending", null_placement="at_start"))
        column = table[spec.labels_timestamp]
        if is_time(column.type) or is_text(column.type):
            times = as_utc(column, what).combine_chunks()
    order = None
    if decisive := spec.labels_version or spec.labels_timestamp:
        parameter = "labels_version" if spec.labels_version else "labels_timestamp"
        order = _ranks(table[decisive], f"The `{parameter}` {decisive!r} of dataset {name!r}")
    values = expressions.evaluate(expression, table) if spec.label.expression else table[spec.label.name]
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_nested(values.type):
        raise SchemaError(
            f"The label {expression!r} of dataset {name!r} has the type {values.type}, which cannot be a label. Set "
            "`label` to a column of numbers, text or booleans, or to an expression."
        )
    keys = {
        key: pseudonymizers[key].hash_column(table[key]) if key in pseudonymizers else table[key] for key in spec.on
    }
    return pa.table(keys), as_numbers(values), times, order


def _ranks(column: pa.ChunkedArray, what: str) -> pa.Array:
    """Return the rank of each value, from 1 for the least value. Equal values have the same rank; nulls have rank 0.

    :param what: description of the column, as the start of the error message
    :raises SchemaError: the values of the column have no order
    """
    if is_time(column.type) or is_text(column.type):
        return ranks(column, what)
    try:
        places = pc.rank(column, tiebreaker="dense").cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        raise SchemaError(
            f"{what} has the type {column.type}, which has no order. Use a column of times or numbers."
        ) from None
    return pc.if_else(pc.is_null(column.combine_chunks(), nan_is_null=True), 0, places)


def _ambiguous(keys: pa.Table, name: str, spec: JoinLabelsSpec) -> SchemaError:
    """Create the error for predictions that match several different labels.

    :param keys: the key columns of these predictions
    :param name: name of the dataset of labels
    """
    distinct = (
        keys.rename_columns(_places(keys)).group_by(_places(keys)).aggregate([]).rename_columns(keys.column_names)
    )
    order = spec.labels_version or spec.labels_timestamp
    same = f" with the same {order!r}" if order else ""
    return SchemaError(
        f"Dataset {name!r} has more than one label{same} for {distinct.num_rows:,} keys of the predictions, for example "
        f"{_example(distinct)}. Set `labels_version` to a column that grows with each correction of a label, or add key columns to "
        "`on`."
    )


def _example(keys: pa.Table) -> str:
    """Return the values in the first row of key columns, such as ``carrier='UA', flight=1``."""
    values = {key: keys[key][0].as_py() for key in keys.column_names}
    return ", ".join(f"{key}={value if isinstance(value, date) else repr(value)}" for key, value in values.items())
