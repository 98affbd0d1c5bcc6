"""The numbers of failing rows are read back as they were written, and do not fill the memory."""

from __future__ import annotations

import errno
import tempfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import SpillError
from airflow_mlops.stages.validate import row_numbers
from airflow_mlops.stages.validate.row_numbers import BLOCK, RowNumbers
from airflow_mlops.stages.validate.splitting import count_failing


@settings(max_examples=40)
@given(
    st.sets(st.integers(0, 60)),
    st.lists(st.integers(0, 61), max_size=4),
    st.integers(1, 9),
    st.integers(0, 61),
    st.integers(0, 61),
)
def test_any_range_of_numbers_can_be_read(numbers, cuts, block, first, end):
    expected = sorted(numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_numbers, "BLOCK", block)
        found = RowNumbers()
        bounds = [0, *sorted(cuts), 62]
        for start, stop in zip(bounds, bounds[1:], strict=False):
            found.append(np.array([number for number in expected if start <= number < stop], np.int64))
        assert len(found) == len(expected)
        assert found.between(first, end).tolist() == [number for number in expected if first <= number < end]
        assert found.first(end).tolist() == expected[:end]


def test_the_memory_does_not_grow_with_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    block = np.arange(4 * BLOCK)
    tracemalloc.start()
    try:
        found = RowNumbers()
        for first in range(0, 20 * len(block), len(block)):
            found.append(block + first)
            found.between(first, first + 10)
        held, _ = tracemalloc.get_traced_memory()
        assert count_failing([("a", found), ("b", found)], len(found)) == len(found) == 20 * len(block)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All numbers have 42 MB.
    assert held < 1_000_000
    assert peak < 15_000_000
    del found
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_with_a_remedy(monkeypatch):
    found = RowNumbers()

    def write(_: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(found._file, "write", write)
    with pytest.raises(SpillError, match="TMPDIR"):
        found.append(np.arange(3))


def test_a_row_that_fails_several_expectations_counts_once():
    reasons = [(str(step), RowNumbers(np.arange(0, 600_000, step))) for step in (2, 3)]
    assert count_failing(reasons, 600_000) == 400_000
    assert count_failing([], 600_000) == 0
