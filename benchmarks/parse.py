"""The time to parse a DAG file with all operators, compared with the same DAG of EmptyOperators.

``python -m benchmarks.parse [--repeat N]``. Each parse runs in a fresh interpreter that has imported what Airflow's DAG
processor imports before it parses. The best of all runs counts, because other work on the machine only adds time. CPU
time is printed as well, because it depends less on other work. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DAGS = Path(__file__).parent / "dags" / "parse"
SIDES = {
    "operators": "all operators of airflow-mlops",
    "empty": "the same DAG of EmptyOperators",
}
FILES = {"operators": DAGS / "every_operator.py", "empty": DAGS / "empty_operators.py"}
HEAVY = ("feast", "great_expectations", "kubernetes", "mlflow", "numpy", "pandas", "pyarrow", "sklearn", "torch")
TARGET = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    print(f"Parsing one DAG file in a fresh interpreter, best of {arguments.repeat}:")
    for side, text in SIDES.items():
        print(f"  {side:10} {text}")
    found: dict[str, list[dict[str, object]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as home:
        env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        env |= {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        # The first run of each side fills the file cache and is not counted.
        for _ in range(arguments.repeat + 1):
            for side, file in FILES.items():
                command = [sys.executable, "-m", "benchmarks.parse", "--measure", str(file)]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env).stdout
                found[side].append(json.loads(output.splitlines()[-1]))
    figures = {side: summary(runs[1:]) for side, runs in found.items()}
    print(f"\n{'':12}{'seconds':>9}{'median':>8}{'max':>8}{'cpu':>8}{'modules':>9}   heavy imports")
    for side, row in figures.items():
        heavy = ", ".join(row["heavy"]) or "none"
        print(
            f"  {side:10}{row['seconds']:9.3f}{row['median']:8.3f}{row['max']:8.3f}{row['cpu']:8.3f}{row['modules']:9}   {heavy}"
        )
    more = round(figures["operators"]["seconds"] - figures["empty"]["seconds"], 3)
    print(f"\nThe operators cost {more:.3f} s more; the target is at most {TARGET} s.\n")
    print(json.dumps({"benchmark": "parse", **figures, "difference": more, "target": TARGET, "met": more <= TARGET}))


def summary(runs: list[dict]) -> dict:
    seconds = [run["seconds"] for run in runs]
    return {
        "seconds": round(min(seconds), 3),
        "median": round(statistics.median(seconds), 3),
        "max": round(max(seconds), 3),
        "cpu": round(min(run["cpu"] for run in runs), 3),
        "modules": runs[-1]["modules"],
        "heavy": runs[-1]["heavy"],
    }


def measure(file: Path) -> None:
    """Parse one file in this process and print the time."""
    import airflow.dag_processing.processor  # noqa: F401
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.sdk import DAG, Asset, BaseOperator  # noqa: F401 - the DAG processor has imported them

    # The DAG processor does the same before it forks the process that parses.
    gc.collect()
    gc.freeze()
    before = set(sys.modules)
    cpu, started = time.process_time(), time.perf_counter()
    bag = BundleDagBag(file, bundle_path=file.parent, bundle_name="benchmark")
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    if bag.import_errors or not bag.dags:
        sys.exit(f"{file} does not parse: {bag.import_errors}")
    new = set(sys.modules) - before
    heavy = sorted(name for name in HEAVY if name in new)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "modules": len(new), "heavy": heavy}))


if __name__ == "__main__":
    main()
