"""Names of datasets follow OpenLineage's conventions and contain no credentials."""

from __future__ import annotations

import pytest


def naming():
    # Imported lazily: it imports Airflow, whose logging would otherwise bind to the streams of the collection phase.
    from airflow_mlops.lineage import naming

    return naming


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/mlops/datasets/flights", ("s3://bucket", "mlops/datasets/flights")),
        ("s3a://bucket/flights", ("s3://bucket", "flights")),
        ("gcs://bucket/flights", ("gs://bucket", "flights")),
        ("abfs://box@account.dfs.core.windows.net/a/b", ("abfss://box@account.dfs.core.windows.net", "a/b")),
        ("file:///srv/mlops/flights", ("file", "/srv/mlops/flights")),
        ("/srv/mlops/flights", ("file", "/srv/mlops/flights")),
        ("zip://flights.csv::s3://bucket/flights.zip", ("s3://bucket", "flights.zip")),
        ("ftp://alice:secret@files.example/a.csv", ("ftp://files.example", "a.csv")),
        ("https://files.example:8443/a/b.csv?sig=secret#x", ("https://files.example:8443", "a/b.csv")),
    ],
)
def test_a_file_is_named_by_its_url(url, expected):
    assert naming().place(url) == expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://alice:secret@mlflow:5000/", "http://mlflow:5000"),
        ("postgresql://alice:secret@db:5432/mlflow?password=secret", "postgresql://db:5432/mlflow"),
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_a_server_is_named_without_its_credentials(uri, expected):
    assert naming().bare(uri) == expected
