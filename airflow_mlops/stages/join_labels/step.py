"""Late labels joined to logged predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import DatasetNotFoundError, SchemaError, SpecError
from airflow_mlops.data import prediction_log as log
from airflow_mlops.data.columns import LABEL, LABEL_AT
from airflow_mlops.data.datasets import Dataset, DatasetWriter
from airflow_mlops.data.expressions import columns, evaluate
from airflow_mlops.data.privacy import Pseudonymizer
from airflow_mlops.data.selection import select, window_of
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels.spec import JoinLabelsResult, JoinLabelsSpec

_LABEL_ROW, _PREDICTION_ROW = "__label_row__", "__prediction_row__"


def run(spec: JoinLabelsSpec, context: StepContext) -> JoinLabelsResult:
    """Write the predictions again with a column ``label``, which is null where no label has come yet.

    Where ``labels_timestamp`` is a time, a column ``label_at`` says when the label came.
    """
    try:
        predictions = select(context.store, spec.predictions)
        labels = select(context.store, spec.labels)
    except DatasetNotFoundError as error:
        if spec.on_missing == "skip":
            return JoinLabelsResult(dataset=None, summary=f"Nothing was joined. {error}")
        raise
    added = _aligned(predictions, labels, spec, _pseudonyms(predictions, spec, context))
    label = added[LABEL]
    rows, labelled = len(label), len(label) - label.null_count
    coverage = labelled / rows if rows else None
    window = window_of(predictions)
    with DatasetWriter(context.store, spec.name, log.folder(window)) as writer:
        for batch in _labelled(predictions, added):
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
                "coverage": coverage,
            },
            provenance=context.provenance,
            # For each of the predictions' datasets these are its present outcomes.
            slots=[dataset.manifest.id for dataset in predictions],
        )
    return JoinLabelsResult(
        dataset=manifest.ref,
        rows=rows,
        labelled=labelled,
        coverage=coverage,
        summary=f"{labelled:,} of {rows:,} predictions{f' of {window.label}' if window else ''} have a label"
        f"{f' ({coverage:.1%})' if coverage is not None else ''}.",
    )


def _labelled(predictions: Sequence[Dataset], added: dict[str, pa.Array]) -> Iterator[pa.RecordBatch]:
    done = 0
    for dataset in predictions:
        for batch in dataset.batches():
            yield _with(batch, {name: values.slice(done, batch.num_rows) for name, values in added.items()})
            done += batch.num_rows
    if not done:
        schema = predictions[0].schema
        yield _with(pa.RecordBatch.from_pylist([], schema=schema), added)


def _with(batch: pa.RecordBatch, added: dict[str, pa.Array]) -> pa.RecordBatch:
    for name in added:
        if name in batch.schema.names:
            what = "the label" if name == LABEL else "the time of the label"
            raise SchemaError(
                f"The predictions have a column {name!r} already, the name that the join gives to {what}."
            )
    fields = [*batch.schema, *(pa.field(name, values.type) for name, values in added.items())]
    return pa.RecordBatch.from_arrays([*batch.columns, *added.values()], schema=pa.schema(fields))


def _pseudonyms(predictions: Sequence[Dataset], spec: JoinLabelsSpec, context: StepContext) -> dict[str, Pseudonymizer]:
    """What hashes each of the columns in ``on`` that the predictions hold hashes of.

    :raises SchemaError: a column in ``on`` was dropped, or is hashed in some of the predictions only
    :raises SpecError: there is no key, or another one than scoring had
    """
    details = [dataset.manifest.details for dataset in predictions]
    name = predictions[0].manifest.name
    if dropped := [key for key in spec.on if any(key in item.get("dropped", ()) for item in details)]:
        raise SchemaError(
            f"Dataset {name} has no column {', '.join(map(repr, dropped))}, which drop_columns left out: "
            "hash it when scoring instead, or name other columns in `on`."
        )
    hashed = [key for key in spec.on if any(key in item.get("hashed", ()) for item in details)]
    if not hashed:
        return {}
    if not all(key in item.get("hashed", ()) for key in hashed for item in details):
        raise SchemaError(
            f"Dataset {name} holds hashes of {', '.join(map(repr, hashed))} in some windows and values in others: "
            "join windows of one kind."
        )
    if spec.hash_conn_id is None:
        raise SpecError(
            f"Dataset {name} holds hashes of {', '.join(map(repr, hashed))}: "
            "give hash_conn_id, the connection with the key that scoring hashed them with."
        )
    pseudonyms = Pseudonymizer.from_connection(context.connection(spec.hash_conn_id))
    if any(item["hash_key_id"] != pseudonyms.key_id for item in details):
        raise SpecError(
            f"Dataset {name} was hashed with another key than connection {spec.hash_conn_id!r} has: no label would be found. "
            "Give the connection with the key that scoring had."
        )
    return dict.fromkeys(hashed, pseudonyms)


def _aligned(
    predictions: Sequence[Dataset],
    labels: Sequence[Dataset],
    spec: JoinLabelsSpec,
    pseudonyms: dict[str, Pseudonymizer],
) -> dict[str, pa.Array]:
    """The label of every prediction, and its time if known, in the predictions' order; null where there is none.

    :raises SchemaError: a column is missing, keys differ in type, or labels are ambiguous
    """
    left = _keys(pa.concat_tables([dataset.table(columns=spec.on) for dataset in predictions]), spec.on)
    right, values, times = _label_table(labels, left.schema, spec, pseudonyms)
    joined = left.append_column(_PREDICTION_ROW, pa.array(np.arange(left.num_rows))).join(
        right.append_column(_LABEL_ROW, pa.array(np.arange(right.num_rows))), keys=spec.on, join_type="left outer"
    )
    if joined.num_rows > left.num_rows and spec.labels_timestamp is None:
        raise _ambiguous(joined, labels[0].manifest.name, spec.on)
    row = np.full(left.num_rows, -1)
    # Labels are in the order of time, so that of several the last one is the latest.
    np.maximum.at(
        row, joined[_PREDICTION_ROW].to_numpy(), pc.fill_null(joined[_LABEL_ROW], -1).to_numpy().astype(np.int64)
    )
    rows = pa.array(row, mask=row < 0)
    label = values.take(rows)
    if times is None:
        return {LABEL: label}
    came = pc.if_else(pc.is_null(label, nan_is_null=True), None, times.take(rows))
    return {LABEL: label, LABEL_AT: came}


def _keys(table: pa.Table, on: Sequence[str]) -> pa.Table:
    plain = [
        table.schema.field(name).type.value_type
        if pa.types.is_dictionary(table.schema.field(name).type)
        else table.schema.field(name).type
        for name in on
    ]
    return table.select(on).cast(pa.schema(zip(on, plain, strict=True)))


def _label_table(
    labels: Sequence[Dataset], keys: pa.Schema, spec: JoinLabelsSpec, pseudonyms: dict[str, Pseudonymizer]
) -> tuple[pa.Table, pa.Array, pa.Array | None]:
    """The labels' keys, cast to the predictions' types, the labels, and their times where these are known.

    All are ordered by time then.
    """
    times = None
    expression = spec.label.expression or spec.label.name
    wanted = {*spec.on, *(columns(expression) if spec.label.expression else [spec.label.name])}
    if spec.labels_timestamp:
        wanted.add(spec.labels_timestamp)
    table = pa.concat_tables([dataset.table(columns=sorted(wanted)) for dataset in labels])
    if spec.labels_timestamp:
        order = pc.sort_indices(table[spec.labels_timestamp], null_placement="at_start")
        table = table.take(order)
        if _is_time(table[spec.labels_timestamp].type):
            times = table[spec.labels_timestamp].combine_chunks()
    values = evaluate(expression, table) if spec.label.expression else table[spec.label.name]
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    cast = []
    for field in keys:
        found = table[field.name]
        if field.name in pseudonyms:
            found = pseudonyms[field.name].hash_column(found)
        try:
            cast.append(found.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise SchemaError(
                f"Key {field.name!r} is {field.type} in the predictions and {found.type} in {labels[0].manifest.name}: "
                "the two cannot be compared."
            ) from None
    return pa.table(cast, schema=keys), values, times


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _ambiguous(joined: pa.Table, name: str, on: Sequence[str]) -> SchemaError:
    counted = joined.group_by(list(on)).aggregate([(_LABEL_ROW, "count_distinct")])
    several = counted.filter(pc.greater(counted[f"{_LABEL_ROW}_count_distinct"], 1))
    example = ", ".join(f"{key}={several[key][0].as_py()!r}" for key in on)
    return SchemaError(
        f"Dataset {name} has more than one label for {several.num_rows:,} of the predictions' keys, such as {example}: "
        "name the column that says which is the latest in labels_timestamp, or give more columns in `on`."
    )
