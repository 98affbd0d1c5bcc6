"""More memory for the next try of a task whose pod was ended by OOMKilled. The task's state store keeps the factor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.errors import MemoryLimitError, MLOpsError

if TYPE_CHECKING:
    from airflow.sdk import Context

_STATE = "mlops_memory_factor"


def grow_on_oom(error: MLOpsError, factor: float, context: Context) -> MLOpsError:
    """After a :class:`MemoryLimitError`, let the next try of the task request ``factor`` times as much memory.

    :param factor: ``grow_memory`` of the pod; 1 changes nothing
    :return: the error for the task to fail with; it is retryable if the next try gets more memory
    """
    if not isinstance(error, MemoryLimitError) or factor <= 1:
        return error
    total = memory_factor(context) * factor
    states = context.get("task_state_store")
    if states is not None:
        states.set(_STATE, total)
    return MemoryLimitError(f"{error} The next try requests {total:g} times the memory.", grows=True)


def memory_factor(context: Context) -> float:
    """By how much the memory in the pod's description is multiplied for this try."""
    states = context.get("task_state_store")
    factor = states.get(_STATE) if states is not None else None
    return float(factor) if isinstance(factor, (int, float)) else 1.0
