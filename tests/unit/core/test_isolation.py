"""Imports that load less, print less and leave nothing behind."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from pathlib import Path

import pytest

from airflow_mlops.core.isolation import FolderModules, no_warnings, quiet, without, without_running


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A library with an optional dependency, both importable."""
    (tmp_path / "slow_dependency.py").write_text("")
    (tmp_path / "some_library.py").write_text(
        "import warnings\n"
        "try:\n    import slow_dependency\n    FOUND = True\n"
        "except ImportError:\n    warnings.warn('no slow_dependency')\n    FOUND = False\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("slow_dependency", "some_library"):
        sys.modules.pop(name, None)


def test_an_optional_dependency_is_not_imported_inside_the_block_and_can_be_imported_afterwards(packages):
    with warnings.catch_warnings(record=True) as found, without("slow_dependency"):
        library = importlib.import_module("some_library")
    assert not library.FOUND
    assert not found
    assert "slow_dependency" not in sys.modules
    importlib.import_module("slow_dependency")


def test_a_package_that_is_already_imported_stays_available(packages):
    slow = importlib.import_module("slow_dependency")
    with without("slow_dependency"):
        assert importlib.import_module("some_library").FOUND
    assert sys.modules["slow_dependency"] is slow


def test_packages_become_importable_again_after_an_error(packages):
    with pytest.raises(ModuleNotFoundError), without("slow_dependency"):
        importlib.import_module("slow_dependency")
    importlib.import_module("slow_dependency")


def test_only_the_named_warnings_are_suppressed():
    with warnings.catch_warnings(record=True) as found, no_warnings("known"):
        warnings.warn("known problem", stacklevel=1)
        warnings.warn("new problem", stacklevel=1)
    assert [str(item.message) for item in found] == ["new problem"]
    with warnings.catch_warnings(), no_warnings():
        warnings.simplefilter("error", append=True)
        warnings.warn("any problem", stacklevel=1)


def test_quiet_suppresses_log_records_up_to_warnings_inside_the_block_only(caplog):
    log = logging.getLogger("a.library")
    with quiet():
        log.warning("inside")
        log.error("serious")
        warnings.warn("inside", stacklevel=1)
    log.warning("outside")
    assert [record.message for record in caplog.records] == ["serious", "outside"]


def folder(tmp_path: Path, name: str, value: int) -> Path:
    made = tmp_path / name
    (made / "helpers").mkdir(parents=True)
    (made / "helpers" / "__init__.py").write_text(f"VALUE = {value}")
    (made / "main_of_folder.py").write_text("import helpers\nVALUE = helpers.VALUE")
    return made


def value_in(modules: FolderModules, path: Path | None = None) -> int:
    with modules.active():
        if path:
            sys.path.insert(0, str(path))
            importlib.invalidate_caches()
        return importlib.import_module("main_of_folder").VALUE


def test_two_folders_with_modules_of_the_same_name_each_see_their_own(tmp_path):
    path, modules = list(sys.path), set(sys.modules)
    first, second = folder(tmp_path, "first", 1), folder(tmp_path, "second", 2)
    one, two = FolderModules(first), FolderModules(second)
    assert (value_in(one, first), value_in(two, second)) == (1, 2)
    # A later block finds the modules and paths of the earlier one.
    assert (value_in(one), value_in(two)) == (1, 2)
    assert sys.path == path
    assert not {"helpers", "main_of_folder"} & (set(sys.modules) - modules)


def test_modules_from_elsewhere_stay_loaded(tmp_path, packages):
    made = folder(tmp_path, "first", 1)
    with FolderModules(made).active():
        importlib.import_module("slow_dependency")
    assert "slow_dependency" in sys.modules


def test_a_module_of_the_same_name_is_hidden_and_comes_back(tmp_path, monkeypatch):
    first, second = folder(tmp_path, "first", 1), folder(tmp_path, "second", 2)
    monkeypatch.syspath_prepend(str(first))
    outside = importlib.import_module("helpers")
    try:
        assert value_in(FolderModules(second, {"helpers", "main_of_folder"}), second) == 2
        assert sys.modules["helpers"] is outside
        assert "main_of_folder" not in sys.modules
    finally:
        del sys.modules["helpers"]


def test_a_module_is_imported_without_its_slow_package(tmp_path, monkeypatch):
    package = tmp_path / "slow_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError")
    (package / "part.py").write_text("NUMBER = 7")
    monkeypatch.syspath_prepend(str(tmp_path))
    with without_running("slow_package"):
        assert importlib.import_module("slow_package.part").NUMBER == 7
    assert not [name for name in sys.modules if name.startswith("slow_package")]
    with pytest.raises(ModuleNotFoundError, match="absent_package"), without_running("absent_package"):
        pass
    loaded = sys.modules["json"]
    with without_running("json"):
        assert sys.modules["json"] is loaded
    assert sys.modules["json"] is loaded
