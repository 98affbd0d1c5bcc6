"""Namespace and name of what lies behind a URL, as https://openlineage.io/docs/spec/naming says; never credentials."""

from __future__ import annotations

from pathlib import Path

# The same store has one name, whatever the library that opened it calls the protocol.
_SCHEMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "abfss"}
# Here the part before the @ is a container and no user.
_CONTAINERS = ("abfss", "wasb", "wasbs")


def place(url: str) -> tuple[str, str]:
    """Namespace and name of a file or folder by its fsspec URL: ``s3://bucket`` and ``mlops/datasets/flights``.

    A local path has the namespace ``file`` and its absolute path for a name.
    """
    # Of a chain such as zip://member::s3://bucket/archive.zip the last link is where the bytes are.
    url = url.rpartition("::")[2]
    if "://" not in url or url.startswith("file://"):
        return "file", str(Path(url.removeprefix("file://")).expanduser().absolute())
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    scheme = _SCHEMES.get(scheme, scheme)
    if scheme in ("http", "https"):
        # A signed URL carries its signature in the query.
        path = path.partition("?")[0].partition("#")[0]
    if scheme not in _CONTAINERS:
        authority = authority.rpartition("@")[2]
    return f"{scheme}://{authority}", path or "/"


def bare(uri: str) -> str:
    """A server's URI without what may be secret: user, password and query."""
    scheme, separator, rest = uri.partition("://")
    authority, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}".rstrip("/")


def connection_namespace(conn_id: str) -> str:
    """What stands for a server whose connection only the place knows where the step runs."""
    return f"airflow-connection://{conn_id}"
