"""Rows of a validation in parts that other processes check: executors, or the shards of a mapped task.

The other processes run the expectations whose result for a row does not depend on other rows. The step merges their
results, runs all other expectations, and commits the datasets. The results are those of a single pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.stages.validate.parts import Part
from airflow_mlops.stages.validate.rows import Rows

if TYPE_CHECKING:
    from airflow_mlops.data.datasets import DatasetWriter
    from airflow_mlops.stages.validate.splitting import Failing


class DividedRows(ABC):
    """The rows of a validation, in parts that other processes check.

    :param rows: the rows
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._counts: list[int] = []

    @property
    def firsts(self) -> list[int]:
        """Return for each part the number of rows before it. :meth:`facts` must be called first."""
        return firsts(self._counts)

    def facts(self) -> dict[str, ColumnFacts]:
        """Return the facts of all rows, see :meth:`Rows.facts`."""
        found = self._facts_of_parts()
        self._counts = [count for count, _ in found]
        return merged(self._rows, (facts for _, facts in found))

    @abstractmethod
    def _facts_of_parts(self) -> list[tuple[int, dict[str, ColumnFacts]]]:
        """Return for each part its number of rows and the facts of its rows."""

    @abstractmethod
    def takes(self, expectation: Mapping[str, Any]) -> bool:
        """Return whether other processes check the rows with this expectation.

        :param expectation: the expectation, from :func:`sent_expectations.describe`
        """

    @abstractmethod
    def check(
        self, expectations: Sequence[dict[str, Any]], columns: Sequence[Sequence[str]], facts: Mapping[str, ColumnFacts]
    ) -> Iterator[list[Part]]:
        """Check all rows with expectations about single rows.

        :param expectations: expectations that :meth:`takes` accepts
        :param columns: for each expectation, the columns that it names
        :param facts: the facts of all rows
        :return: for each part, the results of the expectations
        """

    @abstractmethod
    def split(self, failing: Failing, valid: DatasetWriter, quarantine: DatasetWriter) -> tuple[int, int]:
        """Add the files with the valid and with the failing rows to the writers. :meth:`facts` must be called first.

        :param failing: function that returns the failing rows
        :return: numbers of valid and of failing rows, as of :func:`~.splitting.split`
        :raises DatasetCorruptError: files that an earlier try has written were deleted or changed
        """


def firsts(counts: Sequence[int]) -> list[int]:
    """Return for each part the number of rows before it.

    :param counts: number of rows of each part
    """
    return [0, *np.cumsum(counts[:-1], dtype=np.int64).tolist()]


def merged(rows: Rows, parts: Iterable[Mapping[str, ColumnFacts]]) -> dict[str, ColumnFacts]:
    """Return the facts of all rows.

    :param parts: the facts of each part
    """
    found = dict.fromkeys(rows.schema.names, ColumnFacts())
    for part in parts:
        for name, fact in part.items():
            before = found[name]
            found[name] = ColumnFacts(before.has_nulls or fact.has_nulls, before.is_exact and fact.is_exact)
    return found


def to_json(facts: Mapping[str, ColumnFacts]) -> dict[str, list[bool]]:
    """Convert facts to JSON values."""
    return {name: [fact.has_nulls, fact.is_exact] for name, fact in facts.items()}


def from_json(facts: Mapping[str, Sequence[bool]]) -> dict[str, ColumnFacts]:
    """Create facts from the JSON values of :func:`to_json`."""
    return {name: ColumnFacts(*fact) for name, fact in facts.items()}
