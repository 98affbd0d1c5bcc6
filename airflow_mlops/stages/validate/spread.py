"""Validate a dataset in parts that executors validate at the same time, see :mod:`airflow_mlops.stages.executors`.

The executors run Great Expectations on the batches of :class:`~.rows.Rows`, for the expectations whose result for a row
does not depend on other rows (:mod:`airflow_mlops.stages.validate.on_executors`). The step merges their results and runs
all other expectations, as it does without executors. It then knows which rows fail, and the executors write the valid
and the failing rows.

The written parts are shards (:mod:`airflow_mlops.stages.shards`) of one task. If a part is written twice, only its
first files count. The step commits both datasets when all parts are written. A retry validates the rows again, and
writes only the parts that no earlier try has written with the same failing rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow_mlops.data import row_spans, sent_datasets
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.validate import divided
from airflow_mlops.stages.validate.divided import DividedRows
from airflow_mlops.stages.validate.parts import Part, pack
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.splitting import Failing, failing_rows, rounds_of

_MODULE = "airflow_mlops.stages.validate.on_executors"


class SpreadRows(DividedRows):
    """The rows of a validation, of which executors read parts.

    :param rows: the rows
    :param context: context with a key that is not empty
    """

    def __init__(self, rows: Rows, context: StepContext) -> None:
        super().__init__(rows)
        self._context = context
        self._parts = row_spans.count_of_pieces(rows.datasets, rows.batch_rows, 0)
        self._arguments = {
            "datasets": [sent_datasets.describe(dataset) for dataset in rows.datasets],
            "batch_rows": rows.batch_rows,
            "parts": self._parts,
        }

    def _facts_of_parts(self) -> list[tuple[int, dict[str, ColumnFacts]]]:
        found = self._run("facts_part", {}, range(self._parts))
        return [(answer["rows"], divided.from_json(answer["facts"])) for answer in found]

    def takes(self, expectation: Mapping[str, Any]) -> bool:
        return True

    def check(
        self, expectations: Sequence[dict[str, Any]], columns: Sequence[Sequence[str]], facts: Mapping[str, ColumnFacts]
    ) -> Iterator[list[Part]]:
        arguments = {
            "expectations": list(expectations),
            "columns": [list(names) for names in columns],
            "facts": divided.to_json(facts),
        }
        # The answers contain the numbers of the failing rows in compressed form.
        for answer in self._run("check_part", arguments, range(self._parts)):
            yield [Part.from_json(item) for item in answer]

    def split(self, failing: Failing, valid: DatasetWriter, quarantine: DatasetWriter) -> tuple[int, int]:
        store = self._context.store
        spans = list(zip(self.firsts, self._counts, strict=True))
        hashed = hashlib.sha256()
        for number, span in enumerate(spans):
            hashed.update((b" " if number else b"") + pack(failing_rows(failing, *span)).encode())
        digest = hashed.hexdigest()[:16]
        task = self._context.key.removeprefix("results/").removesuffix(".json")
        group, folder = f"validate/parts/{task}/{digest}", f"checkpoints/failing_rows/{task}/{digest}"
        arguments = {"group": group, "folder": folder, "names": [valid.name, quarantine.name]}
        rounds = rounds_of(store, group, 0, self._parts)
        written = [{item.shard for item in map(one.of, range(self._parts)) if item.piece()} for one in rounds]
        missing = [number for number in range(self._parts) if not all(number in shards for shards in written)]
        for number in missing:
            store.write_bytes(f"{folder}/{number}", pack(failing_rows(failing, *spans[number])).encode())
        try:
            if missing:
                self._run("split_part", arguments, missing)
        finally:
            for number in missing:
                store.delete(f"{folder}/{number}")
        counts = []
        for writer, one in zip((valid, quarantine), rounds, strict=True):
            pieces = one.pieces()
            assert pieces is not None  # each part has stored its pieces
            for piece in pieces:
                if piece.rows:
                    writer.include(piece.written)
            counts.append(sum(piece.rows for piece in pieces))
        return counts[0], counts[1]

    def _run(self, function: str, arguments: Mapping[str, Any], parts: Sequence[int]) -> list[Any]:
        return self._context.spread(f"{_MODULE}:{function}", {**self._arguments, **arguments}, list(parts))
