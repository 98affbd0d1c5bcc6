"""The DAGs in the documentation work unchanged."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The table of docs/your-own-data.md, as a connection."""
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("docs/your-own-data.md")[0], "your-own-data", "exec"), {})
    return {"shop": json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "shop.db")})}


@pytest.mark.slow
def test_your_own_data_in_15_minutes(run_dag, mlflow_connection, shop):
    _, dag = blocks("docs/your-own-data.md")
    first = run_dag(dag, connections=shop)
    assert set(first.states().values()) == {"success"}, first.states()
    assert first.xcom("validate")["quarantined"]["rows"] > 0
    assert first.xcom("promote")["promoted"]
    assert first.xcom("score")["scored_by"] == first.xcom("promote")["champion"]

    # What was decided is shown beside the green tasks.
    winner = first.xcom("promote")["champion"]["version"]
    assert first.shown("ingest") is None
    assert first.shown("validate") == f"quarantined {first.xcom('validate')['quarantined']['rows']:,} rows"
    assert (first.shown("evaluate"), first.shown("promote")) == (f"v{winner} passed", f"promoted v{winner}")

    again = run_dag(dag, connections=shop)
    assert set(again.states().values()) == {"success"}, again.states()
    assert again.xcom("ingest")["unchanged"]
    for task in ("ingest", "validate", "training_set"):
        assert again.xcom(task)["dataset"] == first.xcom(task)["dataset"]
    # The same rows give the same models: no version is registered, and the champion stays.
    for index in (0, 1):
        before, after = (run.xcom("train", map_index=index) for run in (first, again))
        assert after["candidate"] == before["candidate"]
        assert after["run_id"] != before["run_id"]
    assert not again.xcom("promote")["promoted"]
    assert again.xcom("promote")["champion"] == first.xcom("promote")["champion"]
    for task in ("evaluate", "promote"):
        assert again.shown(task).startswith("refused: No candidate passed")
        assert len(again.shown(task)) <= 200


@pytest.mark.slow
def test_the_dag_in_ten_lines(run_dag, mlflow_connection, shop):
    dag, *_ = blocks("README.md")
    outcome = run_dag(dag.replace('"churn"', '"churn_in_ten_lines"'), connections=shop)
    assert set(outcome.states().values()) == {"success"}, outcome.states()
    assert outcome.xcom("promote")["promoted"]


@pytest.mark.slow
def test_hyperparameters_from_the_trigger_form(run_dag, client, shop):
    (dag,) = (block for block in blocks("docs/operators/train.md") if "churn_by_hand" in block)
    conf = {"max_iter": 7, "learning_rate": 0.5, "interaction_cst": "pairwise", "seed": 3}
    for asked, expected in (
        (conf, conf),
        ({}, {"max_iter": 50, "learning_rate": 0.1, "interaction_cst": None, "seed": 0}),
    ):
        outcome = run_dag(dag, conf=asked, connections=shop)
        assert outcome.state == "success", outcome.states()
        used = client.get_run(outcome.xcom("train")["run_id"]).data.params
        assert {name: used[name] for name in expected} == {name: str(value) for name, value in expected.items()}


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_every_dag_in_the_pages_can_be_parsed(page, tmp_path):
    from airflow.dag_processing.dagbag import DagBag

    for number, block in enumerate(blocks(page)):
        if "with DAG(" in block and "import DAG" in block:
            file = tmp_path / f"block_{number}.py"
            file.write_text(block)
            bag = DagBag(file)
            assert not bag.import_errors, bag.import_errors
            assert bag.dags
