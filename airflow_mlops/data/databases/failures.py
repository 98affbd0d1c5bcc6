"""Determine from the error of a database driver whether a retry of the same query can succeed."""

from __future__ import annotations

# Classes of SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html: the query uses a feature or
# object that does not exist or is not allowed (0A, 3F, 42, 54), or it fails on the data (20, 21, 22, 23, 44) or in a
# function that it calls (2F, 38, 39, P0). Not listed, because a retry may succeed: lost connections (08), deadlocks
# (40), missing resources (53), cancellations and restarts (57), and refused passwords (28).
_FINAL_STATES = frozenset({"0A", "20", "21", "22", "23", "2F", "38", "39", "3F", "42", "44", "54", "P0"})
# The query writes, but runs in a read-only transaction. Other states of this class concern the connection.
_READ_ONLY_STATE = "25006"
# The exceptions of PEP 249 for errors in the query or the data.
_FINAL_KINDS = frozenset({"DataError", "IntegrityError", "NotSupportedError", "ProgrammingError"})
# Temporary errors of MySQL and MariaDB servers: connections, memory and disks, shutdowns, locks, cancellations,
# passwords.
_PASSING_MYSQL = frozenset({
    1021, 1030, 1037, 1038, 1040, 1041, 1042, 1043, 1045, 1053, 1077, 1078, 1079, 1080, 1105, 1129, 1130, 1135, 1152, 1154,
    1155, 1156, 1157, 1158, 1159, 1160, 1161, 1184, 1203, 1205, 1206, 1213, 1226, 1317, 1614, 1637, 1698, 1836, 1927, 1969,
    3024, 3168, 3169, 4031,
})  # fmt: skip
# Errors of the client library, such as a lost connection.
_MYSQL_CLIENT = range(2000, 3000)
# The texts of SQLite's result codes BUSY, LOCKED, IOERR, CANTOPEN, NOMEM, FULL, INTERRUPT, PROTOCOL and SCHEMA, and of
# CORRUPT and NOTADB, which SQLite reports while the file is being copied.
_PASSING_SQLITE = (
    "database is locked", "table is locked", "disk I/O error", "unable to open database file", "out of memory",
    "database or disk is full", "interrupted", "locking protocol", "schema has changed", "disk image is malformed",
    "file is not a database",
)  # fmt: skip


def is_final(error: BaseException, database: str) -> bool:
    """Return whether a query would fail again on the same data, because the error is in the query or in the data.

    The result depends on the SQLSTATE, if the driver reports one. The drivers of MySQL, MariaDB and SQLite do not. For
    MySQL and MariaDB, the result depends on the error number, and for SQLite, on the text of the message. Otherwise, it
    depends on the class of the exception.

    :param error: exception of a database driver
    :param database: kind of the database, such as ``postgresql``, ``mysql`` or ``sqlite``
    """
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    # HY is MySQL's class for errors without a class.
    if isinstance(state, str) and not state.startswith("HY"):
        return state[:2] in _FINAL_STATES or state == _READ_ONLY_STATE
    if database == "sqlite":
        return not any(text in str(error) for text in _PASSING_SQLITE)
    code = next(iter(error.args), None)
    if database in ("mysql", "mariadb") and isinstance(code, int) and code > 0:
        return code not in _MYSQL_CLIENT and code not in _PASSING_MYSQL
    return any(kind.__name__ in _FINAL_KINDS for kind in type(error).__mro__)
