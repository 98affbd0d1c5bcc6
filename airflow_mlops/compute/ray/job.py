"""Run one function as a task of Ray, and cancel it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any

from airflow_mlops.compute.package import package
from airflow_mlops.compute.ray.failures import failure
from airflow_mlops.core.errors import ComputeError, MLOpsError, NoCapacityError

# Seconds that the step has to write a checkpoint. Airflow kills a task 5 s after a user ended it.
_GRACE_SECONDS, _CLOSING_SECONDS = 3.0, 4.0
_INTERVAL_SECONDS = 1.0


class RayJob:
    """The task of Ray that runs a step. This process must be connected to Ray.

    :param name: name of the task in Ray's dashboard
    :param resources: the resources of the task by their names in Ray
    :param schedule_timeout: seconds within which the resources must be free
    """

    def __init__(self, name: str, resources: Mapping[str, float], schedule_timeout: float) -> None:
        self._name, self._resources, self._timeout = name, dict(resources), schedule_timeout
        self._cancelled, self._done = Event(), Event()
        self._task: Any = None
        # The first cancellation acquires this lock and keeps it. A second SIGTERM would end a training that writes its
        # checkpoint.
        self._is_ending = Lock()

    def run(self, env: Mapping[str, str], folders: Sequence[str], call: str) -> dict[str, Any]:
        """Run the step, and return what :func:`airflow_mlops.stages.reported.run_reported` reports.

        If the nodes lack a package that this package itself needs, the report is ``{"missing": name}``.

        :param env: environment variables of the step
        :param folders: folders in which the step finds modules, if the node has these folders
        :param call: the step call as JSON
        :raises NoCapacityError: the resources did not become free in time
        :raises MLOpsError: Ray failed, or the task was cancelled
        """
        pool = ThreadPoolExecutor(1, "ray-job")
        try:
            # A signal handler interrupts only the main thread, and uses the same client of Ray as this thread.
            return pool.submit(self._run, env, folders, call).result()
        except MLOpsError:
            raise
        except Exception as error:  # noqa: BLE001 - Ray raises errors of many types
            raise self._explain(error) from None
        finally:
            pool.shutdown(wait=False)

    def _explain(self, error: Exception) -> MLOpsError:
        if self._cancelled.is_set():
            return ComputeError(f"The task of Ray ({self._name}) was cancelled, because the task in Airflow was ended.")
        return failure(error, f"The task of Ray ({self._name})")

    def _run(self, env: Mapping[str, str], folders: Sequence[str], call: str) -> dict[str, Any]:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = self._reserve()
        task = ray.remote(_body()).options(
            name=self._name,
            num_cpus=self._resources["CPU"],
            num_gpus=self._resources.get("GPU", 0),
            memory=self._resources.get("memory"),
            # Airflow repeats a failed task.
            max_retries=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=group),
        )
        self._task = task.remote(package(), dict(env), list(folders), call)
        try:
            # The task in Airflow may have been killed while this task was submitted.
            if self._cancelled.is_set() and self._is_ending.acquire(blocking=False):
                ray.cancel(self._task)
            while not ray.wait([self._task], timeout=_INTERVAL_SECONDS)[0]:
                pass
            # The report is text, so that this process unpickles no objects from the cluster.
            report: dict[str, Any] = json.loads(ray.get(self._task))
            return report
        finally:
            self._done.set()

    def _reserve(self) -> Any:
        """Reserve the resources, so that a step that never gets them fails."""
        from ray.util.placement_group import placement_group

        group = placement_group([self._resources], name=self._name)
        end = monotonic() + self._timeout
        while not group.wait(_INTERVAL_SECONDS):
            if self._cancelled.is_set():
                raise self._explain(RuntimeError())
            if monotonic() > end:
                asked = ", ".join(f"{amount:g} {name}" for name, amount in self._resources.items())
                raise NoCapacityError(
                    f"Ray had no node with {asked} free within {self._timeout:g} s. Wait until other tasks have ended, add nodes, "
                    "or ask for less in Ray(...)."
                )
        return group

    def cancel(self) -> None:
        """Cancel the task of Ray, and wait a few seconds for its end. A signal handler may call this method."""
        self._cancelled.set()
        if self._task is not None and not self._done.is_set():
            thread = Thread(target=self._cancel, name="cancel-ray", daemon=True)
            thread.start()
            thread.join(_CLOSING_SECONDS)

    def _cancel(self) -> None:
        import ray

        # The cluster may have ended.
        with suppress(Exception):
            if self._is_ending.acquire(blocking=False):
                ray.cancel(self._task)
            if not self._done.wait(_GRACE_SECONDS):
                ray.cancel(self._task, force=True)


def _body() -> Callable[[bytes, dict[str, str], list[str], str], str]:
    """Return the function that the node runs.

    The node cannot import this module, because it needs Airflow. The function is therefore a closure that uses no
    global of this module. Ray sends the code of such a function.
    """

    def run(package: bytes, env: dict[str, str], folders: list[str], call: str) -> str:
        import io
        import json
        import os
        import signal
        import sys
        import tempfile
        import zipfile

        # Ray cancels a task with SIGINT. Trainings write a checkpoint on SIGTERM.
        signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
        # fsspec reads its variables when it is imported.
        os.environ.update(env)
        with tempfile.TemporaryDirectory(prefix="mlops-ray-") as folder:
            zipfile.ZipFile(io.BytesIO(package)).extractall(folder)
            sys.path.insert(0, folder)
            sys.path.extend(path for path in folders if os.path.isdir(path) and path not in sys.path)
            try:
                from airflow_mlops.stages.reported import run_reported
            except ModuleNotFoundError as error:
                return json.dumps({"missing": error.name})
            return run_reported(call)

    return run
