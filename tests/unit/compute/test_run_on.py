"""``run_on`` as text and as a setting, and what a DAG file with pods imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from airflow_mlops.compute import Pod, Process, Worker, from_text
from airflow_mlops.core.errors import SpecError


def test_run_on_is_parsed_from_text():
    assert isinstance(from_text("Worker"), Worker)
    process = from_text('{"Process": {"python": "/opt/ml/bin/python"}}')
    assert isinstance(process, Process)
    pod = from_text('{"Pod": {"image": "i", "memory": "4Gi"}}')
    assert isinstance(pod, Pod)
    assert (pod.image, pod.memory) == ("i", "4Gi")


@pytest.mark.parametrize("text", ["Cloud", "{", '{"Pod": {"picture": "i"}}', '{"Pod": {}}', "[]"])
def test_invalid_text_is_an_error(text):
    with pytest.raises(SpecError):
        from_text(text)


def test_setting_applies_to_operators_without_run_on(monkeypatch):
    from airflow_mlops.operators import IngestOperator

    monkeypatch.setenv("AIRFLOW__MLOPS__RUN_ON", '{"Pod": {"image": "i"}}')
    assert isinstance(IngestOperator(task_id="a", name="n", files="f").run_on, Pod)
    assert isinstance(IngestOperator(task_id="a", name="n", files="f", run_on=Worker()).run_on, Worker)


def test_parsing_a_dag_with_pods_and_ray_imports_no_client(tmp_path):
    code = """
import sys
from airflow.sdk import DAG
from airflow_mlops.compute import Pod, Ray
from airflow_mlops.operators import TrainOperator
with DAG("d", default_args={"run_on": Pod(image="i", gpus=1)}) as dag:
    TrainOperator.partial(task_id="t", dataset={}, model="m").expand(trainer=[{"estimator": "sklearn.svm.SVR"}])
    TrainOperator(task_id="u", dataset={}, model="m", trainer={"estimator": "sklearn.svm.SVR"})
    TrainOperator(task_id="v", dataset={}, model="m", trainer={"estimator": "sklearn.svm.SVR"}, run_on=Ray(memory="1Gi"))
assert dag.get_task("u").run_on.gpus == 1
print([name for name in sys.modules if name.startswith(("kubernetes", "ray", "airflow.providers.cncf.kubernetes.operators"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
