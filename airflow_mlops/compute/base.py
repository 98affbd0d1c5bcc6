"""The base classes for ``run_on``: :class:`Compute` describes where a step runs, and :class:`Runner` runs it there."""

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

    DAG files create these objects. Subclasses are therefore dataclasses that only validate and store their fields, and
    that import no heavy library. The class attribute ``runner`` names the class that runs the step. Airflow's worker
    imports that class when the task runs.
    """

    #: Import path of the :class:`Runner` for this description, as ``package.module:Class``.
    runner: ClassVar[str]
    template_fields: ClassVar[Sequence[str]] = ()
    #: Whether the step reads its parameters from the artifact store, so that they must not contain secrets.
    stores_parameters: ClassVar[bool] = False
    #: Names of the template fields that a deferred task needs to find its running step again.
    kept_when_deferred: ClassVar[Sequence[str]] = ()

    def serialize(self) -> dict[str, Any]:
        """Return the fields that Airflow's UI shows as the rendered template field ``run_on``."""
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
        """Run the step that ``call`` describes, and return the result of the step as a dict of JSON values.

        The result is written to the artifact store before this method returns.

        :param call: name and spec of the step, URL of the artifact store and key of the result
        :param conn_ids: ids of the Airflow connections that the step uses
        :param context: Airflow's context of the task
        :raises MLOpsError: the step failed, or could not be started
        """

    def resume(self, call: StepCall, event: dict[str, Any], context: Context) -> dict[str, Any]:
        """Continue the task after :meth:`run` has deferred it, and return the result of the step.

        This implementation is for runners that never defer, and raises ``SpecError``.

        :param call: the call that was passed to :meth:`run`
        :param event: payload of the event with which the Airflow trigger resumed the task
        :raises MLOpsError: the step failed, or could not be started
        """
        raise SpecError(
            f"run_on= of this task was changed to {self.compute!r} while the task was deferred, so the running step cannot "
            "be found again. Clear the task to run the step with the new run_on=."
        )

    def facts(self) -> dict[str, str]:
        """Return where the step ran, as names and values of MLflow tags; empty before the step has run."""
        return {}

    def on_kill(self) -> None:
        """Stop the running step.

        Airflow calls this method if the task is ended from outside, for example by a user, or takes longer than its
        ``execution_timeout``. Airflow does not call it after other exceptions.
        """


def runner_for(compute: Compute, log: Any) -> Runner[Any]:
    """Import the class that ``compute.runner`` names, and return an object of this class.

    :param compute: the value of ``run_on``
    :param log: the task's logger
    """
    module, _, name = compute.runner.partition(":")
    created: Runner[Any] = getattr(import_module(module), name)(compute, log)
    return created
