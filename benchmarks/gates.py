"""The error rates of the default improvement gate, and the cost of an evaluation on 1,000,000 rows.

``python -m benchmarks.gates [--repetitions N] [--rows N] [--memory GIB] [--cores N]``. The rates come
from seeded simulations with new rows and two new models each: two equally good models (A/A), also on rows with log-normal weights
(``sample_weight=``), and a candidate that is better by the detectable improvement that the gate reports. The cost of a whole evaluation is measured in a separate
process with two cores and 2 GiB of memory. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPETITIONS, SIMULATED_ROWS = 400, 2_000
ROWS, SLICES = 1_000_000, 50
METRICS = ("roc_auc", "log_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--memory", type=float, default=2.0, help="GiB that the evaluation may use")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(Path(arguments.measure), arguments.rows, arguments.memory)
    else:
        compare(arguments.repetitions, arguments.rows, arguments.memory, arguments.cores)


def compare(repetitions: int, rows: int, memory: float, cores: int) -> None:
    figures: dict[str, Any] = {}
    print(f"The default improvement gate on {SIMULATED_ROWS:,} rows, {repetitions} repetitions:")
    for metric in METRICS:
        false, power, size = rates(metric, repetitions)
        print(
            f"  {metric:10} promotes {false:6.1%} of equally good candidates, and {power:6.1%} of those better by {size:.3g}",
            flush=True,
        )
        weighted = (
            sum(judge(metric, 0.0, SIMULATED_ROWS, seed, True).passed for seed in range(repetitions)) / repetitions
        )
        print(f"  {metric:10} promotes {weighted:6.1%} of equally good candidates on rows with weights", flush=True)
        figures[metric] = {
            "false_promotion_rate": false,
            "weighted_false_promotion_rate": weighted,
            "power": power,
            "improvement": size,
        }
    taken = evaluate(rows, memory, cores)
    print(
        f"Judging {rows:,} rows with {taken['rounds']:,} bootstrap rounds and {taken['slices']} slices on {cores} cores "
        f"takes {taken['seconds']:.1f} s and {taken['peak_mb']:,} MB."
    )
    print(
        json.dumps(
            {
                "benchmark": "gates",
                "repetitions": repetitions,
                "false_promotion_rate": max(item["false_promotion_rate"] for item in figures.values()),
                "weighted_false_promotion_rate": max(
                    item["weighted_false_promotion_rate"] for item in figures.values()
                ),
                "power": min(item["power"] for item in figures.values()),
                "metrics": figures,
                "rows": rows,
                **taken,
            }
        )
    )


def rates(metric: str, repetitions: int, rows: int = SIMULATED_ROWS) -> tuple[float, float, float]:
    """The share of equally good candidates that pass, the share of better ones that pass, and their improvement.

    The improvement is the mean detectable improvement that the gate reports in the first 40 A/A simulations.
    """
    truths = [judge(metric, 0.0, rows, seed) for seed in range(repetitions)]
    planned = sum(item.detectable for item in truths[:40]) / len(truths[:40])
    quality = better_by(metric, planned)
    found = [judge(metric, quality, rows, seed + 1_000_000) for seed in range(repetitions)]
    return (
        sum(item.passed for item in truths) / repetitions,
        sum(item.passed for item in found) / repetitions,
        planned,
    )


def judge(metric: str, quality: float, rows: int, seed: int, weighted: bool = False) -> Any:
    """The result of the default improvement gate for a candidate that is better by ``quality`` (see :func:`evidence`).

    ``weighted``: whether the rows have weights. They depend on the label, and therefore on the errors of the models.
    """
    from airflow_mlops.gates.rules import default_gates

    gate = default_gates("binary", metric)[1]
    return gate.check(evidence(rows, quality, seed, weighted))


def evidence(rows: int, quality: float, seed: int, weighted: bool = False) -> Any:
    """Two models on the same rows. Each sees the same signal with its own noise.

    The standard deviation of the noise is 1 for the champion, and ``1 - quality`` for the candidate.
    """
    import numpy as np

    from airflow_mlops.gates.evidence import Evidence, Measurement
    from airflow_mlops.metrics.resampling import Resampling
    from airflow_mlops.metrics.values import measure

    random = np.random.default_rng(seed)
    pair = models(rows, quality, random)
    if weighted:
        weight = np.exp(random.normal(size=rows) + 0.5 * pair[0].truth)
        pair = [one.weighted(weight) for one in pair]
    candidate, champion = (
        Measurement(name, measure(one), None, one) for name, one in zip(("m v2", "m v1"), pair, strict=True)
    )
    return Evidence(
        task="binary", truth=pair[0].truth, candidate=candidate, baseline=Measurement("baseline", {}),
        champion=champion, resampling=Resampling(rows, seed=seed),
    )  # fmt: skip


def models(rows: int, quality: float, random: Any) -> list[Any]:
    import numpy as np

    from airflow_mlops.metrics.rows import Rows

    signal = random.normal(size=rows)
    truth = random.random(rows) < 1 / (1 + np.exp(-1.5 * signal))
    pair = []
    for noise in (1 - quality, 1.0):
        # The best forecast from a signal with this noise, so that it is calibrated.
        seen = (signal + noise * random.normal(size=rows)) / (1 + noise**2)
        shrunk = 1.5 / np.sqrt(1 + np.pi * 1.5**2 * noise**2 / (1 + noise**2) / 8)
        score = 1 / (1 + np.exp(-shrunk * seen))
        pair.append(Rows("binary", truth, score >= 0.5, score))
    return pair


def better_by(metric: str, improvement: float) -> float:
    """The quality at which a candidate is better by ``improvement``, found on 400,000 rows."""
    import numpy as np

    from airflow_mlops.metrics.catalog import find_metric
    from airflow_mlops.metrics.formulas import statistic

    sign = find_metric(metric).sign
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        candidate, champion = models(400_000, middle, np.random.default_rng(0))
        sums = statistic(metric, candidate)
        reached = sign * (sums.measure(candidate) - sums.measure(champion))
        low, high = (middle, high) if reached < improvement else (low, middle)
    return high


def evaluate(rows: int, memory: float, cores: int) -> dict[str, Any]:
    """Measure in a child, on the first cores of this process."""
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
        prepare(Path(folder), rows)
        child = [
            sys.executable,
            "-m",
            "benchmarks.gates",
            "--measure",
            folder,
            "--rows",
            str(rows),
            "--memory",
            str(memory),
        ]
        threads = {name: str(cores) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}

        def pin() -> None:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

        done = subprocess.run(child, capture_output=True, text=True, env={**os.environ, **threads}, preexec_fn=pin)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


COLUMNS = ("carrier", "origin", "hour", "distance")


def prepare(folder: Path, rows: int) -> None:
    """A held-out part with two columns of text and two of numbers, which give about fifty slices."""
    import numpy as np
    import pyarrow as pa

    from airflow_mlops.data.datasets import DatasetWriter
    from airflow_mlops.data.store import ArtifactStore

    random = np.random.default_rng(1)
    signal = random.normal(size=rows)
    table = pa.table(
        {
            "carrier": pa.array(random.integers(25, size=rows).astype(str)),
            "origin": pa.array(random.integers(14, size=rows).astype(str)),
            "hour": pa.array(random.integers(11, size=rows)),
            "distance": pa.array(random.normal(size=rows)),
            "signal": signal,
            "label": random.random(rows) < 1 / (1 + np.exp(-1.5 * signal)),
        }
    )
    with DatasetWriter(ArtifactStore(f"file://{folder}/store"), "held_out") as writer:
        writer.write(table, "test")
        found = writer.commit(details={"label": "label", "task": "binary"})[0]
    (folder / "rows.json").write_text(found.ref.model_dump_json())


def measure(folder: Path, rows: int, memory: float) -> None:
    """Check the default gates and slices in this process, and print time and memory; imports are not counted."""
    import numpy as np
    import sklearn.tree  # noqa: F401 - as in a worker that has trained

    from airflow_mlops.core.references import DatasetRef
    from airflow_mlops.data.datasets import open_dataset
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.gates.evidence import Evidence, HeldOut, Measurement
    from airflow_mlops.gates.rules import default_gates, parse_gates
    from airflow_mlops.metrics.resampling import ROUNDS, Resampling
    from airflow_mlops.metrics.rows import Rows
    from airflow_mlops.metrics.values import baseline
    from airflow_mlops.metrics.values import measure as measure_all

    resource.setrlimit(resource.RLIMIT_DATA, (int(memory * 2**30), int(memory * 2**30)))
    store = ArtifactStore(f"file://{folder}/store")
    dataset = open_dataset(store, DatasetRef.model_validate_json((folder / "rows.json").read_text()))
    truth = dataset.table("test", ["label"])["label"].to_numpy()
    signal = dataset.table("test", ["signal"])["signal"].to_numpy()
    random = np.random.default_rng(2)
    pair = []
    for noise in (0.9, 1.0):
        score = 1 / (1 + np.exp(-(signal + noise * random.normal(size=rows))))
        pair.append(Rows("binary", truth, score >= 0.5, score))
    gates = [
        *default_gates("binary"),
        *parse_gates(
            [
                {"metric": metric, "slices": COLUMNS, "not_worse_than_champion_by": 0.01}
                for metric in ("roc_auc", "log_loss")
            ]
        ),
        *parse_gates(
            [{"metric": "log_loss", "better_than_champion_by": 0}, {"metric": "ece", "max": 0.2, "confidence": 0.95}]
        ),
    ]
    wall = time.perf_counter()
    candidate, champion = (
        Measurement(name, measure_all(one), None, one) for name, one in zip(("m v2", "m v1"), pair, strict=True)
    )
    found = Evidence(
        task="binary", truth=truth, candidate=candidate, champion=champion,
        baseline=Measurement("baseline", baseline("binary", truth, [False, True])),
        data=HeldOut(dataset, "test", "label", "binary", truth), resampling=Resampling(rows),
    )  # fmt: skip
    results = [gate.check(found) for gate in gates]
    seconds = time.perf_counter() - wall
    assert all(item.passed for item in results), [item.explanation for item in results]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    slices = len(results[2].slices)
    print(json.dumps({"seconds": round(seconds, 2), "peak_mb": round(peak), "rounds": ROUNDS, "slices": slices}))


if __name__ == "__main__":
    main()
