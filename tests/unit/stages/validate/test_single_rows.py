"""Great Expectations sees only the columns of an expectation, in several batches at once, and each repeated text once."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow as pa
import pytest

from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.stages.validate import single_rows

DATA = pa.table({
    "number": range(20),
    "text": ["a", None, "b", "a"] * 5,
    "code": ["0", *map(str, range(19))],
})  # fmt: skip


class Session:
    """Takes the rows with the value ``a`` or ``0``, and null, as unexpected."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[str], int]] = []

    def check(self, expectations, frame):
        self.seen.append(([*frame.columns], len(frame)))
        for one in expectations:
            values = frame[next(name for name in frame.columns if name == one.column.lower())]
            unexpected = [n for n, value in enumerate(values) if value in ("a", "0", 0, None)]
            yield SimpleNamespace(
                result={
                    "element_count": len(frame),
                    "missing_count": int(values.isna().sum()),
                    "unexpected_count": len(unexpected),
                    "unexpected_index_list": unexpected,
                }
            )


def rows(size: int) -> SimpleNamespace:
    def batches(part, parts, columns):
        for first in range(0, len(DATA), size):
            yield first, DATA.slice(first, size).select(columns)

    return SimpleNamespace(schema=DATA.schema, batches=batches)


def checked(column: str, size: int, **arguments: object) -> tuple[Session, list[single_rows.Checked]]:
    session, facts = Session(), dict.fromkeys(DATA.column_names, ColumnFacts())
    expectation = SimpleNamespace(column=column, **arguments)
    return session, list(single_rows.check(session, [expectation], rows(size), facts))


@pytest.mark.parametrize(
    ("column", "seen"),
    [
        ("number", [(["number"], 12), (["number"], 8)]),
        # a, b and null
        ("text", [(["text"], 3), (["text"], 3)]),
        ("code", [(["code"], 12), (["code"], 8)]),
        # Great Expectations returns 200 unexpected values of each batch, and these are counted.
        ("TEXT", [(["text"], 4)] * 5),
    ],
)
def test_the_frames_and_the_rows(column, seen):
    session, found = checked(column, 4)
    assert session.seen == seen
    values = DATA[column.lower()].to_pylist()
    rows, shown, counts = [], [], []
    for one in found:
        result = one.result.result
        here = result["unexpected_index_list"]
        rows += [one.first_row + row for row in here]
        shown += one.frame[column.lower()].loc[here].tolist()
        assert (
            one.table[column.lower()].take(pa.array(here, pa.int64())).to_pylist() == shown[-len(here) or len(shown) :]
        )
        counts.append([result[name] for name in ("element_count", "missing_count", "unexpected_count")])
    assert rows == [row for row, value in enumerate(values) if value in ("a", "0", 0, None)]
    assert shown == [values[row] for row in rows]
    assert [*map(sum, zip(*counts, strict=True))] == [20, values.count(None), len(rows)]


def test_large_batches_are_checked_one_by_one(monkeypatch):
    monkeypatch.setattr(single_rows, "_MOST_BYTES", 2 * 4 * 8)
    assert [count for _, count in checked("number", 4)[0].seen] == [8, 8, 4]
    monkeypatch.setattr(single_rows, "_MOST_BYTES", 1)
    assert [count for _, count in checked("number", 4)[0].seen] == [4] * 5


def test_a_condition_on_the_rows_may_name_any_column():
    session, _ = checked("text", 10, row_condition="number > 3")
    assert session.seen == [(["number", "text", "code"], 10)] * 2
