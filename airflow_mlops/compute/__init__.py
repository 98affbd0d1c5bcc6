"""The values of the operators' parameter ``run_on`` (where a step runs) and of DeployOperator's ``target``."""

from __future__ import annotations

from airflow.sdk import conf

from airflow_mlops.compute.base import Compute
from airflow_mlops.compute.kubernetes.pod import Pod
from airflow_mlops.compute.kubernetes.serving.target import Deployment, KServe
from airflow_mlops.compute.process import Process
from airflow_mlops.compute.ray.ray import Ray
from airflow_mlops.compute.spark.spark import Spark
from airflow_mlops.compute.worker import Worker
from airflow_mlops.core import strict_json
from airflow_mlops.core.errors import SpecError

_BY_NAME: dict[str, type[Compute]] = {"Worker": Worker, "Process": Process, "Pod": Pod, "Ray": Ray, "Spark": Spark}


def from_text(text: str) -> Compute:
    """Parse a value of ``run_on`` from text: ``Worker``, or JSON as in ``{"Pod": {"image": "...", "memory": "4Gi"}}``.

    :raises SpecError: the text does not name ``Worker``, ``Process``, ``Pod``, ``Ray`` or ``Spark``, or the arguments of the
        class are invalid
    """
    try:
        ((name, options),) = (strict_json.loads(text) if text.lstrip().startswith("{") else {text.strip(): {}}).items()
        return _BY_NAME[name](**options)
    except SpecError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(
            f"{text!r} is not a valid value of run_on ({error}). Write Worker, "
            '{"Process": {"python": "/path/to/python"}}, {"Pod": {"image": "..."}}, {"Ray": {"conn_id": "..."}} or '
            '{"Spark": {"conn_id": "..."}}.'
        ) from None


def default_place() -> Compute:
    """Return the value of the setting ``[mlops] run_on``. If the setting is empty, return :class:`Worker`.

    :raises SpecError: the setting cannot be parsed
    """
    configured: str = conf.get("mlops", "run_on", fallback="") or ""
    if not configured:
        return Worker()
    try:
        return from_text(configured)
    except SpecError as error:
        raise SpecError(f"The setting [mlops] run_on is invalid: {error}") from None


__all__ = ["Compute", "Deployment", "KServe", "Pod", "Process", "Ray", "Spark", "Worker", "default_place", "from_text"]
