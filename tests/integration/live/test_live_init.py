"""What ``airflow mlops init`` writes runs as it is in a real Airflow: from a file to a champion whose predictions are monitored."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from tests.support.live import LiveAirflow

pytestmark = pytest.mark.slow

INIT = "returns", "--label", "returned", "--label-delay", "3D", "--every", "month"


@pytest.fixture(scope="module", autouse=True)
def dags(airflow: LiveAirflow) -> None:
    """Seven weeks of orders; the labels of the last ones are not known yet."""
    chance = random.Random(1)
    lines = ["order id,created,amount,country,shipped,refund,returned"]
    for number in range(3_000):
        at = datetime(2024, 1, 10) + timedelta(minutes=25 * number)
        amount, country = round(chance.lognormvariate(3, 1), 2), chance.choice(["DE", "FR", "IT"])
        returned = chance.random() < 0.1 + 0.5 * (amount > 25)
        late = f"{at + timedelta(days=2)},{amount * returned},{'yes' if returned else 'no'}" if number < 2_950 else ",,"
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
    airflow.wait_for_success(dag_id, run_id)
    return run_id


def succeeded(airflow: LiveAirflow, dag_id: str, key: str) -> str:
    """Wait for the run of a partition that an asset has started, and return its id."""

    def found() -> list[str]:
        runs = [item for item in airflow.runs(dag_id) if item["partition_key"] == key]
        assert not [item for item in runs if item["state"] == "failed"]
        return [str(item["dag_run_id"]) for item in runs if item["state"] == "success"]

    return str(airflow.until(found, f"{dag_id} {key} has run", timeout=300)[0])


def test_the_proposed_dags_train_score_and_monitor(airflow: LiveAirflow):
    run(airflow, "returns_ingest", "2024-01")
    # Monitoring finds no champion, and requests the first training.
    run(airflow, "returns_monitor", "2024-01")
    trained = succeeded(airflow, "returns_train", "2024-01")
    assert airflow.xcom("returns_train", trained, "promote")["promoted"]
    run(airflow, "returns_ingest", "2024-02")
    scored = succeeded(airflow, "returns_score", "2024-02")
    assert airflow.xcom("returns_score", scored, "score")["dataset"]
    result = airflow.xcom("returns_monitor", run(airflow, "returns_monitor", "2024-02"), "monitor")
    assert result["decision"] == "healthy", result


def test_the_proposed_test_passes(airflow: LiveAirflow):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        command, cwd=airflow.dags / "returns", env=airflow.env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout
