"""The hash of a user's code covers the modules that it imports, and nothing that its versions already determine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from airflow_mlops.core import own_code
from airflow_mlops.core.errors import NotCacheableError

FILES = {
    "own_shop/__init__.py": "from own_shop.names import NAME\n",
    "own_shop/names.py": "NAME = 'shop'\n",
    "own_shop/train.py": "import numpy as np\nfrom . import helpers\nfrom .deep.more import deeper\n\ndef fit(): ...\n",
    "own_shop/helpers.py": "def late():\n    import own_late\n",
    "own_shop/deep/more.py": "import importlib\n\ndeeper = importlib.import_module('own_named')\n",
    "own_late.py": "X = 1\n",
    "own_named.py": "try:\n    import own_optional\nexcept ImportError:\n    pass\n",
}
OTHERS = {"own_shop/unused.py": "raise RuntimeError\n", "own_other.py": "Y = 1\n"}


def written(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))


def test_imports_are_followed_without_running_the_code(folder):
    written(folder, FILES | OTHERS)
    found = own_code.hashes(["own_shop.train:fit"])
    modules = {"own_shop", "own_shop.deep.more", "own_shop.helpers", "own_shop.names", "own_shop.train"}
    assert found.keys() == modules | {"own_late", "own_named", "own_optional"}
    assert found["own_optional"] == ""
    assert not found.keys() & sys.modules.keys()


@pytest.mark.parametrize("changed", [*FILES, *OTHERS])
def test_a_changed_file_counts_if_and_only_if_it_is_imported(folder, changed):
    written(folder, FILES | OTHERS)
    before = own_code.hashes(["own_shop.train.fit"])
    written(folder, {changed: (FILES | OTHERS)[changed] + "# changed\n"})
    assert (own_code.hashes(["own_shop.train.fit"]) != before) == (changed in FILES)


def test_the_same_code_in_another_folder_has_the_same_hash(folder, tmp_path, monkeypatch):
    written(folder, FILES)
    before = own_code.hashes(["own_shop.train:fit"])
    written(tmp_path, FILES)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(item for item in sys.path if item != str(folder))])
    assert own_code.hashes(["own_shop.train:fit"]) == before


def test_a_module_that_appears_later_counts(folder):
    written(folder, FILES)
    before = own_code.hashes(["own_shop.train:fit"])
    written(folder, {"own_optional.py": "Z = 1\n"})
    try:
        assert own_code.hashes(["own_shop.train:fit"]) != before
    finally:
        (folder / "own_optional.py").unlink()


def test_all_modules_that_a_package_lists_count_if_everything_is_imported_from_it(folder):
    written(
        folder,
        {
            "own_listed/__init__.py": "__all__ = ['tool']\n",
            "own_listed/tool.py": "A = 1\n",
            "own_star.py": "from own_listed import *\n\ndef fit():\n    return tool.A\n",
        },
    )
    before = own_code.hashes(["own_star:fit"])
    written(folder, {"own_listed/tool.py": "A = 2\n"})
    assert own_code.hashes(["own_star:fit"]) != before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import sys\nsys.path.append('/elsewhere')\nimport own_elsewhere\n", "'own_elsewhere' is not found"),
        ("from sys import path\npath.append('/elsewhere')\nimport own_elsewhere\n", "'own_elsewhere' is not found"),
        ("import importlib\nname = 'x'\nimportlib.import_module(name)\n", "no import statement names"),
        ("from importlib import import_module as load\nload('x' + 'y')\n", "no import statement names"),
        ("from importlib import import_module\nlist(map(import_module, ['x']))\n", "no import statement names"),
        ("import runpy\nrunpy.run_path('x.py')\n", "no import statement names"),
        ("import lazy_loader as lazy\nlazy.attach_stub(__name__, __file__)\n", "lazy_loader"),
        ("from lazy_loader import attach\nattach(__name__, ['parts'])\n", "lazy_loader"),
        ("exec(open('x.py').read())\n", "no import statement names"),
        ("import own_ghost\n", "its file is unknown"),
        ("def broken(:\n", "cannot be parsed"),
    ],
)
def test_code_that_cannot_be_followed_is_not_hashed(folder, text, problem, monkeypatch):
    monkeypatch.setitem(sys.modules, "own_ghost", ModuleType("own_ghost"))
    written(folder, {"own_odd.py": text})
    with pytest.raises(NotCacheableError, match=problem):
        own_code.hashes(["own_odd:f"])


def test_a_compiled_module_is_not_hashed(folder):
    (folder / "own_compiled.pyc").write_bytes(b"")
    with pytest.raises(NotCacheableError, match="Python source text"):
        own_code.hashes(["own_compiled:f"])


def test_an_installed_package_counts_with_its_files_only_if_a_path_names_it(folder):
    places = folder / "site-packages"
    written(places, {"own_bought/__init__.py": "", "own_bought/more.py": "A = 1\n"})
    written(places, {"own_bought-1.0.dist-info/RECORD": "own_bought/more.py,,\n", "own_copied.py": "B = 1\n"})
    written(folder, {"own_user.py": "import own_bought.more\n", "own_other.py": "import own_copied\n"})
    sys.path.append(str(places))
    try:
        # A package without metadata has no version.
        paths = ("own_bought.more:A", "own_user:f", "own_other:f")
        before = [own_code.hashes([path]) for path in paths]
        written(places, {"own_bought/more.py": "A = 2\n", "own_copied.py": "B = 2\n"})
        after = [own_code.hashes([path]) for path in paths]
    finally:
        sys.path.remove(str(places))
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, False]
    assert own_code.hashes(["json:dumps", "airflow_mlops.core.base:parse"]) == {
        "airflow_mlops": "pinned",
        "json": "pinned",
    }


def test_a_package_may_have_an_installed_folder_and_one_of_the_users_own(folder, monkeypatch):
    places = folder / "shared" / "site-packages"
    written(places, {"own_shared/bought.py": "A = 1\n"})
    written(folder, {"own_shared/own.py": "B = 1\n", "own_mixed.py": "import own_shared.bought, own_shared.own\n"})
    monkeypatch.syspath_prepend(places)
    before = [own_code.hashes([path]) for path in ("own_mixed:f", "own_shared.bought:A")]
    written(folder, {"own_shared/own.py": "B = 2\n"})
    assert own_code.hashes(["own_mixed:f"]) != before[0]
    written(places, {"own_shared/bought.py": "A = 2\n"})
    assert own_code.hashes(["own_shared.bought:A"]) != before[1]


def test_a_file_with_the_name_of_a_standard_module_counts(folder, monkeypatch):
    written(folder / "first", {"colorsys.py": "A = 1\n"})
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert own_code.hashes(["colorsys:A"]) == {"colorsys": "pinned"}
    monkeypatch.syspath_prepend(folder / "first")
    assert own_code.hashes(["colorsys:A"])["colorsys"] not in ("", "pinned")


def test_a_new_version_of_an_installed_package_changes_the_environment(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    before = own_code.environment()
    (tmp_path / "unrelated").mkdir()
    assert own_code.environment() == before
    (tmp_path / "bought-1.0.dist-info").mkdir()
    first = own_code.environment()
    (tmp_path / "bought-1.0.dist-info").rename(tmp_path / "bought-1.1.dist-info")
    assert len({before, first, own_code.environment()}) == 3
    monkeypatch.setattr(own_code, "__version__", "0.0.1")
    assert own_code.environment() != first


def test_a_package_without_a_release_counts_by_its_files(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    # Old tools wrote the metadata as a file instead of a folder.
    written(tmp_path, {"old-1.0.egg-info": "Name: old"})
    line = (
        "bought/a.py,sha256={},1\n../../../bin/bought,sha256={},1\nbought-1.0.dist-info/direct_url.json,sha256={},1\n"
    )

    def installed(origin, code, place):
        written(
            tmp_path / "bought-1.0.dist-info", {"direct_url.json": origin, "RECORD": line.format(code, place, place)}
        )
        return own_code.environment()

    git, editable = '{"url": "u", "vcs_info": {"vcs": "git"}}', '{"url": "u", "dir_info": {"editable": true}}'
    assert installed(git, "one", "here") == installed(git, "one", "there")
    assert installed(git, "one", "here") != installed(git, "two", "here")
    assert installed(editable, "one", "here") == installed(editable, "two", "here")


FORKED = """
import os, sys
import airflow_mlops.core.forks
from airflow_mlops.core import own_code
from airflow_mlops.core.errors import NotCacheableError

def hashed():
    child = os.fork()
    if child == 0:
        try:
            found = bool(own_code.hashes(["own_forked:f"])["own_forked"])
        except NotCacheableError as error:
            found = "own_forked" in str(error) and 2
        os._exit(int(found))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def change():
    with open(os.path.join(sys.argv[1], "own_forked.py"), "w") as file:
        file.write("A = 2\\n")
    # A copy may have an old time of modification.
    os.utime(file.name, (0, 0))

sys.path.append(sys.argv[1])
import own_forked
unchanged = hashed()
change()
imported = hashed()
del sys.modules["own_forked"]
print(unchanged, imported, hashed())
"""


def test_a_module_that_was_imported_before_the_fork_and_changed_is_not_hashed(tmp_path):
    written(tmp_path, {"own_forked.py": "A = 1\n"})
    found = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    assert found.stdout.split() == ["1", "2", "1"]
