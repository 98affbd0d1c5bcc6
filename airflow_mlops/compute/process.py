"""``run_on=Process(python=...)``: the step runs on the worker, in a process with another Python interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_mlops.compute.base import Compute, Runner
from airflow_mlops.compute.connections import airflow_connection
from airflow_mlops.compute.exits import explain
from airflow_mlops.compute.log_lines import split_level
from airflow_mlops.compute.modules import module_folders
from airflow_mlops.core import termination
from airflow_mlops.core.connections import environment_name, to_json
from airflow_mlops.core.errors import ComputeError, MLOpsError, SpecError
from airflow_mlops.core.parent import MODULES_VARIABLE, PARENT_VARIABLE
from airflow_mlops.core.temporary import temporary_folder

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import StepCall

# The environment variables of the worker that the step inherits. They include no settings or secrets of Airflow.
_INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "LD_LIBRARY_PATH",
    *(name for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY") for name in (proxy, proxy.lower())),
)
# Seconds that the process has after SIGTERM to end its query and to write a checkpoint. Airflow kills a task 5 s after
# a user ended it, and would leave the process behind.
_GRACE_AFTER_TIMEOUT, _GRACE_AFTER_KILL = 10.0, 3.5
_INHERITED_PREFIXES = (
    "AWS_",
    "GOOGLE_",
    "AZURE_",
    "FSSPEC_",
    "MLFLOW_",
    "FEAST_",
    "OMP_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "PYTORCH_",
    "TORCH_",
)


@dataclass
class Process(Compute):
    """Runs the step on the same worker in the virtual environment of ``python``.

    The virtual environment needs the same version of ``airflow-mlops`` with the extras of the step, but not Airflow. To
    install ``airflow-mlops`` without Airflow, run ``pip install --no-deps airflow-mlops`` and install ``pydantic``,
    ``pyarrow`` and ``fsspec``. The step can import modules next to the DAG file, as in the worker.

    :param python: path of the Python interpreter
    :param env: additional environment variables of the process
    """

    python: str
    env: dict[str, str] = field(default_factory=dict, repr=False)

    runner: ClassVar[str] = "airflow_mlops.compute.process:ProcessRunner"
    template_fields: ClassVar[Sequence[str]] = ("python", "env")


class ProcessRunner(Runner[Process]):
    """Starts ``python -m airflow_mlops.stages`` and copies the output of this child process to the task's log.

    The child process reports an error in a file (:mod:`airflow_mlops.core.termination`), so the output of libraries
    does not affect the error that the task raises.
    """

    _child: subprocess.Popen[str] | None = None
    _killed = False

    def run(self, call: StepCall, conn_ids: set[str], context: Context) -> dict[str, Any]:
        from airflow_mlops.data.results import read_result
        from airflow_mlops.data.store import ArtifactStore

        with temporary_folder("process") as folder:
            message = folder / "termination-log"
            message.touch()
            env = {**self._environment(conn_ids, context), termination.VARIABLE: str(message)}
            status, output = self._run_child(call, env)
            reported = termination.parse(message.read_text(encoding="utf-8", errors="replace"))
        if status != 0:
            raise _failure(self.compute.python, status, reported, output)
        result = read_result(ArtifactStore(call.store), call.key)
        if result is None:
            raise ComputeError(
                f"The process of {self.compute.python!r} ended without an error, but its result is not in the artifact store "
                f"{call.store}. Check that the process can reach this store."
            )
        return result

    def _environment(self, conn_ids: set[str], context: Context) -> dict[str, str]:
        from airflow_mlops.settings import step_environment

        inherited = {
            name: value
            for name, value in os.environ.items()
            if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
        }
        # Other users can read a process's arguments, but not its environment.
        secrets = {environment_name(conn_id): to_json(airflow_connection(conn_id)) for conn_id in sorted(conn_ids)}
        own = {
            "PYTHONUNBUFFERED": "1",
            # The encoding of the output does not depend on the locale. The call is sent in UTF-8 as well.
            "PYTHONIOENCODING": "utf-8",
            MODULES_VARIABLE: os.pathsep.join(module_folders(context)),
            PARENT_VARIABLE: str(os.getpid()),
            **step_environment(),
        }
        return {**inherited, **secrets, **own, **self.compute.env}

    def _run_child(self, call: StepCall, env: dict[str, str]) -> tuple[int, _Output]:
        """Start the child process, send the call to it, and wait for its end.

        :return: the exit status, and the lines of output that explain a failed start
        :raises SpecError: the Python interpreter cannot be started
        """
        python = self.compute.python
        try:
            child = subprocess.Popen(  # noqa: S603 - the DAG's author names the interpreter
                [python, "-m", "airflow_mlops.stages"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=env,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise SpecError(
                f"Python interpreter {python!r} cannot be started on this worker ({error.strerror}). Correct "
                "Process(python=...)."
            ) from None
        self._child = child
        # The task may have been killed while the child process was started.
        if self._killed:
            self._end(_GRACE_AFTER_KILL)
        assert child.stdin is not None
        assert child.stdout is not None
        output = _Output()
        try:
            try:
                with child.stdin:
                    child.stdin.write(call.model_dump_json())
            except BrokenPipeError:
                pass  # the child process ended immediately, and its output explains why
            for line in child.stdout:
                line = line.rstrip()
                output.add(line)
                level, message = split_level(line)
                getattr(self.log, level.lower())("%s", message)
            return child.wait(), output
        finally:
            self._end(_GRACE_AFTER_TIMEOUT)

    def on_kill(self) -> None:
        self._killed = True
        self._end(_GRACE_AFTER_KILL)

    def _end(self, grace: float) -> None:
        child = self._child
        if child is not None and child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(timeout=grace)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


class _Output:
    """The lines of output that explain why a child process ended before it could report an error."""

    last = ""
    missing_module = ""

    def add(self, line: str) -> None:
        self.last = line or self.last
        if "No module named" in line:
            self.missing_module = line


def _failure(python: str, status: int, reported: dict[str, Any], output: _Output) -> MLOpsError:
    """Return the error for a child process that failed.

    :param python: path of the Python interpreter
    :param status: the exit status; negative if a signal ended the process
    :param reported: the termination message; empty if the process ended before it started the step
    :param output: the lines of output that explain a failed start
    """
    if (error := termination.error_in(reported)) is not None:
        return error
    if not reported and output.missing_module:
        return SpecError(
            f"{python!r} cannot import airflow_mlops ({output.missing_module}). Install airflow-mlops with the extras of "
            "this step in its environment."
        )
    last = f" Its last line of output is {output.last!r}." if status > 0 and output.last else ""
    return ComputeError(f"The process of {python!r} {explain(status)}{last}")
