"""The metadata that Airflow reads from the package, checked without starting Airflow."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest

from airflow_mlops import __version__
from airflow_mlops.provider import get_provider_info

INFO = get_provider_info()


def test_the_metadata_follows_airflows_schema():
    schema = Path(find_spec("airflow").origin).parent / "provider_info.schema.json"
    jsonschema.validate(INFO, json.loads(schema.read_text()))
    assert INFO["versions"] == [__version__]


def test_the_installed_package_names_its_provider_and_its_plugin():
    (provider,) = (e for e in entry_points(group="apache_airflow_provider") if e.module.startswith("airflow_mlops"))
    (plugin,) = (e for e in entry_points(group="airflow.plugins") if e.module.startswith("airflow_mlops"))
    assert provider.load()() == INFO
    assert plugin.value == INFO["plugins"][0]["plugin-class"].replace(".MLOps", ":MLOps")


KINDS = ("operators", "sensors", "triggers", "hooks")


@pytest.mark.parametrize("module", [m for kind in KINDS for o in INFO[kind] for m in o["python-modules"]])
def test_every_module_in_the_metadata_exists(module):
    assert find_spec(module) is not None


def test_the_commands_in_the_metadata_exist():
    from airflow._shared.module_loading import import_string

    (path,) = INFO["cli"]
    (group,) = import_string(path)()
    assert group.name == "mlops"
    assert [command.name for command in group.subcommands] == [
        "init",
        "models",
        "status",
        "index",
        "ledger",
        "rollback",
        "promote",
        "reproduce",
        "serve",
        "servers",
        "backtest",
        "predictions",
        "datasets",
        "purge",
        "clean",
    ]


def test_every_setting_has_a_description_and_a_default():
    for name, option in INFO["config"]["mlops"]["options"].items():
        assert len(option["description"]) > 40, name
        assert isinstance(option["default"], str), name
