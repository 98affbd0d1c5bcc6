"""Compares ways to copy 1,000,000 rows with 20 columns from SQLite and PostgreSQL into Parquet.

``python -m benchmarks.ingest [--rows N] [--repeat N]``. Each measurement runs in a separate process, and the fastest
repetition counts. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

WAYS = {
    "ours": "the step of IngestOperator: streamed, typed, hashed, synced to disk, with a manifest",
    "adbc": "only ADBC: a loop from fetch_record_batch() to ParquetWriter.write_batch()",
    "pandas": "pandas: read_sql() and to_parquet()",
}
SQL = "SELECT * FROM measurements"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--measure", nargs=3, metavar=("WAY", "DATABASE", "URL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    print(f"Ingesting {arguments.rows:,} rows x 20 columns into Parquet, best of {arguments.repeat}:")
    for way, text in WAYS.items():
        print(f"  {way:7} {text}")
    figures: dict[str, object] = {"benchmark": "ingest", "rows": arguments.rows, "columns": 20}
    for database, source in (("sqlite", sqlite), ("postgresql", postgresql)):
        with source(arguments.rows) as url:
            if url is None:
                print(f"\n{database}: SKIPPED, since it is not installed.")
                figures[database] = None
                continue
            figures[database] = compare(database, url, arguments.repeat)
    print(json.dumps(figures))


def compare(database: str, url: str, repeat: int) -> dict[str, dict[str, float]]:
    """Measure all variants in turn and print a table."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(repeat):
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.ingest", "--measure", way, database, url]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
            if way not in best or found["seconds"] < best[way]["seconds"]:
                best[way] = found
    print(f"\n{database:12}{'seconds':>9}{'CPU s':>9}{'peak MB':>9}{'file MB':>9}   speed relative to ADBC")
    for way, found in best.items():
        found["speed"] = round(best["adbc"]["seconds"] / found["seconds"], 2)
        print(
            f"  {way:10}{found['seconds']:9.2f}{found['cpu_seconds']:9.2f}{found['peak_mb']:9.0f}{found['file_mb']:9.0f}"
            f"   {found['speed']:.2f}"
        )
    return best


def measure(way: str, database: str, url: str) -> None:
    """Ingest once in this process and print time and memory. Imports are not included in the time."""
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
        seconds, cpu = {"ours": ours, "adbc": adbc, "pandas": pandas}[way](database, url, Path(folder))
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.parquet"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3), "peak_mb": round(peak)}
    print(json.dumps({**found, "file_mb": round(size / 1e6)}))


def clock() -> tuple[float, float]:
    """Wall-clock time, and CPU time of all threads, in seconds."""
    return time.perf_counter(), time.process_time()


def elapsed(started: tuple[float, float]) -> tuple[float, float]:
    """Elapsed wall-clock and CPU time since ``started``."""
    wall, cpu = clock()
    return wall - started[0], cpu - started[1]


def ours(database: str, url: str, folder: Path) -> tuple[float, float]:
    # Imported before the measurement, as in the other variants.
    import adbc_driver_postgresql.dbapi  # noqa: F401
    import adbc_driver_sqlite.dbapi  # noqa: F401

    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.stages.context import StepContext
    from airflow_mlops.stages.ingest.spec import IngestSpec
    from airflow_mlops.stages.ingest.step import run

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    os.environ["AIRFLOW_CONN_BENCHMARK"] = (
        json.dumps({"conn_type": "sqlite", "host": url}) if database == "sqlite" else url
    )
    spec = IngestSpec(name="measurements", conn_id="benchmark", sql=SQL)
    started = clock()
    run(spec, StepContext(ArtifactStore(f"file://{folder}")))
    return elapsed(started)


def adbc(database: str, url: str, folder: Path) -> tuple[float, float]:
    import adbc_driver_postgresql.dbapi
    import adbc_driver_sqlite.dbapi
    import pyarrow.parquet as pq

    driver = adbc_driver_sqlite if database == "sqlite" else adbc_driver_postgresql
    started = clock()
    with driver.dbapi.connect(url) as connection, connection.cursor() as cursor:
        if database == "sqlite":
            # The default of 1,024 rows would make one row group per 1,024 rows, which makes Parquet slow.
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": 65_536})
        cursor.execute(SQL)
        reader = cursor.fetch_record_batch()
        with pq.ParquetWriter(folder / "out.parquet", reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
    return elapsed(started)


def pandas(database: str, url: str, folder: Path) -> tuple[float, float]:
    import pandas as pd
    import pyarrow.parquet  # noqa: F401 - imported before the measurement
    import sqlalchemy

    engine = sqlalchemy.create_engine(f"sqlite:///{url}" if database == "sqlite" else url)
    started = clock()
    pd.read_sql(SQL, engine).to_parquet(folder / "out.parquet")
    return elapsed(started)


@contextmanager
def sqlite(rows: int) -> Iterator[str]:
    """Create an SQLite file with the rows and yield its path."""
    import adbc_driver_sqlite.dbapi as driver

    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
        file = f"{folder}/measurements.db"
        with driver.connect(file) as connection, connection.cursor() as cursor:
            kinds = {"int64": "INTEGER", "double": "REAL", "string": "TEXT"}
            batches = data(rows)
            columns = ", ".join(f"{field.name} {kinds[str(field.type)]}" for field in batches.schema)
            cursor.execute(f"CREATE TABLE measurements ({columns})")
            cursor.adbc_ingest("measurements", batches, mode="append")
            connection.commit()
        yield file


@contextmanager
def postgresql(rows: int) -> Iterator[str | None]:
    """Start a PostgreSQL server with the rows and yield its URL; ``None`` if PostgreSQL is not installed."""
    from tests.support.postgres import binaries, server

    with ExitStack() as stack:
        if binaries() is None:
            yield None
            return
        found = stack.enter_context(server())
        import adbc_driver_postgresql.dbapi as driver

        with driver.connect(found.admin) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest("measurements", data(rows), mode="create")
            connection.commit()
        yield found.admin


def data(rows: int):  # noqa: ANN201 - a pyarrow.RecordBatchReader
    """Rows with one timestamp, seven integers, eight floats and four short texts. Some numbers are null."""
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng(2013)
    step = 50_000
    names = ["t", *(f"i{n}" for n in range(7)), *(f"r{n}" for n in range(8)), *(f"s{n}" for n in range(4))]
    schema = pa.schema([(name, {"i": pa.int64(), "r": pa.float64()}.get(name[0], pa.string())) for name in names])

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, rows, step):
            count = min(step, rows - first)
            times = np.datetime_as_string(np.datetime64("2013-01-01T00:00:00") + 30 * np.arange(first, first + count))
            columns = [pa.array(times.astype(object), pa.string())]
            columns += [pa.array(random.integers(0, 10_000, count), mask=random.random(count) < 0.02) for _ in range(7)]
            columns += [pa.array(random.random(count), mask=random.random(count) < 0.02) for _ in range(8)]
            words = np.array([f"N{n:05d}" for n in range(4_000)], dtype=object)
            columns += [pa.array(words[random.integers(0, 4_000, count)], pa.string()) for _ in range(4)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


if __name__ == "__main__":
    main()
