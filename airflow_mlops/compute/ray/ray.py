"""The description of ``run_on=Ray(...)``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from airflow_mlops.compute.base import Compute
from airflow_mlops.compute.memory_amounts import in_bytes
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.secrets import has_secret_template

_AMOUNTS = ("num_cpus", "num_gpus", "schedule_timeout")


@dataclass
class Ray(Compute):
    """Runs the step as a task of Ray, on a cluster or in a local Ray on the Airflow worker.

    The task reads its rows from the artifact store and writes its result there, so no rows and no models pass through
    the Airflow worker. It receives this package from the worker. The nodes need the dependencies of the step, but not
    Airflow: ``pydantic``, ``pyarrow``, ``duckdb``, ``fsspec`` with the package for the artifact store, and the packages
    of the extras. Worker and cluster need the same version of Ray and the same minor version of Python.

    :param conn_id: id of an Airflow connection of the type ``ray`` or ``generic``. Its host and port are those of Ray's
        client server, such as ``ray://head:10001``, and its password is the cluster's token. The host ``auto`` stands
        for the cluster of which the worker is a node, and ``local`` for a Ray that starts and ends with the task
    :param num_cpus: number of CPUs that Ray reserves for the step. Libraries that use OpenMP start the same number of
        threads
    :param num_gpus: number of GPUs that Ray reserves for the step, and to which it restricts the step; with 0.5, two
        steps share a GPU
    :param memory: memory that Ray reserves on the node, such as ``"8Gi"``. Ray does not limit the step to it
    :param runtime_env: the step's `runtime environment
        <https://docs.ray.io/en/latest/ray-core/handling-dependencies.html>`_, such as ``{"working_dir": "/opt/dags",
        "pip": ["lightgbm"]}``. Ray's dashboard shows it, so it must not contain secrets
    :param env: environment variables of the step, which may be secret. By default, the step receives the worker's
        variables ``AWS_*``, ``AZURE_*``, ``GOOGLE_*`` and ``FSSPEC_*``
    :param schedule_timeout: seconds within which the cluster must have the resources free
    :raises SpecError: a number is out of its range, ``memory`` is not an amount of memory, or ``runtime_env`` contains a
        template of a secret
    """

    conn_id: str = "ray_default"
    num_cpus: float = 1
    num_gpus: float = 0
    memory: str | None = None
    runtime_env: dict[str, Any] = field(default_factory=dict, repr=False)
    env: dict[str, str] = field(default_factory=dict, repr=False)
    schedule_timeout: float = 600

    runner: ClassVar[str] = "airflow_mlops.compute.ray.runner:RayRunner"
    template_fields: ClassVar[Sequence[str]] = ("conn_id", "num_cpus", "num_gpus", "memory", "runtime_env", "env")

    def __post_init__(self) -> None:
        if has_secret_template(self.runtime_env):
            raise SpecError(
                "Ray(runtime_env=...) is a template of a secret in Airflow. Ray's dashboard would show the secret. Pass it in "
                "Ray(env=...)."
            )
        # Templates are checked when they are rendered.
        if not any("{{" in str(getattr(self, name)) for name in ("num_cpus", "num_gpus", "memory")):
            self.resources()

    def resources(self) -> dict[str, float]:
        """Return the resources of the step by their names in Ray. Memory is in bytes.

        :raises SpecError: a number is out of its range, or ``memory`` is not an amount of memory
        """
        amounts = {name: _number(name, getattr(self, name)) for name in _AMOUNTS}
        if not amounts["num_cpus"]:
            raise SpecError("Ray(num_cpus=0) is invalid, because a step needs a CPU. Set num_cpus= to more than 0.")
        found = {"CPU": amounts["num_cpus"], "GPU": amounts["num_gpus"]}
        if self.memory is not None:
            try:
                found["memory"] = float(int(in_bytes(str(self.memory))))
            except ValueError:
                raise SpecError(
                    f"Ray(memory={self.memory!r}) is not an amount of memory. Write a number with a unit, such as '512Mi' or "
                    "'8Gi'."
                ) from None
        return {name: amount for name, amount in found.items() if amount}


def _number(name: str, value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = -1
    # A task can use a part of one GPU. If it uses several GPUs, it gets whole ones.
    whole = found <= 1 or found.is_integer() or name != "num_gpus"
    if not (0 <= found < math.inf and whole):
        raise SpecError(
            f"Ray({name}={value!r}) is invalid. Set {name}= to a number of at least 0, such as 0.5, 1 or 4."
        )
    return found
