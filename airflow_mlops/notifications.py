"""Notifications about events in the lifecycle of models, sent by Airflow's notifiers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import SpecError

if TYPE_CHECKING:
    from airflow.sdk import Context

URLS = ("task", "run", "report", "ledger", "answer")

Notifier = Callable[["Context"], Any]


@dataclass(frozen=True)
class Event:
    """An event in the lifecycle of a model. The templates of a notifier can use it as ``event``.

    :param name: name of the event, which is the name of a field of :class:`Notify`
    :param model: name of the registered model
    :param summary: what happened, in one or a few sentences
    :param version: number of the model version; ``None`` if the event is not about a version
    :param reason: why it happened; may be empty
    :param urls: URLs by name: ``task`` (log in Airflow), ``run`` (MLflow run), ``report`` (drift report), ``ledger``
        (ledger entry) and ``answer`` (page for the approval of a promotion). A URL is empty if there is no such page
    """

    name: str
    model: str
    summary: str
    version: int | None = None
    reason: str = ""
    urls: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, repr=False)
class Notify:
    """The notifiers that are called for each event in the lifecycle of a model.

    A parameter is the name of an event. Its value is one of Airflow's notifiers, or a list of notifiers. An operator
    sends only the events whose description names the operator, so one ``Notify`` in ``default_args`` is enough for a
    DAG.

    :param registered: TrainOperator registered a model version
    :param evaluated: EvaluateOperator finished an evaluation
    :param approval: PromoteOperator waits for approval
    :param promoted: PromoteOperator or CanaryOperator made a version the champion
    :param refused: PromoteOperator did not promote, or CanaryOperator withdrew a canary; ``reason`` explains the
        decision
    :param rolled_back: RollbackOperator made an earlier version the champion again
    :param drift: MonitorOperator decided ``watch`` or ``retrain``
    :raises SpecError: a value is not a notifier
    """

    registered: Notifier | Sequence[Notifier] = ()
    evaluated: Notifier | Sequence[Notifier] = ()
    approval: Notifier | Sequence[Notifier] = ()
    promoted: Notifier | Sequence[Notifier] = ()
    refused: Notifier | Sequence[Notifier] = ()
    rolled_back: Notifier | Sequence[Notifier] = ()
    drift: Notifier | Sequence[Notifier] = ()

    def __post_init__(self) -> None:
        for name in (item.name for item in fields(self)):
            given = getattr(self, name)
            for notifier in [given] if isinstance(given, str) else self.notifiers(name):
                if not callable(notifier):
                    raise SpecError(
                        f"Notify({name}={notifier!r}) is not a notifier. Set {name}= to one of Airflow's notifiers, such as "
                        "SlackNotifier(...), or to a list of them."
                    )

    def __repr__(self) -> str:
        # The text is part of the serialized DAG. If it contained memory addresses, each parsing would create a new
        # version of the DAG.
        names = {
            item.name: [type(notifier).__name__ for notifier in self.notifiers(item.name)] for item in fields(self)
        }
        return f"Notify({', '.join(f'{event}={found}' for event, found in names.items() if found)})"

    def notifiers(self, name: str) -> list[Notifier]:
        """Return the notifiers of the event ``name``."""
        given = getattr(self, name)
        return [given] if callable(given) else list(given)

    def send(self, event: Event, context: Context, log: Any) -> None:
        """Call the notifiers of the event. If a notifier raises an exception, the exception is logged as a warning.

        :param event: the event
        :param context: context of the task
        :param log: the task's logger
        """
        for notifier in self.notifiers(event.name):
            try:
                # Rendering changes the notifier and the context, so each event gets copies.
                copy.copy(notifier)({**context, "event": event})  # type: ignore[typeddict-unknown-key]
            except Exception as error:  # noqa: BLE001 - a notifier can raise anything
                log.warning(
                    "%s failed to send the notification of the event %r: %s", type(notifier).__name__, event.name, error
                )
