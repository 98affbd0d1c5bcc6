"""The overhead of running a step as an Airflow task, compared with the same work in a plain script.

``python -m benchmarks.step_overhead [--repeat N] [--rows N]``. The work is the ingestion of a small CSV file, so nearly all of
the time is start-up and imports. A live Airflow (scheduler, LocalExecutor, API server) runs one after the other:

- ``empty``: a PythonOperator that does nothing, which is the overhead of Airflow for any task;
- ``function``: a PythonOperator that calls the function of the step;
- ``worker``: the operator in the worker;
- ``process``: the operator with ``run_on=Process(...)``, in another Python on the worker.

The time of a task is that from its start to its end as Airflow records them. It includes parsing the DAG file, imports, the
work and the result. The time of the script is that of its whole process. The overhead of a step is (worker - empty) - script.
A second round repeats everything with ``[mlops] preload``. The figures are the best of the repetitions. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.live import LiveAirflow

DAGS = Path(__file__).parent / "dags" / "overhead"
TASKS = ("empty", "function", "worker", "process")
PRELOAD = "airflow.sdk.execution_time.task_runner,airflow_mlops.operators.ingest,airflow_mlops.stages.ingest.step"
TARGET = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--script", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.script:
        work(*arguments.script)
        return
    print(__doc__)
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
        file = Path(folder) / "rows.csv"
        file.write_text("n,x,s\n" + "".join(f"{n},{n / 7},text {n % 100}\n" for n in range(arguments.rows)))
        plain = measure(Path(folder) / "plain", file, arguments.repeat, {})
        preloaded = measure(Path(folder) / "preload", file, arguments.repeat, {"AIRFLOW__MLOPS__PRELOAD": PRELOAD})
    print(f"\n{'best, in seconds':22}{'script':>8}" + "".join(f"{task:>10}" for task in TASKS) + f"{'overhead':>10}")
    figures = {"plain": plain, "preload": preloaded}
    for name, best in figures.items():
        best["overhead"] = round(best["worker"] - best["empty"] - best["script"], 3)
        best["overhead_process"] = round(best["process"] - best["empty"] - best["script"], 3)
        best["over_function"] = round(best["worker"] - best["function"], 3)
        row = "".join(f"{best[task]:10.2f}" for task in TASKS)
        print(f"  {name:20}{best['script']:8.2f}{row}{best['overhead']:10.2f}")
    met = all(best["overhead"] <= TARGET for best in figures.values())
    print(
        f"\nA step in the worker costs {plain['overhead']:.2f} s more than the script; the target is at most {TARGET} s. "
        f"(Airflow's own start counted, its task takes {plain['worker']:.2f} s and the script {plain['script']:.2f} s: "
        "a task is forked from a worker that has Python and Airflow loaded.)\n"
    )
    print(json.dumps({"benchmark": "step_overhead", "rows": arguments.rows, **figures, "target": TARGET, "met": met}))


def measure(home: Path, file: Path, repeat: int, env: dict[str, str]) -> dict[str, float]:
    """Run script and tasks in turn and return the best time of each."""
    found: dict[str, list[float]] = {name: [] for name in ("script", *TASKS)}
    home.mkdir()
    with LiveAirflow(home, DAGS, {"AIRFLOW__CORE__PARALLELISM": "1", **env}) as airflow:
        # The first run warms up the API server and the only worker of the executor. It is not counted.
        for number in range(repeat + 1):
            script = run_script(f"script_{number}", file, airflow.env)
            run_id = airflow.trigger("step_overhead", {"number": number, "file": str(file)})
            state = airflow.wait("step_overhead", run_id, timeout=300)
            if state != "success":
                sys.exit(f"The run of step_overhead ended as {state}:\n{airflow.output('scheduler')[-5000:]}")
            if number == 0:
                continue
            found["script"].append(script)
            for task in airflow.task_instances("step_overhead", run_id):
                found[task["task_id"]].append(task["duration"])
    return {name: round(min(seconds), 3) for name, seconds in found.items()}


def run_script(name: str, file: Path, env: dict[str, str]) -> float:
    """Seconds from the start of the plain script to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--script", name, str(file)], check=True, env=env)
    return time.perf_counter() - started


def work(name: str, file: str) -> dict:
    """Ingest the file, which is the work that is compared."""
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.stages.context import StepContext
    from airflow_mlops.stages.ingest.spec import IngestSpec
    from airflow_mlops.stages.ingest.step import run

    context = StepContext(ArtifactStore(os.environ["AIRFLOW__MLOPS__ARTIFACTS"]))
    return run(IngestSpec(name=name, files=[file]), context).model_dump(mode="json")


if __name__ == "__main__":
    main()
