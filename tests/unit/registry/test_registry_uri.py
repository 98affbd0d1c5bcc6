"""Addresses as they may be shown."""

from __future__ import annotations

import pytest

from airflow_mlops.registry.client import without_credentials


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
        ("postgresql://user:word@host:5432/base", "postgresql://host:5432/base"),
        ("https://token@host", "https://host"),
        ("http://host/path@1", "http://host/path@1"),
        ("mlruns", "mlruns"),
    ],
)
def test_an_address_is_shown_without_credentials_and_otherwise_as_it_is(uri, shown):
    assert without_credentials(uri) == shown
