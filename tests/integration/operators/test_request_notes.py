"""What a task knows about the DAGs that listen to its request."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_mlops.operators.retraining import _doubt

URI = "mlops://delays/retrain"


def event(window: str, minutes: float = 60, runs: int = 0) -> Any:
    """An event of a request, ``minutes`` old, which started ``runs`` DAG runs."""
    request = {"id": f"delays/{window}", "model": "delays", "created": window}
    at = datetime.now(timezone.utc) - timedelta(minutes=minutes)
    return SimpleNamespace(extra={"request": request}, timestamp=at, created_dagruns=["run"] * runs)


@pytest.mark.parametrize(
    ("earlier", "fact"),
    [
        ([], None),
        ([{"window": "2024-04", "runs": 1}], None),
        ([{"window": "2024-04"}], "2024-04"),
        # The scheduler may not have started the run yet.
        ([{"window": "2024-04", "minutes": 1}], None),
        # Only the last request counts. The plugin sends it twice, and one of the two events starts the run.
        ([{"window": "2024-05"}, {"window": "2024-04", "runs": 1}], "2024-05"),
        ([{"window": "2024-05", "runs": 1}, {"window": "2024-05"}, {"window": "2024-04"}], None),
        # An event that the package did not create contains no request.
        ([{}, {"window": "2024-04", "runs": 1}], None),
    ],
)
def test_a_request_that_started_no_run_says_that_nothing_listens(earlier, fact):
    doubt = _doubt(URI, [event(**known) if known else SimpleNamespace(extra=None) for known in earlier], is_active=True)
    assert (doubt is None) == (fact is None)
    assert fact is None or (fact in doubt and f"nothing listens to {URI}" in doubt)


def test_an_asset_that_no_dag_uses_has_no_listener():
    assert f"nothing listens to {URI}" in _doubt(URI, [event("2024-04", runs=1)], is_active=False)
