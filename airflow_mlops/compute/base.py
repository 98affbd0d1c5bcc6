"""The base classes of ``run_on``: a :class:`Compute` describes where steps run, and its :class:`Runner` runs them
there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from airflow_mlops.core.errors import SpecError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import StepCall


class Compute:
    """Describes where a step runs.

    DAG files create these objects, so subclasses are dataclasses that only validate and hold their fields, and import
    nothing heavy. The class that ``runner`` names runs the step. It is imported when the task runs.
    """

    #: Import path of the :class:`Runner` for this description, as ``package.module:Class``.
    runner: ClassVar[str]
    template_fields: ClassVar[Sequence[str]] = ()
    #: Names of the template fields that say where a deferred task finds its step again.
    kept_when_deferred: ClassVar[Sequence[str]] = ()

    def serialize(self) -> dict[str, Any]:
        """Return the content of the rendered template field ``run_on`` in Airflow's UI."""
        return {}


Description = TypeVar("Description", bound=Compute)


class Runner(ABC, Generic[Description]):
    """Runs the step of one task.

    :param compute: description of where the step runs, with its template fields rendered
    :param log: the task's logger
    """

    def __init__(self, compute: Description, log: Any) -> None:
        self.compute = compute
        self.log = log

    @abstractmethod
    def run(self, call: StepCall, conn_ids: set[str], context: Context) -> dict[str, Any]:
        """Run ``call`` and return its result. The artifact store holds the result before this method returns.

        :param call: the step, its spec and the key of its result
        :param conn_ids: ids of the Airflow connections that the step uses
        :param context: Airflow's context of the task
        :raises MLOpsError: the step failed, or could not be started
        """

    def resume(self, call: StepCall, event: dict[str, Any], context: Context) -> dict[str, Any]:
        """Continue after :meth:`run` deferred the task, and return the result.

        :param event: payload of the event of the Airflow trigger for which the task was deferred
        :raises MLOpsError: the step failed, or could not be started
        """
        raise SpecError(
            f"This task was deferred while its step ran elsewhere, and run_on= has changed to {self.compute!r} since: clear "
            "the task to run it there."
        )

    def facts(self) -> dict[str, str]:
        """Return facts about where the step ran, as names and values of MLflow tags. Empty before the step has run."""
        return {}

    def on_kill(self) -> None:
        """Stop the running step. Called when a user ends the task, never on a normal exit."""


def runner_for(compute: Compute, log: Any) -> Runner[Any]:
    """Import the runner that ``compute`` names and create it.

    :param log: the task's logger
    """
    module, _, name = compute.runner.partition(":")
    created: Runner[Any] = getattr(import_module(module), name)(compute, log)
    return created
