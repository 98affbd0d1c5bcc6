"""``ShardedOperator``, the base of the operators that can be mapped over shards of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
        listed = _listed_shards(context)
        if missing := [number for number in range(call.spec["shards"]) if listed is not None and number not in listed]:
            raise SpecError(
                f"Task {self.task_id!r} has no mapped instance of shard {missing[0]}, so its rows would be left out. Map the task "
                f"over all shards, with .expand(shard=list(range({call.spec['shards']})))."
            )
        # These fields are set after the key was computed, so they do not change the key of a retry.
        succeeded = sorted(number for number, state in states.items() if state == "success")
        others = all(state == "success" for number, state in states.items() if number != context["ti"].map_index)
        return call.model_copy(update={"spec": {**call.spec, "succeeded": succeeded, "others_succeeded": others}})


def instances(context: Context) -> dict[int, str | None]:
    """Return the state of each mapped instance of the running task in the DAG run, by map index.

    Airflow keeps removed instances, if the DAG was changed to fewer shards. They are left out. The dict is empty if the task
    is not mapped.
    """
    ti = context["ti"]
    states = ti.get_task_states(dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id]).get(ti.run_id, {})
    prefix = f"{ti.task_id}_"
    mapped = {int(name.removeprefix(prefix)): state for name, state in states.items() if name != ti.task_id}
    return {number: state for number, state in mapped.items() if state != "removed"}


def _listed_shards(context: Context) -> list[Any] | None:
    """Return the shards over which the DAG's author maps the running task; ``None`` if they are not literal numbers."""
    dag = context.get("dag")
    mapped = dag.task_dict.get(context["ti"].task_id) if dag is not None else None
    given = getattr(getattr(mapped, "expand_input", None), "value", None)
    if isinstance(given, Mapping):
        found = given.get("shard")
    elif isinstance(given, Sequence):
        found = [item.get("shard") if isinstance(item, Mapping) else None for item in given]
    else:
        return None
    if isinstance(found, Sequence) and all(isinstance(number, int) for number in found):
        return list(found)
    return None
