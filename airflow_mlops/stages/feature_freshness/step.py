"""Looks up in a Feast registry how far features are materialised.

``python -m airflow_mlops.stages.feature_freshness.step`` looks once, for a spec in JSON on standard input. The last line of its
output is JSON: ``result``, which is null while features are not fresh, or ``error`` and ``message``.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import FeatureStoreError, MLOpsError, one_line
from airflow_mlops.core.windows import Window
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.stages.feature_freshness.spec import FeatureFreshnessResult, FeatureFreshnessSpec

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger("airflow_mlops.stages")

Interval = tuple[datetime, datetime]
# Feast's intervals include their end.
_TICK = timedelta(microseconds=1)


def look(spec: FeatureFreshnessSpec) -> FeatureFreshnessResult | None:
    """How far the views are materialised, or ``None`` while one of them is not as far as ``spec`` asks.

    :raises FeatureStoreError: the repository or its registry cannot be read
    """
    store = feast_repo.open_store(spec.repo)
    known = _intervals(store)
    views = sorted(known) if spec.feature_views is None else spec.feature_views
    behind = [_behind(name, known.get(name), spec) for name in views]
    if not views or any(behind):
        waiting = "; ".join(filter(None, behind)) or "it has no feature view that is served online"
        log.info("Feast project %s: %s.", store.project, waiting)
        return None
    until = {name: max(end for _, end in known[name]) for name in views}
    first = min(until.values())
    return FeatureFreshnessResult(
        project=store.project,
        materialized_until=until,
        summary=f"{', '.join(views)} of Feast project {store.project} are materialised until {first.isoformat()}.",
    )


def _intervals(store: FeatureStore) -> dict[str, list[Interval]]:
    """By view that is served online, the intervals of time that were materialised."""
    try:
        with feast_repo.locked(store, shared=True):
            views = [*store.list_batch_feature_views(), *store.list_stream_feature_views()]
    except Exception as error:
        raise FeatureStoreError(
            f"The registry of Feast project {store.project} cannot be read: {one_line(error)}."
        ) from error
    return {view.name: list(view.materialization_intervals) for view in views if view.online}


def _behind(view: str, intervals: list[Interval] | None, spec: FeatureFreshnessSpec) -> str:
    """What ``view`` lacks, as a clause; empty if nothing."""
    if intervals is None:
        return f"{view} is not registered, or not served online"
    if spec.window is not None:
        reached = covered(intervals, spec.window)
        return "" if reached >= spec.window.end else f"{view} lacks {reached.isoformat()} of {spec.window.label}"
    assert spec.max_age is not None
    newest = max((end for _, end in intervals), default=None)
    if newest is None:
        return f"{view} was never materialised"
    return "" if datetime.now(timezone.utc) - newest <= spec.max_age else f"{view} ends at {newest.isoformat()}"


def covered(intervals: Iterable[Interval], window: Window) -> datetime:
    """How far ``intervals``, taken together, reach without a gap from the start of ``window``."""
    reached = window.start
    for start, end in sorted(intervals):
        if start > reached:
            break
        reached = max(reached, end + _TICK)
    return reached


def main() -> None:
    """Look once, and print what was seen."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s", force=True)
    said: dict[str, Any]
    try:
        found = look(FeatureFreshnessSpec.model_validate_json(sys.stdin.read()))
        said = {"result": found and found.model_dump(mode="json")}
    except MLOpsError as error:
        said = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(f"\n{json.dumps(said)}\n")


if __name__ == "__main__":
    main()
