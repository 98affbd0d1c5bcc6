"""Telling people what happened, through Airflow's notifiers."""

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
    """What a notifier's templates find as ``event``.

    :param name: what happened: a field of :class:`Notify`
    :param version: the model version it is about, if it is about one
    :param summary: one sentence that says what happened
    :param reason: one sentence that says why; empty where there is none
    :param urls: where to look: the ``task``, its ``run`` in MLflow, the drift ``report``, the ``ledger`` entry, the
        page to ``answer`` a request on; empty where there is none
    """

    name: str
    model: str
    summary: str
    version: int | None = None
    reason: str = ""
    urls: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, repr=False)
class Notify:
    """Whom to tell of what: for each event one of Airflow's notifiers, or several.

    Each operator sends the events that are its own, so that one ``Notify`` in ``default_args`` serves a whole DAG.

    :param registered: TrainOperator registered a model version
    :param evaluated: EvaluateOperator has its verdict
    :param approval: PromoteOperator asks for approval, and waits
    :param promoted: PromoteOperator made a version the champion
    :param refused: PromoteOperator did not, and says why
    :param rolled_back: RollbackOperator made an earlier version the champion again
    :param drift: MonitorOperator decided ``watch`` or ``retrain``
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
            for notifier in [given] if isinstance(given, str) else self.of(name):
                if not callable(notifier):
                    raise SpecError(
                        f"Notify({name}={notifier!r}) takes one of Airflow's notifiers, as in SlackNotifier(...), "
                        "or a list of them."
                    )

    def __repr__(self) -> str:
        # It goes into the serialized DAG, which is another DAG when an address in memory changes.
        told = {item.name: [type(notifier).__name__ for notifier in self.of(item.name)] for item in fields(self)}
        return f"Notify({', '.join(f'{name}={names}' for name, names in told.items() if names)})"

    def of(self, name: str) -> list[Notifier]:
        """The notifiers of the event called ``name``."""
        given = getattr(self, name)
        return [given] if callable(given) else list(given)

    def send(self, event: Event, context: Context, log: Any) -> None:
        """Tell all who want to know. A notifier that fails gets a warning in the log: the work is done."""
        for notifier in self.of(event.name):
            try:
                # Rendering changes a notifier and its context, and the next event needs them as they were.
                copy.copy(notifier)({**context, "event": event})  # type: ignore[typeddict-unknown-key]
            except Exception as error:  # noqa: BLE001 - what others wrote raises what it likes
                log.warning("%s did not tell of %r: %s", type(notifier).__name__, event.name, error)
