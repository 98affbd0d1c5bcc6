"""``ShardedOperator``, the base of the operators that can be mapped over shards of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.errors import SpecError
from airflow_mlops.operators.base import StepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import Spec, StepCall


class ShardedOperator(StepOperator):
    """The base class of operators with the parameters ``shard`` and ``shards``.

    The mapped instances of such a task, one for each shard, have one result together, such as a dataset.
    """

    shards: int | str | None

    def call(self, spec: Spec, context: Context) -> StepCall:
        call = super().call(spec, context)
        if self.shards is None:
            return call
        states = instances(context)
        if len(states) < call.spec["shards"]:
            raise SpecError(
                f"Task {self.task_id!r} has {len(states)} mapped instances, but shards={call.spec['shards']}, so some rows would "
                f"be left out. Map the task over all shards, with .expand(shard=list(range({call.spec['shards']})))."
            )
        # These fields are set after the key was computed, so they do not change the key of a retry.
        succeeded = sorted(number for number, state in states.items() if state == "success")
        others = all(state == "success" for number, state in states.items() if number != context["ti"].map_index)
        return call.model_copy(update={"spec": {**call.spec, "succeeded": succeeded, "others_succeeded": others}})


def instances(context: Context) -> dict[int, str | None]:
    """Return the state of each mapped instance of the running task in the DAG run, by map index.

    The dict is empty if the task is not mapped.
    """
    ti = context["ti"]
    states = ti.get_task_states(dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id]).get(ti.run_id, {})
    prefix = f"{ti.task_id}_"
    return {int(name.removeprefix(prefix)): state for name, state in states.items() if name != ti.task_id}
