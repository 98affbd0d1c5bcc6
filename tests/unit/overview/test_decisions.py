"""Who made a decision, as pages and commands show it."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from airflow_mlops.cli.ledger import _row
from airflow_mlops.cli.overview import _decision
from airflow_mlops.cli.overview import _row as _overview_row
from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import decisions, models
from airflow_mlops.overview.facts import OpenRequest, TaskFacts
from airflow_mlops.registry import requests
from airflow_mlops.registry.ledger import Ledger
from tests.support.models import promote, version
from tests.unit.overview.test_index import store  # noqa: F401 - a fixture

APRIL = Window.model_validate("2013-04")


# Airflow names a user of each run that was triggered or backfilled by hand, "Anonymous" if nobody has logged in.
@pytest.mark.parametrize("user", ["Anonymous", None])
def test_a_request_of_monitoring_names_its_task_and_no_user(store: ArtifactStore, user: str | None) -> None:  # noqa: F811
    promote(store, 1)
    ledger = Ledger(store, "delays")
    asked = Request(
        id="delays/2013-04", model="delays", triggers=["performance"], reason="Worse.", window=APRIL,
        created=datetime(2013, 5, 1, tzinfo=timezone.utc),
    )  # fmt: skip
    task = Provenance(dag_id="watch", run_id="backfill", task_id="monitor", user=user)
    requests.record(ledger, asked.id, lambda _: asked, version(1), task)
    entries = ledger.entries()
    shown, request = decisions.facts(entries[-1]), decisions.standing(store, "delays", entries).request
    assert request is not None
    assert shown.by == request.by == _decision(shown)["by"] == "monitoring: DAG watch, task monitor"
    assert _row(entries[-1])["user"] == ""


def test_a_request_of_a_user_names_the_user(store: ArtifactStore) -> None:  # noqa: F811
    promote(store, 1)
    ledger = Ledger(store, "delays")
    requests.by_user(ledger, APRIL, "Snow.", "ann", version(1))
    entries = ledger.entries()
    request = decisions.standing(store, "delays", entries).request
    assert request is not None
    assert decisions.facts(entries[-1]).by == request.by == _row(entries[-1])["user"] == "ann"


def test_the_open_request_is_shown_although_an_earlier_entry_was_removed(store: ArtifactStore) -> None:  # noqa: F811
    promote(store, 1)
    promote(store, 2)
    requests.by_user(Ledger(store, "delays"), APRIL, "Snow.", "ann", version(2))
    store.delete(store.keys("ledger/delays")[0])
    facts = models.model(store, "delays")
    assert facts is not None
    assert not facts.chain.intact
    assert facts.champion is not None
    assert facts.request is not None
    assert (facts.champion.version, facts.request.by) == (2, "ann")


def test_a_request_is_shown_until_it_has_led_to_a_decision(store: ArtifactStore) -> None:  # noqa: F811
    def shown() -> OpenRequest | None:
        return decisions.standing(store, "delays", Ledger(store, "delays").entries()).request

    promote(store, 1)
    asked = requests.by_user(Ledger(store, "delays"), APRIL, "Snow.", "ann", version(1)).requested
    assert asked is not None
    found = shown()
    assert found is not None
    assert (found.state, found.started, found.training) == ("open", None, None)
    provenance = Provenance(dag_id="train", run_id="r", task_id="fit", requests=[asked])
    requests.answer(store, provenance)
    found = shown()
    assert found is not None
    assert (found.state, found.by, found.training) == (
        "answered",
        "ann",
        TaskFacts(dag_id="train", run_id="r", task_id="fit"),
    )
    assert found.started is not None
    facts = models.model(store, "delays")
    assert facts is not None
    assert _overview_row(facts)["pending"] == "training started"
    promote(store, 2, provenance=provenance)
    assert shown() is None
