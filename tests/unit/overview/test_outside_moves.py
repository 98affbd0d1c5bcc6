"""A champion that was changed in MLflow, as pages, commands and later decisions see it."""

from __future__ import annotations

import pytest

from airflow_mlops.assets import version_of
from airflow_mlops.cli.ledger import _row
from airflow_mlops.core.errors import RegistryError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import decisions, rollbacks, versions
from airflow_mlops.registry import requests
from airflow_mlops.registry.aliases import last_champion
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Decision, Entry
from airflow_mlops.registry.records.outside_move import OutsideMove
from tests.support.models import promote, version
from tests.unit.overview.test_index import store  # noqa: F401 - a fixture


def moved(store: ArtifactStore, before: int | None, now: int | None) -> list[Entry]:  # noqa: F811
    """v1 and v2 were promoted, retraining was requested, and the champion was changed in MLflow."""
    promote(store, 1)
    promote(store, 2)
    ledger = Ledger(store, "delays")
    requests.by_user(ledger, Window.model_validate("2013-04"), "Snow.", "ann", version(2))
    decision = Decision(
        decision="moved_outside",
        replaced=version(before) if before else None,
        champion=version(now) if now else None,
        reason="The alias was moved.",
        outside=OutsideMove(noticed_by="webhook"),
    )
    ledger.record("moved", lambda _: decision)
    return ledger.entries()


def test_a_move_is_the_standing_champion_and_shown_with_both_versions(store: ArtifactStore) -> None:  # noqa: F811
    entries = moved(store, 2, 3)
    standing = decisions.standing(store, "delays", entries)
    assert standing.champion is not None
    assert (standing.champion.version, standing.champion.by, standing.previous) == (3, None, 2)
    facts = decisions.facts(entries[-1])
    assert (facts.decision, facts.champion, facts.replaced, facts.by) == ("moved_outside", 3, 2, None)
    row = _row(entries[-1])
    assert (row["decision"], row["version"], row["replaced"], row["user"]) == ("moved_outside", "3", "2", "")
    assert versions.from_ledger(entries)[3].champion
    # The request was about another champion.
    assert [item.state for item in requests.recorded_requests(store, "delays", entries)] == ["moot"]
    shown = rollbacks.preview("delays", entries, None)
    assert (shown.current.version, shown.target.version, shown.former) == (3, 2, [1, 2])


def test_without_the_alias_the_model_has_no_champion(store: ArtifactStore) -> None:  # noqa: F811
    entries = moved(store, 2, None)
    standing = decisions.standing(store, "delays", entries)
    assert (standing.champion, standing.previous) == (None, 2)
    assert not any(found.champion for found in versions.from_ledger(entries).values())
    assert (_row(entries[-1])["version"], last_champion(entries)) == ("", version(2))
    with pytest.raises(RegistryError, match="`airflow mlops rollback` restores the previous champion"):
        rollbacks.preview("delays", entries, None)


@pytest.mark.parametrize(
    ("extra", "number"),
    [
        ({"version": 3, "replaced": 2}, 3),
        ({"from_trigger": True, "payload": {"version": 3}}, 3),
        ({"from_trigger": True, "payload": {"version": None}}, None),
        ({"from_trigger": True, "payload": "odd"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_an_event_of_a_watcher_names_the_champion_like_that_of_a_promotion(
    extra: dict | None, number: int | None
) -> None:
    assert version_of(extra) == number
