"""docs/your-own-data.md as a new user reads it: its commands in its order, in the environment that its first command makes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import end_group, free_port
from tests.support.live import STEPS, LiveAirflow
from tests.support.memory import on_disk

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# The modules of the steps, and other modules that at least two tasks of the page import.
PRELOADED = (*STEPS, "great_expectations", "skl2onnx", "sklearn.ensemble")
PAGE = (ROOT / "docs" / "your-own-data.md").read_text()
# The package with its extras, in the page's first command.
PACKAGE = r"'\.\[(.*)\]'"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[str]:
    """The lines of the page's shell blocks."""
    return [line for block in blocks("bash") for line in block.splitlines() if line]


class Shell:
    """A shell in a virtual environment, as the user of the page has it."""

    def __init__(self, environment: Path, folder: Path) -> None:
        self.environment = environment
        self.folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        self.env = {
            **inherited,
            "VIRTUAL_ENV": str(environment),
            "PATH": f"{environment}/bin:{os.environ['PATH']}",
            "AIRFLOW_HOME": str(folder / "new"),
            # Twelve processes of the MLflow server that the page does not need.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_WORKERS": "1",
        }

    def run(self, command: str, folder: Path | None = None) -> str:
        """Run a command, and return what it prints."""
        done = self._run(command, folder)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def succeeds(self, command: str, folder: Path | None = None) -> bool:
        """Run a command, and return whether it succeeds."""
        return self._run(command, folder).returncode == 0

    def _run(self, command: str, folder: Path | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=folder or self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=1800,
        )


def copy_bytecode(source: Path, target: Path) -> None:
    """Copy the bytecode of the packages that two environments have in common.

    uv compiles nothing, and links both environments to the same files, so Python accepts the bytecode. Without it, all
    components of Airflow compile the same modules when they start.
    """
    for folder in source.rglob("__pycache__"):
        if (copied := target / folder.relative_to(source)).parent.is_dir():
            shutil.copytree(folder, copied, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder for the environment, whose files uv links to those in its cache on the disk."""
    made = on_disk("page")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def shell(folder: Path) -> Shell:
    """A new environment in which the page's first command has run."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True, timeout=300)
    made = Shell(folder / "env", folder)
    # uv installs pip and the dependencies in a tenth of pip's time. pip then only builds the package.
    uv = f"UV_SYSTEM_CERTS=true {Path(sys.executable).with_name('uv')}"
    if not made.succeeds(f"{uv} pip install --quiet -c constraints.txt pip", ROOT):
        made.run("python -m ensurepip --default-pip")
    if not made.succeeds("pip download --quiet --no-deps apache-airflow-providers-sqlite"):
        pytest.skip("no package index can be reached")
    install, *_ = commands()
    assert install.startswith("pip install ")
    extras = re.search(PACKAGE, install).group(1)
    dependencies = "-r pyproject.toml " + " ".join(f"--extra {extra}" for extra in extras.split(","))
    if made.succeeds(f"{uv} {re.sub(PACKAGE, dependencies, install)}", ROOT):
        copy_bytecode(Path(sysconfig.get_path("purelib")), *made.environment.glob("lib/python*/site-packages"))
        # pip would take 6 s of CPU time to find that every dependency is installed.
        install = install.replace("pip install", "pip install --no-deps", 1)
    made.run(install, ROOT)
    return made


@pytest.fixture(scope="module")
def mlflow(shell: Shell) -> Iterator[str]:
    """The MLflow server of the page, on a free port."""
    (command,) = (line for line in commands() if line.startswith("mlflow server"))
    port = str(free_port())
    with (shell.folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(
            ["bash", "-c", "exec " + command.removesuffix("&").replace("5000", port)],
            cwd=shell.folder, env=shell.env, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    yield port
    end_group(server)


@pytest.fixture(scope="module")
def airflow(shell: Shell, mlflow: str) -> Iterator[LiveAirflow]:
    """The user's Airflow, with the page's table, connections and DAG."""
    dags = shell.folder / "dags"
    dags.mkdir()
    table, dag = blocks("python")
    (shell.folder / "table.py").write_text(table)
    shell.run("python table.py")
    # In the 17 hours after midnight of a Sunday, Airflow would start a scheduled run in addition to the triggered ones.
    assert 'schedule="@weekly"' in dag
    (dags / "churn.py").write_text(dag.replace('schedule="@weekly"', "schedule=None"))
    # As in a new Airflow, the artifacts are next to the DAGs folder.
    env = {
        **shell.env,
        "AIRFLOW_HOME": str(shell.folder),
        "AIRFLOW__MLOPS__ARTIFACTS": "",
        "AIRFLOW__MLOPS__PRELOAD": ",".join(PRELOADED),
    }
    with LiveAirflow(shell.folder, dags, env, python=shell.environment / "bin" / "python") as live:
        shell.env = live.env
        for command in commands():
            if command.startswith("airflow connections add"):
                shell.run(command.replace("5000", mlflow))
        yield live


INSTALLED = """
from importlib.metadata import distribution
import json
found = distribution("airflow-mlops")
print(json.dumps({
    "files": [str(file) for file in found.files if file.locate().is_file()],
    "entry points": sorted(point.group for point in found.entry_points),
}))
"""


def test_the_wheel_contains_every_file_of_the_package(shell: Shell):
    """pip builds a wheel for the page's first command."""
    found = json.loads(shell.run(f"python -c '{INSTALLED}'"))
    package = (path.relative_to(ROOT) for path in (ROOT / "airflow_mlops").rglob("*") if path.is_file())
    # Another test adds the step `count_for_test` to the package while it runs.
    expected = {str(path) for path in package if not {"__pycache__", "count_for_test"} & {*path.parts}}
    # The wheel contains the bundle of the pages in Airflow's UI, but neither the source of the pages nor the packages
    # that build them.
    expected -= {path for path in expected if "/plugin/www/" in path and "/plugin/www/dist/" not in path}
    assert {"airflow_mlops/py.typed", "airflow_mlops/stages/monitor/page/templates/report.html.jinja"} < expected
    assert "airflow_mlops/plugin/www/dist/models.js" in expected
    assert not [name for name in found["files"] if "/www/src/" in name or "node_modules" in name]
    assert expected | {"airflow_mlops/report.schema.json"} <= set(found["files"])
    assert found["entry points"] == ["airflow.plugins", "apache_airflow_provider"]


def versions(port: str) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/2.0/mlflow/model-versions/search", timeout=30) as answer:
        return sorted(version["version"] for version in json.load(answer).get("model_versions", []))


def test_the_table_becomes_a_champion_and_a_second_run_changes_nothing(airflow: LiveAirflow, shell: Shell, mlflow: str):
    assert airflow.get("/api/v2/connections/shop")["conn_type"] == "sqlite"
    runs, trained, shown = [], [], []
    for _ in range(2):
        run_id = airflow.trigger("churn")
        airflow.wait_for_success("churn", run_id, timeout=600)
        tasks = airflow.task_instances("churn", run_id)
        assert {task["state"] for task in tasks} == {"success"}
        runs.append(
            {task["task_id"]: airflow.xcom("churn", run_id, task["task_id"]) for task in tasks if task["map_index"] < 0}
        )
        trained.append([airflow.xcom("churn", run_id, "train", map_index=index) for index in (0, 1)])
        shown.append({task["task_id"]: task["rendered_map_index"] for task in tasks if task["map_index"] < 0})
    first, second = runs
    assert first["ingest"]["dataset"]["rows"] == 3000
    assert first["validate"]["quarantined"]["rows"] > 0
    assert first["promote"]["promoted"]
    assert first["score"]["scored_by"] == first["promote"]["champion"]
    assert (shell.folder / "mlops" / "datasets" / "customers").is_dir()

    # The decisions are shown next to the successful tasks.
    winner = first["promote"]["champion"]["version"]
    assert shown[0]["ingest"] is None
    assert shown[0]["validate"] == f"quarantined {first['validate']['quarantined']['rows']:,} rows"
    assert (shown[0]["evaluate"], shown[0]["promote"]) == (f"v{winner} passed", f"promoted v{winner}")

    assert second["ingest"]["unchanged"]
    for task in ("ingest", "validate", "training_set"):
        assert second[task]["dataset"] == first[task]["dataset"]
    # The same rows give the same models: no version is registered, and the champion stays.
    for before, after in zip(*trained, strict=True):
        assert after["candidate"] == before["candidate"]
        assert after["run_id"] != before["run_id"]
    assert versions(mlflow) == ["1", "2"]
    assert not second["promote"]["promoted"]
    assert second["promote"]["champion"] == first["promote"]["champion"]
    for task in ("evaluate", "promote"):
        assert shown[1][task].startswith("refused: No candidate passed")
        assert len(shown[1][task]) <= 200
