"""OpenLineage namespaces and names for URLs, without credentials.

The namespaces and names follow https://openlineage.io/docs/spec/naming.
"""

from __future__ import annotations

from pathlib import Path

# Libraries use different protocol names for the same store.
_SCHEMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "abfss"}
# In these URLs the part before the @ is a container, not a user.
_CONTAINERS = ("abfss", "wasb", "wasbs")


def place(url: str) -> tuple[str, str]:
    """Return the OpenLineage namespace and name of a file or folder.

    For example, ``s3://bucket/mlops/flights`` has the namespace ``s3://bucket`` and the name ``mlops/flights``. A local
    path has the namespace ``file``, and the absolute path is the name.

    :param url: fsspec URL of the file or folder
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
    """Return the URI of a server without user, password, query and fragment, which may be secret."""
    scheme, separator, rest = uri.partition("://")
    authority, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}".rstrip("/")


def connection_namespace(conn_id: str) -> str:
    """Return the namespace of a server whose Airflow connection cannot be looked up on the worker."""
    return f"airflow-connection://{conn_id}"
