"""Open the storage of an Optuna study: a file in the artifact store, or a database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from airflow_mlops.core.connections import ConnectionInfo, redact, sqlalchemy_url
from airflow_mlops.core.errors import SpecError, StoreError
from airflow_mlops.data.store import ArtifactStore

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

HEARTBEAT_SECONDS = 60
_ATTEMPTS, _PAUSE = 5, 1.0


def open_journal(store: ArtifactStore, key: str) -> BaseStorage:
    """Open the Optuna storage in the file ``study.journal`` of the artifact store. The file is created if it is absent.

    :param store: artifact store, which must be a folder of a file system
    :param key: folder of the search in the artifact store
    :raises SpecError: the artifact store is not a folder of a file system
    :raises StoreError: the file cannot be opened
    """
    file = store.local_path(f"{key}/study.journal")
    if file is None:
        raise SpecError(
            f"The artifact store {store.url} is not a file system, so workers cannot share an Optuna study in it. Set "
            "`storage_conn_id` of the Search to the Airflow connection of a PostgreSQL or MySQL database."
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(file)))
    except OSError as error:
        raise StoreError(f"The file {file} of the Optuna study cannot be opened: {error}.") from error


def open_database(info: ConnectionInfo, stale: Callable[[optuna.Study, FrozenTrial], None]) -> BaseStorage:
    """Open the Optuna storage in a database. Tables that are absent are created.

    :param info: the Airflow connection to the database
    :param stale: function that Optuna calls with the study and with each trial whose worker stopped sending heartbeats
    :raises SpecError: the database is SQLite, or the driver of the database is not installed
    :raises StoreError: the database cannot be used
    """
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    if info.conn_type == "sqlite":
        raise SpecError(
            f"Connection {info.conn_id!r} is a SQLite database, which several workers cannot share. Remove "
            "`storage_conn_id` if the artifact store is a folder, or use a PostgreSQL or MySQL database."
        )
    url = sqlalchemy_url(info).render_as_string(hide_password=False)
    for attempt in range(_ATTEMPTS):
        try:
            return RDBStorage(
                url,
                engine_kwargs={"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT_SECONDS,
                heartbeat_stale_trial_callback=stale,
            )
        except (ImportError, ArgumentError, NoSuchModuleError) as error:
            raise SpecError(
                f"The SQLAlchemy dialect or driver for connection {info.conn_id!r} of type {info.conn_type!r} is not "
                f"installed where the step runs ({type(error).__name__}). Install it there."
            ) from None
        except SQLAlchemyError as error:
            # Workers that start at the same time all create Optuna's tables, and only the first worker succeeds.
            if attempt + 1 == _ATTEMPTS:
                raise _unusable(info, error) from None
        time.sleep(_PAUSE)
    raise AssertionError


@contextmanager
def database_errors(info: ConnectionInfo | None) -> Iterator[None]:
    """Convert database exceptions in the ``with`` block to :class:`StoreError`.

    :param info: the Airflow connection to the database; ``None`` if the Optuna study is not in a database
    """
    if info is None:
        yield
        return
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        raise _unusable(info, cause or error) from None


def _unusable(info: ConnectionInfo, error: BaseException) -> StoreError:
    reason = str(error).partition("\n[SQL:")[0].partition("\n(Background on")[0]
    return StoreError(
        f"The database of connection {info.conn_id!r} cannot be used for the Optuna study: {redact(reason, info)}."
    )
