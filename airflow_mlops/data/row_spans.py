"""Divide the rows of datasets into spans for several machines, by the numbers of rows in the manifests."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.data.datasets import Dataset

# Small datasets are divided as well, because a row can be expensive.
_ROWS, _FEWEST = 1 << 20, 8


def spans(
    datasets: Sequence[Dataset], part: str | None, batch_rows: int, number: int, count: int
) -> list[tuple[Dataset, range]]:
    """Return the rows of one of ``count`` spans, as positions in the split part of each dataset.

    Every row is in exactly one span. A span consists of consecutive batches of one pass over all rows. A model gets the
    same batches, so its predictions are the same to the last bit.

    :param batch_rows: number of rows in a batch. The last batch of each file may have fewer
    :param number: number of the span, from 0
    """
    batches = []
    for place, dataset in enumerate(datasets):
        first = 0
        for file in dataset.files(part):
            rows = range(first, first + file.rows)
            batches += [(place, rows[start : start + batch_rows]) for start in range(0, file.rows, batch_rows)]
            first = rows.stop
    found: dict[int, range] = {}
    for place, rows in batches[-(-len(batches) * number // count) : -(-len(batches) * (number + 1) // count)]:
        found[place] = range(found.get(place, rows).start, rows.stop)
    return [(datasets[place], rows) for place, rows in found.items()]


def count(datasets: Sequence[Dataset], part: str | None, batch_rows: int) -> int:
    """Return into how many spans to divide the rows: about a million rows each, and at least eight if there are enough.

    The number depends only on the datasets, so a retry finds the spans that an earlier try has finished.

    :param batch_rows: number of rows in a batch, as in :func:`spans`
    """
    sizes = [file.rows for dataset in datasets for file in dataset.files(part)]
    batches = sum(-(-rows // batch_rows) for rows in sizes)
    return max(1, min(batches, max(_FEWEST, -(-sum(sizes) // _ROWS))))
