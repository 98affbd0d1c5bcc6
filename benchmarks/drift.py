"""Time and memory of a drift check: 1,000,000 rows x 20 columns (16 numeric, 4 text), half reference and half new.

``python -m benchmarks.drift [--rows N] [--most-rows N] [--repeat N] [--no-evidently]``. Ours reads the new half in
batches, profiles it, and compares it with the profile stored at training; the rows of the reference are not read again.
For comparison: decoding both Parquet files without any work, and Evidently's drift preset on both halves, in a virtual
environment of its own. Each measurement runs in its own process and excludes imports. The best repetition counts
(Evidently runs once). Two more runs show that memory does not grow with the rows: the new half is read ten times, and a
new half of 25,000,000 rows is generated while it is profiled, so that it needs no disk (its time includes the
generation; ``--most-rows 0`` skips it). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WAYS = {
    "ours": "profile of the new half, against the stored profile",
    "ours, 10 times": "the same, the new half ten times over",
    "ours, most rows": "a larger new half, drawn while it is profiled",
    "decode": "pyarrow decodes both halves, batch by batch",
    "evidently": "Evidently's DataDriftPreset on both halves",
}
NUMBERS, TEXTS = [f"x{n}" for n in range(16)], [f"s{n}" for n in range(4)]
HALVES = ("reference", "new")
BATCH_ROWS = 16_384  # as in the step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--most-rows", type=int, default=50_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-evidently", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--prepare", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(Path(arguments.prepare), arguments.rows)
    elif arguments.measure:
        way, folder = arguments.measure
        print(json.dumps({**MEASURED[way](Path(folder), arguments.rows), "peak_mb": round(peak_mb())}))
    else:
        compare(arguments.rows, arguments.most_rows, arguments.repeat, not arguments.no_evidently)


def compare(rows: int, most_rows: int, repeat: int, evidently: bool) -> None:
    from benchmarks.evidently import environment

    print(f"Drift of {rows:,} rows x {len(NUMBERS) + len(TEXTS)} columns, half of them new:")
    best: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
        # The measurement runs in a separate process, because the peak memory of a child starts at the peak of its
        # parent.
        child(sys.executable, "--prepare", folder, "--rows", str(rows))
        for way, text in WAYS.items():
            if (way == "evidently" and not evidently) or (way == "ours, most rows" and not most_rows):
                continue
            python = str(environment()) if way == "evidently" else sys.executable
            times, size = (1, most_rows) if way == "ours, most rows" else (1 if way == "evidently" else repeat, rows)
            best[way] = min(
                (json.loads(child(python, "--measure", way, folder, "--rows", str(size))) for _ in range(times)),
                key=lambda found: found["seconds"],
            )
            print(f"{way:16}{best[way]['seconds']:8.2f} s{best[way]['peak_mb']:8,} MB   {text}", flush=True)
    found = {
        "benchmark": "drift",
        "rows": rows,
        **best["ours"],
        "peak_mb_ten_times": best["ours, 10 times"]["peak_mb"],
        "decode_seconds": best["decode"]["seconds"],
    }
    if most_rows:
        found |= {"most_rows": most_rows, f"peak_mb_{most_rows // 1_000_000}m": best["ours, most rows"]["peak_mb"]}
    if evidently:
        found |= {f"evidently_{name}": best["evidently"][name] for name in ("seconds", "peak_mb", "drifted")}
    print(json.dumps(found))


def child(python: str, *arguments: str) -> str:
    command = [python, "-W", "ignore", "-m", "benchmarks.drift", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return (done.stdout.splitlines() or [""])[-1]


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prepare(folder: Path, rows: int) -> None:
    """Write both halves as datasets of an artifact store, and the profile of the reference."""
    from airflow_mlops.data.datasets import DatasetWriter
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.profiles.profile import profile

    store = ArtifactStore(f"file://{folder}/store")
    for half in HALVES:
        with DatasetWriter(store, half) as writer:
            for table in drawn(half, rows // 2):
                writer.write(table)
            made = writer.commit()[0]
        (folder / f"{half}.json").write_text(made.ref.model_dump_json())
        if half == "reference":
            (folder / "profile.json").write_text(profile(_opened(folder, half).batches()).model_dump_json())


def drawn(half: str, rows: int) -> Iterator[Any]:
    """Random tables of at most 131,072 rows each, ``rows`` in all. In the new half, one numeric and one text column have
    drifted.
    """
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng(HALVES.index(half))
    for start in range(0, rows, 131_072):
        size = min(131_072, rows - start)
        shift = 0.3 if half == "new" else 0.0
        columns = {name: random.normal(shift if name == "x0" else 0, 1, size) for name in NUMBERS}
        for index, name in enumerate(TEXTS):
            values = pa.array([f"value {number}" for number in range(10 ** (index % 3 + 1) // 2)])
            shares = np.arange(1, len(values) + 1, dtype=float)
            if half == "new" and name == "s0":
                shares = shares[::-1]
            columns[name] = values.take(pa.array(random.choice(len(values), size, p=shares / shares.sum())))
        yield pa.table(columns)


def _opened(folder: Path, half: str) -> Any:
    from airflow_mlops.core.references import DatasetRef
    from airflow_mlops.data.datasets import open_dataset
    from airflow_mlops.data.store import ArtifactStore

    store = ArtifactStore(f"file://{folder}/store")
    return open_dataset(store, DatasetRef.model_validate_json((folder / f"{half}.json").read_text()))


def ours(folder: Path, rows: int, times: int = 1) -> dict[str, Any]:
    new = _opened(folder, "new")
    return _checked(folder, (batch for _ in range(times) for batch in new.batches(batch_rows=BATCH_ROWS)))


def ten_times(folder: Path, rows: int) -> dict[str, Any]:
    return ours(folder, rows, 10)


def most_rows(folder: Path, rows: int) -> dict[str, Any]:
    tables = drawn("new", rows // 2)
    return _checked(folder, (batch for table in tables for batch in table.to_batches(max_chunksize=BATCH_ROWS)))


def _checked(folder: Path, batches: Iterator[Any]) -> dict[str, Any]:
    import scipy.special  # noqa: F401

    from airflow_mlops.drift.univariate import compare
    from airflow_mlops.policy.spec import Policy
    from airflow_mlops.profiles.profile import Profile, profile

    start, worked = time.perf_counter(), time.process_time()
    reference = Profile.model_validate_json((folder / "profile.json").read_bytes())
    found = compare(reference, profile(batches), Policy())
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    drifted = sum(item.drifted for item in found)
    return {"seconds": round(seconds, 3), "cpu_seconds": round(worked, 3), "drifted": drifted}


def decode(folder: Path, rows: int) -> dict[str, Any]:
    halves = [_opened(folder, half) for half in HALVES]
    start = time.perf_counter()
    read = sum(batch.num_rows for half in halves for batch in half.batches())
    return {"seconds": round(time.perf_counter() - start, 3), "rows": read}


def evidently(folder: Path, rows: int) -> dict[str, Any]:
    import pandas as pd

    from benchmarks.evidently import drifted

    start = time.perf_counter()
    reference, new = (
        pd.read_parquet(next((folder / "store" / "datasets" / half / "files").glob("*.parquet"))) for half in HALVES
    )
    found = drifted(reference, new, TEXTS, preset=True)
    return {"seconds": round(time.perf_counter() - start, 3), "drifted": sum(found)}


MEASURED = {
    "ours": ours, "ours, 10 times": ten_times, "ours, most rows": most_rows, "decode": decode, "evidently": evidently,
}  # fmt: skip


if __name__ == "__main__":
    main()
