"""Airflow connections for steps, which may run where Airflow is not installed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator

from airflow_mlops.core.errors import ConnectionNotFoundError, SpecError

if TYPE_CHECKING:
    from sqlalchemy import URL

# SQLAlchemy's names of Airflow connection types, if the names differ.
_DIALECTS = {
    "postgres": "postgresql",
    "mssql": "mssql+pymssql",
    "redshift": "postgresql",
    "databricks_sql": "databricks",
}


class ConnectionInfo(BaseModel):
    """An Airflow connection. Its ``repr`` contains neither the password nor the extras."""

    conn_id: str
    conn_type: str
    host: str | None = None
    login: str | None = None
    password: SecretStr | None = None
    schema_: str | None = Field(default=None, alias="schema")
    port: int | None = None
    extra: dict[str, Any] = Field(default_factory=dict, repr=False)

    model_config = {"populate_by_name": True}

    @field_validator("host", "login", "password", "schema_", mode="before")
    @classmethod
    def _absent(cls, value: Any) -> Any:
        # Airflow returns "" for parts that the URI does not contain.
        return value or None

    @property
    def secret(self) -> str | None:
        """Return the password in plain text."""
        return self.password.get_secret_value() if self.password else None


ConnectionResolver = Callable[[str], ConnectionInfo]


def environment_name(conn_id: str) -> str:
    """Return the name of the environment variable from which Airflow reads a connection."""
    return f"AIRFLOW_CONN_{conn_id.upper()}"


def from_environment(conn_id: str) -> ConnectionInfo:
    """Read a connection from the environment variable ``AIRFLOW_CONN_<ID>``, in JSON or as a URI.

    :raises ConnectionNotFoundError: the variable is not set
    :raises SpecError: the variable contains neither JSON nor a URI
    """
    name = environment_name(conn_id)
    text = os.environ.get(name)
    if not text:
        raise ConnectionNotFoundError(
            f"Connection {conn_id!r} is not defined where the step runs. Add the connection in Airflow, or set "
            f"the environment variable {name} there."
        )
    try:
        return _from_json(conn_id, text) if text.lstrip().startswith("{") else _from_uri(conn_id, text)
    except ValueError:
        # The text may contain a password, so the message shows neither it nor the parser's error.
        raise SpecError(
            f"The environment variable {name} contains neither JSON nor a URI. Write the connection in one of these "
            "formats; Airflow's documentation of connections describes both."
        ) from None


def _from_json(conn_id: str, text: str) -> ConnectionInfo:
    fields = json.loads(text)
    extra = fields.get("extra") or {}
    return ConnectionInfo(
        conn_id=conn_id,
        conn_type=fields.get("conn_type") or "",
        host=fields.get("host"),
        login=fields.get("login"),
        password=fields.get("password"),
        schema=fields.get("schema"),
        port=fields.get("port"),
        extra=json.loads(extra) if isinstance(extra, str) else extra,
    )


def _from_uri(conn_id: str, text: str) -> ConnectionInfo:
    parts = urlsplit(text)
    if not parts.scheme:
        raise ValueError("no scheme")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    extra = json.loads(query["__extra__"]) if "__extra__" in query else query
    return ConnectionInfo(
        conn_id=conn_id,
        # In URIs Airflow writes underscores of a connection type as hyphens; postgresql is an old alias of postgres.
        conn_type=parts.scheme.replace("-", "_").replace("postgresql", "postgres"),
        host=unquote(parts.hostname) if parts.hostname else None,
        login=unquote(parts.username) if parts.username else None,
        password=SecretStr(unquote(parts.password)) if parts.password else None,
        schema=unquote(parts.path.removeprefix("/")) or None,
        port=parts.port,
        extra=extra,
    )


def sqlalchemy_url(info: ConnectionInfo) -> URL:
    """Convert the connection to an SQLAlchemy URL.

    The connection's extra field ``sqlalchemy_scheme`` selects a different dialect or driver, for example
    ``mysql+pymysql``; ``sqlalchemy_query`` adds options to the URL.
    """
    from sqlalchemy import URL

    return URL.create(
        str(info.extra.get("sqlalchemy_scheme") or _DIALECTS.get(info.conn_type, info.conn_type)),
        username=info.login,
        password=info.secret,
        host=info.host,
        port=info.port,
        database=info.schema_,
        query={str(key): str(value) for key, value in dict(info.extra.get("sqlalchemy_query") or {}).items()},
    )


def redact(text: str, info: ConnectionInfo) -> str:
    """Replace the connection's password in a driver's error message by ``***``, and join the message to one line."""
    secret = info.secret
    for hidden in {secret, quote(secret, safe="")} if secret else ():
        text = text.replace(hidden, "***")
    return " ".join(text.split()).rstrip(".")


def to_json(info: ConnectionInfo) -> str:
    """Serialise the connection as JSON, in the format that :func:`from_environment` and Airflow read."""
    return json.dumps(
        {
            "conn_type": info.conn_type,
            "host": info.host,
            "login": info.login,
            "password": info.secret,
            "schema": info.schema_,
            "port": info.port,
            "extra": info.extra,
        }
    )
