"""The result of one expectation about single rows for a part of the rows, which an executor returns.

The Data Docs show unexpected values. An executor sends the rows that contain them as an Arrow table, from which the step
makes a DataFrame. The values therefore have the same Python types as on the worker.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Part:
    """The result of an expectation for a part of the rows.

    :param failure: message of the exception if Great Expectations could not compute the expectation; otherwise empty
    :param counts: numbers of rows, see :func:`~.merged.counts_of`
    :param rows: numbers of the unexpected rows in the part, in ascending order
    :param sample: the columns of the expectation: the first ``shown`` unexpected rows, and then one row for each distinct
        unexpected value, in the order in which they occur
    :param shown: how many rows at the start of ``sample`` are the first unexpected rows
    :param repeats: for each distinct value, the number of rows; ``None`` if the values cannot be counted
    """

    failure: str
    counts: dict[str, int]
    rows: NDArray[np.int64]
    sample: pa.Table
    shown: int
    repeats: NDArray[np.int64] | None

    def to_json(self) -> dict[str, Any]:
        """Convert the part to JSON values."""
        return {
            "failure": self.failure,
            "counts": self.counts,
            "rows": pack(pa.table({"row": self.rows})),
            "sample": pack(self.sample),
            "shown": self.shown,
            "repeats": None if self.repeats is None else pack(pa.table({"rows": self.repeats})),
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Part:
        """Create a part from the JSON values of :meth:`to_json`."""
        repeats = None if found["repeats"] is None else unpack(found["repeats"])["rows"].to_numpy()
        rows, sample = unpack(found["rows"])["row"].to_numpy(), unpack(found["sample"])
        return cls(found["failure"], found["counts"], rows, sample, found["shown"], repeats)


def pack(table: pa.Table) -> str:
    """Return a table as compressed text, for JSON."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue()).decode()


def unpack(text: str) -> pa.Table:
    """Create a table from the text of :func:`pack`."""
    return pa.ipc.open_stream(base64.b64decode(text)).read_all()
