"""All models in the artifact store, and all facts about one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import TypeVar

from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import decisions, index, monitoring
from airflow_mlops.overview.facts import Chain, ModelDags, ModelFacts, Models, Monitoring, Overview, Point, WindowFacts
from airflow_mlops.overview.monitoring import Monitored
from airflow_mlops.overview.sections import Section
from airflow_mlops.registry.records.entry import Entry

T = TypeVar("T")
# Reports, ledger and the index are read at the same time.
_SOURCES = 3
_FIRST = datetime.min.replace(tzinfo=timezone.utc)


def models(store: ArtifactStore) -> Models:
    """Return the newest facts about each model, sorted by name. What cannot be read is named in ``problems``.

    Owner, tags and the request for approval are in Airflow's database, so they are left out.
    """
    problems: list[str] = []
    nothing: dict[str, list[Section]] = {}
    found = _tried(lambda: index.read(store), nothing, problems)
    return Models(models=[_overview(name, found[name]) for name in sorted(found)], problems=problems)


def model(store: ArtifactStore, name: str) -> ModelFacts | None:
    """Return all facts about a model; ``None`` if the store has nothing about it.

    What cannot be read is named in ``problems``. Owner, tags and the request for approval are in Airflow's database, so
    they are left out.
    """
    problems: list[str] = []
    nothing: tuple[list[Entry], Chain] = [], Chain()
    unmonitored: tuple[list[Point], list[str], list[str]] = [], [], []
    with ThreadPoolExecutor(_SOURCES) as pool:
        monitored = pool.submit(_windows, store, name)
        decided = pool.submit(decisions.read, store, name)
        others = pool.submit(index.without_history, store, name)
    windows, unreadable, details = _tried(monitored.result, unmonitored, problems)
    entries, chain = _tried(decided.result, nothing, problems)
    sections: list[Section] = _tried(others.result, [], problems)
    if not (windows or unreadable or entries or sections or problems):
        return None
    stand = _tried(lambda: decisions.standing(store, name, entries), None, problems)
    fresh = [
        Section(model=name, monitoring=monitoring.monitored(windows), problem=monitoring.problem(unreadable)),
        Section(model=name, decisions=stand, problem=chain.problem),
    ]
    overview = _overview(name, [*fresh, *sections], problems)
    return ModelFacts(
        **dict(overview),
        details=details,
        windows=windows,
        decisions=[decisions.facts(entry) for entry in reversed(entries)],
        chain=chain,
    )


def _windows(store: ArtifactStore, name: str) -> tuple[list[Point], list[str], list[str]]:
    windows, unreadable = monitoring.points(store, name)
    return windows, unreadable, monitoring.details(store, windows)


def dags(store: ArtifactStore, name: str) -> ModelDags | None:
    """Return the DAGs of a model, from its sections in the index; ``None`` if the store has nothing about the model.

    :raises StoreError: the store cannot be read
    """
    sections = index.of(store, name)
    if sections:
        return _overview(name, sections).dags
    found = model(store, name)
    return found.dags if found is not None else None


def _tried(read: Callable[[], T], otherwise: T, problems: list[str]) -> T:
    """Return the result of ``read``, or ``otherwise`` if it fails. The error is added to ``problems``, once."""
    try:
        return read()
    except MLOpsError as error:
        if str(error) not in problems:
            problems.append(str(error))
        return otherwise


def _overview(name: str, sections: Sequence[Section], problems: Sequence[str] = ()) -> Overview:
    """Combine the sections of a model."""
    monitored = next((item.monitoring for item in sections if item.monitoring is not None), Monitored())
    stand = next((item.decisions for item in sections if item.decisions is not None), decisions.Standing())
    scored = [item.scoring for item in sections if item.scoring is not None]
    trained = [item.candidate for item in sections if item.candidate is not None]
    last = max(
        scored,
        key=lambda item: (_end(item.last.window), item.last.scored_at),
        default=None,
    )
    return Overview(
        name=name,
        dags=ModelDags(
            train=sorted({*stand.train, *(item.dag_id for item in trained)} - {""}),
            score=sorted({item.dag_id for item in scored} - {""}),
            monitor=sorted({*stand.monitor, *monitored.dags}),
        ),
        champion=stand.champion,
        candidate=max((item.newest for item in trained), key=lambda item: item.version, default=None),
        previous=stand.previous,
        monitoring=_acknowledged(monitored.last, stand),
        scoring=last.last if last is not None else None,
        labels_until=monitored.labels_until,
        request=stand.request,
        problems=[*problems, *(item.problem for item in sections if item.problem is not None)],
    )


def _end(window: WindowFacts | None) -> datetime:
    return window.end if window is not None else _FIRST


def _acknowledged(last: Monitoring | None, stand: decisions.Standing) -> Monitoring | None:
    """Add the acknowledgement of the last window. It counts while the verdict is ``watch``."""
    if last is None or last.verdict != "watch":
        return last
    found = next((item for item in reversed(stand.acknowledged) if item.window == last.window), None)
    return last.model_copy(update={"acknowledged": found.acknowledgement}) if found is not None else last
