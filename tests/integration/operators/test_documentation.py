"""The DAGs in the documentation work unchanged."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.slow
def test_your_own_data_in_15_minutes(run_dag, mlflow_connection, tmp_path, monkeypatch):
    dag, table = blocks("docs/your-own-data.md")
    monkeypatch.chdir(tmp_path)
    exec(compile(table, "your-own-data", "exec"), {})
    shop = json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "shop.db")})
    first = run_dag(dag, connections={"shop": shop})
    assert set(first.states().values()) == {"success"}, first.states()
    assert first.xcom("validate")["quarantined"]["rows"] > 0
    assert first.xcom("promote")["promoted"]
    assert first.xcom("score")["scored_by"] == first.xcom("promote")["champion"]

    again = run_dag(dag, connections={"shop": shop})
    assert again.xcom("ingest")["unchanged"]
    for task in ("ingest", "validate", "training_set"):
        assert again.xcom(task)["dataset"] == first.xcom(task)["dataset"]


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
