"""The base class of all operators of this package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from airflow.sdk import Asset, BaseOperator

from airflow_mlops import __version__
from airflow_mlops.compute import Compute, default_place
from airflow_mlops.compute.base import Runner, runner_for
from airflow_mlops.core.errors import MLOpsError, SpecError
from airflow_mlops.core.secrets import has_secret_template
from airflow_mlops.notifications import URLS, Event, Notify
from airflow_mlops.operators.calendar import calendar
from airflow_mlops.operators.failures import no_retry_of_final_errors
from airflow_mlops.operators.parameters import SpecParameters
from airflow_mlops.operators.rendering import is_template, mask_credentials
from airflow_mlops.settings import default_store

if TYPE_CHECKING:
    from airflow.sdk import Context
    from jinja2 import Environment

    from airflow_mlops.core.calls import Provenance, Spec, StepCall
    from airflow_mlops.observability.samples import Sample

# Keys in the task state store. The values are the key of the last step call for which notifiers were called, and the
# current series of tries (see _Series).
_NOTIFIED, _SERIES = "mlops.told", "mlops.series"
# Airflow stores at most 250 characters as the name of a task instance. The other 50 are left for the DAG author's
# map_index_template.
_LONGEST_DECISION = 200


class StepOperator(SpecParameters, BaseOperator):
    """The base class of operators that run one step of the lifecycle.

    The operator runs the step at the place that ``run_on`` describes. It returns the result, which contains references
    and numbers, never data.

    :param run_on: where the step runs: ``Worker``, ``Process``, ``Pod``, ``Ray`` or ``Spark``; by default ``[mlops]
        run_on``, or the Airflow worker if this setting is empty
    :param store: URL of the artifact store; by default ``[mlops] artifacts``
    :param notify: notifiers that are called for the events of this task; by default none
    :param period: length of a window that is written as one date or time, such as ``2024-03-01T00:00:00``, as an ISO
        8601 duration (``P1D``). It is needed only if neither the form of the partition key nor the timetable of the DAG
        determines the length, or if they disagree
    :param cache: whether the task returns the result of an earlier task if spec, datasets, code and packages are the
        same. The result names the run that computed it. A task that a user clears computes its result again. Operators
        that read or change more than their inputs refuse ``True``, and ignore it in ``default_args``
    :cvar cacheable: whether the operator supports ``cache``
    :cvar file_suffixes: file name suffixes by parameter name. If the value of one of these parameters ends in a suffix
        of the parameter, the value is the name of a file next to the DAG file. The content of the file replaces the
        name and is templated
    """

    untemplated = frozenset({"notify", "cache"})
    cacheable: ClassVar[bool] = False
    file_suffixes: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    ui_color = "#e8f0fe"

    mlflow_conn_id: str
    # The step call with which a deferred task began.
    _begun: StepCall | None = None
    # The last step call and its result, for lineage.
    _last_call: tuple[StepCall | None, dict[str, Any] | None] = (None, None)
    _runner: Runner[Any] | None = None

    def __init__(
        self,
        *,
        run_on: Compute | None = None,
        store: str | None = None,
        notify: Notify | None = None,
        period: str | None = None,
        cache: bool = False,
        **kwargs: Any,
    ) -> None:
        # Airflow passes the merged default_args of DAG, task group and task.
        is_default = bool((kwargs.get("default_args") or {}).get("cache"))
        super().__init__(**kwargs)
        self.cache = self._checked_cache(cache, is_default)
        self.run_on = run_on or default_place()
        self.store = store
        self.notify = notify
        self.period = period

    def _checked_cache(self, cache: Any, is_default: bool) -> bool:
        """Return whether the task uses the cache.

        :param is_default: whether ``default_args`` set ``cache`` for all operators
        :raises SpecError: the operator does not support the cache, or the value is not a boolean
        """
        if not isinstance(cache, bool):
            raise SpecError(f"Task {self.task_id!r}: cache={cache!r} is neither True nor False: use one of them.")
        if cache and not self.cacheable and not is_default:
            raise SpecError(
                f"Task {self.task_id!r}: {type(self).__name__} does not support cache=True, because its result depends "
                "on more than its inputs: remove cache=True."
            )
        return cache and self.cacheable

    def build_spec(self, context: Context) -> dict[str, Any]:
        """Return the fields of the spec, taken from the rendered attributes of this operator."""
        fields = self.spec_fields()
        if "mlflow" in self.spec.model_fields:
            fields["mlflow"] = {"conn_id": self.mlflow_conn_id, "experiment": getattr(self, "experiment", None)}
        if "owner" in self.spec.model_fields:
            fields["owner"] = self.owner
        return fields

    def before_step(self, spec: Any, context: Context, *, resumed: bool) -> Any:
        """Return the spec with which the step runs; by default ``spec``.

        This method may defer the task. The method that resumes the task receives the argument ``begun``, the location
        of the stored step call, and passes it to ``_run``.

        :param spec: the parsed spec of the step
        :param resumed: whether the task continues after ``run_on`` had started the step and deferred the task
        """
        return spec

    def after_step(self, result: dict[str, Any], call: StepCall, context: Context) -> dict[str, Any]:
        """Return the result of the task; by default the result of the step. This method may defer the task.

        The method that resumes the task receives the argument ``begun`` and passes it to ``_run``, which finds the
        result of the step in the artifact store.

        :param call: the call of the step
        """
        return result

    def step_failed(self, error: MLOpsError, context: Context) -> None:
        """Handle an error of the step before the task fails. This method may defer the task instead."""

    def decision(self, result: dict[str, Any]) -> str | None:
        """Return the decision of the step in a few words, or ``None`` (default) if the step decides nothing.

        Airflow's UI shows the text next to the task. The task succeeds with any decision.
        """
        return None

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        """Return the event for notifiers, or ``None`` if ``result`` needs no notification.

        This method is called only if ``notify`` is set.
        """
        return None

    def urls(self, context: Context, run_id: str | None = None, **more: str) -> dict[str, str]:
        """Return URLs for a notification: ``task`` (the log), ``run`` (the MLflow run) and the URLs in ``more``.

        An unknown URL is an empty string.

        :param run_id: id of the MLflow run
        :param more: additional URLs by name
        """
        from airflow_mlops.links.mlflow import run_page

        run = ""
        # The connection may be defined only where the step runs, for example in a Kubernetes Secret.
        with suppress(MLOpsError):
            run = run_page(getattr(self, "mlflow_conn_id", ""), run_id) if run_id else ""
        return {**dict.fromkeys(URLS, ""), "task": context["ti"].log_url, "run": run, **more}

    def samples(self, result: dict[str, Any]) -> list[Sample]:
        """Return the metrics to export from ``result``; by default none."""
        return []

    def finish(self, result: dict[str, Any], context: Context) -> None:
        """Process the result of the step, for example by emitting asset events.

        This method is called whenever the task succeeds, even if the step finished in an earlier try.
        """

    def describe_outlets(self, context: Context, extra: dict[str, Any]) -> None:
        """Add ``extra`` to the event of every asset in ``outlets``; for use in :meth:`finish`."""
        for outlet in self.outlets:
            if isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra.update(extra)

    def execute(self, context: Context) -> dict[str, Any]:
        return self._run(context, None)

    def trigger_reentry(
        self, context: Context, event: dict[str, Any], begun: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Continue a task that ``run_on`` deferred. KubernetesPodOperator defines the name.

        :param event: payload of the event that resumes the task
        :param begun: location of the stored step call with which the task began; ``None`` if an earlier version of this
            package deferred the task
        """
        return self._run(context, event, begun)

    def _run(
        self, context: Context, event: dict[str, Any] | None, begun: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        from airflow.sdk.exceptions import TaskAwaitingInput, TaskDeferred

        from airflow_mlops.core.base import parse

        with no_retry_of_final_errors():
            # Templates and Variables may have changed since the task was deferred.
            self._begun = self._continue(begun) if begun is not None else None
            if self._begun is None:
                times = calendar(context, self.period)
                original = parse(self.spec, self.build_spec(context), f"Task {self.task_id!r}", calendar=times)
            else:
                original = parse(self.spec, self._begun.spec, f"Task {self.task_id!r}")
            call = self._begun or self.call(original, context)
            try:
                spec = self.before_step(original, context, resumed=event is not None)
                if spec != original:
                    call = self.call(spec, context)
                self._last_call = call, None
                self._runner = runner = runner_for(self.run_on, self.log)
                try:
                    if event is None:
                        result = runner.run(call, spec.connections(), context)
                    else:
                        result = runner.resume(call, event, context)
                except MLOpsError as error:
                    self.step_failed(error, context)
                    raise
                result = self.after_step(result, call, context)
            except (TaskDeferred, TaskAwaitingInput) as deferral:
                deferral.kwargs = {**(deferral.kwargs or {}), "begun": self._begin(call)}
                raise
        self._last_call = call, result
        self.log.info("%s", result["summary"])
        show_decision(self.decision(result), context)
        self.finish(result, context)
        self._export(result)
        if self.notify is not None:
            self._send_event(self.notify, result, call.key, context)
        return result

    def _begin(self, call: StepCall) -> dict[str, Any]:
        """Store the step call of a task that is about to be deferred.

        :return: the location of the step call, which :meth:`_continue` reads
        """
        from airflow_mlops.stages.calls import call_key, write_call

        write_call(call)
        place = {name: getattr(self.run_on, name) for name in self.run_on.kept_when_deferred}
        return {"store": call.store, "call": call_key(call), "run_on": place}

    def _continue(self, begun: dict[str, Any]) -> StepCall:
        from dataclasses import replace

        from airflow_mlops.stages.calls import read_call

        if begun["run_on"].keys() == set(self.run_on.kept_when_deferred):
            self.run_on = replace(self.run_on, **begun["run_on"])  # type: ignore[type-var]
        return read_call(begun["store"], begun["call"])

    def _export(self, result: dict[str, Any]) -> None:
        from airflow_mlops.observability.export import export

        try:
            export(self.samples(result), self.log)
        except Exception as error:  # noqa: BLE001 - the step has succeeded
            self.log.warning("No metrics were exported: %s", error)

    def _send_event(self, notify: Notify, result: dict[str, Any], key: str, context: Context) -> None:
        states = context["task_state_store"]
        try:
            # A retry that finds a finished result must not send the event again.
            if states.get(_NOTIFIED) != key and (event := self.event(result, context)) is not None:
                notify.send(event, context, self.log)
                states.set(_NOTIFIED, key)
        except Exception as error:  # noqa: BLE001 - the step has succeeded
            self.log.warning("Notifications were not sent: %s", error)

    def call(self, spec: Spec, context: Context) -> StepCall:
        """Return the step call, which contains the spec, the key of the result and the provenance of the step."""
        from airflow_mlops.core.calls import StepCall
        from airflow_mlops.data.results import result_key

        content = spec.model_dump(mode="json")
        provenance = _provenance(context)
        series = _series(context)
        return StepCall(
            step=self.step,
            spec=content,
            store=self._begun.store if self._begun is not None else self.store or default_store(),
            key=result_key(self.step, content, provenance, series.id),
            version=__version__,
            provenance=provenance,
            cache=("renew" if series.is_cleared else "use") if self.cache else None,
        )

    def place(self) -> dict[str, str]:
        """Return facts about where the step ran, by name. For a pod, these are pod, node, image and image digest."""
        return self._runner.facts() if self._runner is not None else {}

    def resolve_template_files(self) -> None:
        """Replace file names with the contents of the files. Airflow calls this method while it parses the DAG.

        Airflow's own ``template_ext`` is not used, because it would read a file for every templated string with such a
        suffix, for example for ``pod_template_file`` in ``run_on``.
        """
        self._read_files(None)
        self.prepare_template()

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Context, jinja_env: Environment, seen_oids: set[int]
    ) -> None:
        # Before this point, the parameters of a mapped task are not known.
        if parent is self:
            self._read_files(jinja_env)
            self._refuse_stored_secrets(template_fields)
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        if parent is self:
            # Airflow stores and shows the rendered fields. It masks only values that are registered as secrets.
            for name in template_fields:
                mask_credentials(getattr(self, name, None))

    def _read_files(self, jinja_env: Environment | None) -> None:
        from jinja2 import TemplateNotFound

        for name, suffixes in self.file_suffixes.items():
            file = getattr(self, name)
            if not isinstance(file, str) or not file.endswith(suffixes) or is_template(file):
                continue
            env = jinja_env or self.get_template_env()
            try:
                setattr(self, name, env.loader.get_source(env, file)[0])  # type: ignore[union-attr]
            except TemplateNotFound:
                raise SpecError(
                    f"Task {self.task_id!r}: the file {file!r} does not exist: correct {name}=. The path is relative to the "
                    "folder of the DAG file or to the template_searchpath of the DAG."
                ) from None

    def _refuse_stored_secrets(self, names: Iterable[str]) -> None:
        if not self.run_on.stores_parameters:
            return
        for name in names:
            if name != "run_on" and has_secret_template(getattr(self, name, None)):
                with no_retry_of_final_errors():
                    raise SpecError(
                        f"Task {self.task_id!r}: {name}= is a template of a secret in Airflow. The parameters of this step are stored in "
                        "the artifact store, which must not contain secrets. Name a connection instead, pass the secret to the "
                        "pod as a setting of fsspec (secrets={'FSSPEC_HTTPS': ...}), or run the step with Worker() or Process(...)."
                    )

    def on_kill(self) -> None:
        if self._runner is not None:
            self._runner.on_kill()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return the datasets that the task read and wrote.

        apache-airflow-providers-openlineage calls this method after successes and failures.
        """
        from airflow_mlops.lineage import lineage_of

        return lineage_of(*self._last_call)


def show_decision(text: str | None, context: Context) -> None:
    """Show a decision in Airflow's UI: in the column *Map Index* of a run's task instances.

    A running task cannot set a note, but it can set the text that names a mapped task instance. Airflow also stores
    this text for tasks that are not mapped. A ``map_index_template`` of the DAG's author takes precedence and can use
    ``{{ mlops_decision }}``.

    :param text: the decision; ``None`` to show nothing
    """
    if text is None:
        return
    index = context["ti"].map_index
    shown = text if index is None or index < 0 else f"{index}: {text}"
    context["mlops_decision"] = shown[:_LONGEST_DECISION]  # type: ignore[typeddict-unknown-key]
    if context.get("map_index_template") is None:
        context["map_index_template"] = "{{ mlops_decision }}"


def _provenance(context: Context) -> Provenance:
    from airflow_mlops.core.calls import Provenance
    from airflow_mlops.operators.retraining import triggering_requests

    ti = context["ti"]
    return Provenance(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
        partition_key=context.get("partition_key"),
        user=context["dag_run"].triggering_user_name,
        requests=triggering_requests(context),
    )


class _Series(NamedTuple):
    """A series of tries: the first try of a task and its retries, until a user clears the task.

    The tries of a series share one result.

    :param id: identifier of the series of tries
    :param is_cleared: whether the series began because a user cleared the task
    """

    id: str
    is_cleared: bool


def _series(context: Context) -> _Series:
    """Return the current series of tries.

    A series begins with the first try of a task, and whenever a user clears the task. If a DAG run is deleted and
    created again under the same id, a new series begins, because Airflow deletes the task state together with the run.
    """
    ti, states = context["ti"], context["task_state_store"]
    clears = context["dag_run"].clear_number or 0
    stored = states.get(_SERIES)
    if isinstance(stored, dict) and not _was_cleared(stored, clears, context):
        # Earlier releases did not store whether the task was cleared.
        return _Series(str(stored["id"]), bool(stored.get("cleared")))
    is_cleared = isinstance(stored, dict)
    states.set(_SERIES, {"id": ti.id.hex, "max_tries": int(ti.max_tries), "clears": clears, "cleared": is_cleared})
    return _Series(ti.id.hex, is_cleared)


def _was_cleared(stored: dict[str, Any], clears: int, context: Context) -> bool:
    ti = context["ti"]
    # Airflow 3.3 sets max_tries to the number of tries so far plus the retries when a user clears a task. A retry does
    # not change it.
    if ti.max_tries != stored["max_tries"]:
        return True
    # If the DAG's retries have changed, max_tries can equal the stored number by chance. The number of clears alone
    # is not enough, because it counts the clears of all tasks of the run.
    return clears != stored["clears"] and ti.max_tries == ti.try_number - 1 + int(context["task"].retries or 0)
