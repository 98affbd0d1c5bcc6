"""The key of a call, which identifies the call in MLflow and in the artifact store."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import airflow_mlops
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(f"file://{tmp_path}/store")


def test_the_key_of_a_task_is_kept(store):
    context = StepContext(store, "results/d/r/t/-1/0-abc.json")
    assert context.for_call() is context
    assert not context.is_adhoc


def test_every_call_of_a_script_has_a_key_of_its_own(store):
    context = StepContext(store)
    first, second = context.for_call(), context.for_call()
    assert len({context.key, first.key, second.key}) == 3
    assert first.for_call() is first
    assert context.is_adhoc
    assert first.is_adhoc


def test_every_step_that_uses_the_key_asks_for_the_key_of_its_call():
    stages = Path(airflow_mlops.__file__).parent / "stages"
    steps = {file.parent.name: file.read_text() for file in stages.glob("*/step.py")}
    using = {name for name, source in steps.items() if re.search(r"context\.key\b", source)}
    asking = {name for name, source in steps.items() if "context.for_call()" in source}
    assert "train" in using
    assert using <= asking
