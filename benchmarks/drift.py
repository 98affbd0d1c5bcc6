"""What a drift check of 1,000,000 rows x 20 columns takes, 16 of numbers and 4 of text, half reference and half new.

``python -m benchmarks.drift [--rows N] [--repeat N] [--no-evidently]``. Ours reads the new half in batches, profiles it
and compares it with the profile that was stored at training, which is all it needs of the reference. Beside it: only
decoding both Parquet files, and Evidently's drift preset on both halves, in an environment of its own. Every measurement
is a process of its own with the imports done before the clock runs; the best of the repetitions counts (one of
Evidently). Reading the new half ten times over shows what memory does as rows grow. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = {
    "ours": "profile of the new half, against the stored profile",
    "ours, 10 times": "the same, the new half ten times over",
    "decode": "pyarrow decodes both halves, batch by batch",
    "evidently": "Evidently's DataDriftPreset on both halves",
}
NUMBERS, TEXTS = [f"x{n}" for n in range(16)], [f"s{n}" for n in range(4)]
HALVES = ("reference", "new")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-evidently", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--prepare", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(Path(arguments.prepare), arguments.rows)
    elif arguments.measure:
        way, folder = arguments.measure
        print(json.dumps({**MEASURED[way](Path(folder)), "peak_mb": round(peak_mb())}))
    else:
        compare(arguments.rows, arguments.repeat, not arguments.no_evidently)


def compare(rows: int, repeat: int, evidently: bool) -> None:
    from benchmarks.evidently import environment

    print(f"Drift of {rows:,} rows x {len(NUMBERS) + len(TEXTS)} columns, half of them new:")
    best: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
        # In a process of its own: a child's peak begins with its parent's.
        child(sys.executable, "--prepare", folder, "--rows", str(rows))
        for way, text in WAYS.items():
            if way == "evidently" and not evidently:
                continue
            python = str(environment()) if way == "evidently" else sys.executable
            times = 1 if way == "evidently" else repeat
            best[way] = min(
                (json.loads(child(python, "--measure", way, folder)) for _ in range(times)),
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
    """Both halves as datasets of the artifact store, and the profile of the reference. A tenth of the columns drifts."""
    import numpy as np
    import pyarrow as pa

    from airflow_mlops.artifacts.datasets import DatasetWriter
    from airflow_mlops.artifacts.store import ArtifactStore
    from airflow_mlops.monitoring.profiles import profile

    store, random = ArtifactStore(f"file://{folder}/store"), np.random.default_rng(0)
    for half in HALVES:
        shift = 0.3 if half == "new" else 0.0
        columns = {name: random.normal(shift if name == "x0" else 0, 1, rows // 2) for name in NUMBERS}
        for index, name in enumerate(TEXTS):
            values = np.array([f"value {number}" for number in range(10 ** (index % 3 + 1) // 2)])
            shares = np.arange(1, len(values) + 1, dtype=float)
            if half == "new" and name == "s0":
                shares = shares[::-1]
            columns[name] = values[random.choice(len(values), rows // 2, p=shares / shares.sum())]
        with DatasetWriter(store, half) as writer:
            writer.write(pa.table(columns))
            made = writer.commit()[0]
        (folder / f"{half}.json").write_text(made.ref.model_dump_json())
        if half == "reference":
            (folder / "profile.json").write_text(profile(_opened(folder, half).batches()).model_dump_json())


def _opened(folder: Path, half: str) -> Any:
    from airflow_mlops.artifacts.datasets import open_dataset
    from airflow_mlops.artifacts.store import ArtifactStore
    from airflow_mlops.specs.base import DatasetRef

    store = ArtifactStore(f"file://{folder}/store")
    return open_dataset(store, DatasetRef.model_validate_json((folder / f"{half}.json").read_text()))


def ours(folder: Path, times: int = 1) -> dict[str, Any]:
    import scipy.stats  # noqa: F401

    from airflow_mlops.monitoring.drift import compare
    from airflow_mlops.monitoring.profiles import Profile, profile
    from airflow_mlops.specs.policy import Policy

    batch_rows = 16_384  # as in the step
    new = _opened(folder, "new")
    start, worked = time.perf_counter(), time.process_time()
    reference = Profile.model_validate_json((folder / "profile.json").read_bytes())
    batches = (batch for _ in range(times) for batch in new.batches(batch_rows=batch_rows))
    found = compare(reference, profile(batches), Policy())
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    drifted = sum(item.drifted for item in found)
    return {"seconds": round(seconds, 3), "cpu_seconds": round(worked, 3), "drifted": drifted}


def ten_times(folder: Path) -> dict[str, Any]:
    return ours(folder, 10)


def decode(folder: Path) -> dict[str, Any]:
    halves = [_opened(folder, half) for half in HALVES]
    start = time.perf_counter()
    rows = sum(batch.num_rows for half in halves for batch in half.batches())
    return {"seconds": round(time.perf_counter() - start, 3), "rows": rows}


def evidently(folder: Path) -> dict[str, Any]:
    import pandas as pd

    from benchmarks.evidently import drifted

    start = time.perf_counter()
    reference, new = (
        pd.read_parquet(next((folder / "store" / "datasets" / half / "files").glob("*.parquet"))) for half in HALVES
    )
    found = drifted(reference, new, TEXTS, preset=True)
    return {"seconds": round(time.perf_counter() - start, 3), "drifted": sum(found)}


MEASURED = {"ours": ours, "ours, 10 times": ten_times, "decode": decode, "evidently": evidently}


if __name__ == "__main__":
    main()
