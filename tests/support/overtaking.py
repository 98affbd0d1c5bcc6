"""A try of a task is suspended within its step, and continues after the retry has finished."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_mlops import __version__
from airflow_mlops.core.calls import Provenance, Spec, StepCall
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.runner import run_call

if TYPE_CHECKING:
    import pytest


def call_of(store: ArtifactStore, step: str, spec: Spec | dict[str, Any], run: str = "r") -> StepCall:
    """The step call of a task in a DAG run."""
    return StepCall(
        step=step,
        spec=spec if isinstance(spec, dict) else spec.model_dump(mode="json"),
        store=store.url,
        key=f"results/d/{run}/{step}/0.json",
        version=__version__,
        provenance=Provenance(dag_id="d", run_id=run, task_id=step),
    )


def suspend(
    patch: pytest.MonkeyPatch,
    place: Any,
    name: str,
    call: StepCall,
    *,
    before: Callable[[], Any] = lambda: None,
    after: Callable[[], Any] = lambda: None,
) -> dict[str, Any]:
    """Run a call whose first try is suspended when a function has returned, and check that it changes no result.

    :param place: module or class of the function
    :param name: name of the function
    :param before: what happens before the retry begins
    :param after: what happens after the retry has finished, before the first try continues
    :return: the result of the retry
    """
    real, retried = getattr(place, name), []

    def suspended(*args: Any, **options: Any) -> Any:
        patch.setattr(place, name, real)
        answer = real(*args, **options)
        before()
        retried.append(run_call(call))
        after()
        return answer

    patch.setattr(place, name, suspended)
    assert run_call(call) == retried[0] == run_call(call)
    return dict(retried[0])
