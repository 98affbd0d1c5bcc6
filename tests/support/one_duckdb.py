"""One instance of DuckDB for the tests of a module, because opening an instance takes 15 ms of CPU time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@pytest.fixture(scope="module")
def one_duckdb() -> Iterator[None]:
    """:func:`airflow_mlops.data.relational.connect` opens a new database in an instance with the same settings."""
    open_instance = duckdb.connect
    with ExitStack() as instances, pytest.MonkeyPatch.context() as patch:
        patch.setattr(duckdb, "connect", _shared(open_instance, instances))
        yield


def _shared(open_instance: Callable[..., DuckDBPyConnection], instances: ExitStack) -> Callable[..., Any]:
    kept: dict[tuple[Any, ...], DuckDBPyConnection] = {}
    numbers, lock = count(), Lock()

    @contextmanager
    def database(settings: dict[str, Any]) -> Iterator[DuckDBPyConnection]:
        # The folder of temporary files differs in each connection, and small tests write none.
        key = tuple((name, value) for name, value in settings.items() if name != "temp_directory")
        with lock:
            if (instance := kept.get(key)) is None:
                instance = kept[key] = instances.enter_context(open_instance(":memory:", config=dict(key)))
            name = f"database_{next(numbers)}"
            instance.execute(f"ATTACH ':memory:' AS {name}")
            connection = instance.cursor()
        try:
            connection.execute(f"USE {name}")
            yield connection
        finally:
            connection.close()
            with lock:
                instance.execute(f"DETACH {name}")

    def connect(*args: Any, **options: Any) -> Any:
        # Only airflow_mlops.data.relational sets this folder.
        if args == (":memory:",) and "temp_directory" in options.get("config", {}):
            return database(options["config"])
        return open_instance(*args, **options)

    return connect
