"""The database that runs a validation: one connection, on which all queries see the same rows and none can write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import MLOpsError, SourceError, SpecError
from airflow_mlops.data.databases.connections import check_type, create_engine, driver_message
from airflow_mlops.data.databases.failures import is_final
from airflow_mlops.data.databases.sessions import MYSQL_SETTINGS, NOTICE_LOST_CLIENT, POSTGRES_SETTINGS, cancellation
from airflow_mlops.stages.validate.mysql_lengths import count_characters
from airflow_mlops.stages.validate.sqlite_times import write_times_as_text

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

# Statements that begin the transaction in which all queries run, by SQLAlchemy dialect.
_TRANSACTION = {
    "postgresql": (*POSTGRES_SETTINGS, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"),
    "mysql": (
        *MYSQL_SETTINGS,
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    ),
    "sqlite": ("BEGIN",),
}
_MARIADB = "mariadb"


class Database:
    """The database of an Airflow connection, with one connection to it.

    In PostgreSQL, MySQL, MariaDB and SQLite, all queries run in one read-only transaction in UTC, so all expectations
    see the same rows. There is no common statement for other databases, so their queries run as Great Expectations
    sends them.

    :param info: the connection
    :raises SpecError: the type of the connection names no database; or SQLAlchemy, the dialect or the driver is not
        installed
    :raises SourceError: the SQLite file does not exist
    """

    def __init__(self, info: ConnectionInfo) -> None:
        check_type(info)
        # Great Expectations does not support the name of MariaDB's dialect, which is the same as MySQL's.
        scheme = str(info.extra.get("sqlalchemy_scheme") or info.conn_type)
        if scheme.startswith(_MARIADB):
            scheme = f"mysql{scheme.removeprefix(_MARIADB)}"
            info = info.model_copy(update={"extra": {**info.extra, "sqlalchemy_scheme": scheme}})
        self.info = info
        self.engine: Engine = create_engine(info, read_only=True, single=True)
        self._cancel: Callable[[], object] | None = None
        self._failures: list[BaseException] = []
        self._is_cancelled = False
        if self.dialect == "sqlite":
            write_times_as_text(self.engine)
        if self.dialect == "mysql":
            count_characters(self.engine)
        self._keep_transaction()
        self._record_failures()

    @property
    def dialect(self) -> str:
        """Return the name of the SQLAlchemy dialect, such as ``postgresql``."""
        return self.engine.dialect.name

    @property
    def failure(self) -> BaseException | None:
        """Return the first error of the driver. Great Expectations does not pass on such errors."""
        return self._failures[0] if self._failures else None

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Return a connection of the engine, which belongs to the transaction of all queries."""
        with self.engine.connect() as connection:
            if self._cancel is None:
                self._cancel = cancellation(connection, create_engine(self.info, read_only=True))
            yield connection

    def cancel(self) -> bool:
        """Cancel the running query from another thread.

        :return: whether the driver can cancel a query
        """
        self._is_cancelled = True
        if self._cancel is None:
            return False
        self._cancel()
        return True

    def require_running(self) -> None:
        """Check that the validation was not cancelled, before its result becomes visible.

        :raises SourceError: the validation was cancelled
        """
        if self._is_cancelled:
            raise SourceError(f"The validation in the database of connection {self.info.conn_id!r} was cancelled.")

    def close(self) -> None:
        """Close the connection, which ends the transaction."""
        with suppress(Exception):
            self.engine.dispose()

    def error(self, failure: BaseException) -> MLOpsError:
        """Create the error for an exception of the driver. It is retried if another try may succeed."""
        cause = getattr(failure, "orig", None) or failure
        message = driver_message(failure, self.info)
        if is_final(cause, self.dialect):
            return SpecError(
                f"The database of connection {self.info.conn_id!r} rejected a query of the validation: {message}. Correct "
                "`table`, `sql` or the suite."
            )
        return SourceError(
            f"The database of connection {self.info.conn_id!r} ({self.info.conn_type}) could not be read: {message}. A "
            "retry starts from the beginning. Check that the database can be reached where the step runs."
        )

    def _keep_transaction(self) -> None:
        """Begin the transaction when the connection is opened, and never end it between two queries."""
        from sqlalchemy import event

        statements = _TRANSACTION.get(self.dialect)
        if statements is None:
            return

        def begin(connection: Any, _: Any) -> None:
            if self.dialect == "sqlite":
                connection.isolation_level = None
            else:
                connection.rollback()
            cursor = connection.cursor()
            if self.dialect == "postgresql":
                try:
                    cursor.execute(NOTICE_LOST_CLIENT)
                    connection.commit()
                except Exception:  # noqa: BLE001 - not all operating systems support the setting
                    connection.rollback()
            for statement in statements:
                cursor.execute(statement)
            cursor.close()
            if self.engine.driver == "psycopg":
                _read_all_times(connection)
            elif self.engine.driver == "psycopg2":
                _read_all_times_psycopg2(connection)

        event.listen(self.engine, "connect", begin)
        # SQLAlchemy would end the transaction after each use of the connection.
        dialect: Any = self.engine.dialect
        dialect.do_rollback = dialect.do_commit = lambda connection: None

    def _record_failures(self) -> None:
        from sqlalchemy import event

        @event.listens_for(self.engine, "before_cursor_execute")
        def refuse(*_: Any) -> None:
            # Great Expectations repeats queries that failed.
            self.require_running()

        @event.listens_for(self.engine, "handle_error")
        def record(context: Any) -> None:
            self._failures.append(context.original_exception)


def _read_all_times(connection: Any) -> None:
    """Let psycopg read dates and times outside the years 1 to 9999, infinite ones, and all intervals as PostgreSQL's text.

    psycopg refuses such dates and times, and it converts the months of an interval to 30 days each.
    """
    from psycopg import DataError
    from psycopg.types.datetime import DateLoader, TimestampLoader, TimestamptzLoader
    from psycopg.types.string import TextLoader

    def tolerant(loader: Any) -> Any:
        class Tolerant(loader):  # type: ignore[misc]
            def load(self, data: Any) -> Any:
                try:
                    return super().load(data)
                except DataError:
                    return bytes(data).decode()

        return Tolerant

    loaders = {"date": DateLoader, "timestamp": TimestampLoader, "timestamptz": TimestamptzLoader}
    for name, loader in loaders.items():
        connection.adapters.register_loader(name, tolerant(loader))
    connection.adapters.register_loader("interval", TextLoader)


def _read_all_times_psycopg2(connection: Any) -> None:
    """As :func:`_read_all_times`, for psycopg2, which reads an infinite date as the last day of the year 9999."""
    from psycopg2 import DataError, extensions

    def tolerant(cast: Callable[[str | None, Any], Any]) -> Callable[[str | None, Any], Any]:
        def load(value: str | None, cursor: Any) -> Any:
            if value is None or value.endswith("infinity"):
                return value
            try:
                return cast(value, cursor)
            except (DataError, ValueError):
                return value

        return load

    casts = {1082: extensions.PYDATE, 1114: extensions.PYDATETIME, 1184: extensions.PYDATETIMETZ}
    for oid, cast in casts.items():
        extensions.register_type(extensions.new_type((oid,), f"mlops_{oid}", tolerant(cast)), connection)
    extensions.register_type(extensions.new_type((1186,), "mlops_interval", lambda value, _: value), connection)
