"""The work on one part of the rows of a validation, in an executor or in a shard of a mapped task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.shards import Piece, Round
from airflow_mlops.stages.validate import checkpoint, sent_expectations
from airflow_mlops.stages.validate.batches import frame_of, mark, position
from airflow_mlops.stages.validate.collector import Collector
from airflow_mlops.stages.validate.garbage import collected
from airflow_mlops.stages.validate.parts import Part
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.splitting import failing_in, split

if TYPE_CHECKING:
    import pyarrow as pa
    from great_expectations.expectations.expectation import Expectation


def facts(rows: Rows, part: int, parts: int) -> tuple[int, dict[str, ColumnFacts]]:
    """Return the number of rows of a part, and the facts about their values.

    :param part: number of the part, from 0
    :param parts: number of parts
    """
    count = sum(len(values) for _, values in rows.column(rows.schema.names[0], part, parts))
    return count, rows.facts(part, parts)


def check(
    rows: Rows,
    expectations: Sequence[dict[str, Any]],
    columns: Sequence[Sequence[str]],
    known: Mapping[str, ColumnFacts],
    part: int,
    parts: int,
) -> list[Part]:
    """Check the rows of a part with expectations about single rows.

    :param expectations: the expectations, from :func:`sent_expectations.describe`
    :param columns: for each expectation, the columns that it names
    :param known: the facts of the rows of all parts
    :param part: number of the part, from 0
    :param parts: number of parts
    :return: the result of each expectation
    """
    checkpoint.quiet_great_expectations()
    from great_expectations import ExpectationSuite

    restored: list[Expectation] = sent_expectations.restore(expectations, rows.schema)
    mark(restored)
    found = [Collector(rows.schema.empty_table().select(names)) for names in columns]
    with temporary_folder("validation") as site:
        session = checkpoint.Session(ExpectationSuite(name="suite"), "rows", site)
        for first, table in collected(rows.batches(part, parts)):
            frame = frame_of(table, known)
            for result in session.check(restored, frame):
                found[position(result)].add(result, table, frame, first)
    return [collector.part() for collector in found]


def write(
    store: ArtifactStore,
    rows: Rows,
    failing: pa.Table,
    names: Sequence[str],
    rounds: tuple[Round[Piece], Round[Piece]],
    part: int,
    parts: int,
) -> tuple[Piece, Piece]:
    """Write the valid and the failing rows of a part to files that no manifest lists yet.

    :param failing: the failing rows of the part, from :func:`~.splitting.failing_rows`
    :param names: names of the datasets of the valid and of the failing rows
    :param rounds: rounds that store the valid and the failing rows, from :func:`~.splitting.rounds_of`
    :param part: number of the part, from 0
    :param parts: number of parts
    :return: the files of the valid and of the failing rows. If an earlier try has written them, they are those of the
        earlier try
    """
    valid, quarantined = (one.piece() for one in rounds)
    if valid is not None and quarantined is not None:
        return valid, quarantined
    with DatasetWriter(store, names[0]) as good, DatasetWriter(store, names[1]) as bad:
        split(rows.batches(part, parts), failing_in(failing), good, bad, files=True)
        return rounds[0].add(Piece(written=good.finish())), rounds[1].add(Piece(written=bad.finish()))
