"""Divide the rows of datasets into spans for several machines, by the numbers of rows in the manifests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from airflow_mlops.data.datasets import Dataset

# Small datasets are divided as well, because a row can be expensive.
_ROWS, _FEWEST = 1 << 20, 8

T = TypeVar("T")


def spans(
    datasets: Sequence[Dataset], part: str | None, batch_rows: int, number: int, count: int
) -> list[tuple[Dataset, range]]:
    """Return the rows of one of ``count`` spans, as positions in the split part of each dataset.

    Every row is in exactly one span. A span consists of whole batches, which are the same as in one pass over all rows.
    A model's predictions are therefore equal to the last bit.

    :param batch_rows: number of rows in a batch. The last batch of each file may have fewer
    :param number: number of the span, from 0
    """
    batches = []
    for dataset in datasets:
        first = 0
        for file in dataset.files(part):
            rows = range(first, first + file.rows)
            batches += [(dataset, rows[start : start + batch_rows]) for start in range(0, file.rows, batch_rows)]
            first = rows.stop
    return joined(share(batches, number, count))


def pieces(datasets: Sequence[Dataset], rows: int, number: int, count: int) -> list[list[tuple[Dataset, range]]]:
    """Return the pieces of one of ``count`` spans. The rows of all datasets are divided into pieces of ``rows`` rows.

    The last piece may have fewer rows. The pieces depend neither on the files of the datasets nor on ``count``.

    :param number: number of the span, from 0
    :return: for each piece, the positions of its rows in the files of each dataset
    """
    found: list[list[tuple[Dataset, range]]] = []
    room = 0
    for dataset in datasets:
        first, end = 0, sum(file.rows for file in dataset.files())
        while first < end:
            if not room:
                found.append([])
                room = rows
            taken = range(first, min(first + room, end))
            found[-1].append((dataset, taken))
            room -= len(taken)
            first = taken.stop
    return share(found, number, count)


def joined(spans: Iterable[tuple[Dataset, range]]) -> list[tuple[Dataset, range]]:
    """Join consecutive ranges of the same dataset if one range begins where the previous range ends."""
    found: list[tuple[Dataset, range]] = []
    for dataset, rows in spans:
        if found and found[-1][0] is dataset and found[-1][1].stop == rows.start:
            rows = range(found.pop()[1].start, rows.stop)
        found.append((dataset, rows))
    return found


def share(items: Sequence[T], number: int, count: int) -> list[T]:
    """Divide items into ``count`` shares of consecutive items, and return one share. The sizes differ by at most one.

    :param number: number of the share, from 0
    """
    return list(items[-(-len(items) * number // count) : -(-len(items) * (number + 1) // count)])


def count(datasets: Sequence[Dataset], part: str | None, batch_rows: int) -> int:
    """Return the number of spans: one per 2**20 rows, but at least eight, and at most one per batch.

    The number depends only on the arguments, so a retry finds the spans that an earlier try has finished. It is 1 if
    there are no rows.

    :param batch_rows: number of rows in a batch, as in :func:`spans`
    """
    sizes = [file.rows for dataset in datasets for file in dataset.files(part)]
    batches = sum(-(-rows // batch_rows) for rows in sizes)
    return max(1, min(batches, max(_FEWEST, -(-sum(sizes) // _ROWS))))


def count_of_pieces(datasets: Sequence[Dataset], rows: int, fewest_rows: int) -> int:
    """Return the number of spans of :func:`pieces`.

    Each span has at least ``fewest_rows`` rows, except for the last one.

    :param rows: number of rows in a piece, as in :func:`pieces`
    """
    total = sum(file.rows for dataset in datasets for file in dataset.files())
    in_span = max(rows, fewest_rows, min(_ROWS, -(-total // _FEWEST)))
    return max(1, -(-total // in_span))
