"""Notifications of the events of the lifecycle, through Airflow's notifiers."""

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
    """An event, which the templates of a notifier can use as ``event``.

    :param name: name of the event: a field of :class:`Notify`
    :param model: name of the registered model
    :param summary: what happened, one sentence
    :param version: the model version, or ``None`` if the event is not about one
    :param reason: why it happened, one sentence; may be empty
    :param urls: addresses: the ``task``, its MLflow ``run``, the drift ``report``, the ``ledger`` entry, and the page on
        which to ``answer`` a request; an address that does not exist is empty
    """

    name: str
    model: str
    summary: str
    version: int | None = None
    reason: str = ""
    urls: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, repr=False)
class Notify:
    """For each event, one or several of Airflow's notifiers.

    Each operator sends only its own events, so one ``Notify`` in ``default_args`` is enough for a DAG.

    :param registered: TrainOperator registered a model version
    :param evaluated: EvaluateOperator finished an evaluation
    :param approval: PromoteOperator waits for approval
    :param promoted: PromoteOperator made a version the champion
    :param refused: PromoteOperator did not promote; ``reason`` says why
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
                        f"Notify({name}={notifier!r}) must be one of Airflow's notifiers, such as SlackNotifier(...), "
                        "or a list of them."
                    )

    def __repr__(self) -> str:
        # Part of the serialized DAG. Addresses in memory would make each parsing a new version of the DAG.
        names = {
            item.name: [type(notifier).__name__ for notifier in self.notifiers(item.name)] for item in fields(self)
        }
        return f"Notify({', '.join(f'{event}={found}' for event, found in names.items() if found)})"

    def notifiers(self, name: str) -> list[Notifier]:
        """The notifiers of the event called ``name``."""
        given = getattr(self, name)
        return [given] if callable(given) else list(given)

    def send(self, event: Event, context: Context, log: Any) -> None:
        """Call the notifiers of the event. If one fails, the failure is logged as a warning."""
        for notifier in self.notifiers(event.name):
            try:
                # Rendering changes the notifier and the context, so each event gets copies.
                copy.copy(notifier)({**context, "event": event})  # type: ignore[typeddict-unknown-key]
            except Exception as error:  # noqa: BLE001 - a notifier can raise anything
                log.warning("%s failed to notify of %r: %s", type(notifier).__name__, event.name, error)
