"""What every operator of this package has in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops import __version__
from airflow_mlops.compute import Compute, default_place
from airflow_mlops.compute.base import Runner, runner_for
from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Provenance, Spec, StepCall
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.links.mlflow import run_page
from airflow_mlops.notifications import URLS, Event, Notify
from airflow_mlops.observability.export import export
from airflow_mlops.observability.samples import Sample
from airflow_mlops.operators.requests import requests_of
from airflow_mlops.settings import default_store

if TYPE_CHECKING:
    from airflow.sdk import Context
_TOLD = "mlops.told"


class StepOperator(BaseOperator):
    """Runs one step where ``run_on`` says and returns its result, which holds references and never data.

    A subclass names its step and its spec, and builds the spec's fields from its own, rendered, attributes.

    :param run_on: where the step runs; ``[mlops] run_on`` unless given, which is the worker by default
    :param store: URL of the artifact store; ``[mlops] artifacts`` unless given
    :param notify: whom to tell of what happened; nobody unless given
    """

    step: ClassVar[str]
    spec: ClassVar[type[Spec]]

    template_fields: Sequence[str] = ("run_on", "store")
    ui_color = "#e8f0fe"
    # What ran and what it answered, for lineage.
    _ran: tuple[StepCall | None, dict[str, Any] | None] = (None, None)
    _runner: Runner[Any] | None = None

    def __init__(
        self,
        *,
        run_on: Compute | None = None,
        store: str | None = None,
        notify: Notify | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run_on = run_on or default_place()
        self.store = store
        self.notify = notify

    @abstractmethod
    def build_spec(self, context: Context) -> dict[str, Any]:
        """The spec's fields, from this operator's attributes after rendering."""

    def before_step(self, spec: Any, context: Context, *, resumed: bool) -> Any:
        """What has to happen before the step may run; returns the spec that it runs with. It may park the task.

        :param resumed: whether the step has been started before, and was waited for in the triggerer
        """
        return spec

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        """What there is to tell of ``result``, if anything; for ``notify``. Runs only where somebody wants to know."""
        return None

    def urls(self, context: Context, run_id: str | None = None, **more: str) -> dict[str, str]:
        """Where to look, for an event: this task, its MLflow run, and ``more``; empty where there is nothing."""
        run = ""
        # The step may know a connection that Airflow does not, from a Secret say.
        with suppress(MLOpsError):
            run = run_page(getattr(self, "mlflow_conn_id", ""), run_id) if run_id else ""
        return {**dict.fromkeys(URLS, ""), "task": context["ti"].log_url, "run": run, **more}

    def samples(self, result: dict[str, Any]) -> list[Sample]:
        """What of ``result`` is worth a time series; nothing unless a subclass says so."""
        return []

    def finish(self, result: dict[str, Any], context: Context) -> None:
        """Tell Airflow what came of it: asset events, links. Runs on every success, also of a result found finished."""

    def describe_outlets(self, context: Context, extra: dict[str, Any]) -> None:
        """Put ``extra`` into the event of every asset among this task's outlets; for use in :meth:`finish`."""
        for outlet in self.outlets:
            if isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra.update(extra)

    def execute(self, context: Context) -> dict[str, Any]:
        return self._run(context, None)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Where a task goes on that ``run_on`` deferred; the name is KubernetesPodOperator's."""
        return self._run(context, event)

    def _run(self, context: Context, event: dict[str, Any] | None) -> dict[str, Any]:
        with no_retry_in_vain():
            spec = parse(self.spec, self.build_spec(context), f"Task {self.task_id!r}")
            spec = self.before_step(spec, context, resumed=event is not None)
            call = self.call(spec, context)
            self._ran = call, None
            self._runner = runner = runner_for(self.run_on, self.log)
            if event is None:
                result = runner.run(call, spec.connections(), context)
            else:
                result = runner.resume(call, event, context)
        self._ran = call, result
        self.log.info("%s", result["summary"])
        self.finish(result, context)
        self._export(result)
        if self.notify is not None:
            self._tell(self.notify, result, call.key, context)
        return result

    def _export(self, result: dict[str, Any]) -> None:
        try:
            export(self.samples(result), self.log)
        except Exception as error:  # noqa: BLE001 - the work is done
            self.log.warning("No metrics were exported: %s", error)

    def _tell(self, notify: Notify, result: dict[str, Any], key: str, context: Context) -> None:
        states = context["task_state_store"]
        try:
            # A retry that finds the finished result has nothing new to tell.
            if states.get(_TOLD) != key and (event := self.event(result, context)) is not None:
                notify.send(event, context, self.log)
                states.set(_TOLD, key)
        except Exception as error:  # noqa: BLE001 - the work is done
            self.log.warning("Nobody was told: %s", error)

    def call(self, spec: Spec, context: Context) -> StepCall:
        """The step, ready to run anywhere."""
        from airflow_mlops.data.results import result_key

        content = spec.model_dump(mode="json")
        provenance = _provenance(context)
        return StepCall(
            step=self.step,
            spec=content,
            store=self.store or default_store(),
            key=result_key(self.step, content, provenance, _generation(context)),
            version=__version__,
            provenance=provenance,
        )

    def place(self) -> dict[str, str]:
        """Where the step ran: for a pod, the names of the pod, its node and its image, and the digest of the image."""
        return self._runner.facts() if self._runner is not None else {}

    def on_kill(self) -> None:
        if self._runner is not None:
            self._runner.on_kill()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """What the task read and made. Called by apache-airflow-providers-openlineage, after a failure too."""
        from airflow_mlops.lineage import lineage_of

        return lineage_of(*self._ran)


@contextmanager
def no_retry_in_vain() -> Iterator[None]:
    """Fail the task without a retry where another try cannot help."""
    try:
        yield
    except MLOpsError as error:
        if error.retryable:
            raise
        # Airflow's way to say so.
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error


def _provenance(context: Context) -> Provenance:
    ti = context["ti"]
    return Provenance(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
        partition_key=context.get("partition_key"),
        user=context["dag_run"].triggering_user_name,
        requests=requests_of(context),
    )


def _generation(context: Context) -> int:
    # Clearing a task raises max_tries by the tries that were used; a retry leaves it alone.
    ti = context["ti"]
    return max(0, int(ti.max_tries) - int(context["task"].retries or 0))
