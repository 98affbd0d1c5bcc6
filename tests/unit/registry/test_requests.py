"""The requests for retraining in the asset events that started a training run, and the keys of these events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.api.datamodels._generated import (
    AssetAliasReferenceAssetEventDagRun,
    AssetEventDagRunReference,
    AssetReferenceAssetEventDagRun,
)
from airflow.sdk.execution_time.comms import AssetEventDagRunReferenceResult
from airflow.sdk.execution_time.context import OutletEventAccessors, TriggeringAssetEventsAccessor
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.core.window_text import Calendar
from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.operators import retraining
from airflow_mlops.operators.retraining import event_key, triggering_requests
from airflow_mlops.registry.requests import answer, read_answer

NOW = datetime(2013, 5, 5, tzinfo=timezone.utc)


def request(window: str = "2013-04", model: str = "delays") -> Request:
    return Request(
        id=f"{model}/{window}", model=model, triggers=["performance", "age"], reason="Bad.", window=window, created=NOW
    )


def event(
    extra: dict[str, Any], uri: str = "mlops://delays/retrain", minute: int = 0
) -> AssetEventDagRunReferenceResult:
    sent = AssetEventDagRunReference(
        asset=AssetReferenceAssetEventDagRun(name=uri, uri=uri, extra={}),
        extra=extra,
        source_task_id="monitor", source_dag_id="monitoring", source_run_id="r", source_map_index=-1,
        source_aliases=[AssetAliasReferenceAssetEventDagRun(name="mlops-delays-retrain")],
        timestamp=NOW + timedelta(minutes=minute),
    )  # fmt: skip
    return AssetEventDagRunReferenceResult.from_asset_event_dag_run_reference(sent)


def requests_in(*events: AssetEventDagRunReferenceResult) -> list[Request]:
    return triggering_requests({"triggering_asset_events": TriggeringAssetEventsAccessor.build(events)})


def events_of(*requests: Request) -> list[AssetEventDagRunReferenceResult]:
    return [event({"request": item.model_dump(mode="json")}, f"mlops://{item.model}/retrain") for item in requests]


def test_a_request_is_read_back_as_it_was_sent():
    assert requests_in(*events_of(request())) == [request()]


def test_a_run_without_such_an_event_has_no_request():
    assert triggering_requests({}) == []
    assert requests_in() == []
    # A user created the event in the UI.
    assert requests_in(event({"from_rest_api": True})) == []
    # Events of other assets do not count.
    assert requests_in(event({"request": request().model_dump(mode="json")}, "s3://bucket/other")) == []
    assert requests_in(event({"request": request(model="other").model_dump(mode="json")})) == []


def test_an_invalid_request_is_left_out_with_a_warning(caplog):
    assert requests_in(event({"request": {"model": "delays", "id": 1}}), event({"request": ["delays"]})) == []
    assert "mlops://delays/retrain" in caplog.text


def test_the_newest_request_of_the_model_counts():
    (april,), (other,), (march,) = (
        events_of(request()),
        events_of(request("2013-05", "other")),
        events_of(request("2013-03")),
    )
    newest = event({"request": request("2013-02").model_dump(mode="json")}, minute=5)
    found = Provenance(requests=requests_in(newest, april, other, march))
    assert found.request("delays") == request("2013-02")
    assert found.request("other") == request("2013-05", "other")
    assert found.request("nobody") is None


def test_a_request_that_was_sent_several_times_is_one_request_at_its_last_place():
    april, march = events_of(request(), request("2013-03"))
    again = event({"request": request().model_dump(mode="json")}, minute=5)
    assert requests_in(april, march, again) == [request("2013-03"), request()]


def test_the_newest_request_is_answered_and_the_first_answer_stays(tmp_path):
    store = ArtifactStore(f"file://{tmp_path}")
    older, newer, other = request(), request("2013-05"), request("2013-03", "other/model")
    run = Provenance(dag_id="train", run_id="first", task_id="build", requests=[older, newer, other])
    answer(store, run)
    answer(store, run.model_copy(update={"run_id": "second"}))
    assert read_answer(store, older) is None
    assert [(found.run_id, found.request) for item in (newer, other) if (found := read_answer(store, item))] == [
        ("first", newer.id),
        ("first", other.id),
    ]
    # A run that no request started does not answer a request.
    answer(store, Provenance(run_id="third"))
    assert read_answer(store, older) is None


ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(timezone.utc))


@given(MOMENTS, st.timedeltas(timedelta(seconds=1), timedelta(days=400)), ZONES)
def test_the_training_run_reads_the_monitored_window_from_the_key_of_the_event(start, length, zone):
    window = Window(start=start, end=start + length, zone=zone)
    key = event_key(window, Calendar())
    assert len(key) <= 250
    for calendar in (Calendar(key=key), Calendar(key=key, zone="Asia/Tokyo")):
        assert Window.model_validate(key, context={"calendar": calendar}) == window
        assert Window.model_validate(f"1980..{key}", context={"calendar": calendar}).end == window.end


@pytest.mark.parametrize(
    ("key", "window", "expected"),
    [
        ("2013-04", "2013-04", "2013-04"),
        # The key names another window, or no window.
        ("2013-05", "2013-04", "2013-04"),
        ("customer 7", "2013-04", "2013-04"),
        (None, "2013-04", "2013-04"),
        # If the run's key means the same window, its own form is kept.
        ("20130401", "2013-04-01", "20130401"),
        ("2013-04", "2013-04[Europe/Berlin]", "2013-04[Europe/Berlin]"),
    ],
)
def test_the_event_keeps_the_key_of_the_run_only_if_it_names_the_monitored_window(key, window, expected):
    assert event_key(Window.model_validate(window), Calendar(key=key)) == expected


def test_a_key_of_airflows_default_form_is_kept():
    start = datetime(2013, 4, 1, tzinfo=timezone.utc)
    calendar = Calendar(
        key="2013-04-01T00:00:00", key_start=start, ends={start: datetime(2013, 5, 1, tzinfo=timezone.utc)}
    )
    assert event_key(Window.model_validate("2013-04"), calendar) == "2013-04-01T00:00:00"
    assert event_key(Window.model_validate("2013-04-01"), calendar) == "2013-04-01"


@dataclass
class Sent:
    """An event of the asset, as Airflow returns it to a task."""

    request: Request
    source_run_id: str = "other"
    minutes_ago: float = 60
    runs: int = 1
    source_dag_id: str = "monitoring"
    source_task_id: str = "monitor"
    source_map_index: int = -1

    @property
    def extra(self) -> dict[str, Any]:
        return {"request": self.request.model_dump(mode="json")}

    @property
    def timestamp(self) -> datetime:
        return datetime.now(timezone.utc) - timedelta(minutes=self.minutes_ago)

    @property
    def created_dagruns(self) -> list[int]:
        return list(range(self.runs))


URI = "mlops://delays/retrain"


def send(monkeypatch, *earlier: Sent, key: str | None = None, is_active: bool = True):
    """Send the request of April in run ``own``: the delivery, the events that Airflow stores, and their outlets."""
    accessors, alias = OutletEventAccessors(), AssetAlias("a")
    active = accessors[Asset(name="any name", uri=URI)] if is_active else None
    monkeypatch.setattr(retraining, "_events_of_active", lambda uri, context: active)
    monkeypatch.setattr(retraining, "_earlier_events", lambda asset: list(earlier))
    ti = SimpleNamespace(dag_id="monitoring", run_id="own", task_id="monitor", map_index=-1)
    task = SimpleNamespace(outlets=[alias])
    april = request()
    result = {"model": "delays", "window": str(april.window), "request": april.model_dump(mode="json")}
    context = {"ti": ti, "outlet_events": accessors}
    delivery = retraining.send_request(task, alias, context, result, {"reason": "Bad."}, Calendar(key=key))
    stored = [(key, event.dest_asset_key.uri, event.extra) for event in accessors[alias].asset_alias_events]
    if Asset.ref(uri=URI) in task.outlets:
        stored += [(added, URI, active.extra) for added in active.partition_keys]
    return delivery, stored


CONTENT = {"reason": "Bad.", "request": request().model_dump(mode="json")}


@pytest.mark.parametrize("key", ["2013-04", "2013-05", "customer 7", None])
def test_one_event_is_sent_with_the_window_as_its_key_whatever_the_key_of_the_run(key, monkeypatch):
    delivery, stored = send(monkeypatch, key=key)
    assert stored == [("2013-04", URI, CONTENT)]
    assert delivery.fields() == {
        "request_sent": True, "request_asset": URI, "request_key": "2013-04", "request_note": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("earlier", "is_sent"),
    [
        # This task itself has sent the request before. It was cleared, so it sends the request again.
        ([Sent(request(), "own")], True),
        ([Sent(request())], False),
        ([Sent(request(), "own"), Sent(request())], False),
        ([Sent(request("2013-03"))], True),
        # After the artifact store was emptied, a new request has the id of an old one.
        ([Sent(request().model_copy(update={"created": NOW - timedelta(days=9)}))], True),
    ],
)
def test_a_task_sends_a_request_again_and_another_task_does_not(earlier, is_sent, monkeypatch):
    delivery, stored = send(monkeypatch, *earlier)
    assert (delivery.sent, len(stored)) == (is_sent, int(is_sent))
    assert (delivery.fields()["request_asset"] is None) == (not is_sent)
    assert (delivery.note is None) == is_sent


@pytest.mark.parametrize(
    ("earlier", "is_active", "doubtful"),
    [
        ([], True, False),
        ([], False, True),
        ([Sent(request("2013-03"))], True, False),
        ([Sent(request("2013-03"), runs=0)], True, True),
        # The scheduler needs a moment.
        ([Sent(request("2013-03"), runs=0, minutes_ago=0.5)], True, False),
        # The event without a key started the run.
        ([Sent(request("2013-03"), runs=1), Sent(request("2013-03"), runs=0)], True, False),
        # The last request counts.
        ([Sent(request("2013-03"), runs=1), Sent(request("2013-02"), runs=0)], True, False),
        ([Sent(request("2013-03"), runs=0), Sent(request("2013-02"), runs=1)], True, True),
        # The task was cleared, and the request that it sent before started no run.
        ([Sent(request(), "own", runs=0)], True, True),
    ],
)
def test_a_request_that_may_start_nothing_is_sent_with_a_note(earlier, is_active, doubtful, monkeypatch):
    delivery, stored = send(monkeypatch, *earlier, is_active=is_active, key="2013-04")
    assert stored == [("2013-04", URI, CONTENT)]
    assert delivery.sent
    assert (delivery.note is not None) == doubtful
    if doubtful:
        assert URI in delivery.note
