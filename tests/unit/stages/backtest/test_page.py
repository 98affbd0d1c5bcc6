"""The page of a backtest: every figure of the result, one line for each strategy, and data escaped."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from xml.etree import ElementTree

import yaml

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.backtest.page.report import policy_text, render
from airflow_mlops.stages.backtest.spec import BacktestResult, Replayed, Step
from tests.unit.stages.monitor.test_report import Page, text_of

MONTHS = [Window.model_validate(f"2013-{month:02}") for month in (4, 5, 6, 7)]


def replayed(strategy: str, *values: float, trained: dict[int, bool | None] | None = None, **fields) -> Replayed:
    """A strategy with these values of RMSE. ``trained`` says after which windows it trained, and whether it helped."""
    known = trained or {}
    steps = [
        Step(
            window=window, loss=value**2, value=value, trained=index in known, helped=known.get(index),
            triggers=["challenger"] if index in known and strategy == "policy" else [], **fields,
        )
        for index, (window, value) in enumerate(zip(MONTHS, values, strict=True))
    ]  # fmt: skip
    return Replayed(strategy=strategy, steps=steps)


def result(**fields) -> BacktestResult:
    known = {
        "summary": "s", "version": ModelVersionRef(model="delays<i>", version=1, run_id="r"), "delay": 1,
        "window": Window(start=MONTHS[0].start, end=MONTHS[-1].end), "policy": Policy(min_gain=0.1), "metric": "rmse",
        "created": datetime(2014, 1, 1, tzinfo=timezone.utc), "fits": 40, "seconds": 20.0, "page_url": "u",
        "strategies": [
            replayed("never", 1, 1, 2, 2),
            replayed("every window", 1, 1, 1, 1, trained={0: False, 1: True, 2: True, 3: None}),
            replayed("policy", 1, 1, 2, 1, trained={0: False, 2: True}, compared=True),
            replayed("oracle", 1, 1, 1, 1),
        ],
    }  # fmt: skip
    return BacktestResult(**{**known, **fields})


def rows_of(page: str) -> list[list[str]]:
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page) if "<td" in row]


def test_the_page_has_the_figures_of_every_strategy():
    page = render(result())
    rows = {row[0]: row[1:] for row in rows_of(page)}
    assert rows["policy"] == ["1.250", "1.750 (75.0% above the oracle)", "2", "4", "1 of 2"]
    assert rows["every window"] == ["1.000", "1.000 (0.0% above the oracle)", "4", "-", "1 of 3"]
    assert rows["never"] == ["1.500", "2.500 (150.0% above the oracle)", "0", "-", "-"]
    assert rows["oracle"] == ["1.000", "1.000", "-", "-", "-"]
    assert rows["2013-04"] == ["1.000", "1.000 ↻", "1.000 ↻", "1.000", "challenger", "did not help"]
    assert rows["2013-06"][-2:] == ["challenger", "helped"]
    words = text_of(page)
    assert (
        "Mean RMSE 1.250 with 2 trainings; trained after every window: 1.000 with 4; never trained again: 1.500"
        in words
    )
    assert "40 models for all strategies together, 0.5 seconds each" in words
    assert "after 1 window" in words


def test_the_chart_has_a_line_for_each_strategy_and_a_mark_for_each_training():
    page = render(result())
    (chart,) = [found for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if 'role="img"' in found]
    drawn = ElementTree.fromstring(chart)
    assert len(drawn.findall("path")) == 4
    assert len(drawn.findall(".//rect")) == 2
    titles = [item.text for item in drawn.iter("title")]
    assert len(titles) == 16
    assert "2013-06: RMSE 2 by policy, trained afterwards (challenger)" in titles


def test_windows_without_labels_have_no_value_and_no_mark():
    found = result()
    unlabelled = [item.steps[1].model_copy(update={"loss": None, "value": None}) for item in found.strategies]
    for item, step in zip(found.strategies, unlabelled, strict=True):
        item.steps[1] = step
    page = render(found)
    rows = {row[0]: row[1:] for row in rows_of(page)}
    assert rows["2013-05"][:4] == ["no value", "no value ↻", "no value", "no value"]
    assert rows["policy"][0] == "1.333"
    assert page.count("<title>2013-05") == 0
    assert found.model_dump(mode="json")["strategies"][0]["steps"][1]["value"] is None


def test_the_policy_is_text_that_the_command_reads():
    policy = Policy.model_validate({"max_age": "P90D", "cooldown": "30D", "budget": {"requests": 4, "period": "365D"}})
    assert Policy.model_validate(yaml.safe_load(policy_text(policy))) == policy
    assert Policy.model_validate(yaml.safe_load(policy_text(Policy())) or {}) == Policy()


def test_the_page_needs_nothing_else_and_escapes_data():
    page = Page(text := render(result()))
    assert "delays<i>" not in text
    assert page.fetched == []
    assert "script" not in page.tags
    assert page.open == []


def test_windows_of_one_value_and_without_loss_have_a_page():
    flat = [replayed(name, 0, 0, 0, 0) for name in ("never", "every window", "policy", "oracle")]
    assert "0.000" in render(result(strategies=flat))
