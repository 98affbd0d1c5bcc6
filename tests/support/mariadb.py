"""A real MariaDB server for tests (fixture ``mariadb``), which is read as MySQL."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "geheim/%@1"


@dataclass
class MariaDB:
    """A running server. The user ``ingest`` may do everything, and connects by TCP with a password."""

    port: int

    def connection(self, **changes: Any) -> dict[str, Any]:
        """The Airflow connection of the user ``ingest``."""
        return {
            "conn_type": "mysql", "host": "127.0.0.1", "port": self.port, "login": "ingest", "password": PASSWORD,
            "schema": "shop", "extra": {"sqlalchemy_scheme": "mysql+pymysql"}, **changes,
        }  # fmt: skip

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements. Return the rows of the last one."""
        import pymysql

        connection = pymysql.connect(
            host="127.0.0.1", port=self.port, user="ingest", password=PASSWORD, database="shop", autocommit=True
        )
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            connection.close()


def program(name: str) -> str | None:
    """The path of a program of MariaDB; ``None`` if it is not installed."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/libexec")


@contextmanager
def server() -> Iterator[MariaDB]:
    """Run a server on a free port of the loopback interface."""
    root = Path(tempfile.mkdtemp(prefix="mlops-mariadb-"))
    # The server refuses to run as root.
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = ("mysql" if "mysql" in names else "nobody") if os.geteuid() == 0 else None
    if user:
        shutil.chown(root, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    start = root / "start.sql"
    start.write_text(
        f"CREATE DATABASE shop;\nCREATE USER ingest@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
        "GRANT ALL ON *.* TO ingest@'127.0.0.1';\n"
    )
    # The server's user cannot write to the folder of the tests' temporary files.
    common = ["--no-defaults", *([f"--user={user}"] if user else []), f"--datadir={root}/data", f"--tmpdir={root}"]
    log = (root / "log").open("wb")
    try:
        subprocess.run(
            [str(program("mariadb-install-db")), *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
            stdout=log, stderr=log, check=True, timeout=120,
        )  # fmt: skip
        process = subprocess.Popen(
            [
                str(program("mariadbd")), *common, "--bind-address=127.0.0.1", f"--port={port}",
                f"--socket={root}/socket", f"--pid-file={root}/pid", f"--init-file={start}", "--skip-name-resolve",
                "--default-time-zone=+05:00", "--innodb-flush-log-at-trx-commit=0",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            found = MariaDB(port)
            _wait_for(found, process)
            yield found
        finally:
            process.kill()
            process.wait(60)
    finally:
        log.close()
        shutil.rmtree(root, ignore_errors=True)


def _wait_for(found: MariaDB, process: subprocess.Popen[bytes]) -> None:
    import pymysql

    deadline = time.monotonic() + 60
    while True:
        try:
            found.execute("SELECT 1")
        except pymysql.err.OperationalError:
            assert process.poll() is None, "MariaDB ended while it started"
            assert time.monotonic() < deadline, "MariaDB did not start within 60 seconds"
            time.sleep(0.1)
        else:
            return


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    if program("mariadbd") is None or program("mariadb-install-db") is None:
        pytest.skip("MariaDB IS NOT INSTALLED (no mariadbd in /usr/sbin or on PATH): MySQL is not tested")
    if find_spec("pymysql") is None:
        pytest.skip("PyMySQL IS NOT INSTALLED: MySQL is not tested")
    with server() as found:
        yield found
