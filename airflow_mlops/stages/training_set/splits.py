"""Split rows into the split parts ``train`` and ``test``, and verify that the split parts have no row in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.errors import SchemaError, TrainingError
from airflow_mlops.core.moments import EPOCH
from airflow_mlops.data.moments import as_utc
from airflow_mlops.data.row_identity import row_ids
from airflow_mlops.data.spool import Rows
from airflow_mlops.stages.training_set.spec import RUN_WINDOW, Split

Numbers = np.ndarray[Any, Any]


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
    ids: Numbers,
    run_starts: datetime | None = None,
    label: str | None = None,
) -> tuple[dict[str, Numbers], dict[str, Any]]:
    """Assign each row to the split part ``train`` or ``test``. Rows in the gap between them are in no split part.

    Rows with equal ids get the same split part.

    :param table: rows to split
    :param split: method and parameters of the split
    :param timestamp: name of the event time column
    :param ids: id of each row, from :func:`airflow_mlops.data.row_identity.row_ids`, shape (n,)
    :param run_starts: start of the window that the run processes, if ``split.test_size`` is ``window``
    :param label: name of the label column with classes, if ``split.stratify`` is set
    :return: for each split part a boolean mask of its rows, shape (n,), and the description of the split for the
        manifest
    :raises TrainingError: a split part or a window of ``test`` would be empty
    """
    times = as_utc(table[timestamp], f"The event time {timestamp!r}").cast(pa.int64()).to_numpy()
    facts: dict[str, Any] = {}
    if split.method == "time":
        test = _by_time(times, split, run_starts)
    elif split.method == "group":
        test, facts = _by_group(table, split)
    elif split.stratify and label is not None:
        test = _by_class(ids, table[label], split)
    else:
        test = _by_row(ids, split)
    train = ~test
    if split.gap is not None and test.any():
        train &= times < times[test].min() - split.gap // timedelta(microseconds=1)
        left_out = int((~test & ~train).sum())
        facts["gap"] = {"duration": _text(split.gap), "seconds": split.gap.total_seconds(), "rows": left_out}
    for part, mask in (("test", test), ("train", train)):
        if not mask.any():
            gap = f" and gap={_text(split.gap)}" if split.gap is not None else ""
            other = ", or set another method if the rows have no order in time" if split.method == "time" else ""
            raise TrainingError(
                f"The split by {split.method} with test_size={_text(split.test_size)}{gap} leaves the split part {part!r} "
                f"empty ({len(test):,} rows{_span(times)}). Change `test_size`, or build the training set from more rows{other}."
            )
    if split.windows is not None:
        facts["windows"] = _windows(times[test], split)
    parts = {"train": train, "test": test}
    return parts, _proof(split, parts, ids, times, facts)


def _by_class(ids: Numbers, label: pa.ChunkedArray, split: Split) -> Numbers:
    """Return a mask of the held-out rows, shape (n,). The same share of each class is held out."""
    distinct, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    codes = row_ids(pa.table({"label": label}), ["label"])
    # Rows with equal ids may have different labels. The smallest code of these labels is used, so the order of rows
    # does not matter.
    classes = codes[first]
    np.minimum.at(classes, inverse, codes)
    held_out = np.zeros(len(distinct), bool)
    for each in np.unique(classes):
        members = np.flatnonzero(classes == each)
        order = members[np.argsort(_shuffle(distinct[members], split.seed), kind="stable")]
        held_out[order[: round(_share(split) * len(members))]] = True
    return held_out[inverse]


def _by_row(ids: Numbers, split: Split) -> Numbers:
    share = _share(split)
    if split.method == "hash":
        below: Numbers = _shuffle(ids, split.seed) < np.uint64(int(share * 2**64))
        return below
    distinct, inverse = np.unique(ids, return_inverse=True)
    count = round(share * len(distinct))
    held_out = np.zeros(len(distinct), bool)
    held_out[np.argsort(_shuffle(distinct, split.seed), kind="stable")[:count]] = True
    return held_out[inverse]


def _by_time(times: Numbers, split: Split, run_starts: datetime | None) -> Numbers:
    if run_starts is not None and split.test_size == RUN_WINDOW:
        cut = (run_starts - EPOCH) // timedelta(microseconds=1)
    elif isinstance(split.test_size, timedelta):
        cut = int(times.max()) - split.test_size // timedelta(microseconds=1) + 1
    else:
        share = _share(split)
        # Rows with equal times are not separated. The share of held-out rows is as close as possible to test_size.
        moments, counts = np.unique(times, return_counts=True)
        later = counts[::-1].cumsum()[::-1] / len(times)
        cut = int(moments[1:][np.argmin(np.abs(later[1:] - share))]) if len(moments) > 1 else int(moments[0])
    return times >= cut


def _windows(times: Numbers, split: Split) -> list[dict[str, Any]]:
    """Divide the time of the held-out rows into consecutive windows of equal length.

    :param times: event time of each held-out row in microseconds since 1970, shape (n,)
    :return: start, end (excluded) and number of rows of each window
    :raises TrainingError: a window has no rows
    """
    assert split.windows is not None
    end = int(times.max()) + 1
    start = int(times.min())
    if isinstance(split.test_size, timedelta):
        start = end - split.test_size // timedelta(microseconds=1)
    edges = [start + (end - start) * number // split.windows for number in range(split.windows + 1)]
    counts = np.diff(np.searchsorted(np.sort(times), edges))
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


def _by_group(table: pa.Table | Rows, split: Split) -> tuple[Numbers, dict[str, Any]]:
    assert split.group is not None
    groups, inverse, counts = np.unique(row_ids(table, [split.group]), return_inverse=True, return_counts=True)
    order = np.argsort(_shuffle(groups, split.seed), kind="stable")
    reached = counts[order].cumsum() / len(inverse)
    take = int(np.argmin(np.abs(reached[:-1] - _share(split)))) + 1 if len(groups) > 1 else 1
    held_out = np.zeros(len(groups), bool)
    held_out[order[:take]] = True
    test = held_out[inverse]
    parts = {"train": inverse[~test], "test": inverse[test]}
    facts = {
        "groups": {part: len(np.unique(members)) for part, members in parts.items()},
        "group_overlap": len(np.intersect1d(parts["train"], parts["test"])),
    }
    return test, facts


def _proof(
    split: Split, parts: dict[str, Numbers], ids: Numbers, times: Numbers, facts: dict[str, Any]
) -> dict[str, Any]:
    """Return the description of the split for the manifest.

    It contains the parameters and, for each split part, the number of rows, the time range and a hash of the row ids.

    :param parts: for each split part a mask of its rows, shape (n,)
    :param ids: id of each row, shape (n,)
    :param times: event time of each row in microseconds since 1970, shape (n,)
    :param facts: further entries for the description
    :raises TrainingError: a row or a group is in both split parts
    """
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    overlap = _overlap(ordered, *(parts[part][order] for part in ("train", "test")))
    if overlap or facts.get("group_overlap"):
        raise TrainingError(
            f"The split put {overlap:,} rows into both `train` and `test`. Report this defect of airflow-mlops."
        )
    return {
        "method": split.method,
        "test_size": _text(split.test_size),
        "group": split.group,
        "seed": split.seed,
        **({"stratify": True} if split.stratify else {}),
        "rows": {part: int(mask.sum()) for part, mask in parts.items()},
        "time": {part: [_iso(times[mask].min()), _iso(times[mask].max())] for part, mask in parts.items()},
        "row_ids": {part: hashlib.sha256(ordered[mask[order]].tobytes()).hexdigest() for part, mask in parts.items()},
        "overlap": overlap,
        **facts,
    }


def _overlap(ids: Numbers, train: Numbers, test: Numbers) -> int:
    """Count the distinct ids of rows in both split parts.

    :param ids: sorted ids, shape (n,)
    :param train: whether each row is in ``train``, shape (n,)
    :param test: whether each row is in ``test``, shape (n,)
    """
    first = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    return int((np.logical_or.reduceat(train, first) & np.logical_or.reduceat(test, first)).sum())


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


def _span(times: Numbers) -> str:
    return f", {_iso(times.min())} to {_iso(times.max())}" if len(times) else ""


def _iso(micros: Any) -> str:
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=int(micros))
    return moment.isoformat().replace("+00:00", "Z")
