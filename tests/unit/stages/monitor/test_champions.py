"""The version that a champion replaced."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.stages.monitor import champions

V1, V2 = (ModelVersionRef(model="delays", version=version, run_id="r") for version in (1, 2))
NOTHING: Any = None


def replaced(present: ModelVersionRef, *compared: ModelVersionRef) -> Any:
    known: Any = [SimpleNamespace(champion=champion) for champion in compared]
    # None of these cases reads the store or the registry.
    return champions.replaced(present, NOTHING, known, NOTHING, NOTHING, NOTHING)


def test_a_rollback_and_a_champion_that_was_compared_before_replaced_no_version():
    assert replaced(V1) is None
    assert replaced(V1, V2) is None
    assert replaced(V2, V1, V2) is None
    assert replaced(V2, V2, V1) is None
