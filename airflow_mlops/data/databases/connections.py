"""Convert an Airflow connection to the parameters of ADBC or SQLAlchemy for its database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from airflow_mlops.core.connections import ConnectionInfo, redact, sqlalchemy_url
from airflow_mlops.core.errors import SourceError, SpecError

if TYPE_CHECKING:
    from sqlalchemy import Engine

# Extra fields of a connection that are libpq parameters. Other fields are options of Airflow's own hook.
_LIBPQ = (
    "application_name", "channel_binding", "connect_timeout", "gssencmode", "hostaddr", "keepalives",
    "keepalives_count", "keepalives_idle", "keepalives_interval", "options", "sslcert", "sslcrl", "sslkey", "sslmode",
    "sslpassword", "sslrootcert", "target_session_attrs", "tcp_user_timeout",
)  # fmt: skip
# With these settings, a lost server is detected within two minutes. With libpq's defaults, it takes two hours.
_DEFAULTS = {"connect_timeout": 30, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 6}


def check_type(info: ConnectionInfo) -> None:
    """Check that the type of an Airflow connection names a database.

    :raises SpecError: the type is ``generic`` or empty
    """
    if info.conn_type not in ("", "generic") or info.extra.get("sqlalchemy_scheme"):
        return
    type_ = f"has the type {info.conn_type!r}" if info.conn_type else "has no type"
    example = f"""airflow connections add {info.conn_id} --conn-json '{{"conn_type": "sqlite", "host": "/path/to/file.db"}}'"""
    raise SpecError(
        f"Connection {info.conn_id!r} {type_}, which names no database. Airflow stores 'generic' if the provider of the "
        "given type is not installed. Delete the connection, install the provider, for example "
        f"apache-airflow-providers-sqlite, and add the connection again, or add it as JSON, which keeps its type: {example}."
    )


def database_path(info: ConnectionInfo) -> Path:
    """Return the path of the SQLite database file of an Airflow connection.

    As in Airflow's SqliteHook, the path is the host of the connection, or the path in the URI of the connection.

    :raises SourceError: the file does not exist
    """
    parts = [part for part in (info.host, info.schema_) if part]
    path = Path("/".join(parts) if info.host else "/" + "".join(parts).lstrip("/"))
    if not path.is_file():
        raise SourceError(
            f"Connection {info.conn_id!r} refers to the SQLite file {path}, which does not exist where the step runs. "
            "Correct the host of the connection, or create the file."
        )
    return path


def postgres_uri(info: ConnectionInfo) -> str:
    """Return the URI of a PostgreSQL connection for libpq. It contains the password."""
    user = quote(info.login or "", safe="") + (f":{quote(info.secret, safe='')}" if info.secret else "")
    # The host may be the path of a folder with a Unix socket.
    host = quote(info.host or "", safe=":[]") + (f":{info.port}" if info.port else "")
    extra = {key: value for key, value in info.extra.items() if key in _LIBPQ}
    options = urlencode({**_DEFAULTS, **extra}, quote_via=quote)
    return f"postgresql://{user}@{host}/{quote(info.schema_ or '', safe='')}?{options}"


def create_engine(info: ConnectionInfo, *, read_only: bool = False, single: bool = False) -> Engine:
    """Create the SQLAlchemy engine of a connection, without connecting.

    :param info: the connection
    :param read_only: whether an SQLite file is opened read-only. For other databases, the transaction must be set to
        read-only
    :param single: whether all queries of the engine share one connection to the database. Several threads may use the
        connection, one after the other
    :raises SpecError: SQLAlchemy, the dialect or the driver is not installed
    :raises SourceError: the SQLite file does not exist
    """
    try:
        from sqlalchemy import URL, StaticPool, exc
        from sqlalchemy import create_engine as create
    except ImportError:
        raise SpecError(
            f"Connection {info.conn_id!r} has the type {info.conn_type!r}, which needs SQLAlchemy. Where the step runs, "
            "install SQLAlchemy and the database's dialect or, for SQLite and PostgreSQL, airflow-mlops[adbc]."
        ) from None
    options: dict[str, Any] = {"poolclass": StaticPool} if single else {}
    if info.conn_type == "sqlite":
        mode = {"mode": "ro" if read_only else "rw", "uri": "true"}
        if single:
            options["connect_args"] = {"check_same_thread": False}
        return create(URL.create("sqlite", database=f"file:{quote(str(database_path(info)))}", query=mode), **options)
    try:
        return create(sqlalchemy_url(info), **options)
    except (exc.ArgumentError, ImportError) as error:
        raise SpecError(
            f"The SQLAlchemy dialect or the driver for connection {info.conn_id!r} (type {info.conn_type!r}) is not "
            f"installed where the step runs: {driver_message(error, info)}. Install both, or choose an installed driver "
            'in the Extra field of the connection, for example {"sqlalchemy_scheme": "mysql+pymysql"}.'
        ) from None


def driver_message(error: BaseException, info: ConnectionInfo) -> str:
    """Return the message of a driver's exception on one line, without the query and the password."""
    text = str(error)
    for echo in ("\nQuery was:", "\nquery:", "\n[SQL:", "\n(Background on"):
        text = text.partition(echo)[0]
    return redact(text, info)
