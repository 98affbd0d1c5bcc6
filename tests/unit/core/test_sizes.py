"""Sizes in settings."""

from __future__ import annotations

import pytest

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("10GB", 10**10), ("500 MB", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("2TB", 2 * 10**12), (" 1KiB ", 1024)],
)
def test_a_size_is_read_in_bytes(text, size):
    assert parse_size(text, "x") == size


@pytest.mark.parametrize("text", ["", "10", "GB", "0GB", "-1GB", "10 gb", "10GB and more", "1e3GB", "10B"])
def test_other_text_is_refused(text):
    with pytest.raises(SpecError, match="cache_size"):
        parse_size(text, "cache_size")
