"""Embedding columns, in which each row is a list of floating-point numbers.

If two distributions in many dimensions differ, their projections on a random direction differ with probability one (J.
Cuesta-Albertos, R. Fraiman and T. Ransford, "A Sharp Form of the Cramer-Wold Theorem", Journal of Theoretical
Probability 20, 2007). Therefore the Euclidean norm of each row and its projections on eight random directions are
profiled as numeric columns. The directions depend on the dimension alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.columns.numeric import NumericColumn, NumericCounter

DIRECTIONS = 8
# A column may mix lengths by mistake, or because the embedding model was replaced. The most frequent lengths are
# profiled separately.
LENGTHS = 4
# Number of components that are processed at once, which bounds memory.
_AT_ONCE = 4_000_000
_LARGEST = float(np.finfo(np.float32).max)


class Projections(Model):
    """The profile of the embeddings with one number of finite components.

    :param dimension: the number of components
    :param norm: profile of the Euclidean norms
    :param along: profiles of the projections on :data:`DIRECTIONS` random unit vectors
    """

    dimension: int
    norm: NumericColumn
    along: list[NumericColumn]


class EmbeddingColumn(Model):
    """The profile of an embedding column.

    :param rows: number of rows, including null rows
    :param missing: number of null rows
    :param odd: number of unusable rows. A row is unusable if it has no components, or if a component is null, NaN,
        infinite or too large for single precision. Only rows with one of the four most frequent numbers of components
        are usable
    :param parts: profiles of the usable rows by number of components, the most frequent number first; at most four
    """

    kind: Literal["embedding"] = "embedding"
    rows: int
    missing: int
    odd: int
    parts: list[Projections]

    @property
    def dimension(self) -> int:
        """Return the most frequent number of components; 0 if there are no usable rows."""
        return self.parts[0].dimension if self.parts else 0

    @property
    def valid(self) -> int:
        """Return the number of usable rows with the most frequent number of components."""
        return self.parts[0].norm.valid if self.parts else 0

    def with_dimension(self, dimension: int) -> EmbeddingColumn:
        """Return a copy in which rows with a different dimension count as unusable."""
        same = [part for part in self.parts if part.dimension == dimension]
        others = sum(part.norm.rows for part in self.parts if part.dimension != dimension)
        return self.model_copy(update={"parts": same, "odd": self.odd + others})


def is_embedding(data_type: pa.DataType) -> bool:
    """Return whether a column of ``data_type`` is profiled as embeddings."""
    kinds = pa.types
    lists = kinds.is_fixed_size_list(data_type) or kinds.is_list(data_type) or kinds.is_large_list(data_type)
    return bool(lists and kinds.is_floating(data_type.value_type))


class EmbeddingCounter:
    """Computes the profile of an embedding column from a stream of values."""

    kind: Literal["embedding"] = "embedding"

    def __init__(self) -> None:
        self.rows = self.missing = self.odd = 0
        self.parts: dict[int, list[NumericCounter]] = {}

    def update(self, name: str, array: pa.Array) -> None:
        if not is_embedding(array.type):
            raise SchemaError(
                f"Column {name!r} holds embeddings in earlier rows and {array.type} in later rows: convert it to one type."
            )
        self.rows += len(array)
        self.missing += array.null_count
        rows = array.drop_null()
        lengths = pc.list_value_length(rows).to_numpy(zero_copy_only=False)
        for length in np.unique(lengths):
            alike = rows if (lengths == length).all() else rows.filter(pa.array(lengths == length))
            self._update(name, int(length), alike)

    def _update(self, name: str, length: int, rows: pa.Array) -> None:
        if not length:
            self.odd += len(rows)
            return
        step = max(1, _AT_ONCE // length)
        for start in range(0, len(rows), step):
            some = rows.slice(start, step)
            # flatten() respects the slice. Null components become NaN.
            values = some.flatten().to_numpy(zero_copy_only=False).reshape(len(some), length).astype(np.float64)
            norms = np.sqrt(np.einsum("ij,ij->i", values, values))
            known = norms < _LARGEST
            self.odd += int(len(some) - known.sum())
            if not known.all():
                values, norms = values[known], norms[known]
            if not len(values):
                continue
            # Rounded to single precision, because the order in which BLAS sums products varies.
            found = np.column_stack([norms, values @ directions(length)]).astype(np.float32)
            for counter, numbers in zip(self._part(length), found.T, strict=True):
                counter.update(name, pa.array(np.ascontiguousarray(numbers)))
        self._limit()

    def _part(self, length: int) -> list[NumericCounter]:
        return self.parts.setdefault(length, [NumericCounter() for _ in range(1 + DIRECTIONS)])

    def _limit(self) -> None:
        while len(self.parts) > LENGTHS:
            rarest = min(self.parts, key=lambda length: (self.parts[length][0].rows, -length))
            self.odd += self.parts.pop(rarest)[0].rows

    def add(self, column: Any) -> None:
        self.rows += column.rows
        self.missing += column.missing
        self.odd += column.odd
        for part in column.parts:
            for counter, numbers in zip(self._part(part.dimension), [part.norm, *part.along], strict=True):
                counter.add(numbers)
        self._limit()

    def result(self) -> EmbeddingColumn:
        ordered = sorted(self.parts.items(), key=lambda item: (-item[1][0].rows, item[0]))
        return EmbeddingColumn(
            rows=self.rows,
            missing=self.missing,
            odd=self.odd,
            parts=[
                Projections(dimension=length, norm=norm.result(), along=[counter.result() for counter in along])
                for length, (norm, *along) in ordered
            ],
        )


@lru_cache(maxsize=LENGTHS)
def directions(dimension: int) -> Floats:
    """Return random unit vectors, shape (dimension, DIRECTIONS). The vectors are the same on every machine."""
    # RandomState is the only NumPy generator with a guaranteed stream.
    drawn = np.random.RandomState(dimension).standard_normal((dimension, DIRECTIONS))
    found: Floats = drawn / np.linalg.norm(drawn, axis=0)
    return found
