"""Names and explanations cannot add markup to a request for approval."""

from __future__ import annotations

import string
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.gates.evidence import Evidence, Measurement
from airflow_mlops.gates.rules import parse_gates
from airflow_mlops.operators.approval import answer_page, request_text
from airflow_mlops.registry.records.verdict import CandidateVerdict, GateResult, Verdict

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def rendered(name, explanation="It is.", address="http://mlflow/#/runs/1"):
    winner = ModelVersionRef(model=name, version=2, run_id="r")
    gate = GateResult(gate=name, measured=0.7, asked=0.6, passed=True, explanation=explanation)
    verdict = Verdict(
        model=name, dataset_name="d", dataset_id="0" * 64, part=name, metric="roc_auc", winner=winner, champion=None,
        candidates=[CandidateVerdict(candidate=winner, metrics={name: 0.7}, gates=[gate], passed=True)],
        reason=f"{name} passed: {explanation}",
    )  # fmt: skip
    _, body = request_text(verdict, {f"MLflow run of {name}": address})
    return PARSER.render(body)


def elements(page):
    return [
        page.count(f"<{tag}") for tag in ("a ", "img", "h1", "h2", "h3", "em", "strong", "code", "script", "b>", "td")
    ]


EXPECTED = elements(rendered("plain"))
TEXT = st.text(string.ascii_letters + string.digits + string.punctuation + " \n", min_size=1, max_size=40)


@given(name=TEXT.filter(str.strip), explanation=TEXT)
def test_text_of_users_adds_no_markup(name, explanation):
    assert elements(rendered(name, explanation)) == EXPECTED


@pytest.mark.parametrize(
    "name",
    [
        "[Approve](https://evil.example)",
        "![](https://evil.example/seen.png)",
        "<img src=https://evil.example/seen.png>",
        "a | b | **c** | `d`",
        "<https://evil.example>",
        "x\n\n# y",
        "_y_ ~~z~~ &lt;b&gt;",
        "__0__ a__b__c",
    ],
)
def test_links_images_and_tables_of_users_are_text(name):
    assert elements(rendered(name, name)) == EXPECTED


def test_ordinary_names_are_not_changed():
    assert "roc_auc at least 0.6" in rendered("roc_auc at least 0.6")


def test_large_numbers_keep_all_digits_before_the_decimal_point():
    winner = ModelVersionRef(model="fares", version=2, run_id="r")
    (gate,) = parse_gates([{"metric": "rmse", "max": 23_456}])
    found = gate.check(
        Evidence(
            task="regression",
            truth=np.array([1.0]),
            candidate=Measurement("fares v2", {"rmse": 12_345.4}),
            baseline=Measurement("baseline", {}),
        )
    )
    verdict = Verdict(
        model="fares", dataset_name="d", dataset_id="0" * 64, part="test", metric="rmse", winner=winner, champion=None,
        candidates=[CandidateVerdict(candidate=winner, metrics={"rmse": 12_345.4}, gates=[found], passed=True)],
        reason="It passed every gate.",
    )  # fmt: skip
    _, body = request_text(verdict, {})
    assert "| rmse at most 23,456 | 12,345 | 23,456 | passed | rmse 12,345 is at most 23,456. |" in body
    assert "| rmse | 12,345 |" in body


def test_an_address_stays_one_link():
    assert elements(rendered("plain", address="http://mlflow/a) [x](http://evil.example")) == EXPECTED


@pytest.mark.parametrize(("map_index", "place"), [(None, ""), (-1, ""), (0, "/mapped/0"), (3, "/mapped/3")])
def test_the_page_of_the_answer_is_that_of_the_task_instance(map_index, place):
    ti = SimpleNamespace(dag_id="train", run_id="manual__1+0", task_id="promote", map_index=map_index)
    assert answer_page({"ti": ti}).endswith(f"/dags/train/runs/manual__1%2B0/tasks/promote{place}/required_actions")
