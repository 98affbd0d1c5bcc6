"""Rows for tables of Delta Lake and Iceberg, in parts that are replaced."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SpecError

ROWS = pa.schema(
    [("id", pa.int64()), ("window_start", pa.timestamp("us", "UTC")), ("model", pa.string()), ("version", pa.int64())]
)


def part(month=4, model="delays", version=1):
    return {"window_start": datetime(2013, month, 1, tzinfo=timezone.utc), "model": model, "version": version}


class Batches:
    """Rows of a part. Each iteration starts again, and calls ``at_end`` at its end."""

    def __init__(self, ids, part, at_end=None):
        self.ids, self.part, self.at_end = ids, part, at_end

    def __iter__(self):
        for start in range(0, len(self.ids), 2):
            some = self.ids[start : start + 2]
            columns = [some, *([value] * len(some) for value in self.part.values())]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, ROWS, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=ROWS)
        if self.at_end:
            self.at_end()


def replace(table, ids, at_end=None, **which):
    which = part(**which)
    return table.replace(ROWS, which, Batches(ids, which, at_end))


def in_order(rows: list[dict[str, Any]]) -> list[tuple[int, str, int, int]]:
    """Return month, model, version and id of each row."""
    return sorted((row["window_start"].month, row["model"], row["version"], row["id"]) for row in rows)


def any_order(
    table: Any, content: Callable[[Any], Any], writes: int, seed: int, compact: Callable[[], object] | None = None
) -> None:
    """Write parts in a random order, with failures between them, and compare with the newest rows of each part.

    :param content: function that returns the rows of the table, see :func:`in_order`
    :param compact: function that is called between some writes
    """
    chance, newest = random.Random(seed), {}

    def fail():
        raise SpecError("The dataset is damaged.")

    for _ in range(writes):
        which = {
            "month": chance.randint(1, 3), "version": chance.randint(1, 2),
            "model": chance.choice(["it's", "It's", "x" * 200 + "a", "x" * 200 + "b"]),
        }  # fmt: skip
        ids = [chance.randrange(100) for _ in range(chance.randrange(5))]
        if compact and newest and chance.random() < 0.2:
            compact()
        if chance.random() < 0.2:
            with pytest.raises(SpecError, match="damaged"):
                replace(table, ids, at_end=fail, **which)
            continue
        for _ in range(chance.choice([1, 1, 2])):
            assert replace(table, ids, **which) == len(ids)
        newest[which["month"], which["model"], which["version"]] = ids
    assert content(table) == sorted((*key, number) for key, ids in newest.items() for number in ids)
