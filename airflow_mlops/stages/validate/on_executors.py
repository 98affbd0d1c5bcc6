"""What executors do in a validation, see :mod:`airflow_mlops.stages.validate.spread`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.data import sent_datasets
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.data.quarantine import FAILED_EXPECTATIONS
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.shards import Piece
from airflow_mlops.stages.validate import checkpoint, sent_expectations
from airflow_mlops.stages.validate.batches import frame_of, mark, position
from airflow_mlops.stages.validate.collector import Collector
from airflow_mlops.stages.validate.parts import unpack
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.splitting import split
from airflow_mlops.stages.validate.spread import rounds_of

if TYPE_CHECKING:
    import pyarrow as pa
    from great_expectations.expectations.expectation import Expectation
    from numpy.typing import NDArray


def facts_part(store: ArtifactStore, arguments: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the number of rows of a part, and the facts about their values, on an executor.

    :param number: number of the part, from 0
    """
    rows = _rows(store, arguments)
    count = sum(len(values) for _, values in rows.column(rows.schema.names[0], number, arguments["parts"]))
    facts = rows.facts(number, arguments["parts"])
    return {"rows": count, "facts": {name: [fact.has_nulls, fact.is_exact] for name, fact in facts.items()}}


def check_part(store: ArtifactStore, arguments: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """Check the rows of a part on an executor, and return the result of each expectation as JSON values.

    :param number: number of the part, from 0
    """
    checkpoint.quiet_great_expectations()
    from great_expectations import ExpectationSuite

    rows = _rows(store, arguments)
    facts = {name: ColumnFacts(*fact) for name, fact in arguments["facts"].items()}
    expectations: list[Expectation] = sent_expectations.restore(arguments["expectations"], rows.schema)
    mark(expectations)
    found = [Collector(rows.schema.empty_table().select(names)) for names in arguments["columns"]]
    with tempfile.TemporaryDirectory() as site:
        session = checkpoint.Session(ExpectationSuite(name="suite"), "rows", Path(site))
        for first, table in rows.batches(number, arguments["parts"]):
            for result in session.check(expectations, frame_of(table, facts)):
                found[position(result)].add(result, table, first)
    return [collector.part().to_json() for collector in found]


def split_part(store: ArtifactStore, arguments: Mapping[str, Any], number: int) -> None:
    """Write the valid and the failing rows of a part on an executor, to files that no manifest lists yet.

    :param number: number of the part, from 0
    """
    rounds = rounds_of(store, arguments["group"], number, arguments["parts"])
    if all(one.piece() is not None for one in rounds):
        return
    rows = _rows(store, arguments)
    sent = unpack(store.read_bytes(f"{arguments['folder']}/{number}").decode())
    numbers, texts = sent["row"].to_numpy(), sent[FAILED_EXPECTATIONS].combine_chunks()

    def failing(first: int, count: int) -> tuple[NDArray[np.bool_], pa.Array]:
        begin, end = np.searchsorted(numbers, [first, first + count])
        fails = np.zeros(count, bool)
        fails[numbers[begin:end] - first] = True
        return fails, texts.slice(begin, end - begin)

    names = arguments["names"]
    with DatasetWriter(store, names[0]) as valid, DatasetWriter(store, names[1]) as quarantine:
        split(rows.batches(number, arguments["parts"]), failing, valid, quarantine, files=True)
        for one, writer in zip(rounds, (valid, quarantine), strict=True):
            one.add(Piece(written=writer.finish()))


def _rows(store: ArtifactStore, arguments: Mapping[str, Any]) -> Rows:
    datasets = [sent_datasets.restore(store, text) for text in arguments["datasets"]]
    return Rows(datasets, arguments["batch_rows"])
