"""Credentials are removed from URIs before they are shown."""

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
def test_only_the_credentials_are_removed_from_a_uri(uri, shown):
    assert without_credentials(uri) == shown
