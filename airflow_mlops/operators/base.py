"""What every operator of this package has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops import __version__
from airflow_mlops.compute import Compute, Worker
from airflow_mlops.exceptions import MLOpsError
from airflow_mlops.settings import default_store
from airflow_mlops.specs.base import Provenance, Spec, StepCall, parse

if TYPE_CHECKING:
    from airflow.sdk import Context


class StepOperator(BaseOperator):
    """Runs one step where ``run_on`` says and returns its result, which holds references and never data.

    A subclass names its step and its spec, and builds the spec's fields from its own, rendered, attributes.

    :param run_on: where the step runs; :class:`~airflow_mlops.compute.Worker` unless given
    :param store: URL of the artifact store; ``[mlops] artifacts`` unless given
    """

    step: ClassVar[str]
    spec: ClassVar[type[Spec]]

    template_fields: Sequence[str] = ("run_on", "store")
    ui_color = "#e8f0fe"

    def __init__(self, *, run_on: Compute | None = None, store: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_on = run_on or Worker()
        self.store = store

    def build_spec(self, context: Context) -> dict[str, Any]:
        """The spec's fields, from this operator's attributes after rendering."""
        raise NotImplementedError

    def finish(self, result: dict[str, Any], context: Context) -> None:
        """Tell Airflow what came of it: asset events, links. Runs on every success, also of a result found finished."""

    def describe_outlets(self, context: Context, extra: dict[str, Any]) -> None:
        """Put ``extra`` into the event of every asset among this task's outlets; for use in :meth:`finish`."""
        for outlet in self.outlets:
            if isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra.update(extra)

    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_mlops.artifacts.results import result_key

        try:
            spec = parse(self.spec, self.build_spec(context), f"Task {self.task_id!r}")
            content = spec.model_dump(mode="json")
            provenance = _provenance(context)
            call = StepCall(
                step=self.step,
                spec=content,
                store=self.store or default_store(),
                key=result_key(self.step, content, provenance, _generation(context)),
                version=__version__,
                provenance=provenance,
            )
            result = self.run_on.run(call, spec.connections(), context, self.log)
        except MLOpsError as error:
            if error.retryable:
                raise
            # Airflow's way to say that another try cannot help.
            raise AirflowFailException(f"{type(error).__name__}: {error}") from error
        self.log.info("%s", result["summary"])
        self.finish(result, context)
        return result

    def on_kill(self) -> None:
        self.run_on.on_kill()


def _provenance(context: Context) -> Provenance:
    ti = context["ti"]
    return Provenance(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
        partition_key=context.get("partition_key"),
    )


def _generation(context: Context) -> int:
    # Clearing a task raises max_tries by the tries that were used; a retry leaves it alone.
    ti = context["ti"]
    return max(0, int(ti.max_tries) - int(context["task"].retries or 0))
