"""Let the next try of a task request more memory after a pod was OOMKilled.

The factor by which the memory of the pod is multiplied is kept in Airflow's task state store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.errors import MemoryLimitError, MLOpsError

if TYPE_CHECKING:
    from airflow.sdk import Context

_STATE = "mlops_memory_factor"


def grow_on_oom(error: MLOpsError, factor: float, context: Context) -> MLOpsError:
    """If ``error`` is a :class:`MemoryLimitError`, let the next try of the task request ``factor`` times the memory.

    :param error: the error of the pod
    :param factor: the parameter ``grow_memory`` of the pod; 1 means that the memory does not grow
    :param context: Airflow's context of the task
    :return: the error with which the task fails. It is retryable if the next try will request more memory
    """
    if not isinstance(error, MemoryLimitError) or factor <= 1:
        return error
    total = memory_factor(context) * factor
    states = context.get("task_state_store")
    if states is not None:
        states.set(_STATE, total)
    return MemoryLimitError(f"{error} The next try requests {total:g} times Pod(memory=...).", grows=True)


def memory_factor(context: Context) -> float:
    """Return the factor by which the memory of the pod is multiplied in this try; 1 if no earlier try was OOMKilled."""
    states = context.get("task_state_store")
    factor = states.get(_STATE) if states is not None else None
    return float(factor) if isinstance(factor, (int, float)) else 1.0
