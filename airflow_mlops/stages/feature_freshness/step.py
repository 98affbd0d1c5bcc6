"""Check that features are materialized up to a required time, and that the online store still has them.

``python -m airflow_mlops.stages.feature_freshness.step`` checks once. The command reads the spec as JSON from standard
input. The last line of output is a JSON object. The object contains ``result``, or ``error`` and ``message`` after an
error. ``result`` is null if the features are not as fresh as required.
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
from airflow_mlops.data.feast import online_loss
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.stages.feature_freshness.spec import FeatureFreshnessResult, FeatureFreshnessSpec

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger("airflow_mlops.stages")

Interval = tuple[datetime, datetime]
# Feast's intervals include their end, so the next interval without a gap starts this much later.
_TICK = timedelta(microseconds=1)


def look(spec: FeatureFreshnessSpec) -> FeatureFreshnessResult | None:
    """Check the feature views once, and return the time up to which each view is materialized.

    :return: ``None`` if a feature view is not materialized up to the required time, or if no view is served online
    :raises FeatureStoreError: the Feast repository, the Feast registry or the online store cannot be read
    """
    store = feast_repo.open_store(spec.repo)
    known = _intervals(store)
    views = sorted(known) if spec.feature_views is None else spec.feature_views
    behind = [_behind(name, known.get(name), spec) for name in views]
    if views and not any(behind):
        with feast_repo.locked(store, shared=True):
            losses = online_loss.find(store, views)
        behind = [
            f"the online store {loss} {name!r}, which was materialized before. MaterializeFeaturesOperator fills it again"
            for name, loss in losses.items()
        ]
    if not views or any(behind):
        waiting = "; ".join(filter(None, behind)) or "no feature view is served online"
        log.info("The features of Feast project %s are not fresh: %s.", store.project, waiting)
        return None
    until = {name: max(end for _, end in known[name]) for name in views}
    first = min(until.values())
    return FeatureFreshnessResult(
        project=store.project,
        materialized_until=until,
        summary=f"{', '.join(views)} of Feast project {store.project} are materialized until {first.isoformat()}.",
    )


def _intervals(store: FeatureStore) -> dict[str, list[Interval]]:
    """Return the materialized intervals by feature view, for all views that are served online."""
    try:
        with feast_repo.locked(store, shared=True):
            views = [*store.list_batch_feature_views(), *store.list_stream_feature_views()]
    except Exception as error:
        raise FeatureStoreError(
            f"The registry of Feast project {store.project!r} cannot be read: {one_line(error)}. "
            "Check the registry configured in feature_store.yaml."
        ) from error
    return {view.name: list(view.materialization_intervals) for view in views if view.online}


def _behind(view: str, intervals: list[Interval] | None, spec: FeatureFreshnessSpec) -> str:
    """Return a clause that explains why ``view`` is not as fresh as ``spec`` requires; empty if the view is fresh."""
    if intervals is None:
        return f"{view!r} is not registered or not served online"
    if spec.window is not None:
        reached = covered(intervals, spec.window)
        return (
            ""
            if reached >= spec.window.end
            else f"{view!r} is materialized until {reached.isoformat()}, but the window ends at {spec.window.end.isoformat()}"
        )
    assert spec.max_age is not None
    newest = max((end for _, end in intervals), default=None)
    if newest is None:
        return f"{view!r} has never been materialized"
    return (
        ""
        if datetime.now(timezone.utc) - newest <= spec.max_age
        else f"{view!r} is materialized until {newest.isoformat()}, which is longer ago than `max_age` ({spec.max_age})"
    )


def covered(intervals: Iterable[Interval], window: Window) -> datetime:
    """Return the time up to which ``intervals`` cover ``window`` without a gap; at least the start of the window."""
    reached = window.start
    for start, end in sorted(intervals):
        if start > reached:
            break
        reached = max(reached, end + _TICK)
    return reached


def main() -> None:
    """Check once, and print the result or the error as JSON."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s", force=True)
    outcome: dict[str, Any]
    try:
        found = look(FeatureFreshnessSpec.model_validate_json(sys.stdin.read()))
        outcome = {"result": found and found.model_dump(mode="json")}
    except MLOpsError as error:
        outcome = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(f"\n{json.dumps(outcome)}\n")


if __name__ == "__main__":
    main()
