"""Airflow connections for steps, which may run where Airflow is not installed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator, model_validator

from airflow_mlops.core.errors import ConnectionNotFoundError, SpecError, named
from airflow_mlops.core.secrets import remember, remember_fields

if TYPE_CHECKING:
    from sqlalchemy import URL

# SQLAlchemy's dialects of the Airflow connection types that SQLAlchemy knows by a different name.
_DIALECTS = {
    "postgres": "postgresql",
    "mssql": "mssql+pymssql",
    "redshift": "postgresql",
    "databricks_sql": "databricks",
}
_JSON_FIELDS = {"conn_id", "conn_type", "description", "host", "login", "password", "schema", "port", "extra"}


class ConnectionInfo(BaseModel):
    """An Airflow connection. Its ``repr`` contains neither the password nor the extras.

    Creating an instance masks the password and the secret extras in all later errors and log messages of this process.
    """

    conn_id: str
    conn_type: str
    host: str | None = None
    login: str | None = None
    password: SecretStr | None = None
    schema_: str | None = Field(default=None, alias="schema")
    port: int | None = None
    extra: dict[str, Any] = Field(default_factory=dict, repr=False)

    model_config = {"populate_by_name": True}

    @classmethod
    def of(cls, conn_id: str, **parts: Any) -> ConnectionInfo:
        """Create a connection from its parts as Airflow stores them.

        :param conn_id: id of the connection
        :param parts: ``conn_type``, ``host``, ``login``, ``password``, ``schema``, ``port`` and ``extra``. The extra
            may be a JSON text
        :raises SpecError: a part is invalid
        """
        try:
            return cls(conn_id=conn_id, **parts)
        except ValidationError as error:
            # The parts may contain secrets, so the message does not show them.
            names = ", ".join(dict.fromkeys(str(item["loc"][0]) for item in error.errors()))
            raise SpecError(
                f"Connection {conn_id!r} has an invalid {names}: the port must be a whole number, the extra a JSON object, "
                "and the other parts text. Correct the connection in Airflow or where the step runs."
            ) from None

    @field_validator("host", "login", "password", "schema_", "port", mode="before")
    @classmethod
    def _absent(cls, value: Any) -> Any:
        # Airflow returns "" for parts that the URI does not contain.
        return value or None

    @field_validator("conn_type", mode="before")
    @classmethod
    def _stored_name(cls, value: Any) -> Any:
        # As in Airflow: postgresql is an alias of postgres, and URIs contain hyphens in place of underscores.
        return "postgres" if value == "postgresql" else (value or "").replace("-", "_")

    @field_validator("extra", mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> Any:
        return json.loads(value) if value and isinstance(value, str) else value or {}

    @model_validator(mode="after")
    def _masked(self) -> ConnectionInfo:
        remember(self.secret)
        remember_fields(self.extra)
        return self

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

    Airflow reads the variable in the same way.

    :raises ConnectionNotFoundError: the variable is not set
    :raises SpecError: the variable contains neither JSON nor a URI, or a part of the connection is invalid
    """
    name = environment_name(conn_id)
    text = os.environ.get(name, "").strip()
    if not text:
        raise ConnectionNotFoundError(
            f"Connection {conn_id!r} is not defined where the step runs. Add the connection in Airflow, or set "
            f"the environment variable {name} there."
        )
    try:
        parts = _from_json(text) if text.startswith("{") else _from_uri(text)
    except ValueError:
        # The text may contain a password, so the message shows neither it nor the parser's error.
        raise malformed(conn_id, f"The environment variable {name}") from None
    if unknown := parts.keys() - _JSON_FIELDS:
        raise SpecError(
            f"The environment variable {name} has the unknown {named('field', sorted(unknown))}. A connection "
            f"in JSON has the fields {', '.join(sorted(_JSON_FIELDS - {'conn_id'}))}."
        )
    return ConnectionInfo.of(
        conn_id, **{field: parts.get(field) for field in _JSON_FIELDS - {"conn_id", "description"}}
    )


def malformed(conn_id: str, where: str) -> SpecError:
    """Return the error for a text that does not define a connection.

    :param conn_id: id of the connection
    :param where: name of the place that contains the text. The error message starts with this name
    """
    return SpecError(
        f"{where} contains neither JSON nor a URI that defines connection {conn_id!r}. Write the connection as "
        "`airflow connections get` shows it under `get_uri`, or as JSON."
    )


def _from_json(text: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(text)
    return fields


def _from_uri(text: str) -> dict[str, Any]:
    """Parse a URI as ``airflow.sdk.Connection.from_uri`` does.

    Airflow writes the host ``https://mlflow.example`` of a connection as ``mlflow://https://mlflow.example``.
    """
    conn_type = urlsplit(text).scheme
    schemes = text.count("://")
    if not conn_type or schemes > 2:
        raise ValueError("not a connection")
    host_has_scheme = schemes == 2
    rest = text.replace(f"{conn_type}://", "" if host_has_scheme else "//")
    if host_has_scheme and {"@", ":"} & set(rest.partition("://")[0]):
        raise ValueError("a scheme that does not belong to the host")
    parts = urlsplit(rest)
    host = _host(parts)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return {
        "conn_type": conn_type,
        "host": f"{parts.scheme}://{host}" if host and host_has_scheme and parts.scheme else host,
        "login": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "schema": unquote(parts.path[1:]),
        "port": parts.port,
        "extra": query.get("__extra__", query),
    }


def _host(parts: SplitResult) -> str:
    host = unquote(parts.hostname or "")
    if "/" not in host:
        return host
    # The host is a quoted path. SplitResult.hostname is in lower case, and a path must keep its case.
    return unquote(parts.netloc.rpartition("@")[2].partition(":")[0])


def sqlalchemy_url(info: ConnectionInfo) -> URL:
    """Convert the connection to an SQLAlchemy URL.

    The connection's extra field ``sqlalchemy_scheme`` selects a different dialect or driver, for example
    ``mysql+pymysql``; ``sqlalchemy_query`` adds options to the URL.

    :raises SpecError: ``sqlalchemy_query`` is not a JSON object
    """
    from sqlalchemy import URL

    query = info.extra.get("sqlalchemy_query") or {}
    try:
        # In a connection that is written as a URI, every extra field is text.
        query = json.loads(query) if isinstance(query, str) else query
        query = {str(key): str(value) for key, value in query.items()}
    except (ValueError, AttributeError):
        raise SpecError(
            f"The extra field `sqlalchemy_query` of connection {info.conn_id!r} is not a JSON object. Write it as in "
            '{"sqlalchemy_query": {"charset": "utf8mb4"}}.'
        ) from None
    return URL.create(
        str(info.extra.get("sqlalchemy_scheme") or _DIALECTS.get(info.conn_type, info.conn_type)),
        username=info.login,
        password=info.secret,
        host=info.host,
        port=info.port,
        database=info.schema_,
        query=query,
    )


def redact(text: str, info: ConnectionInfo) -> str:
    """Return a driver's error message on one line, with ``***`` in place of the connection's password."""
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
