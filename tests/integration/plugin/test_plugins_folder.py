"""The files for a deployment's plugins folder, loaded by Airflow's own plugins managers in a fresh interpreter."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# Airflow's components and task processes have different plugins managers.
PROBE = """
import json, logging, sys
from airflow import plugins_manager
from airflow.sdk import plugins_manager as task_plugins_manager

def loaded(manager):
    plugins, errors = manager._get_plugins()
    return {"plugins": {plugin.name: str(plugin.source) for plugin in plugins}, "count": len(plugins), "errors": errors}

found = {"core": loaded(plugins_manager), "tasks": loaded(task_plugins_manager)}
found["pages"] = [app["url_prefix"] for app in plugins_manager.get_fastapi_plugins()[0]]
found["loaded"] = sorted(sys.modules)
plugins = [plugin for plugin in plugins_manager._get_plugins()[0] if plugin.name == "mlops"]
found["listeners"] = [listener.__name__ for plugin in plugins for listener in plugin.listeners]
print(json.dumps(found))
"""


@pytest.fixture
def plugins_folder(tmp_path):
    """A deployment's plugins folder with the files of this repository's folder ``plugins``."""
    return Path(shutil.copytree(ROOT / "plugins", tmp_path / "home" / "plugins"))


def interpreter(plugins_folder, *paths, options=()):
    """A function that runs code in an Airflow with this plugins folder and these folders on the Python path."""
    home = plugins_folder.parent
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    env |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }

    def run(code):
        done = subprocess.run(
            [sys.executable, *options, "-c", code], env=env, cwd=home, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1]

    return run


@pytest.fixture
def uninstalled(plugins_folder, tmp_path):
    """An environment with all packages except this one, which is in the plugins folder."""
    packages = tmp_path / "packages"
    packages.mkdir()
    # Debian's Python names folders that a virtual environment does not have.
    for folder in filter(os.path.isdir, site.getsitepackages()):
        for entry in Path(folder).iterdir():
            if "airflow_mlops" not in entry.name and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    shutil.copytree(
        ROOT / "airflow_mlops", plugins_folder / "airflow_mlops", ignore=shutil.ignore_patterns("__pycache__")
    )
    # -S skips site-packages, so that only the linked packages can be imported.
    return interpreter(plugins_folder, packages, options=["-S"])


def test_the_file_in_the_plugins_folder_registers_a_package_that_is_not_installed_once(uninstalled):
    found = json.loads(uninstalled(PROBE))
    for manager in ("core", "tasks"):
        plugins = found[manager]
        assert plugins["plugins"]["mlops"] == "$PLUGINS_FOLDER/airflow_mlops_plugin.py"
        assert plugins["count"] == len(plugins["plugins"])
        assert plugins["errors"] == {}
        # Plugins registered by entry points are loaded as well.
        assert "OpenLineageProviderPlugin" in plugins["plugins"]
    assert "/mlops" in found["pages"]
    assert found["listeners"] == ["airflow_mlops.plugin.preload", "airflow_mlops.plugin.keyless_events"]
    assert {"pandas", "torch", "mlflow", "train", "base"}.isdisjoint(found["loaded"])


def test_operators_and_steps_can_be_imported_from_the_plugins_folder_in_a_task(uninstalled):
    code = """
from types import SimpleNamespace
from airflow.sdk import plugins_manager
plugins_manager._get_plugins()
from airflow_mlops.operators import TrainOperator
from airflow_mlops.stages.train.record import environment
print(TrainOperator.__module__, environment(SimpleNamespace(packages=[]))["airflow-mlops"])
"""
    from airflow_mlops import __version__

    assert uninstalled(code) == f"airflow_mlops.operators.train {__version__}"


def test_an_installed_package_is_not_registered_twice(plugins_folder):
    found = json.loads(interpreter(plugins_folder, ROOT)(PROBE))
    for manager in ("core", "tasks"):
        plugins = found[manager]
        assert plugins["plugins"]["mlops"].startswith("airflow-mlops==")
        assert plugins["count"] == len(plugins["plugins"])
        assert plugins["errors"] == {}
        assert "OpenLineageProviderPlugin" in plugins["plugins"]
    assert "airflow_mlops_plugin" in found["loaded"]
