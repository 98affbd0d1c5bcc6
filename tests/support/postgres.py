"""A real PostgreSQL server for tests (fixture ``postgres``) and benchmarks (:func:`server`)."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "geheim/%@1"


def binaries() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl`` of the newest installed PostgreSQL; ``None`` without one."""
    found = glob.glob("/usr/lib/postgresql/*/bin/initdb") + glob.glob("/usr/pgsql-*/bin/initdb")
    if found:
        return Path(
            max(found, key=lambda path: [int(part) for part in path.split("/") if part.isdigit()] or [0])
        ).parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def _user() -> str | None:
    """The user that runs the server, since ``initdb`` and ``postgres`` refuse to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@dataclass
class Postgres:
    """A running server. The superuser ``admin`` has no password; the user ``ingest`` has one."""

    bin: Path
    folder: Path
    port: int
    buffers: str

    @property
    def admin(self) -> str:
        return f"postgresql://admin@127.0.0.1:{self.port}/postgres"

    def connection(self, **changes: Any) -> dict[str, Any]:
        """The Airflow connection of the user ``ingest``."""
        return {
            "conn_type": "postgres", "host": "127.0.0.1", "port": self.port, "login": "ingest", "password": PASSWORD,
            "schema": "postgres", **changes,
        }  # fmt: skip

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as the superuser. Return the rows of the last one."""
        import psycopg2

        connection = psycopg2.connect(self.admin)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def stop(self) -> None:
        """Stop the server immediately, as a crash would."""
        self._ctl("stop", "-m", "immediate")

    def start(self) -> None:
        options = (
            f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off -c synchronous_commit=off "
            f"-c full_page_writes=off -c max_wal_size=4GB -c shared_buffers={self.buffers}"
        )
        self._ctl("start", "-o", options, "-l", str(self.folder / "log"))

    def _ctl(self, *arguments: str) -> None:
        run([self.bin / "pg_ctl", "-D", self.folder / "data", "-w", "-t", "60", *arguments])


def run(command: list[Any]) -> None:
    # The server inherits the output of pg_ctl and keeps it open. Reading a pipe would never end, so a file is used.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT, cwd="/", user=_user(), timeout=600
        )
        output.seek(0)
        assert done.returncode == 0, output.read().decode()


@contextmanager
def server(buffers: str = "256MB") -> Iterator[Postgres]:
    """Run a server on a free port of the loopback interface.

    :param buffers: value of the setting ``shared_buffers``
    """
    bin_folder = binaries()
    assert bin_folder is not None, "PostgreSQL is not installed"
    root = Path(tempfile.mkdtemp(prefix="mlops-pg-"))
    if user := _user():
        shutil.chown(root, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    found = Postgres(bin_folder, root, port, buffers)
    try:
        run(
            [
                bin_folder / "initdb",
                "-D",
                root / "data",
                "-U",
                "admin",
                "-A",
                "trust",
                "--no-sync",
                "-E",
                "UTF8",
                "--locale=C",
            ]
        )
        access = "host all admin 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (root / "data" / "pg_hba.conf").write_text(access)
        found.start()
        try:
            found.execute(f"CREATE USER ingest PASSWORD '{PASSWORD}'", "GRANT pg_read_all_data TO ingest")
            yield found
        finally:
            if (root / "data" / "postmaster.pid").exists():
                found.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if binaries() is None:
        pytest.skip("PostgreSQL IS NOT INSTALLED (no initdb in /usr/lib/postgresql/*/bin or on PATH): it is not tested")
    # With small buffers PostgreSQL treats a table of a few megabytes as a large one.
    with server(buffers="4MB") as found:
        yield found
