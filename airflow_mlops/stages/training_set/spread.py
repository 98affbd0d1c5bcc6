"""Build a training set in parts that executors build at the same time, see :mod:`airflow_mlops.stages.executors`.

The executors (:mod:`airflow_mlops.stages.training_set.on_executors`) first survey the events: they count them and
summarise their times and labels. The step then divides the time into ranges. For each range, an executor sorts its
events and joins their features to a file that no manifest lists. All files together have the rows in the order of a
single process. The step copies the ids, times and labels of all rows to a temporary file, checks them and decides the split. Executors then
write the files of the split parts.

The parts are shards (:mod:`airflow_mlops.stages.shards`) of one task. If a part is built twice, only its first file
counts. A retry runs only the parts that no earlier try has finished with the same events, features and split.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.data import row_spans, sent_datasets, sent_schemas
from airflow_mlops.data.datasets import Dataset, DatasetWriter, Manifest
from airflow_mlops.data.datasets.data_file import ROW_GROUP_ROWS
from airflow_mlops.data.row_identity import has_bytes
from airflow_mlops.data.row_mask import RowMask
from airflow_mlops.data.spool import Rows, spooled
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.shards import Piece, Round
from airflow_mlops.stages.training_set import files, forecasts, leakage
from airflow_mlops.stages.training_set.content import Numbers
from airflow_mlops.stages.training_set.events import EventSource, Seen, Times, refuse
from airflow_mlops.stages.training_set.features import FeatureSource, PartedFeatures
from airflow_mlops.stages.training_set.layout import Layout, layout_of
from airflow_mlops.stages.training_set.parts import Block, JoinedPiece, StoredRows, Survey, divided
from airflow_mlops.stages.training_set.spec import TrainingSetSpec

P = TypeVar("P", bound=Piece)

BLOCK_ROWS = ROW_GROUP_ROWS
"""Number of events in a block. With fewer events, the process of the task builds the training set."""

_MODULE = "airflow_mlops.stages.training_set.on_executors"
# Each part reads the rows of feature views up to its last event, and other events in the same files. Reading a row takes
# about an eighth of the time of joining an event, so all parts need at most about twice the CPU time of a single process.
_OTHER_ROWS_PER_EVENT = 8


def parts_of(
    spec: TrainingSetSpec,
    context: StepContext,
    datasets: Sequence[Dataset],
    source: FeatureSource,
    left_out: Collection[str],
    broken: Collection[str],
) -> Parts | None:
    """Return the parts that executors build; ``None`` if the process of the task builds the training set.

    :param left_out: features that the retraining request leaves out
    :param broken: columns that need not exist in every dataset, see :func:`~.events.read_events`
    """
    if context.executors is None or row_spans.count_of_pieces(datasets, BLOCK_ROWS, 0) == 1:
        return None
    events = EventSource.of(spec, datasets, source.event_columns, broken)
    features = source.in_parts(events.schema)
    if features is None:
        context.progress("Executors are not used, because they cannot join all features.")
        return None
    layout = layout_of(spec, events.schema.names, features.keys, features.names, left_out)
    parts = Parts(spec, context.for_call(), datasets, events, features, layout, left_out)
    return parts if parts.can_be_identified else None


class Parts:
    """A training set that executors build.

    :param spec: the spec, with the columns' own names
    :param context: context with a key that is not empty
    :ivar kept: files that belong to a dataset, which are not deleted
    """

    def __init__(
        self,
        spec: TrainingSetSpec,
        context: StepContext,
        datasets: Sequence[Dataset],
        events: EventSource,
        features: PartedFeatures,
        layout: Layout,
        left_out: Collection[str],
    ) -> None:
        self._spec, self._context, self._datasets = spec, context, datasets
        self._events, self._features, self._layout, self._left_out = events, features, layout, left_out
        self._rounds: list[Round[Any]] = []
        self.kept: set[str] = set()
        self._ids = layout.ids
        self._original = {new: old for old, new in layout.renamed.items()}

    @property
    def can_be_identified(self) -> bool:
        """Return whether the ids of rows can be computed before all features are joined.

        If one value of a column of bytes is not UTF-8, all its values are hashed in another form.
        """
        joined = {name for columns in self._ids.values() for name in columns} & {*self._layout.joined}
        kinds = {
            name: source.request.features[feature]
            for source in self._features.sources
            for name, ref in zip(self._features.names, self._features.refs, strict=True)
            for feature in source.request.features
            if ref == f"{source.request.alias}:{feature}"
        }
        return not any(has_bytes(kinds[name]) for name in joined)

    @property
    def target(self) -> str | None:
        """Return the column with the target time if the events are forecast rows."""
        forecast = forecasts.forecast_of(self._spec, self._datasets)
        return str(forecast["time"]) if forecast else None

    @contextmanager
    def joined(self) -> Iterator[tuple[SpreadContent, dict[str, int]]]:
        """Join the features on executors.

        The joined rows are deleted at the end of the block, unless an executor failed and a retry can use them.

        :return: the rows of the training set, and the number of events that were left out, by reason
        """
        surveys = self._survey()
        seen = Seen(*(sum(counts) for counts in zip(*(astuple(survey.seen) for survey in surveys), strict=True)))
        refuse(seen, self._spec, self._datasets[0].manifest.name)
        blocks = [block for survey in surveys for block in survey.blocks]
        ranges = self._ranges(blocks, seen.labelled)
        self._context.progress(
            f"Joining features to {counted(seen.labelled, 'event')} on executors, in {counted(len(ranges), 'part')}."
        )
        try:
            pieces = self._join(surveys, blocks, ranges)
            with self._summary(pieces) as summary:
                content = SpreadContent(self, self._layout, self._features.refs, pieces, summary)
                yield content, {"label_unknown": seen.rows - seen.labelled}
        except MLOpsError as error:
            if not error.retryable:
                self._discard()
            raise
        self._discard()

    @contextmanager
    def _summary(self, pieces: Sequence[JoinedPiece]) -> Iterator[Rows]:
        """Copy the columns that decide the split to a temporary file, which exists only inside the block."""
        layout, split = self._layout, self._layout.spec.split
        wanted = [layout.spec.timestamp, layout.label, split.group if split else None, self.target]
        names = dict.fromkeys([*(name for name in wanted if name is not None), *layout.ids])
        rows = self.stored(pieces, sent_schemas.from_text(pieces[0].types)).select(list(names))
        with spooled(rows.batches(), rows.schema) as found:
            yield found

    def _discard(self) -> None:
        for one in self._rounds:
            one.discard(self.kept)

    def _survey(self) -> list[Survey]:
        count = row_spans.count_of_pieces(self._datasets, BLOCK_ROWS, 0)
        identity = {self._original.get(name, name) for columns in self._ids.values() for name in columns}
        numbers = {*self._spec.columns, *([self._spec.label.name] if self._spec.label else [])}
        described = [
            field.name
            for field in self._events.schema
            if field.name in self._events.columns
            and (
                (field.name in numbers and pa.types.is_decimal(field.type))
                or (field.name in identity and has_bytes(field.type))
            )
        ]
        arguments = {**self._sent(), "described": described, "block_rows": BLOCK_ROWS, "parts": count}
        answers = self._context.spread(f"{_MODULE}:survey_part", arguments, list(range(count)))
        return [Survey.model_validate(answer) for answer in answers]

    def _ranges(self, blocks: Sequence[Block], events: int) -> list[Times]:
        """Divide the time into as many ranges as are worthwhile, see ``_OTHER_ROWS_PER_EVENT``."""
        from airflow_mlops.data.feast.point_in_time import span_of

        bounds = [time for block in blocks for time in (block.times[:1] + block.times[-1:])]

        def rows(times: Times) -> int:
            first = min(bounds) if times.first is None else times.first
            last = max(bounds) if times.end is None else times.end - 1
            read = sum(source.rows(span_of(source, first, last)) for source in self._features.sources)
            return read + sum(block.end - block.start for block in blocks if block.overlaps(times))

        count = row_spans.count_of_pieces(self._datasets, BLOCK_ROWS, 0)
        limit = rows(Times(None, None)) + _OTHER_ROWS_PER_EVENT * events
        while True:
            ranges = divided(blocks, count)
            if len(ranges) == 1 or sum(map(rows, ranges)) <= limit:
                return ranges
            count = len(ranges) * 3 // 4

    def _join(self, surveys: Sequence[Survey], blocks: Sequence[Block], ranges: Sequence[Times]) -> list[JoinedPiece]:
        from airflow_mlops.data.feast import sent_sources

        new = self._layout.renamed
        flags = {
            kind: sorted(
                new.get(name, name)
                for name in {name for survey in surveys for name in getattr(survey, kind)}
                if all(getattr(survey, kind).get(name, True) for survey in surveys)
            )
            for kind in ("whole", "utf8")
        }
        arguments = {
            **self._sent(),
            **flags,
            "columns": self._events.columns,
            "ids": self._ids,
            "left_out": sorted(self._left_out),
            "features": {
                "sources": [sent_sources.describe(source) for source in self._features.sources],
                "refs": self._features.refs,
                "names": self._features.names,
                "keys": self._features.keys,
            },
        }
        parts = []
        for times in ranges:
            within = [
                (self._datasets[block.dataset], range(block.start, block.end))
                for block in blocks
                if block.overlaps(times)
            ]
            places = [
                [self._datasets.index(dataset), span.start, span.stop] for dataset, span in row_spans.joined(within)
            ]
            parts.append([list(times), places])
        return self.run(JoinedPiece, "join_part", arguments, parts)

    def _sent(self) -> dict[str, Any]:
        types = {"read": self._events.read_schema, "optional": pa.schema(list(self._events.types.items()))}
        return {
            "spec": self._spec.model_dump(mode="json"),
            "datasets": [sent_datasets.describe(dataset) for dataset in self._datasets],
            "types": {name: sent_schemas.to_text(schema) for name, schema in types.items()},
        }

    def run(self, kind: type[P], function: str, arguments: Mapping[str, Any], parts: Sequence[list[Any]]) -> list[P]:
        """Run a function of the executors for each part that no earlier try has finished, and return all pieces.

        :raises DatasetCorruptError: files that an earlier try has written were deleted or changed
        """
        store = self._context.store
        task = self._context.key.removeprefix("results/").removesuffix(".json")
        digest = fingerprint([function, dict(arguments), list(parts)])[:16]
        one = Round(store, kind, f"training_set/parts/{task}/{digest}", 0, 0, len(parts))
        self._rounds.append(one)
        missing = [[number, *part] for number, part in enumerate(parts) if one.of(number).piece() is None]
        if missing:
            sent = {**arguments, "group": one.group, "parts": len(parts)}
            self._context.spread(f"{_MODULE}:{function}", sent, missing)
        found = one.pieces()
        assert found is not None  # each part has stored its piece
        return found

    def stored(self, pieces: Sequence[Piece], schema: pa.Schema) -> StoredRows:
        """Return the rows of the files of some pieces."""
        return StoredRows(self._context.store, self._spec.name, [piece.written for piece in pieces], schema)

    @contextmanager
    def passed(self, masks: Iterable[RowMask]) -> Iterator[list[str]]:
        """Pass masks to the executors in objects of the artifact store, and return their keys.

        The objects exist only inside the ``with`` block.
        """
        task = self._context.key.removeprefix("results/").removesuffix(".json")
        keys: list[str] = []
        try:
            for number, mask in enumerate(masks):
                data = mask.to_bytes()
                keys.append(f"checkpoints/split_rows/{task}/{number}-{fingerprint(data.hex())[:16]}")
                self._context.store.write_bytes(keys[-1], data)
            yield keys
        finally:
            for key in keys:
                self._context.store.delete(key)


class SpreadContent:
    """The rows of a training set in the artifact store, in files that no manifest lists.

    :param pieces: the files of the parts, in the order of the rows
    :param table: the columns that decide the split
    """

    def __init__(
        self,
        parts: Parts,
        layout: Layout,
        refs: list[str],
        pieces: Sequence[JoinedPiece],
        table: Rows,
    ) -> None:
        self._parts, self.layout, self.refs, self._pieces = parts, layout, refs, pieces
        self._schema, self.table = sent_schemas.from_text(pieces[0].types), table

    def newer(self) -> list[leakage.Newer]:
        return [item for piece in self._pieces for item in piece.newer]

    def infinite(self) -> dict[str, int]:
        counts = {name: sum(piece.infinite.get(name, 0) for piece in self._pieces) for name in self.layout.features}
        return {name: count for name, count in counts.items() if count}

    def take(self, names: Sequence[str], index: Numbers) -> pa.Table:
        ends = list(accumulate(piece.rows for piece in self._pieces))
        chosen = []
        for piece, end in zip(self._pieces, ends, strict=True):
            first, last = np.searchsorted(index, [end - piece.rows, end])
            if last > first:
                places = (index[first:last] - (end - piece.rows)).tolist()
                chosen.append([piece.written.model_dump(mode="json"), places])
        arguments = {**self._sent(), "columns": list(dict.fromkeys(names))}
        found = self._parts.run(Piece, "sample_part", arguments, chosen)
        schema = pa.schema([self._schema.field(name) for name in arguments["columns"]])
        return self._parts.stored(found, schema).table()

    @contextmanager
    def writing(self, writer: DatasetWriter, parts: Mapping[str, RowMask]) -> Iterator[Callable[[], None]]:
        # The checks in the block need the executors, too, so the files are written after the checks.
        yield partial(self._write, writer, parts)

    def _write(self, writer: DatasetWriter, parts: Mapping[str, RowMask]) -> None:
        found = [(part, piece) for part, mask in parts.items() for piece in files.pieces(mask)]
        masks = (parts[part].part(piece.start, piece.stop) for part, piece in found)
        written = [piece.written.model_dump(mode="json") for piece in self._pieces]
        with self._parts.passed(masks) as keys:
            chosen = [[part, piece.start, piece.stop, key] for (part, piece), key in zip(found, keys, strict=True)]
            arguments = {**self._sent(), "columns": self.layout.columns, "written": written}
            for piece in self._parts.run(Piece, "write_part", arguments, chosen):
                writer.include(piece.written)

    def committed(self, manifest: Manifest) -> None:
        self._parts.kept = {file.path for file in manifest.files}

    def _sent(self) -> dict[str, Any]:
        return {"name": self.layout.spec.name, "types": sent_schemas.to_text(self._schema)}
