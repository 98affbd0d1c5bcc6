"""Who asked for retraining, as a training run finds it in the asset events that started it."""

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


def asked(*events: AssetEventDagRunReferenceResult) -> list[Request]:
    return triggering_requests({"triggering_asset_events": TriggeringAssetEventsAccessor.build(events)})


def told(*requests: Request) -> list[AssetEventDagRunReferenceResult]:
    return [event({"request": item.model_dump(mode="json")}, f"mlops://{item.model}/retrain") for item in requests]


def test_a_request_is_read_back_as_it_was_sent():
    assert asked(*told(request())) == [request()]


def test_a_run_that_something_else_started_was_asked_for_nothing():
    assert triggering_requests({}) == []
    assert asked() == []
    # Somebody pressed the button of the asset in Airflow's pages.
    assert asked(event({"from_rest_api": True})) == []
    # An asset of another kind may say what it likes.
    assert asked(event({"request": request().model_dump(mode="json")}, "s3://bucket/other")) == []
    assert asked(event({"request": request(model="other").model_dump(mode="json")})) == []


def test_what_cannot_be_read_is_left_out_and_said(caplog):
    assert asked(event({"request": {"model": "delays", "id": 1}}), event({"request": ["delays"]})) == []
    assert "mlops://delays/retrain cannot be read" in caplog.text


def test_of_several_requests_the_newest_of_the_model_counts():
    (april,), (other,), (march,) = told(request()), told(request("2013-05", "other")), told(request("2013-03"))
    newest = event({"request": request("2013-02").model_dump(mode="json")}, minute=5)
    found = Provenance(requests=asked(newest, april, other, march))
    assert found.request("delays") == request("2013-02")
    assert found.request("other") == request("2013-05", "other")
    assert found.request("nobody") is None
