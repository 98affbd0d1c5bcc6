"""``run_on=Process(python=...)``: the step runs in another Python on the worker."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_mlops.compute.base import Compute, airflow_connection
from airflow_mlops.core.connections import environment_name, to_json
from airflow_mlops.core.errors import ComputeError, MLOpsError, SpecError, by_name

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import StepCall

# What a step may need of the worker's environment. Airflow's own settings and secrets stay behind.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "LD_LIBRARY_PATH")
_KEPT_PREFIXES = ("AWS_", "GOOGLE_", "AZURE_", "FSSPEC_", "MLFLOW_", "FEAST_", "OMP_", "CUDA_", "NVIDIA_")


@dataclass
class Process(Compute):
    """Runs the step in the virtual environment that ``python`` belongs to, on the same worker.

    That environment needs ``airflow-mlops`` of the same version with the extras of the step, and no Airflow
    (``pip install --no-deps airflow-mlops`` beside ``pydantic``, ``pyarrow`` and ``fsspec``).

    :param python: path of the interpreter
    :param env: environment variables to add
    """

    python: str
    env: dict[str, str] = field(default_factory=dict, repr=False)

    template_fields: ClassVar[Sequence[str]] = ("python", "env")

    def __post_init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def run(self, call: StepCall, conn_ids: set[str], context: Context, log: Any) -> dict[str, Any]:
        from airflow_mlops.data.results import read_result
        from airflow_mlops.data.store import ArtifactStore

        failure = self._relay(call, self._environment(conn_ids), log)
        if failure is not None:
            raise failure
        result = read_result(ArtifactStore(call.store), call.key)
        if result is None:
            raise ComputeError(
                f"{self.python} ended without an error but left no result in {call.store}: "
                "check that this artifact store is the same one when seen from there."
            )
        return result

    def _environment(self, conn_ids: set[str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
        # Connections travel in the environment: unlike arguments, other users cannot read it.
        secrets = {environment_name(conn_id): to_json(airflow_connection(conn_id)) for conn_id in sorted(conn_ids)}
        return {**kept, **secrets, "PYTHONUNBUFFERED": "1", **self.env}

    def _relay(self, call: StepCall, env: dict[str, str], log: Any) -> MLOpsError | None:
        """Start the child, pass its lines on to the task's log, and return the error it ended with, if any."""
        try:
            child = subprocess.Popen(  # noqa: S603 - the DAG's author names the interpreter
                [self.python, "-m", "airflow_mlops.stages"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=env,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise SpecError(f"Python {self.python!r} cannot be started on this worker: {error.strerror}.") from None
        self._child = child
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            try:
                with child.stdin:
                    child.stdin.write(call.model_dump_json())
            except BrokenPipeError:
                pass  # the child died at once; its output says why
            last = ""
            for line in child.stdout:
                last = line.rstrip()
                _log_line(last, log)
            status = child.wait()
        finally:
            self._stop()
        return None if status == 0 else _failure(self.python, status, last)

    def _stop(self) -> None:
        child = self._child
        if child is not None and child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()

    def on_kill(self) -> None:
        self._stop()


def _log_line(line: str, log: Any) -> None:
    level, _, message = line.partition(" ")
    if level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        getattr(log, level.lower())("%s", message)
    else:
        log.info("%s", line)


def _failure(python: str, status: int, last: str) -> MLOpsError:
    level, _, rest = last.partition(" ")
    name, _, message = rest.partition(" ")
    if level == "ERROR" and status == 1:
        kind = by_name(name)
        return kind(message) if kind is not MLOpsError else ComputeError(f"The step failed with {name}: {message}")
    if "No module named" in last:
        return SpecError(
            f"{python} cannot import airflow_mlops ({last}): install airflow-mlops with the extras of this step there."
        )
    if status < 0:
        return ComputeError(f"The step's process was ended by {signal.Signals(-status).name} (out of memory, perhaps).")
    return ComputeError(f"{python} ended with status {status}: {last}")
