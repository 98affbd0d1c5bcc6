"""The functions that executors run for a training set, see :mod:`airflow_mlops.stages.training_set.spread`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_mlops.data import relational, row_spans, sent_datasets, sent_schemas
from airflow_mlops.data.datasets import Dataset, DatasetWriter, WrittenFiles
from airflow_mlops.data.row_identity import are_utf8, has_bytes, row_ids
from airflow_mlops.data.row_mask import RowMask
from airflow_mlops.data.spool import BATCH_ROWS, Rows, spooled
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.shards import Piece, Round
from airflow_mlops.stages.training_set import files, leakage
from airflow_mlops.stages.training_set.content import count_infinite
from airflow_mlops.stages.training_set.events import EventSource, Seen, Times, are_whole, in_order
from airflow_mlops.stages.training_set.layout import Layout, layout_of
from airflow_mlops.stages.training_set.parts import Block, JoinedPiece, StoredRows, Survey, quantiles
from airflow_mlops.stages.training_set.spec import TrainingSetSpec


def survey_part(store: ArtifactStore, arguments: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Describe the events of a part. Only the columns for the label, and the columns to describe, are read.

    :param number: number of the part, from 0
    """
    spec, datasets, types = _spec(arguments), _datasets(store, arguments), _types(arguments)
    wanted = list(dict.fromkeys([spec.timestamp, *arguments["described"]]))
    read = pa.schema([types["read"].field(name) for name in dict.fromkeys([*wanted, *sorted(spec.label_columns)])])
    source = EventSource(spec, datasets, wanted, _optional(types), read)
    seen, blocks = Seen(), []
    whole: dict[str, bool] = {}
    utf8: dict[str, bool] = {}
    for piece in row_spans.pieces(datasets, arguments["block_rows"], number, arguments["parts"]):
        for dataset, block in piece:
            tables = list(source.batches(seen, [(dataset, block)]))
            found = pa.concat_tables([source.schema.empty_table(), *tables])
            times = found[spec.timestamp].drop_null().cast(pa.int64()).to_numpy()
            blocks.append(Block(datasets.index(dataset), block.start, block.stop, found.num_rows, quantiles(times)))
            for name, kind in zip(found.column_names, found.schema.types, strict=True):
                if pa.types.is_decimal(kind):
                    whole[name] = whole.get(name, True) and are_whole(found[name])
                elif has_bytes(kind):
                    utf8[name] = utf8.get(name, True) and are_utf8(found[name])
    return Survey(seen=seen, whole=whole, utf8=utf8, blocks=blocks).model_dump(mode="json")


def join_part(store: ArtifactStore, arguments: Mapping[str, Any], part: Sequence[Any]) -> None:
    """Sort the events of a range of times, join their features, and write them to a file that no manifest lists.

    The file also has the ids of the rows.

    :param part: number of the part, bounds of the range, and positions of the events: number of the dataset, start and
        end
    """
    number, bounds, places = part
    one = Round(store, JoinedPiece, arguments["group"], 0, number, arguments["parts"])
    if one.piece() is not None:
        return
    datasets = _datasets(store, arguments)
    spans = [(datasets[dataset], range(start, end)) for dataset, start, end in places]
    with (
        _joined(arguments, datasets, spans, Times(*bounds)) as (table, layout),
        DatasetWriter(store, layout.spec.name) as writer,
    ):
        ids = [row_ids(table, columns, arguments["utf8"]) for columns in arguments["ids"].values()]
        schema = pa.schema([*table.schema, *((name, pa.uint64()) for name in arguments["ids"])])
        first = 0
        for batch in table.to_batches():
            own = [pa.array(values[first : first + batch.num_rows]) for values in ids]
            writer.write(pa.RecordBatch.from_arrays([*batch.columns, *own], schema=schema))
            first += batch.num_rows
        one.add(
            JoinedPiece(
                written=writer.finish(),
                types=sent_schemas.to_text(schema),
                newer=leakage.newer_than_events(table, layout.features, layout.spec.timestamp),
                infinite=count_infinite(table, layout.features),
            )
        )


@contextmanager
def _joined(
    arguments: Mapping[str, Any], datasets: Sequence[Dataset], spans: Sequence[tuple[Dataset, range]], times: Times
) -> Iterator[tuple[Rows, Layout]]:
    """Sort the events of a part, and join the features. The rows exist only inside the ``with`` block."""
    spec, types, sent = _spec(arguments), _types(arguments), arguments["features"]
    source = EventSource(spec, datasets, arguments["columns"], _optional(types), types["read"])
    layout = layout_of(spec, source.schema.names, sent["keys"], sent["names"], arguments["left_out"])
    connect = relational.connect_on_one_cpu
    batches = source.batches(Seen(), spans, times)
    with spooled(in_order(batches, source.schema, spec, connect), source.schema) as events:
        if not sent["sources"]:
            yield layout.table(events, events.select([]), arguments["whole"]), layout
            return
        from airflow_mlops.data.feast import point_in_time, sent_sources
        from airflow_mlops.data.feast.declared import as_declared

        opened = [sent_sources.restore(text) for text in sent["sources"]]
        views = [item.request for item in opened]
        found = point_in_time.join(opened, events, spec.timestamp, spec.memory_limit, BATCH_ROWS, connect)
        with spooled(as_declared(batch, views).select(sent["refs"]) for batch in found) as features:
            yield layout.table(events, features.rename_columns(sent["names"]), arguments["whole"]), layout


def sample_part(store: ArtifactStore, arguments: Mapping[str, Any], part: Sequence[Any]) -> None:
    """Copy some rows of a part to a file that no manifest lists.

    :param part: number of the part, its files, and positions of the rows in ascending order
    """
    number, written, places = part
    one = Round(store, Piece, arguments["group"], 0, number, arguments["parts"])
    if one.piece() is not None:
        return
    rows = _stored(store, arguments, [written]).select(arguments["columns"])
    with DatasetWriter(store, arguments["name"]) as writer:
        for batch in rows.take(np.array(places, np.int64)):
            writer.write(batch)
        one.add(Piece(written=writer.finish()))


def write_part(store: ArtifactStore, arguments: Mapping[str, Any], part: Sequence[Any]) -> None:
    """Write one file of a split part, which no manifest lists yet.

    :param part: number of the file, name of the split part, positions of its first row and after its last row, and the
        key of the object that says which of the rows between them are in the split part
    """
    number, name, start, end, key = part
    one = Round(store, Piece, arguments["group"], 0, number, arguments["parts"])
    if one.piece() is not None:
        return
    rows = _stored(store, arguments, arguments["written"]).select(arguments["columns"])
    mask = RowMask.from_bytes(store.read_bytes(key), end - start)
    with DatasetWriter(store, arguments["name"]) as writer:
        writer.write_files([(name, files.row_groups(rows, mask, start))])
        one.add(Piece(written=writer.finish()))


def _stored(store: ArtifactStore, arguments: Mapping[str, Any], written: Sequence[Any]) -> StoredRows:
    found = [WrittenFiles.model_validate(item) for item in written]
    return StoredRows(store, arguments["name"], found, sent_schemas.from_text(arguments["types"]))


def _spec(arguments: Mapping[str, Any]) -> TrainingSetSpec:
    return TrainingSetSpec.model_validate(arguments["spec"])


def _datasets(store: ArtifactStore, arguments: Mapping[str, Any]) -> list[Dataset]:
    return [sent_datasets.restore(store, text) for text in arguments["datasets"]]


def _types(arguments: Mapping[str, Any]) -> dict[str, pa.Schema]:
    return {name: sent_schemas.from_text(text) for name, text in arguments["types"].items()}


def _optional(types: Mapping[str, pa.Schema]) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in types["optional"]}
