"""From triggers to requests: persistence, cooldown, budget and refusals, in whatever order windows are checked."""

from __future__ import annotations

import itertools
import threading
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.findings import Drift, SchemaChange
from airflow_mlops.performance.challenger import Challenger, Comparison, Gain
from airflow_mlops.policy import archive
from airflow_mlops.policy.findings import Arrivals, Findings, Report
from airflow_mlops.policy.retraining import limited, plan, request_id, triggers
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.verdict import decide
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Decision
from airflow_mlops.registry.requests import all_requests, read_answer, recorded_requests, refused_requests
from airflow_mlops.registry.requests import answer as record_answer
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.monitor import report as monitor_report
from airflow_mlops.stages.monitor.requests import request_retraining
from tests.unit.policy.test_policy import UNJUDGED, V1, V2, auc, findings

BAD = {"performance": auc(0.6)}
START = datetime(2013, 1, 1, tzinfo=timezone.utc)


def day(number: int) -> Window:
    start = START + timedelta(days=number)
    return Window(start=start, end=start + timedelta(days=1))


def asking(window: Window | str, code: str | None = None, model: str = "delays") -> Request:
    at = Window.model_validate(window)
    known = {"triggers": ["performance"], "reason": "Bad.", "created": START, "code": code}
    return Request(id=request_id(model, at), model=model, window=at, **known)


def planned(window: Window | str, policy: dict[str, Any], *, holds: bool = True, **known: Any):
    at = Window.model_validate(window)
    active = {"performance": "it is bad"} if holds else {}
    return limited("delays", at, Policy.model_validate(policy), active, **known)


def drifted(share: float | None, column: str = "temp", moved: bool = True) -> Drift:
    return Drift(column=column, kind="numeric", effect=0.5, drifted=moved, importance=share)


@pytest.mark.parametrize(
    ("policy", "fields", "expected"),
    [
        ({}, {}, {}),
        ({}, BAD, {"performance": "ROC AUC fell to 0.600"}),
        ({"retrain_on": []}, BAD, {}),
        ({}, {**BAD, "champion": V2}, {}),
        ({}, {"champion": None}, {"no_champion": "Model 'delays' has no champion yet"}),
        ({"retrain_on": ["estimated_performance"]}, {**UNJUDGED, "estimated": auc(0.6)},
         {"estimated_performance": "Estimated ROC AUC fell to 0.600"}),
        ({}, {**UNJUDGED, "estimated": auc(0.6)}, {}),
        # Labels decide once performance can be judged.
        ({"retrain_on": ["estimated_performance"]}, {"estimated": auc(0.6)}, {}),
        ({"retrain_on": ["estimated_performance"]}, {**UNJUDGED, "estimated": auc(0.6), "champion": V2}, {}),
        ({"retrain_on": ["drift"]}, {"features": [drifted(0.2), drifted(0.4, "wind")]},
         {"drift": "Drifted features have 60% of the importance: wind and temp"}),
        ({"retrain_on": ["drift"]}, {"features": [drifted(0.4), drifted(0.6, "wind", moved=False)]}, {}),
        ({"retrain_on": ["drift"], "min_importance": 0.3}, {"features": [drifted(0.4)]}, {"drift": "Drifted features have 40%"}),
        ({"retrain_on": ["drift"], "min_importance": 0.3}, {"features": [drifted(0.4)], "champion": V2}, {}),
        ({"retrain_on": ["drift"]}, {"features": [drifted(None)]}, {}),
        ({"retrain_on": ["drift"]}, {"features": [drifted(0.9).model_copy(update={"broken": True})]}, {}),
        ({}, {"features": [drifted(1.0)]}, {}),
        ({"max_age": "P60D"}, {"age_days": 61.0}, {"age": "Training data are 61 days old (limit: 60 days)"}),
        ({"max_age": "P60D"}, {**BAD, "age_days": 61.0}, {"performance": "ROC AUC", "age": "Training data"}),
        ({"new_data": {"dataset": "flights", "windows": 3}}, {"arrivals": Arrivals(dataset="flights", windows=2, rows=9)}, {}),
        ({"new_data": {"dataset": "flights", "windows": 2}}, {"arrivals": Arrivals(dataset="flights", windows=2, rows=9)},
         {"new_data": "2 new windows of 'flights' since training (2 needed)"}),
        ({"new_data": {"dataset": "flights", "share": 0.5}},
         {"arrivals": Arrivals(dataset="flights", windows=2, rows=900, share=0.6)},
         {"new_data": "New rows of 'flights': 60% of the training set (50% needed)"}),
        ({"new_data": {"dataset": "flights", "share": 0.7}},
         {"arrivals": Arrivals(dataset="flights", windows=2, rows=900, share=0.6)}, {}),
        ({"new_data": {"dataset": "flights", "share": 0.7}}, {}, {}),
        ({"code": "b2"}, {"code_version": "a1"}, {"new_code": "Training code is 'b2', but v1 used 'a1'"}),
        ({"code": "b2"}, {"code_version": "b2"}, {}),
        ({"code": "b2"}, {}, {}),
    ],
)  # fmt: skip
def test_a_trigger_holds_if_the_policy_enables_it_and_its_condition_is_met(policy, fields, expected):
    held = triggers(findings(policy, **fields))
    assert held.keys() == expected.keys()
    assert [name for name, reason in expected.items() if not held[name].startswith(reason)] == []


def test_the_reason_names_every_active_trigger():
    verdict = decide(findings({"max_age": "P60D", "code": "b2"}, age_days=61.0, code_version="a1", **BAD))
    assert verdict.decision == "retrain"
    assert verdict.headline.startswith("ROC AUC fell to 0.600")
    for fact in (
        "0.590 to 0.610",
        "ended 61 days before the end of 2013-04",
        "code 'b2', but model delays v1 was trained with 'a1'",
    ):
        assert fact in verdict.reason


def test_a_reason_is_given_once():
    fields = {**BAD, "features": [drifted(None).model_copy(update={"infinite": 3, "drifted": False})]}
    reason = decide(findings({"persistence": {"k": 2, "n": 2}}, **fields)).reason
    assert reason.count("temp has infinite values in 3 rows") == 1
    retrain_on = {"retrain_on": ["estimated_performance"], "persistence": {"k": 2, "n": 2}}
    reason = decide(findings(retrain_on, **UNJUDGED, estimated=auc(0.6))).reason
    assert reason.count("Estimated ROC AUC: 0.600") == 1


def stuck(importance: float | None, column: str = "wind", fault: str = "has one value in all rows") -> Drift:
    return drifted(importance, column).model_copy(update={"broken": True, "fault": fault})


FINE = drifted(0.5, moved=False)


@pytest.mark.parametrize(
    ("policy", "now", "before", "without"),
    [
        ({}, [FINE, stuck(0.02)], [], ["wind"]),
        ({}, [FINE, stuck(0.03), stuck(0.03, "gust")], [], None),
        ({}, [FINE, stuck(0.5)], [], None),
        ({}, [FINE, stuck(None)], [], None),
        ({}, [FINE, stuck(0.5)], [[FINE, stuck(0.5)]], None),
        ({}, [FINE, stuck(0.5)], [[FINE, stuck(0.5)], [FINE, stuck(0.5)]], ["wind"]),
        ({}, [FINE, stuck(0.5)], [[FINE, stuck(0.5)], [FINE]], None),
        ({}, [FINE, stuck(0.5), stuck(0.4, "gust")], [[FINE, stuck(0.5)], [FINE, stuck(0.5)]], None),
        ({}, [FINE, stuck(0.5), stuck(0.01, "gust")], [[FINE, stuck(0.5)], [FINE, stuck(0.5)]], ["wind", "gust"]),
        # Without the only feature, no feature would be left.
        ({}, [stuck(0.02)], [], None),
        ({"on_broken": "wait"}, [FINE, stuck(0.02)], [], None),
        ({"on_broken": "wait"}, [FINE, stuck(0.5)], [[FINE, stuck(0.5)], [FINE, stuck(0.5)]], None),
    ],
)  # fmt: skip
def test_a_request_leaves_broken_features_out_if_they_hardly_matter_or_stay_broken(policy, now, before, without):
    found = findings(policy, features=now, **BAD)
    earlier = months(*({"features": features} for features in before))
    made = plan(found, earlier)
    (limit,) = [item for item in made.limits if item.name == "inputs"]
    assert limit.reached == (without is None)
    assert (made.is_requested, made.without) == (without is not None, without or [])
    verdict = decide(found, made)
    assert verdict.decision == ("watch" if without is None else "retrain")
    assert "wind has one value in all rows" in verdict.reason
    # Without a trigger, no feature is left out of a training. The verdict asks a person to look at the feature.
    calm = decide(findings(policy, features=now), plan(findings(policy, features=now), earlier))
    assert calm.decision == "watch"
    assert calm.headline.startswith("Broken inputs: wind")


def test_the_gain_of_a_challenger_is_not_a_trigger_until_a_broken_feature_stays_broken():
    best = Gain(past=None, value=0.7, share=0.2, low=0.1, windows=1)
    one = Challenger(past=None, trained_rows=900, value=0.7, gain=0.1, standard_error=0.01)
    better = {
        "challenger": Comparison(
            champion=V1, metric="roc_auc", rows=900, value=0.6, loss=0.4, challengers=[one], best=best
        )
    }
    assert plan(findings(features=[FINE], **better)).is_requested
    # The feature is hardly important, so a request for another reason would leave it out.
    broken = {"features": [FINE, stuck(0.02)]}
    for earlier in ([], [broken], [{"features": [FINE]}, broken]):
        made = plan(findings(**broken, **better), months(*earlier))
        assert (made.is_requested, made.triggers) == (False, [])
    made = plan(findings(**broken, **better), months(broken, broken))
    assert (made.is_requested, made.without) == (True, ["wind"])


@pytest.mark.parametrize(
    ("metric", "champion", "challenger", "headline"),
    [
        ("roc_auc", 0.6, 0.7, "Retraining would raise ROC AUC from 0.600 to 0.700"),
        ("roc_auc", 0.868, 0.859, "Retraining would reduce the mean loss of 8 windows by 20.0%"),
        ("rmse", 2.0, 1.5, "Retraining would lower RMSE from 2.000 to 1.500"),
        ("rmse", 2.0, 2.5, "Retraining would reduce the mean loss of 8 windows by 20.0%"),
    ],
)
def test_the_reason_never_calls_a_worse_value_of_the_window_an_improvement(metric, champion, challenger, headline):
    """The loss of several windows decides. In the last one, the challenger can be worse."""
    best = Gain(past=3, value=challenger, share=0.2, low=0.1, windows=8)
    one = Challenger(past=3, trained_rows=900, value=challenger, gain=0.1, standard_error=0.01)
    compared = Comparison(champion=V1, metric=metric, rows=900, value=champion, loss=0.4, challengers=[one], best=best)
    found = findings(features=[FINE], challenger=compared)
    assert decide(found, plan(found)).headline == headline


def test_an_absent_feature_is_left_out_once_it_stays_absent():
    gone = {
        "schema_changes": [SchemaChange(column="gust", before="double", now=None, compared=False)],
        "features": [FINE],
    }
    unmeasured = Drift(column="gust", kind="numeric", importance=None)
    gone["features"] = [FINE, unmeasured]
    assert not plan(findings(**gone, **BAD)).is_requested
    assert plan(findings(**gone, **BAD), months(gone, gone)).without == ["gust"]


def test_a_training_set_leaves_out_what_the_newest_request_of_every_model_names():
    def provenance(*named: tuple[str, list[str]]) -> set[str]:
        requests = [
            asking(day(number), model=model).model_copy(update={"without": without})
            for number, (model, without) in enumerate(named)
        ]
        return Provenance(requests=requests).left_out()

    assert provenance() == set()
    assert provenance(("delays", ["wind"]), ("delays", ["gust"])) == {"gust"}
    assert provenance(("delays", ["wind", "gust"]), ("fares", ["gust"])) == {"gust"}
    assert provenance(("delays", ["wind"]), ("fares", [])) == set()


TWO_OF_THREE = {"persistence": {"k": 2, "n": 3}}


def months(*fields: dict[str, Any], policy: dict[str, Any] | None = None) -> list[Findings]:
    """Findings for the months before April, the last of them for March."""
    first = 4 - len(fields)
    return [findings(policy, window=f"2013-{first + number:02}", **item) for number, item in enumerate(fields)]


@pytest.mark.parametrize(
    ("earlier", "often"),
    [
        ([], 1),
        ([{}, {}], 1),
        ([BAD, {}], 2),
        ([{}, BAD], 2),
        ([BAD, BAD], 3),
        # The bad window lies before the last three.
        ([BAD, {}, {}], 1),
        # Another version was bad.
        ([{}, {**BAD, "scored_by": V2}], 1),
        ([{}, {**BAD, "scored_by": None}], 1),
        ([{}, {**BAD, "unmeasured": "there are 12 labels"}], 1),
        # Another version became champion since and has made no predictions yet.
        ([{}, {**BAD, "champion": V2}], 2),
    ],
)
def test_a_measured_trigger_must_hold_in_k_of_the_last_n_windows_of_the_same_version(earlier, often):
    found = findings(TWO_OF_THREE, **BAD)
    made = plan(found, months(*earlier))
    (held,) = made.triggers
    assert (held.windows, held.enough) == (often, often >= 2)
    verdict = decide(found, made)
    assert verdict.decision == ("retrain" if often >= 2 else "watch")
    assert f"'realised performance' was met in {often} of the last 3 windows (2 needed)." in verdict.reason
    so_far = f"ROC AUC fell to 0.600; retraining needs 2 such windows in the last 3 ({often} so far)"
    assert (verdict.headline == so_far) == (often < 2)


def test_earlier_windows_are_judged_by_the_present_policy():
    earlier = months({"performance": auc(0.65)}, {"performance": auc(0.65)}, policy={"tolerance": 0.2})
    assert plan(findings(TWO_OF_THREE, **BAD), earlier).triggers[0].windows == 3


@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        ({}, {"champion": None}),
        ({"max_age": "P60D"}, {"age_days": 61.0}),
        ({"code": "b2"}, {"code_version": "a1"}),
        (
            {"new_data": {"dataset": "flights", "windows": 1}},
            {"arrivals": Arrivals(dataset="flights", windows=2, rows=9)},
        ),
    ],
)
def test_triggers_that_do_not_vary_by_chance_need_no_persistence(policy, fields):
    found = findings({**policy, "persistence": {"k": 3, "n": 3}}, **fields)
    verdict = decide(found)
    assert verdict.decision == "retrain"
    assert "of the last" not in verdict.reason


def test_the_cooldown_postpones_a_request_and_the_reason_says_until_when():
    found = findings({"cooldown": "45D"}, **BAD)
    made = plan(found, requests=[asking("2013-03")])
    assert decide(found, made).decision == "watch"
    verdict = decide(found, made)
    assert verdict.headline == "ROC AUC fell to 0.600; retraining postponed by the cooldown"
    for fact in ("2013-03", "45 days", "2013-05-16"):
        assert fact in verdict.details[0]
    # A window that is checked late may lie before the one with the request.
    assert not plan(findings({"cooldown": "45D"}, window="2013-02", **BAD), requests=[asking("2013-03")]).is_requested
    assert plan(findings({"cooldown": "30D"}, **BAD), requests=[asking("2013-03")]).is_requested


@pytest.mark.parametrize(("other", "asks"), [(0, True), (1, False), (19, False), (20, True), (90, True)])
def test_the_cooldown_is_as_long_before_a_request_as_after_it(other, asks):
    assert planned(day(10), {"cooldown": "10D"}, requests=[asking(day(other))]).is_requested is asks


@pytest.mark.parametrize(
    ("asked", "asks", "state"),
    [
        ([], True, "0 of 2 requests in 10 days are used"),
        ([0], True, "0 of 2 requests in 10 days are used"),
        ([5], True, "1 of 2 requests in 10 days are used"),
        ([5, 2], False, "the budget of 2 in 10 days is exhausted until 2013-01-14"),
        ([0, 5], True, "1 of 2 requests in 10 days are used"),
        ([5, 15], True, "1 of 2 requests in 10 days are used"),
        ([6, 15], False, "the budget of 2 in 10 days is exhausted until 2013-01-18"),
        ([12, 19], False, "the budget of 2 in 10 days is exhausted until 2013-01-22"),
    ],
)
def test_the_budget_holds_in_every_period_that_contains_the_window(asked, asks, state):
    policy = {"budget": {"requests": 2, "period": "10D"}}
    made = planned(day(10), policy, requests=[asking(day(number)) for number in asked])
    assert (made.is_requested, made.limits[0].says) == (asks, state)


@pytest.mark.parametrize(
    ("refused", "window", "asks"),
    [
        (["2013-10"], "2013-11", True),
        (["2013-10"], "2013-09", False),
        (["2013-10", "2013-11"], "2013-12", False),
        (["2013-10", "2013-11"], "2014-01", True),
        # One request may be refused twice, if a user clears the task.
        (["2013-10", "2013-10"], "2013-11", True),
        (["2013-12", "2014-01"], "2014-03", True),
        (["2013-01-30", "2013-01-31", "2013-02-02"], "2013-02-05", False),
        (["2013-01-30", "2013-01-31", "2013-02-02"], "2013-02-06", True),
    ],
)
def test_after_a_refusal_the_wait_doubles(refused, window, asks):
    asked = [asking(window) for window in refused]
    made = planned(window, {}, requests=asked, refused=asked)
    assert made.is_requested == asks
    assert [limit.name for limit in made.limits] == ["refusals"]


def test_the_reason_says_how_long_refusals_postpone_the_next_request():
    asked = [asking("2013-02"), asking("2013-03")]
    made = plan(findings(**BAD), requests=asked, refused=asked)
    verdict = decide(findings(**BAD), made)
    assert verdict.headline == "ROC AUC fell to 0.600; retraining postponed after refused candidates"
    for fact in ("2 requests were refused", "2 windows after 2013-03"):
        assert fact in verdict.details[0]
    assert not plan(findings(champion=None), requests=asked, refused=asked).is_requested


def test_other_code_resets_the_count_of_refusals():
    asked = [asking("2013-02", code="a1"), asking("2013-03", code="a1")]
    for code, asks in (("a1", False), ("b2", True)):
        assert plan(findings({"code": code}, **BAD), requests=asked, refused=asked).is_requested == asks


def test_a_model_that_the_gates_always_refuse_is_trained_less_and_less_often():
    asked: list[Request] = []
    for number in range(70):
        if planned(day(number), {}, requests=asked, refused=asked).is_requested:
            asked.append(asking(day(number)))
    assert [(request.window.start - START).days for request in asked] == [0, 1, 3, 7, 15, 31, 63]


POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "cooldown": st.integers(1, 12).map(lambda days: f"{days}D"),
        "budget": st.tuples(st.integers(1, 4), st.integers(1, 30)).map(
            lambda item: {"requests": item[0], "period": f"{item[1]}D"}
        ),
    },
)
CHECKS = st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60)


@given(POLICIES, CHECKS, st.data())
def test_in_whatever_order_windows_are_checked_neither_cooldown_nor_budget_is_overrun(given_policy, checks, data):
    policy = Policy.model_validate(given_policy)
    asked: list[Request] = []
    refused: list[Request] = []
    for number, holds in checks:
        known = {"requests": data.draw(st.permutations(asked)), "refused": refused}
        made = planned(day(number), given_policy, holds=holds, **known)
        assert holds or not made.is_requested
        if not made.is_requested:
            continue
        if made.request is None:
            asked.append(asking(day(number)))
            refused += [asked[-1]] * data.draw(st.integers(0, 2))
        # A second check gives the same decision and the same request.
        again = planned(day(number), given_policy, requests=asked, refused=refused)
        assert (again.is_requested, again.request) == (True, next(r for r in asked if r.window == day(number)))
    ends = sorted(request.window.end for request in asked)
    assert len(set(ends)) == len(ends)
    if policy.cooldown:
        assert all(second - first >= policy.cooldown for first, second in itertools.pairwise(ends))
    if policy.budget:
        for first in ends:
            assert sum(first <= end < first + policy.budget.period for end in ends) <= policy.budget.requests


@given(st.lists(st.booleans(), max_size=12), st.integers(1, 6), st.integers(0, 5), st.integers(0, 11))
def test_more_windows_with_an_active_trigger_never_prevent_a_request(held, n, less, changed):
    earlier = [{"performance"} if item else set() for item in held]

    def enough(windows, k, n=n):
        return bool(planned(day(50), {"persistence": {"k": k, "n": n}}, earlier=windows).due)

    k = max(1, n - less)
    more = [{"performance"} if number == changed else item for number, item in enumerate(earlier)]
    assert enough(more, k) >= enough(earlier, k)
    assert enough(earlier, k) >= enough(earlier, min(n, k + 1))
    assert enough(earlier, k, n + 1) >= enough(earlier, k)
    assert enough(earlier, k) == (1 + sum(held[len(held) - n + 1 :] if n <= len(held) else held) >= k)


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(f"file://{tmp_path}/store")


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
def test_the_order_in_which_windows_were_checked_does_not_matter(order, store):
    """Persistence depends on the times of the windows, not on the order of the checks."""
    found = {number: findings(TWO_OF_THREE, window=f"2013-{number:02}") for number in (1, 2, 3)}
    found[2] = findings(TWO_OF_THREE, window="2013-02", **BAD)
    april = findings(TWO_OF_THREE, **BAD)
    for number in order:
        one = found[number]
        made = request_retraining(one, monitor_report.history(one.model, one.window, store), StepContext(store))
        report = Report(**dict(one), verdict=decide(one, made), retraining=made)
        store.write_json(archive.key(store, "delays", one.window), report.model_dump(mode="json"))
    earlier = monitor_report.history(april.model, april.window, store)
    assert [report.window.label for report in earlier] == ["2013-01", "2013-02", "2013-03"]
    assert request_retraining(april, earlier, StepContext(store)).triggers[0].windows == 2
    assert [request.window.label for request in all_requests(Ledger(store, "delays").entries())] == ["2013-04"]


def answer(store, request: Request, decision: str = "refused", champion: ModelVersionRef = V1) -> None:
    """Record the decision on the candidate of a training run that ``request`` started."""
    entry = Decision(
        decision=decision,
        replaced=V1,
        champion=champion,
        reason="Gates.",
        provenance=Provenance(requests=[request]),
    )
    ledger = Ledger(store, "delays")
    ledger.record(f"run {len(ledger.entries())}", lambda entries: entry)


def test_a_request_is_in_the_ledger_once_with_its_reason(store):
    found = findings({"code": "b2"}, **BAD)
    context = StepContext(store, provenance=Provenance(dag_id="monitor", run_id="r"))
    made = request_retraining(found, [], context)
    assert (made.request.id, made.request.triggers, made.request.code) == ("delays/2013-04", ["performance"], "b2")
    assert made.request.reason == decide(found, made).reason
    assert made.request.metrics["roc_auc"] == 0.6
    assert made.request.report_url == store.url_of("reports/delays/2013-04.html")
    (entry,) = Ledger(store, "delays").entries()
    assert (entry.decision, entry.moves, entry.requested, entry.reason) == (
        "requested", False, made.request, made.request.reason
    )  # fmt: skip
    assert (entry.provenance.dag_id, entry.champion, entry.replaced) == ("monitor", V1, V1)
    # The same window is checked again: by another task, after later windows, after the refusal of its candidate, and
    # with other findings.
    request_retraining(findings(window="2013-06", **BAD), [], context)
    answer(store, made.request)
    again = request_retraining(findings({"code": "b2"}, performance=auc(0.5)), [], StepContext(store, key="other"))
    assert again.is_requested
    assert again.request == made.request
    assert [entry.decision for entry in Ledger(store, "delays").entries()] == ["requested", "requested", "refused"]
    # A request stays recorded even if a later check of the window would not request retraining.
    better = request_retraining(findings(), [], StepContext(store))
    assert (better.is_requested, better.request) == (False, made.request)


def test_refusals_count_until_the_champion_changes(store):
    context = StepContext(store)

    def check(window: str) -> bool:
        return request_retraining(findings(window=window, **BAD), [], context).is_requested

    for window in ("2013-04", "2013-05"):
        assert check(window)
        answer(store, all_requests(Ledger(store, "delays").entries())[-1])
    assert not check("2013-06")
    # The promotion of another model does not reset the count.
    answer(store, asking("2013-05", model="other"))
    assert not check("2013-06")
    answer(store, asking("2013-05"), "promoted", V2)
    assert refused_requests(Ledger(store, "delays").entries()) == []
    assert check("2013-06")


LIMITED = {"cooldown": {"cooldown": "45D"}, "budget": {"budget": {"requests": 1, "period": "90D"}}}


def check(store, window: str, limit: str = "cooldown") -> bool:
    """Check a bad window under a limit that one request reaches. Return whether the window requests retraining."""
    return request_retraining(findings(LIMITED[limit], window=window, **BAD), [], StepContext(store)).is_requested


def last_request(store) -> Request:
    return all_requests(Ledger(store, "delays").entries())[-1]


def promotion(store, *answered: Request, kind: str = "promoted") -> None:
    """Record that the champion changed, by a run that ``answered`` started or, without them, by a person."""
    entry = Decision(
        decision=kind, replaced=V1, champion=V2, reason="Gates.", provenance=Provenance(requests=list(answered))
    )
    ledger = Ledger(store, "delays")
    ledger.record(f"change {len(ledger.entries())}", lambda entries: entry)


def states(store) -> list[str]:
    return [item.state for item in recorded_requests(store, "delays", Ledger(store, "delays").entries())]


@pytest.mark.parametrize("limit", LIMITED)
def test_a_request_that_nothing_answered_does_not_limit_later_windows(limit, store):
    assert check(store, "2013-02", limit)
    assert states(store) == ["open"]
    assert check(store, "2013-03", limit)
    assert states(store) == ["expired", "open"]
    # A training starts for the newest request.
    answered = Provenance(dag_id="train", run_id="r", task_id="t", requests=[last_request(store)])
    record_answer(store, answered)
    assert states(store) == ["expired", "answered"]
    assert not check(store, "2013-04", limit)
    assert read_answer(store, last_request(store)).run_id == "r"
    # A late task of the same training changes nothing.
    record_answer(store, answered.model_copy(update={"run_id": "later"}))
    assert read_answer(store, last_request(store)).run_id == "r"


@pytest.mark.parametrize("limit", LIMITED)
@pytest.mark.parametrize("decision", ["refused", "promoted"])
def test_a_request_whose_candidate_was_judged_limits_later_windows(limit, decision, store):
    assert check(store, "2013-02", limit)
    answer(store, last_request(store), decision)
    # One refused candidate alone would not postpone this window.
    assert not check(store, "2013-04" if limit == "budget" else "2013-03", limit)
    assert states(store) == ["answered"]


@pytest.mark.parametrize("limit", LIMITED)
@pytest.mark.parametrize("kind", ["promoted", "rolled_back"])
def test_a_request_is_moot_after_the_champion_changed_for_another_reason(limit, kind, store):
    assert check(store, "2013-03", limit)
    promotion(store, kind=kind)
    assert states(store) == ["moot"]
    # A moot request limits no other window, not even an earlier one.
    assert check(store, "2013-02", limit)


@pytest.mark.parametrize("kind", ["promoted", "rolled_back"])
def test_a_change_of_the_champion_before_a_request_does_not_make_it_moot(kind, store):
    promotion(store, kind=kind)
    assert check(store, "2013-03")
    assert states(store) == ["open"]


@pytest.mark.parametrize(("limit", "asks"), [("cooldown", True), ("budget", False)])
def test_after_another_promotion_an_answered_request_counts_for_the_budget_alone(limit, asks, store):
    assert check(store, "2013-02", limit)
    record_answer(store, Provenance(requests=[last_request(store)]))
    assert not check(store, "2013-03", limit)
    promotion(store)
    assert states(store) == ["answered"]
    assert check(store, "2013-03", limit) == asks


def test_the_promotion_of_its_own_candidate_leaves_a_request_in_the_cooldown(store):
    assert check(store, "2013-02")
    promotion(store, asking("2012-12"), last_request(store))
    assert states(store) == ["answered"]
    assert not check(store, "2013-03")


def test_an_open_request_of_a_later_window_limits_an_earlier_window(store):
    assert check(store, "2013-03")
    assert not check(store, "2013-02")
    assert check(store, "2013-04")
    assert states(store) == ["expired", "open"]


def test_a_window_that_requested_retraining_does_so_whatever_happened_to_its_request(store):
    for window in ("2013-02", "2013-03"):
        assert check(store, window)
    promotion(store)
    assert states(store) == ["moot", "moot"]
    assert check(store, "2013-02")
    assert len(all_requests(Ledger(store, "delays").entries())) == 2


@settings(deadline=None, max_examples=50)
@given(POLICIES, st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12))
def test_windows_in_time_order_decide_as_if_unanswered_requests_had_not_been_made(given_policy, windows):
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}")
    answered: list[Request] = []
    for number, (bad, answers) in enumerate(windows):
        window = day(3 * number)
        measured = BAD if bad else {}
        made = request_retraining(findings(given_policy, window=str(window), **measured), [], StepContext(store))
        expected = planned(window, given_policy, holds=bad, requests=answered)
        assert made.is_requested == expected.is_requested
        if made.is_requested and answers:
            answered.append(made.request)
            record_answer(store, Provenance(requests=[made.request]))


def test_simultaneous_checks_do_not_overrun_the_cooldown(store):
    barrier = threading.Barrier(6)
    made = []

    def check(number: int) -> None:
        found = findings({"cooldown": "30D"}, window=str(day(number)), **BAD)
        barrier.wait()
        # All checks began before the first request was recorded, so they could not have seen an answer to it.
        made.append(request_retraining(found, [], StepContext(store), seen=0))

    threads = [threading.Thread(target=check, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(plan.is_requested for plan in made) == 1
    assert len(all_requests(Ledger(store, "delays").entries())) == 1


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"retrain_on": ["drfit"]}, "Input should be 'challenger', 'performance', 'estimated_performance' or 'drift'"),
        ({"persistence": {"k": 3, "n": 2}}, "k=3 must not be larger than n=2"),
        ({"persistence": {"k": 0}}, "greater than or equal to 1"),
        ({"budget": {"requests": 0, "period": "30D"}}, "greater than or equal to 1"),
        ({"budget": {"requests": 1}}, "Field required"),
        ({"cooldown": "0D"}, "longer than zero"),
        ({"new_data": {"dataset": "flights"}}, "neither `windows` nor `share` is set"),
        ({"new_data": {"dataset": "flights", "windows": 1, "share": 0.5}}, "`windows` and `share` are both set"),
        ({"code": ""}, "at least 1 character"),
    ],
)
def test_an_invalid_policy_is_refused(policy, message):
    with pytest.raises(ValidationError, match=message):
        Policy.model_validate(policy)
