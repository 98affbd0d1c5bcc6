"""Where a step runs: the values that ``run_on=`` takes."""

from __future__ import annotations

import json

from airflow.sdk import conf

from airflow_mlops.compute.base import Compute
from airflow_mlops.compute.kubernetes.pod import Pod
from airflow_mlops.compute.process import Process
from airflow_mlops.compute.worker import Worker
from airflow_mlops.core.errors import SpecError

_PLACES: dict[str, type[Compute]] = {"Worker": Worker, "Process": Process, "Pod": Pod}


def from_text(text: str) -> Compute:
    """A place written as text: ``Worker``, or JSON as in ``{"Pod": {"image": "...", "memory": "4Gi"}}``.

    :raises SpecError: it is neither
    """
    try:
        ((name, options),) = (json.loads(text) if text.lstrip().startswith("{") else {text.strip(): {}}).items()
        return _PLACES[name](**options)
    except SpecError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(
            f"{text!r} names no place to run steps ({error}): write Worker, "
            '{"Process": {"python": "/path/to/python"}} or {"Pod": {"image": "..."}}.'
        ) from None


def default_place() -> Compute:
    """Where steps run whose operator does not say: ``[mlops] run_on``, or the worker.

    :raises SpecError: the setting cannot be read
    """
    configured: str = conf.get("mlops", "run_on", fallback="") or ""
    if not configured:
        return Worker()
    try:
        return from_text(configured)
    except SpecError as error:
        raise SpecError(f"[mlops] run_on: {error}") from None


__all__ = ["Compute", "Pod", "Process", "Worker", "default_place", "from_text"]
