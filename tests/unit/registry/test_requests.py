"""The requests for retraining in the asset events that started a training run."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.sdk.api.datamodels._generated import (
    AssetAliasReferenceAssetEventDagRun,
    AssetEventDagRunReference,
    AssetReferenceAssetEventDagRun,
)
from airflow.sdk.execution_time.comms import AssetEventDagRunReferenceResult
from airflow.sdk.execution_time.context import TriggeringAssetEventsAccessor

from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.operators.retraining import triggering_requests

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
