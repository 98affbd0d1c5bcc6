"""The base class of the operators that change the champion, and the asset ``mlops://MODEL/champion``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import Asset, AssetAlias

from airflow_mlops.assets import champion_uri, version_of
from airflow_mlops.links import MLflowRunLink
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.rendering import is_known_text

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.observability.samples import Sample


class ChampionOperator(StepOperator):
    """The base class of operators that may change the champion of a model.

    The operator emits an event of the asset ``mlops://MODEL/champion`` whenever it changes the champion.

    :cvar changed: name of the boolean field in the result that is true if this task changed the champion
    """

    changed: ClassVar[str]
    operator_extra_links = (MLflowRunLink(),)

    def add_champion_outlet(self, model: Any) -> None:
        """Add an asset alias for the asset ``mlops://MODEL/champion`` to the outlets of the task.

        Airflow emits an event of a plain asset after every successful task, but of an asset alias only if the task asks
        for it.

        :param model: name of the registered model; ``None``, a template or a task output if it is known only when the
            task runs
        """
        self.champion_alias = AssetAlias(f"mlops-{model}-champion" if is_known_text(model) else "mlops-champion")
        self.add_outlets([self.champion_alias])

    def samples(self, result: dict[str, Any]) -> list[Sample]:
        from airflow_mlops.observability.samples import decided

        return decided(result, self.changed)

    def finish(self, result: dict[str, Any], context: Context) -> None:
        if result[self.changed]:
            replaced = result["replaced"]
            measured = {key: result[key] for key in ("dataset_id", "metrics") if key in result}
            self._emit(result, context, replaced["version"] if replaced else None, result["reason"], **measured)
        else:
            self._emit_missing_event(result, context)

    def _emit_missing_event(self, result: dict[str, Any], context: Context) -> None:
        """Emit the missing event of an earlier task, if the last event of the asset does not name the champion.

        Airflow stores the events of a task when the task succeeds. If a task changes the champion and then fails
        without a retry, its event is lost. The next task that decides about the model emits the event instead.
        """
        # Reading events works only in a running task.
        from airflow.sdk.execution_time.context import InletEventsAccessor

        champion = result["champion"]
        if champion is None:
            return
        asset = _asset(result)
        events = InletEventsAccessor(asset_name=asset.name, asset_uri=asset.uri).ascending(False).limit(1)
        last = version_of(events[0].extra) if len(events) else None
        if last != champion["version"]:
            self._emit(result, context, last, "An earlier change of the champion emitted no event.")

    def _emit(self, result: dict[str, Any], context: Context, replaced: Any, reason: str, **measured: Any) -> None:
        champion = result["champion"]
        extra = {"version": champion["version"], "run_id": champion["run_id"], "replaced": replaced, "reason": reason}
        context["outlet_events"][self.champion_alias].add(_asset(result), extra={**extra, **measured})


def _asset(result: dict[str, Any]) -> Asset:
    return Asset(champion_uri(result["model"]))
