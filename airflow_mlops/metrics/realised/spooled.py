"""The labelled predictions of a window in a temporary file. Their memory does not grow with the number of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import ModelContract, PredictionInterval
from airflow_mlops.data import relational, spool
from airflow_mlops.data.sample_weights import numbers
from airflow_mlops.data.sorting import in_order
from airflow_mlops.metrics.realised.labelled import Order, Outcomes, measurable, part_of, require_known

if TYPE_CHECKING:
    from numpy.typing import NDArray

SORT_MEMORY = 100_000_000
"""The largest default memory in bytes of sorts by score on a machine with at most four CPUs."""

Beside = Callable[[pa.RecordBatch], Sequence["NDArray[np.uint64]"]]


@dataclass
class _Counts:
    """Counts of the rows that were read, see :class:`Spooled`."""

    labelled: int = 0
    skipped: int = 0
    unknown: int = 0
    example: Any = None
    mass: float = 0.0


@dataclass(frozen=True)
class Spooled:
    """The labelled predictions of a window, which are read in parts.

    Rows with the weight 0 are left out. The fields have the same meanings as in
    :class:`~airflow_mlops.metrics.realised.labelled.Outcomes`.

    :param labelled: number of labelled rows, including those that were left out
    :param mean_weight: mean weight of the rows; ``None`` if each row counts once
    """

    stored: spool.Rows = field(repr=False)
    labelled: int
    skipped: int
    unknown: int
    example: Any
    mean_weight: float | None
    interval: PredictionInterval | None
    clusters: int | None

    @property
    def rows(self) -> int:
        return len(self.stored)

    def parts(self) -> Iterator[Outcomes]:
        """Yield the rows in parts."""
        return (part for part, _ in self.with_beside(0))

    def with_beside(self, count: int) -> Iterator[tuple[Outcomes, list[NDArray[np.uint64]]]]:
        """Yield the rows in parts, each with the first ``count`` additional columns."""
        own = [name for name in self.stored.column_names if not name.startswith(_BESIDE)]
        names = [f"{_BESIDE}{number}" for number in range(count)]
        for batch in self.stored.select([*own, *names]).to_batches():
            columns = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}
            weight = columns.get("weight")
            yield (
                Outcomes(
                    columns["truth"],
                    columns["score"],
                    columns.get("right", columns["truth"]),
                    codes=np.stack([columns[name] for name in _CODES]) if _CODES[0] in columns else None,
                    weight=None if weight is None else weight / self.mean_weight,
                    groups=columns.get("group"),
                    interval=self.interval,
                    columns={
                        name.removeprefix(_COLUMN): values
                        for name, values in columns.items()
                        if name.startswith(_COLUMN)
                    },
                ),
                [columns[name] for name in names],
            )


_BESIDE, _COLUMN = "beside_", "column_"
_CODES = ("label_code", "predicted_code")


@contextmanager
def spooled(
    batches: Iterable[pa.RecordBatch],
    contract: ModelContract,
    most: int,
    *,
    weight: str | None = None,
    order: Order | None = None,
    columns: Sequence[str] = (),
    groups: tuple[str, int] | None = None,
    beside: tuple[int, Beside] | None = None,
) -> Iterator[Spooled]:
    """Write the rows that have a label to a temporary file, see :func:`airflow_mlops.metrics.realised.outcomes`.

    :param batches: record batches with the columns :data:`COLUMNS`, and those that ``weight``, ``columns``, ``groups`` and
        ``beside`` need
    :param contract: contract of the model
    :param most: upper bound of the number of rows of all batches
    :param weight: the column with the weight of each row. Weights are finite and at least 0, and at least one is above
        0. ``None`` if each row counts once
    :param order: the order of the rows by score; ``None`` for the order of the batches
    :param columns: names of the columns of numbers that metrics need
    :param groups: the column with the number of the cluster of each row, from 0, and the number of clusters; ``None`` for
        independent rows
    :param beside: additional columns to store: their number, and a function that returns their values for the rows of a
        batch that have a label
    :raises UnmeasurableError: see :func:`airflow_mlops.metrics.realised.outcomes`
    :raises SpillError: the disk is full
    """
    truth = pa.float64() if contract.task == "regression" else pa.bool_()
    schema = pa.schema(
        [
            ("truth", truth),
            ("score", pa.float64()),
            # In a multiclass model, `truth` has the same values.
            *([(name, pa.int32()) for name in _CODES] if contract.task == "multiclass" else [("right", pa.bool_())]),
            *([] if weight is None else [("weight", pa.float64())]),
            *((f"{_COLUMN}{name}", pa.float64()) for name in columns),
            *([] if groups is None else [("group", pa.int64())]),
            *((f"{_BESIDE}{number}", pa.uint64()) for number in range(beside[0] if beside else 0)),
        ]
    )
    counts = _Counts()
    names = {"weight": weight, "group": groups[0] if groups else None} | {f"{_COLUMN}{name}": name for name in columns}
    rows = _rows(batches, contract, schema, counts, names, beside[1] if beside else None)
    if order is not None:
        memory = relational.default_memory(most=SORT_MEMORY)
        rows = in_order(rows, schema, ["score"], most, memory, descending=order == "descending")
    with spool.spooled(rows, schema) as stored:
        require_known(counts.labelled - counts.skipped, counts.unknown, counts.example, contract)
        mean = None if weight is None else counts.mass / max(1, len(stored))
        clusters = None if groups is None else groups[1]
        yield Spooled(
            stored, counts.labelled, counts.skipped, counts.unknown, counts.example, mean, contract.interval, clusters
        )


def _rows(
    batches: Iterable[pa.RecordBatch],
    contract: ModelContract,
    schema: pa.Schema,
    counts: _Counts,
    names: Mapping[str, str | None],
    beside: Beside | None,
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        part = part_of(batch, contract)
        if part is None:
            continue
        counts.labelled += part.rows + part.skipped
        counts.skipped += part.skipped
        if part.unknown and not counts.unknown:
            counts.example = part.example
        counts.unknown += part.unknown
        (usable,) = measurable([batch], contract)
        # -0.0 and 0.0 are one score.
        columns: dict[str, Any] = {"truth": part.truth, "score": part.score + 0.0, "right": part.right}
        if part.codes is not None:
            columns |= dict(zip(_CODES, part.codes, strict=True))
        columns |= {
            own: numbers(usable.column(name)) for own, name in names.items() if name is not None and own != "group"
        }
        if (group := names["group"]) is not None:
            columns["group"] = usable.column(group).to_numpy()
        if beside is not None:
            columns |= {f"{_BESIDE}{number}": values for number, values in enumerate(beside(usable))}
        weighted = "weight" in columns
        if weighted:
            counts.mass += float(columns["weight"].sum())
        arrays = [pa.array(columns[field.name], field.type) for field in schema]
        found = pa.RecordBatch.from_arrays(arrays, schema=schema)
        yield found.filter(pa.array(columns["weight"] > 0)) if weighted else found
