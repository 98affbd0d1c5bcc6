"""``Process`` starts another Python, copies its output to the log, raises its error, and ends it with the task."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from airflow_mlops import __version__
from airflow_mlops.compute import Process
from airflow_mlops.compute.base import runner_for
from airflow_mlops.compute.process import ProcessRunner
from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.errors import ComputeError, MLOpsError, SourceError, SpecError

log = logging.getLogger("test")

# A step that fails, with libraries that print after the error has been reported.
NOISY = """
import atexit, sys
from airflow_mlops.core.errors import SourceError, SpecError
from airflow_mlops.core.calls import Result, Spec

class NoisySpec(Spec):
    final: bool

def run(spec: NoisySpec, context) -> Result:
    atexit.register(print, "ERROR SourceError made up by a library")
    atexit.register(print, "resource_tracker: There appear to be 1 leaked objects", file=sys.stderr)
    raise SpecError("Line one.\\nLine two.") if spec.final else SourceError("The source is away.")
"""
# A ``sitecustomize`` that adds the test's step to the package's steps.
FINDER = """
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location

class Finder:
    def find_spec(name, path=None, target=None):
        if name == "airflow_mlops.stages.noisy":
            return ModuleSpec(name, None, is_package=True)
        if name == "airflow_mlops.stages.noisy.step":
            return spec_from_file_location(name, {file!r})

sys.meta_path.insert(0, Finder)
"""

# A step that is blocked in Python, in a process that ends with its task.
WAITING = "import time; from airflow_mlops.core.parent import end_with_parent; end_with_parent(); time.sleep(300)"


def call(
    tmp_path: Path, step: str = "ingest", version: str = __version__, spec: dict | None = None, key: str = "x"
) -> StepCall:
    return StepCall(step=step, spec=spec or {}, store=f"file://{tmp_path}", key=f"results/{key}.json", version=version)


def script(tmp_path: Path, text: str) -> str:
    """A shell script in place of an interpreter."""
    file = tmp_path / "python"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def fail(process: Process, tmp_path: Path, **kwargs) -> MLOpsError:
    with pytest.raises(MLOpsError) as caught:
        runner_for(process, log).run(call(tmp_path, **kwargs), set(), {})
    return caught.value


def test_airflow_settings_and_unrelated_secrets_are_not_inherited(monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "fernet")
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", "postgres://x:y@z")
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    monkeypatch.setenv("AWS_PROFILE", "ml")
    env = ProcessRunner(Process(python="python", env={"MINE": "1"}), log)._environment(set(), {})
    assert not {"AIRFLOW__CORE__FERNET_KEY", "AIRFLOW_CONN_OTHER", "DATABASE_PASSWORD"} & set(env)
    assert env["AWS_PROFILE"] == "ml"
    assert env["MINE"] == "1"


def test_settings_of_the_gpus_are_inherited(monkeypatch):
    gpus = {"CUDA_VISIBLE_DEVICES": "1", "NCCL_DEBUG": "WARN", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    for name, value in gpus.items():
        monkeypatch.setenv(name, value)
    env = ProcessRunner(Process(python="python"), log)._environment(set(), {})
    assert gpus.items() <= env.items()


def test_proxies_are_inherited(monkeypatch):
    proxies = {"HTTPS_PROXY": "http://proxy:3128", "https_proxy": "http://proxy:3128", "NO_PROXY": "minio,mlflow"}
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    env = ProcessRunner(Process(python="python"), log)._environment(set(), {})
    assert proxies.items() <= env.items()


def test_names_in_any_script_reach_a_process_in_any_locale(tmp_path, monkeypatch, caplog):
    class InAscii(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{"encoding": "ascii", **kwargs})

    monkeypatch.setattr(subprocess, "Popen", InAscii)
    caplog.set_level(logging.INFO)
    fail(Process(python=script(tmp_path, "cat; echo; exit 3")), tmp_path, spec={"name": "\u9042\u5ef6"})
    assert "\u9042\u5ef6" in caplog.text


def test_environment_is_not_shown_when_rendered():
    assert "hunter2" not in repr(Process(python="python", env={"TOKEN": "hunter2"}))


def test_another_version_of_the_package_is_a_final_error_with_both_versions(tmp_path):
    error = fail(Process(python=sys.executable), tmp_path, version="0.0.0")
    assert isinstance(error, SpecError)
    assert "0.0.0" in str(error)
    assert __version__ in str(error)


def test_python_without_the_package_is_a_final_error(tmp_path):
    lines = "echo 'No module named airflow_mlops'; echo 'some parting words'; exit 1"
    error = fail(Process(python=script(tmp_path, lines)), tmp_path)
    assert isinstance(error, SpecError)
    assert "No module named airflow_mlops" in str(error)


@pytest.mark.parametrize(("final", "kind"), [(True, SpecError), (False, SourceError)])
def test_output_after_the_error_does_not_change_the_error(tmp_path, final, kind):
    (tmp_path / "noisy.py").write_text(NOISY)
    (tmp_path / "sitecustomize.py").write_text(FINDER.format(file=str(tmp_path / "noisy.py")))
    path = ":".join([str(tmp_path), str(Path(__file__).parents[3])])
    error = fail(
        Process(python=sys.executable, env={"PYTHONPATH": path}), tmp_path, step="noisy", spec={"final": final}
    )
    assert type(error) is kind
    assert error.retryable is not final
    assert str(error) == ("Line one. Line two." if final else "The source is away.")


@pytest.mark.parametrize("last", ["ERROR SpecError not from the step", "No module named 'x'"])
def test_output_is_never_parsed_as_an_error_of_the_step(tmp_path, last):
    # The child's message shows that the step began.
    text = f"""echo '{{"peak_memory": 1}}' > "$MLOPS_TERMINATION_LOG"; echo "{last}"; exit 1"""
    error = fail(Process(python=script(tmp_path, text)), tmp_path)
    assert type(error) is ComputeError
    assert last in str(error)


@pytest.mark.parametrize(
    ("lines", "cause", "look"),
    [
        ("kill -9 $$", "SIGKILL", "memory"),
        ("kill -TERM $$", "SIGTERM", "log of the worker"),
        ("kill -SEGV $$", "SIGSEGV", "versions of the libraries"),
        ("kill -ILL $$", "SIGILL", "type of processor"),
        # A signal that has no name.
        ("kill -40 $$", "40", "dmesg"),
        # The exit status by which a shell reports that its child process was killed.
        ("(kill -9 $BASHPID)\nexit 137", "SIGKILL", "memory"),
        ("exit 127", "127", "PATH"),
        ("exit 3", "exit status 3", "above this error"),
        ("echo 'the last words'; exit 3", "exit status 3", "the last words"),
    ],
)
def test_process_that_ends_without_a_message_names_the_cause_and_what_to_look_at(lines, cause, look, tmp_path):
    error = fail(Process(python=script(tmp_path, lines)), tmp_path)
    assert type(error) is ComputeError
    assert error.retryable
    assert cause in str(error)
    assert look in str(error)


# A step that crashes like a library written in C.
CRASHING = """
import ctypes
from airflow_mlops.core.calls import Result, Spec

class NoisySpec(Spec):
    final: bool

def read_nowhere():
    ctypes.string_at(0)

def run(spec: NoisySpec, context) -> Result:
    read_nowhere()
"""


def test_a_crash_shows_the_lines_of_python_that_led_to_it(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "noisy.py").write_text(CRASHING)
    (tmp_path / "sitecustomize.py").write_text(FINDER.format(file=str(tmp_path / "noisy.py")))
    env = {"PYTHONPATH": ":".join([str(tmp_path), str(Path(__file__).parents[3])])}
    error = fail(Process(python=sys.executable, env=env), tmp_path, step="noisy", spec={"final": True})
    assert "SIGSEGV" in str(error)
    assert "in read_nowhere" in caplog.text


# A step that imports a module that is not installed.
IMPORTING = """
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.imports import load

class NoisySpec(Spec):
    final: bool

def run(spec: NoisySpec, context) -> Result:
    import json
    assert hasattr(json, "dumps")
    return Result(summary=load("module_of_mine:NAME", "metric"))
"""


@pytest.mark.parametrize("where", ["bundle", "dag", "plugins"])
def test_modules_next_to_the_dag_file_are_found_and_hide_no_others(where, tmp_path, monkeypatch):
    folders = {name: tmp_path / name for name in ("bundle", "dag", "plugins")}
    for folder in folders.values():
        folder.mkdir()
        # As Airflow does, Process appends the folders to sys.path.
        (folder / "json.py").write_text("raise RuntimeError")
    (folders[where] / "module_of_mine.py").write_text("NAME = 'mine'")
    monkeypatch.setenv("AIRFLOW__CORE__PLUGINS_FOLDER", str(folders["plugins"]))
    context = {
        "ti": SimpleNamespace(bundle_instance=SimpleNamespace(path=folders["bundle"])),
        "dag": SimpleNamespace(fileloc=str(folders["dag"] / "dag.py")),
    }
    (tmp_path / "noisy.py").write_text(IMPORTING)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(FINDER.format(file=str(tmp_path / "noisy.py")))
    env = {"PYTHONPATH": ":".join([str(site), str(Path(__file__).parents[3])])}
    process = Process(python=sys.executable, env=env)
    found = runner_for(process, log).run(call(tmp_path, step="noisy", spec={"final": True}), set(), context)
    assert found["summary"] == "mine"


def test_process_ends_when_its_task_is_killed(tmp_path):
    """The task has no time to end the process; a retry must not run at the same time."""
    python = script(tmp_path, f"echo $$ > {tmp_path}/pid; exec {sys.executable} -c '{WAITING}'")
    code = (
        "import logging\n"
        "from airflow_mlops.compute import Process\n"
        "from airflow_mlops.compute.base import runner_for\n"
        "from airflow_mlops.core.calls import StepCall\n"
        f"call = StepCall(step='x', spec={{}}, store='file://{tmp_path}', key='results/x.json', version='0')\n"
        f"runner_for(Process({python!r}), logging.getLogger()).run(call, set(), {{}})"
    )
    task = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    time.sleep(1)
    assert child.is_running()
    task.kill()
    task.wait()
    _, alive = psutil.wait_procs([child], timeout=60)
    assert not alive or alive[0].status() == psutil.STATUS_ZOMBIE


def test_success_without_a_result_is_an_error(tmp_path):
    error = fail(Process(python=script(tmp_path, "exit 0")), tmp_path)
    assert isinstance(error, ComputeError)
    assert "its result is not in the artifact store" in str(error)
    assert str(tmp_path) in str(error)


def test_lines_reach_the_log_with_their_levels(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    fail(Process(python=script(tmp_path, "echo 'WARNING mind the gap'; echo plain; exit 3")), tmp_path)
    assert ("WARNING", "mind the gap") in [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("INFO", "plain") in [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_kill_during_the_start_ends_the_process(tmp_path, monkeypatch):
    runner = runner_for(Process(python=script(tmp_path, "sleep 300")), log)

    class Started(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            runner.on_kill()

    monkeypatch.setattr(subprocess, "Popen", Started)
    with pytest.raises(ComputeError, match="SIGTERM"):
        runner.run(call(tmp_path), set(), {})


def test_on_kill_ends_the_process_and_its_children(tmp_path):
    process = Process(python=script(tmp_path, f"sleep 300 & echo $! > {tmp_path}/pid; wait"))
    runner = runner_for(process, log)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            runner.run(call(tmp_path), set(), {})
        except MLOpsError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    grandchild = psutil.Process(int((tmp_path / "pid").read_text()))
    runner.on_kill()
    thread.join(timeout=300)
    assert "SIGTERM" in str(ended[0])
    _, alive = psutil.wait_procs([grandchild], timeout=30)
    assert not alive or alive[0].status() == psutil.STATUS_ZOMBIE
