"""The cache of models stays small, and never loses a model that another process uses or downloads."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from airflow_mlops.core.errors import RegistryError, SpecError
from airflow_mlops.registry import cache

MODEL = 100_000


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A temporary folder, and a cache for five models."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv(cache.SIZE_VARIABLE, "500KB")
    return tmp_path


def start(code, *arguments):
    """Start a process that runs ``code`` after the imports, and prints a line when others may continue."""
    head = """
    import os, random, sys, time
    from pathlib import Path
    from airflow_mlops.registry import cache

    def fill(folder):
        (folder / "a").write_bytes(b"x" * 50_000)
        (folder / "b").mkdir()
        (folder / "b" / "c").write_bytes(b"y" * 50_000)
    """
    text = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def use(*names):
    """Use models in a process that then ends."""
    process = start("for name in sys.argv[1:]: cache.cached(name, fill); time.sleep(0.01)", *names)
    process.communicate()
    assert process.returncode == 0


def names(folder):
    return sorted(path.name for path in folder.glob("*/models/*"))


def test_the_least_recently_used_models_are_removed(temporary):
    use("a", "b", "c", "d", "e")
    assert names(temporary) == ["a", "b", "c", "d", "e"]
    use("a", "c")
    use("f", "g")
    assert names(temporary) == ["a", "c", "e", "f", "g"]


def test_a_model_that_is_there_is_not_filled_again():
    def fill(folder):
        (folder / "a").write_bytes(b"x")

    first = cache.cached("a", fill)
    assert (first / "a").read_bytes() == b"x"
    assert cache.cached("a", lambda folder: pytest.fail("filled again")) == first


def test_a_failed_download_leaves_nothing(temporary):
    def fill(folder):
        (folder / "a").write_bytes(b"x")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        cache.cached("a", fill)
    assert names(temporary) == []


def test_a_folder_that_was_removed_by_hand_is_filled_again(temporary):
    def fill(folder):
        (folder / "a").write_bytes(b"x")

    folder = cache.cached("a", fill)
    folder.rename(temporary / "elsewhere")
    assert (cache.cached("a", fill) / "a").exists()


@pytest.mark.parametrize("in_use", [True, False])
def test_a_model_that_lost_a_file_is_filled_again(temporary, monkeypatch, in_use):
    def fill(folder):
        (folder / "a").write_bytes(b"x" * 100)
        (folder / "b").write_bytes(b"y" * 100)

    folder = cache.cached("a", fill)
    (folder / "b").unlink()
    if not in_use:
        monkeypatch.setattr(cache, "_held", {})
    assert sorted(path.name for path in cache.cached("a", fill).iterdir()) == ["a", "b"]


def test_a_hidden_file_in_the_cache_does_no_harm(temporary):
    use("a")
    (root,) = temporary.glob("*/models")
    (root / ".DS_Store").write_text("")
    use("b")
    assert {"a", "b"} <= set(names(temporary))


def test_models_that_another_process_uses_or_downloads_remain(temporary):
    user = start("cache.cached('used', fill); print('ready', flush=True); sys.stdin.readline()")
    loader = start("""
    def slowly(folder):
        fill(folder)
        print('ready', flush=True)
        sys.stdin.readline()
        assert (folder / 'b' / 'c').exists()
    cache.cached('loaded', slowly)
    """)
    for process in (user, loader):
        assert process.stdout.readline() == "ready\n"
    for name in "abcdef":
        use(name)
    found = names(temporary)
    assert "used" in found
    # The model that is being downloaded is in a hidden folder, and counts.
    assert [name for name in found if name.startswith(".")] == [found[0]]
    assert found[1:] == ["d", "e", "f", "used"]
    loader.communicate("\n")
    assert loader.returncode == 0
    assert names(temporary) == ["d", "e", "f", "loaded", "used"]
    user.communicate("\n")
    use("g")
    assert names(temporary) == ["d", "e", "f", "g", "loaded"]


def test_a_model_that_is_removed_while_a_process_waits_for_its_lock_is_filled_again(temporary):
    use("a")
    (folder,) = temporary.glob("*/models/a")
    remover = os.open(folder, os.O_RDONLY)
    fcntl.flock(remover, fcntl.LOCK_EX)
    user = start("print('ready', flush=True); assert (cache.cached('a', fill) / 'b' / 'c').exists()")
    assert user.stdout.readline() == "ready\n"
    time.sleep(0.2)
    folder.rename(removed := folder.with_name(".removed"))
    shutil.rmtree(removed)
    os.close(remover)
    user.communicate()
    assert user.returncode == 0


def test_leftovers_of_killed_downloads_are_removed(temporary):
    loader = start("""
    def never(folder):
        fill(folder)
        print('ready', flush=True)
        time.sleep(60)
    cache.cached('loaded', never)
    """)
    assert loader.stdout.readline() == "ready\n"
    loader.kill()
    loader.communicate()
    assert names(temporary)[0].startswith(".")
    use("a")
    assert names(temporary) == ["a"]


def test_processes_at_once_always_find_whole_models_and_leave_a_small_cache(temporary):
    code = """
    random.seed(int(sys.argv[1]))
    for _ in range(60):
        folder = cache.cached(f"m{random.randrange(12)}", fill)
        assert len((folder / 'a').read_bytes()) == len((folder / 'b' / 'c').read_bytes()) == 50_000
        # Each turn is a process of its own, as far as locks are concerned.
        for lock in cache._held.values(): os.close(lock)
        cache._held.clear()
    """
    processes = [start(code, number) for number in range(4)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    use("last")
    assert "last" in (found := names(temporary))
    assert len(found) == 5
    assert not [name for name in found if name.startswith(".")]


def test_only_folders_whose_size_is_not_recorded_are_measured(temporary, monkeypatch):
    measured = []
    size = cache._size
    monkeypatch.setattr(cache, "_size", lambda folder: measured.append(folder.name) or size(folder))

    def add(name):
        measured.clear()
        cache.cached(name, lambda folder: (folder / "a").write_bytes(b"x" * MODEL))
        return sorted(measured)

    assert add("a") == ["a"]
    assert add("b c") == ["b c"]
    (record,) = temporary.glob("*/models.sizes")
    (folder,) = temporary.glob("*/models")
    assert sorted(record.read_text().splitlines()) == [f"{MODEL} a", f"{MODEL} b c"]
    # A process was killed before it recorded its folder; a person removed one.
    shutil.copytree(folder / "a", folder / "unrecorded")
    assert add("d") == ["d", "unrecorded"]
    shutil.rmtree(folder / "unrecorded")
    assert add("e") == ["e"]
    # First the record is damaged, then it is deleted.
    record.write_text(f"many\n{MODEL} a\n{MODEL}")
    assert add("f") == ["b c", "d", "e", "f"]
    record.unlink()
    # The cache is too full, so that room would be made if this process did not use all folders.
    assert add("g") == ["a", "b c", "d", "e", "f", "g"]
    assert len(record.read_text().splitlines()) == 6


def test_downloads_in_progress_do_not_make_other_processes_measure_the_cache(temporary, monkeypatch):
    use("a", "b")
    measured = []
    size = cache._size
    monkeypatch.setattr(cache, "_size", lambda folder: measured.append(folder.name) or size(folder))

    def fill(folder):
        # While this download is in progress, another one ends.
        use("c")
        (folder / "a").write_bytes(b"x")

    cache.cached("d", fill)
    assert measured == ["d"]


def test_a_model_larger_than_the_cache_can_be_used(temporary, monkeypatch):
    monkeypatch.setenv(cache.SIZE_VARIABLE, "1KB")
    use("a")
    assert names(temporary) == ["a"]
    use("b")
    assert names(temporary) == ["b"]


def test_a_size_that_cannot_be_read_is_refused(monkeypatch):
    monkeypatch.setenv(cache.SIZE_VARIABLE, "much")
    with pytest.raises(SpecError, match="cache_size"):
        cache.cached("a", lambda folder: None)


def test_a_cache_that_others_may_write_is_refused(temporary):
    cache.cached("a", lambda folder: None)
    (folder,) = temporary.glob("airflow-mlops-*")
    folder.chmod(0o777)
    with pytest.raises(RegistryError, match="writable by others"):
        cache.cached("a", lambda folder: None)


def test_the_cache_is_in_the_temporary_folder(temporary):
    assert cache.cached("a", lambda folder: None).is_relative_to(temporary)
    assert Path(tempfile.gettempdir()) == temporary


def test_a_model_that_a_process_uses_without_having_downloaded_it_remains(temporary):
    use("a")
    (folder,) = temporary.glob("*/models/a")
    in_use = cache.InUse(folder)
    use("b", "c", "d", "e", "f", "g")
    assert "a" in names(temporary)
    del in_use
    use("h")
    assert "a" not in names(temporary)
    with pytest.raises(FileNotFoundError, match="cache_size"):
        cache.InUse(folder)
