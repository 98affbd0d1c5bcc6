"""What ``airflow mlops init`` writes runs as it is in a real Airflow: from a file to a champion whose predictions are monitored."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from tests.support.live import LiveAirflow

pytestmark = pytest.mark.slow

INIT = "returns", "--label", "returned", "--label-delay", "3D"


@pytest.fixture(scope="module", autouse=True)
def dags(airflow: LiveAirflow) -> None:
    """Half a year of orders; the labels of the last ones are not known yet."""
    chance = random.Random(1)
    lines = ["order id,created,amount,country,shipped,refund,returned"]
    for number in range(3_000):
        at = datetime(2024, 1, 10) + timedelta(minutes=75 * number)
        amount, country = round(chance.lognormvariate(3, 1), 2), chance.choice(["DE", "FR", "IT"])
        returned = chance.random() < 0.1 + 0.5 * (amount > 25)
        late = f"{at + timedelta(days=2)},{amount * returned},{'yes' if returned else 'no'}" if number < 2_900 else ",,"
        lines.append(f"A{number:05d},{at},{amount},{country},{late}")
    (airflow.home / "orders.csv").write_text("\n".join(lines))
    command = [sys.executable, "-m", "airflow", "mlops", "init", *INIT, "--files", str(airflow.home / "orders.csv")]
    done = subprocess.run(
        [*command, "--folder", str(airflow.dags / "returns")], env=airflow.env, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Not a feature: refund (known only when the label is known)" in done.stdout


def run(airflow: LiveAirflow, dag_id: str, key: str) -> str:
    run_id = airflow.trigger(dag_id, partition_key=key)
    state = airflow.wait(dag_id, run_id)
    states = {task["task_id"]: task["state"] for task in airflow.task_instances(dag_id, run_id)}
    failed = [name for name, state in states.items() if state == "failed"]
    assert state == "success", (states, [airflow.logs(dag_id, run_id, name) for name in failed])
    return run_id


def test_the_proposed_dags_train_score_and_monitor(airflow: LiveAirflow):
    for key in ("2024-01", "2024-02", "2024-03"):
        run(airflow, "returns_ingest", key)
        run(airflow, "returns_monitor", key)
    trained = run(airflow, "returns_train", "2024-03")
    assert airflow.xcom("returns_train", trained, "promote")["promoted"]
    run(airflow, "returns_ingest", "2024-04")
    scored = airflow.until(
        lambda: [
            found
            for found in airflow.runs("returns_score")
            if found["partition_key"] == "2024-04" and found["state"] == "success"
        ],
        "the new rows are scored",
    )
    assert airflow.xcom("returns_score", scored[0]["dag_run_id"], "score")["dataset"]
    monitored = run(airflow, "returns_monitor", "2024-04")
    result = airflow.xcom("returns_monitor", monitored, "monitor")
    assert result["verdict"] in ("healthy", "watch", "retrain")
    assert result["verdict"] == "healthy", result


def test_the_proposed_test_passes(airflow: LiveAirflow):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        command, cwd=airflow.dags / "returns", env=airflow.env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout
