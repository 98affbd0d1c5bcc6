"""OpenLineage namespaces and names of URLs, after https://openlineage.io/docs/spec/naming, without credentials."""

from __future__ import annotations

from pathlib import Path

# Libraries use different protocol names for the same store.
_SCHEMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "abfss"}
# In these URLs the part before the @ is a container, not a user.
_CONTAINERS = ("abfss", "wasb", "wasbs")


def place(url: str) -> tuple[str, str]:
    """Namespace and name of a file or folder by its fsspec URL: ``s3://bucket`` and ``mlops/datasets/flights``.

    A local path has the namespace ``file`` and its absolute path as name.
    """
    # In a chained URL such as zip://member::s3://bucket/archive.zip the last link locates the bytes.
    url = url.rpartition("::")[2]
    if "://" not in url or url.startswith("file://"):
        return "file", str(Path(url.removeprefix("file://")).expanduser().absolute())
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    scheme = _SCHEMES.get(scheme, scheme)
    if scheme in ("http", "https"):
        # Signed URLs carry their signature in the query.
        path = path.partition("?")[0].partition("#")[0]
    if scheme not in _CONTAINERS:
        authority = authority.rpartition("@")[2]
    return f"{scheme}://{authority}", path or "/"


def bare(uri: str) -> str:
    """The URI of a server without user, password, query and fragment, which may be secret."""
    scheme, separator, rest = uri.partition("://")
    authority, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}".rstrip("/")


def connection_namespace(conn_id: str) -> str:
    """The namespace of a server whose connection is unknown on the worker."""
    return f"airflow-connection://{conn_id}"
