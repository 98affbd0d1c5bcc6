"""Airflow's UI shows the decision of a task next to the task, and the task succeeds."""

from __future__ import annotations

import pytest

from airflow_mlops.operators import (
    CanaryOperator,
    EvaluateOperator,
    MonitorOperator,
    PromoteOperator,
    RollbackOperator,
    TransferModelOperator,
    ValidateOperator,
)

DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import IngestOperator

class DecidingOperator(IngestOperator):
    def decision(self, result):
        return f"kept {{result['dataset']['rows']}} rows, {{{{{{{{ 1 + 1 }}}}}}}}" + self.description * 300

with DAG("decisions", schedule=None):
    IngestOperator(task_id="nothing", name="a", files="{file}")
    DecidingOperator(task_id="one", name="b", files="{file}")
    DecidingOperator(task_id="long", name="c", files="{file}", description="x")
    DecidingOperator(task_id="named", name="d", files="{file}", map_index_template="my {{{{ mlops_decision }}}}")
    DecidingOperator.partial(task_id="mapped", files="{file}").expand(name=["e", "f"])
"""


def test_the_decision_is_shown_for_each_task_instance(run_dag, tmp_path):
    (tmp_path / "rows.csv").write_text("n\n1\n2\n")
    outcome = run_dag(DAG.format(file=tmp_path / "rows.csv"))
    assert outcome.state == "success", outcome.states()
    # The text that a step returns is not rendered as a template.
    text = "kept 2 rows, {{ 1 + 1 }}"
    assert outcome.shown("nothing") is None
    assert outcome.shown("one") == text
    assert outcome.shown("long") == (text + "x" * 300)[:200]
    assert outcome.shown("named") == f"my {text}"
    assert [outcome.shown("mapped", index) for index in (0, 1)] == [f"0: {text}", f"1: {text}"]


CHAMPION = {"model": "m", "version": 7, "run_id": "r"}


@pytest.mark.parametrize(
    ("operator", "result", "text"),
    [
        (MonitorOperator, {"decision": "watch", "headline": "rain drifted"}, "watch: rain drifted"),
        (MonitorOperator, {"decision": "healthy", "headline": ""}, "healthy"),
        (CanaryOperator, {"state": "widened", "share": 0.2, "reason": "why"}, "widened 20%: why"),
        (CanaryOperator, {"state": "started", "share": 0.005, "reason": "why"}, "started 0.5%: why"),
        (CanaryOperator, {"state": "withdrawn", "share": 0.0, "reason": "why"}, "withdrawn: why"),
        (EvaluateOperator, {"verdict": {"winner": CHAMPION, "reason": "why"}}, "v7 passed"),
        (EvaluateOperator, {"verdict": {"winner": None, "reason": "why"}}, "refused: why"),
        (PromoteOperator, {"promoted": True, "champion": CHAMPION, "ledger_url": "u", "reason": "why"}, "promoted v7"),
        (
            PromoteOperator,
            {"promoted": False, "champion": CHAMPION, "ledger_url": "u", "reason": "why"},
            "refused: why",
        ),
        (
            PromoteOperator,
            {"promoted": False, "champion": CHAMPION, "ledger_url": None, "reason": "why"},
            "unchanged: why",
        ),
        (RollbackOperator, {"rolled_back": True, "champion": CHAMPION}, "rolled back to v7"),
        (RollbackOperator, {"rolled_back": False, "champion": CHAMPION}, "unchanged: v7"),
        (TransferModelOperator, {"transferred": True, "candidate": CHAMPION}, "copied as v7"),
        (TransferModelOperator, {"transferred": False, "candidate": CHAMPION}, "unchanged: v7"),
        (ValidateOperator, {"success": None, "quarantined": None, "outcomes": []}, None),
        (ValidateOperator, {"success": True, "quarantined": {"rows": 0}, "outcomes": [{"success": True}]}, None),
        (ValidateOperator, {"quarantined": {"rows": 1200}, "outcomes": [{"success": False}]}, "quarantined 1,200 rows"),
        (ValidateOperator, {"quarantined": None, "outcomes": [{"success": False}]}, "warning: expectations failed"),
        (
            ValidateOperator,
            {"quarantined": None, "outcomes": [{"success": False, "severity": "warning"}]},
            "warning: expectations failed",
        ),
        (ValidateOperator, {"quarantined": None, "outcomes": [{"success": False, "severity": "info"}]}, None),
    ],
)
def test_each_operator_says_what_it_decided(operator, result, text):
    assert operator.decision(None, result) == text
