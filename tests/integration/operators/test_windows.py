"""Training windows in DAGs: they follow the request, the partition or the data interval of the run."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from airflow.sdk import Asset

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.operators import BuildTrainingSetOperator, Decay, Expanding, Rolling
from airflow_mlops.operators.windows import with_run_window
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.versions import champion
from tests.support.months import write_months

BERLIN = "2013-05[Europe/Berlin]"


def event(window: str, model: str = "late", day: int = 1):
    created = datetime(2013, 6, day, tzinfo=timezone.utc)
    request = {
        "id": window, "model": model, "triggers": ["performance"], "reason": "Worse.", "window": window,
        "created": created.isoformat(),
    }  # fmt: skip
    return SimpleNamespace(extra={"request": request}, timestamp=created)


def events(*found, model="late"):
    return {"triggering_asset_events": {Asset(f"mlops://{model}/retrain"): list(found)}}


def anchored(entities, **context):
    return Window.model_validate(with_run_window(entities, context)["window"])


def test_the_monitored_window_of_the_request_comes_before_the_partition_key():
    found = anchored({"name": "orders"}, partition_key="2013-06-05", **events(event(BERLIN)))
    assert (found, found.zone) == (Window.model_validate(BERLIN), "Europe/Berlin")


def test_of_several_requests_the_window_that_ends_last_counts():
    found = anchored("orders", **events(event("2013-05", day=1), event("2013-03", day=2)))
    assert found == Window.model_validate("2013-05")


def test_without_a_request_the_partition_key_counts_and_then_the_data_interval():
    start, end = (datetime(2013, month, 1, tzinfo=timezone.utc) for month in (5, 6))
    interval = {"data_interval_start": start, "data_interval_end": end}
    assert anchored({"name": "orders"}, partition_key="2013-04", **interval) == Window.model_validate("2013-04")
    assert anchored({"name": "orders"}, **interval) == Window.model_validate("2013-05")


def test_a_window_in_entities_comes_first():
    given = {"name": "orders", "window": "2013-02"}
    assert with_run_window(given, {"partition_key": "2013-04", **events(event("2013-05"))}) == given


@pytest.mark.parametrize("window", ["", " \n"])
def test_an_empty_window_is_not_replaced_by_the_window_of_the_run(window):
    with pytest.raises(SpecError, match="`window` in `entities` is empty"):
        with_run_window({"name": "orders", "window": window}, {"partition_key": "2013-04", **events(event("2013-05"))})
    assert anchored({"name": "orders", "window": None}, partition_key="2013-04") == Window.model_validate("2013-04")


def test_a_run_without_a_window_is_refused():
    with pytest.raises(SpecError, match="no retraining request, no partition key and no data interval"):
        with_run_window({"name": "orders"}, {})


@pytest.mark.parametrize("window", [{"kind": "rolling", "length": "six"}, "2013-05", {"kind": "sliding"}])
def test_an_invalid_rule_fails_while_the_dag_is_parsed(window):
    with pytest.raises(SpecError):
        BuildTrainingSetOperator(task_id="t", name="t", entities={"name": "e"}, timestamp="at", window=window)


def test_rules_are_json_and_render_their_templates():
    made = BuildTrainingSetOperator(
        task_id="t", name="t", entities={"name": "e"}, timestamp="at", columns=["x"], window=Expanding("{{ since }}")
    )
    made.render_template_fields({"since": "2013-01"})
    assert made.window == {"kind": "expanding", "since": "2013-01"}
    spec = made.build_spec({"partition_key": "2013-05"})
    assert (spec["window"], spec["entities"]) == (made.window, {"name": "e", "window": "2013-05"})
    assert (Rolling("P6M"), Decay("P60D")) == (
        {"kind": "rolling", "length": "P6M"},
        {"kind": "decay", "half_life": "P60D"},
    )


DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import (
    BuildTrainingSetOperator, Decay, EvaluateOperator, Expanding, PromoteOperator, RefitOperator, Rolling, TrainOperator,
)
from airflow_mlops.trainers import SklearnTrainer

with DAG("{model}", default_args={{"model": "{model}", "store": "{store}"}}, params={{"month": "2013-06"}}):
    data = BuildTrainingSetOperator.partial(
        task_id="training_set", name="training", entities={{"name": "orders", "window": "{{{{ params.month }}}}"}},
        timestamp="at", columns=["amount", "hour"], keys=["order"], label="late",
        split={{"method": "time", "test_size": "15D"}},
    ).expand(window=[Rolling("P2M"), Expanding("2013-01"), Decay("P10D")])
    fits = TrainOperator.partial(
        task_id="train", trainer=SklearnTrainer("sklearn.linear_model.LogisticRegression")
    ).expand(dataset=data.output)
    verdict = EvaluateOperator(task_id="evaluate", candidates=fits.output, gates=[{{"metric": "roc_auc", "min": 0.6}}])
    refit = RefitOperator(task_id="refit", verdict=verdict.output)
    PromoteOperator(task_id="promote", verdict=refit.output)
"""


@pytest.mark.slow
def test_windows_are_mapped_and_the_best_is_refitted_and_promoted(run_dag, client, store):
    write_months(store, [f"2013-{number:02}" for number in range(1, 7)], 300, [2, 2, 2, 2, -2, -2])
    source = DAG.format(model="windows", store=store.url)
    run = run_dag(source)
    assert run.state == "success", run.states()
    sets = [run.xcom("training_set", map_index=index) for index in range(3)]
    assert [found["window_rule"] for found in sets] == [
        "Rolling(P2M)", "Expanding(since=2013-01-01T00:00:00Z)", "Decay(half_life=P10D)"
    ]  # fmt: skip
    judged = run.xcom("evaluate")["verdict"]["winner"]
    assert judged["version"] in (
        run.xcom("train", map_index=0)["candidate"]["version"],
        run.xcom("train", map_index=2)["candidate"]["version"],
    )
    new = run.xcom("promote")["champion"]
    assert new["version"] == 4
    assert champion(client, "windows").version == 4
    assert run.shown("refit") == f"v4 is v{judged['version']} on all rows"
    (entry,) = Ledger(store, "windows").entries()
    assert (entry.refit.judged.version, entry.refit.version.version) == (judged["version"], 4)


@pytest.mark.slow
def test_a_run_without_a_window_fails_before_anything_is_built(run_dag, client, store):
    source = DAG.format(model="nowindows", store=store.url).replace(', "window": "{{ params.month }}"', "")
    run = run_dag(source)
    assert {state for task, state in run.states().items() if task.startswith("training_set")} == {"failed"}
    assert store.keys("datasets/training") == []
