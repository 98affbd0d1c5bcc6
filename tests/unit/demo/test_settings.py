"""Settings of the demo."""

from __future__ import annotations

from importlib.util import find_spec

from demo.settings import PRELOAD


def test_the_preloaded_modules_of_this_package_exist():
    modules = [name for name in PRELOAD if name.startswith("airflow_mlops.")]
    assert len(modules) == 11
    assert all(find_spec(name) for name in modules)
    assert all(name.endswith(".step") for name in modules)
