"""Split rows into the split parts ``train`` and ``test``, and verify that the split parts have no row in common."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError, TrainingError
from airflow_mlops.core.moments import EPOCH
from airflow_mlops.data import relational
from airflow_mlops.data.moments import as_utc
from airflow_mlops.data.row_identity import row_id_batches
from airflow_mlops.data.row_mask import RowMask
from airflow_mlops.data.sorting import Runs, in_order
from airflow_mlops.data.spool import BATCH_ROWS, Rows, spooled
from airflow_mlops.stages.training_set.spec import RUN_WINDOW, Split

Numbers = np.ndarray[Any, Any]

_MICROSECOND = timedelta(microseconds=1)
# The largest default memory in bytes of a sort on a machine with at most four CPUs. Files are written at the same time.
_SORT_MEMORY = 300_000_000


class Proof(NamedTuple):
    """The proof that the split parts have no row in common.

    :param description: description of the split for the manifest: the parameters and, for each split part, the number
        of rows, the time range and a hash of the row ids
    :param are_distinct: whether all rows have different ids, including the rows in no split part
    """

    description: dict[str, Any]
    are_distinct: bool


def sort_memory(memory_limit: str | None) -> str:
    """Return the memory that a sort of the rows may use, by default less than a join of features.

    :param memory_limit: the memory that the user has set; ``None`` for the default
    """
    return memory_limit or relational.default_memory(most=_SORT_MEMORY)


def row_columns(split: Split, identity: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return the names of the columns that identify a row for a split.

    Rows of different groups are different rows, even if their keys are equal.

    :param identity: names of the columns that identify a row of the training set
    :param columns: names of all columns
    :raises SchemaError: there is no column ``split.group``
    """
    if split.group is not None and split.group not in columns:
        raise SchemaError(
            f"The training set has no column {split.group!r}, which is the group column of the split. Set `group` to "
            f"one of: {', '.join(columns)}."
        )
    return list(dict.fromkeys([*identity, *([split.group] if split.group else [])]))


def divide(
    table: pa.Table | Rows,
    split: Split,
    timestamp: str,
    ids: str,
    run_starts: datetime | None = None,
    label: str | None = None,
    memory_limit: str | None = None,
) -> tuple[dict[str, RowMask], Callable[[], Proof]]:
    """Assign each row to the split part ``train`` or ``test``. Rows in the gap between them are in no split part.

    Rows with equal ids get the same split part. The rows are read several times, and only a part of them is in memory.

    :param table: rows to split
    :param split: method and parameters of the split
    :param timestamp: name of the event time column
    :param ids: name of the column with the id of each row, from :func:`airflow_mlops.data.row_identity.row_ids`
    :param run_starts: start of the window that the run processes, if ``split.test_size`` is ``window``
    :param label: name of the label column with classes, if ``split.stratify`` is set
    :param memory_limit: memory that sorting may use, see :func:`sort_memory`
    :return: the rows of each split part, and a function that proves that the split parts have no row in common. The
        function raises :class:`TrainingError` if a row or a group is in both split parts. It sorts the ids of all rows,
        which takes longer than the split itself
    :raises TrainingError: a split part or a window of ``test`` would be empty
    """
    rows = _Rows(table, timestamp, ids, memory_limit)
    facts: dict[str, Any] = {}
    if split.method == "time":
        cut = _time_cut(rows, split, run_starts)
        test = RowMask.of(times >= cut for times in rows.times())
    elif split.method == "group":
        test, facts = _by_group(rows, split)
    elif split.stratify and label is not None:
        test = _by_class(rows, label, split)
    else:
        limit = _row_limit(rows, split)
        test = RowMask.of(keys < limit for keys in rows.keys(split.seed))
    train, gap = _train(rows, split, test)
    if gap is not None:
        facts["gap"] = gap
    for part, mask in (("test", test), ("train", train)):
        if not mask.count:
            distance = f" and gap={_text(split.gap)}" if split.gap is not None else ""
            other = ", or set another method if the rows have no order in time" if split.method == "time" else ""
            raise TrainingError(
                f"The split by {split.method} with test_size={_text(split.test_size)}{distance} leaves the split part {part!r} "
                f"empty ({len(rows):,} rows{_span(rows)}). Change `test_size`, or build the training set from more rows{other}."
            )
    if split.windows is not None:
        facts["windows"] = _windows(rows, test, split)
    parts = {"train": train, "test": test}
    return parts, lambda: _proof(rows, split, parts, facts)


class _Rows:
    """The rows to split: their times, ids and keys. Only a part of the rows is in memory at the same time."""

    def __init__(self, table: pa.Table | Rows, timestamp: str, ids: str, memory_limit: str | None) -> None:
        self.table = table
        self._timestamp, self._ids, self._memory_limit = timestamp, ids, memory_limit

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def times(self, mask: RowMask | None = None) -> Iterator[Numbers]:
        """Read event times in microseconds since 1970.

        :param mask: the rows; by default all rows
        """
        start = 0
        for column in self._slices(self._timestamp):
            times = as_utc(column, f"The event time {self._timestamp!r}", first_row=start).cast(pa.int64()).to_numpy()
            end = start + len(times)
            yield times if mask is None else times[mask.slice(start, end)]
            start = end

    def span(self, mask: RowMask | None = None) -> tuple[int, int] | None:
        """Return the first and the last event time; ``None`` without rows."""
        found = [(times.min(), times.max()) for times in self.times(mask) if len(times)]
        return (int(min(first for first, _ in found)), int(max(last for _, last in found))) if found else None

    def by_time(self) -> Iterator[pa.RecordBatch]:
        """Read event times in ascending order, as column ``at``. They are sorted only if the rows have another order."""
        last, in_order = np.empty(0, np.int64), True
        for times in self.times():
            in_order = in_order and bool((np.diff(times, prepend=last) >= 0).all())
            last = times[-1:]
        if not in_order:
            return self.in_order({"at": (pa.int64(), self.times())}, ["at"])
        return (pa.record_batch({"at": times}) for times in self.times())

    def ids(self) -> Iterator[Numbers]:
        """Read the ids."""
        return (column.to_numpy() for column in self._slices(self._ids))

    def keys(self, seed: int) -> Iterator[Numbers]:
        """Read the ids, mapped to evenly distributed numbers, which are called keys. Different ids have different keys."""
        return (_shuffle(ids, seed) for ids in self.ids())

    def in_order(
        self, columns: Mapping[str, tuple[pa.DataType, Iterator[Numbers]]], by: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """Sort columns of all rows.

        :param columns: type and values of each column, in arrays of equal lengths
        :param by: names of the columns by which the rows are sorted
        """
        schema = pa.schema([(name, kind) for name, (kind, _) in columns.items()])
        batches = (
            pa.RecordBatch.from_arrays([pa.array(part) for part in parts], schema=schema)
            for parts in zip(*(values for _, values in columns.values()), strict=True)
        )
        return self.sort(batches, schema, by)

    def sort(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, by: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Sort batches. Together they must not have more rows than the table."""
        return in_order(batches, schema, by, len(self), sort_memory(self._memory_limit))

    def _slices(self, name: str) -> Iterator[pa.ChunkedArray]:
        column = self.table.select([name])
        for start in range(0, len(self), BATCH_ROWS):
            yield column.slice(start, BATCH_ROWS)[name]


def _time_cut(rows: _Rows, split: Split, run_starts: datetime | None) -> int:
    """Return the first event time of ``test``."""
    if run_starts is not None and split.test_size == RUN_WINDOW:
        return (run_starts - EPOCH) // _MICROSECOND
    if isinstance(split.test_size, timedelta):
        _, last = rows.span() or (0, 0)
        return last - split.test_size // _MICROSECOND + 1
    # Rows with equal times are not separated. The share of held-out rows is as close as possible to test_size.
    total = len(rows)
    ordered = rows.by_time()
    cut = _nearest(ordered, "at", _share(split), lambda places: (total - places) / total)
    if cut is None:
        cut, _ = rows.span() or (0, 0)
    return cut


def _nearest(
    ordered: Iterable[pa.RecordBatch], column: str, share: float, held_out: Callable[[Numbers], Numbers]
) -> int | None:
    """Return the value at which to divide sorted rows, so that the share of held-out rows is as close as possible to ``share``.

    Rows with equal values are not separated. Ties: the smallest value.

    :param share: wanted share of held-out rows
    :param held_out: function that returns the share of held-out rows for each position at which the rows can be divided
    :return: ``None`` if all rows have the same value
    """
    runs, start, found, distance = Runs([column]), 0, None, math.inf
    for batch in ordered:
        places = start + np.flatnonzero(runs.starts(batch))
        places = places[places > 0]
        if len(places):
            distances = np.abs(held_out(places) - share)
            best = int(distances.argmin())
            if distances[best] < distance:
                found, distance = batch.column(column)[int(places[best]) - start].as_py(), distances[best]
        start += batch.num_rows
    return found


def _row_limit(rows: _Rows, split: Split) -> np.uint64:
    """Return the limit of the keys. Rows with a smaller key are held out."""
    share = _share(split)
    if split.method == "hash":
        return np.uint64(int(share * 2**64))
    runs, schema = Runs(["key"]), pa.schema([("key", pa.uint64())])
    ordered = rows.in_order({"key": (pa.uint64(), rows.keys(split.seed))}, ["key"])
    with spooled((batch.filter(pa.array(runs.starts(batch))) for batch in ordered), schema) as distinct:
        return _limit(distinct, 0, distinct.num_rows, share)


def _limit(keys: Rows, start: int, count: int, share: float) -> np.uint64:
    """Return the limit of ``count`` sorted keys from position ``start`` on. The keys below the limit are ``share`` of them."""
    held_out = round(share * count)
    # The largest 64-bit number holds out all keys, except for a key that equals it, which does not occur in practice.
    return np.uint64(keys.slice(start + held_out, 1)["key"][0].as_py() if held_out < count else 2**64 - 1)


def _by_class(rows: _Rows, label: str, split: Split) -> RowMask:
    """Return the held-out rows. The same share of each class is held out."""

    def numbers() -> Iterator[Numbers]:
        for start in range(0, len(rows), BATCH_ROWS):
            yield np.arange(start, min(start + BATCH_ROWS, len(rows)))

    columns = {
        "key": (pa.uint64(), rows.keys(split.seed)),
        "class": (pa.uint64(), row_id_batches(rows.table, [label])),
        "row": (pa.int64(), numbers()),
    }
    schema = pa.schema([(name, kind) for name, (kind, _) in columns.items()])
    pairs = pa.schema([("class", pa.uint64()), ("key", pa.uint64())])
    # Rows with equal ids may have different labels. The smallest code of these labels is used, so the order of rows
    # does not matter.
    with spooled(rows.in_order(columns, ["key", "class", "row"]), schema) as ordered:
        runs = Runs(["key"])
        distinct = (batch.filter(pa.array(runs.starts(batch))).select(pairs.names) for batch in ordered.to_batches())
        with spooled(rows.sort(distinct, pairs, pairs.names), pairs) as members:
            limits = _class_limits(members, _share(split))
        return RowMask.at(_held_out(ordered, limits), len(rows))


def _class_limits(members: Rows, share: float) -> dict[int, np.uint64]:
    """Return the limit of the keys of each class. Rows with a smaller key are held out.

    :param members: class and key of each distinct row, in this order
    """
    runs, classes, starts, start = Runs(["class"]), [], [], 0
    for batch in members.to_batches():
        places = np.flatnonzero(runs.starts(batch))
        classes += batch.column("class").take(pa.array(places)).to_pylist()
        starts += (start + places).tolist()
        start += batch.num_rows
    ends = [*starts[1:], start]
    return {
        each: _limit(members, first, end - first, share) for each, first, end in zip(classes, starts, ends, strict=True)
    }


def _held_out(ordered: Rows, limits: Mapping[int, np.uint64]) -> Iterator[Numbers]:
    """Yield the positions of the held-out rows.

    :param ordered: key, class and position of each row, in this order. The class of a key is that of its first row
    :param limits: limit of the keys by class, see :func:`_class_limits`
    """
    classes = np.array(sorted(limits), np.uint64)
    below = np.array([limits[int(each)] for each in classes], np.uint64)
    runs, last = Runs(["key"]), np.zeros(1, np.uint64)
    for batch in ordered.to_batches():
        starts = runs.starts(batch)
        first = np.maximum.accumulate(np.where(starts, np.arange(1, batch.num_rows + 1), 0))
        # Rows before the first start belong to the last key of the previous batch.
        own = np.concatenate([last, batch.column("class").to_numpy()])[first]
        last = own[-1:]
        held = batch.column("key").to_numpy() < below[np.searchsorted(classes, own)]
        yield batch.column("row").to_numpy()[held]


def _by_group(rows: _Rows, split: Split) -> tuple[RowMask, dict[str, Any]]:
    assert split.group is not None
    group = split.group

    def keys() -> Iterator[Numbers]:
        return (_shuffle(ids, split.seed) for ids in row_id_batches(rows.table, [group]))

    ordered = rows.in_order({"key": (pa.uint64(), keys())}, ["key"])
    limit = _nearest(ordered, "key", _share(split), lambda places: places / len(rows))
    test = RowMask.of(np.ones(len(part), bool) if limit is None else part < np.uint64(limit) for part in keys())
    train = _without(test, len(rows))
    found = _Shared(rows, "key", keys(), {"train": train, "test": test})
    return test, {"groups": found.distinct, "group_overlap": found.overlap}


def _train(rows: _Rows, split: Split, test: RowMask) -> tuple[RowMask, dict[str, Any] | None]:
    """Return the rows of ``train``, and the description of the gap; ``None`` without a gap."""
    if split.gap is None or not (span := rows.span(test)):
        return _without(test, len(rows)), None
    end = span[0] - split.gap // _MICROSECOND

    def before() -> Iterator[Numbers]:
        start = 0
        for times in rows.times():
            yield (times < end) & ~test.slice(start, start + len(times))
            start += len(times)

    train = RowMask.of(before())
    left_out = len(rows) - test.count - train.count
    return train, {"duration": _text(split.gap), "seconds": split.gap.total_seconds(), "rows": left_out}


def _without(mask: RowMask, length: int) -> RowMask:
    """Return all other rows."""
    return RowMask.of(~mask.slice(start, min(start + BATCH_ROWS, length)) for start in range(0, length, BATCH_ROWS))


def _windows(rows: _Rows, test: RowMask, split: Split) -> list[dict[str, Any]]:
    """Divide the time of the held-out rows into consecutive windows of equal length.

    :return: start, end (excluded) and number of rows of each window
    :raises TrainingError: a window has no rows
    """
    assert split.windows is not None
    start, last = rows.span(test) or (0, 0)
    end = last + 1
    if isinstance(split.test_size, timedelta):
        start = end - split.test_size // _MICROSECOND
    edges = [start + (end - start) * number // split.windows for number in range(split.windows + 1)]
    counts = np.diff(sum(np.searchsorted(np.sort(times), edges) for times in rows.times(test)))
    if not counts.all():
        first = int(counts.argmin())
        raise TrainingError(
            f"Window {first + 1} of the {split.windows} windows of the split part 'test' ({_iso(edges[first])} to {_iso(edges[first + 1])}) "
            "has no rows. Set a smaller `windows`, or another `test_size`."
        )
    return [
        {"start": _iso(edges[number]), "end": _iso(edges[number + 1]), "rows": int(counts[number])}
        for number in range(split.windows)
    ]


def _proof(rows: _Rows, split: Split, parts: dict[str, RowMask], facts: dict[str, Any]) -> Proof:
    """Prove that the split parts have no row in common.

    :param parts: the rows of each split part
    :param facts: further entries for the description
    :raises TrainingError: a row or a group is in both split parts
    """
    shared = _Shared(rows, "id", rows.ids(), parts)
    if shared.overlap or facts.get("group_overlap"):
        raise TrainingError(
            f"The split put {shared.overlap:,} rows into both `train` and `test`. Report this defect of airflow-mlops."
        )
    description = {
        "method": split.method,
        "test_size": _text(split.test_size),
        "group": split.group,
        "seed": split.seed,
        **({"stratify": True} if split.stratify else {}),
        "rows": {part: mask.count for part, mask in parts.items()},
        "time": {part: [_iso(moment) for moment in rows.span(mask) or ()] for part, mask in parts.items()},
        "row_ids": shared.hashes,
        "overlap": shared.overlap,
        **facts,
    }
    return Proof(description, shared.are_distinct)


class _Shared:
    """Compares the values of the rows, such as ids, between the split parts.

    :param name: name of the values
    :param values: the value of each row
    :param parts: the rows of each split part
    :ivar distinct: number of distinct values of each split part
    :ivar overlap: number of distinct values in several split parts
    :ivar are_distinct: whether all rows have different values, including the rows in no split part
    :ivar hashes: SHA-256 of the sorted values of each split part
    """

    def __init__(self, rows: _Rows, name: str, values: Iterator[Numbers], parts: Mapping[str, RowMask]) -> None:
        hashes = [hashlib.sha256() for _ in parts]
        distinct = [0 for _ in parts]
        whole, one, each = Runs([name]), Runs([name]), Runs([name, "part"])
        columns = {name: (pa.uint64(), values), "part": (pa.int8(), _numbers(parts, len(rows)))}
        for batch in rows.in_order(columns, [name, "part"]):
            whole.starts(batch)
            batch = batch.filter(pc.greater_equal(batch.column("part"), 0))
            one.starts(batch)
            starts = each.starts(batch)
            numbers, found = batch.column("part").to_numpy(), batch.column(name).to_numpy()
            for number in range(len(parts)):
                own = numbers == number
                hashes[number].update(found[own].tobytes())
                distinct[number] += int((starts & own).sum())
        self.distinct = dict(zip(parts, distinct, strict=True))
        self.overlap = each.count - one.count
        self.are_distinct = whole.count == len(rows)
        self.hashes = {part: found.hexdigest() for part, found in zip(parts, hashes, strict=True)}


def _numbers(parts: Mapping[str, RowMask], length: int) -> Iterator[Numbers]:
    """Yield the number of the split part of each row; -1 if it is in none."""
    for start in range(0, length, BATCH_ROWS):
        end = min(start + BATCH_ROWS, length)
        found = np.full(end - start, -1, np.int8)
        for number, mask in enumerate(parts.values()):
            found[mask.slice(start, end)] = number
        yield found


def _share(split: Split) -> float:
    # The spec allows a duration or a window only for the method "time".
    assert isinstance(split.test_size, float)
    return split.test_size


def _shuffle(ids: Numbers, seed: int) -> Numbers:
    """Hash 64-bit numbers to evenly distributed 64-bit numbers, with the finaliser of SplitMix64 and a seed."""
    with np.errstate(over="ignore"):
        mixed = ids + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def _text(test_size: float | timedelta | str) -> float | str:
    return f"{test_size.total_seconds() / 86400:g}D" if isinstance(test_size, timedelta) else test_size


def _span(rows: _Rows) -> str:
    span = rows.span()
    return f", {_iso(span[0])} to {_iso(span[1])}" if span else ""


def _iso(micros: Any) -> str:
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=int(micros))
    return moment.isoformat().replace("+00:00", "Z")
