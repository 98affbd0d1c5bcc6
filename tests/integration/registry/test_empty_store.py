"""The folder of a file system that is not mounted is empty. If a model has a champion, it is not taken for a new store."""

from __future__ import annotations

import pytest

from airflow_mlops.core.errors import DatasetNotFoundError, StoreError
from airflow_mlops.core.references import DatasetSelection
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.champion import download_champion
from airflow_mlops.registry import aliases, canary, outside_moves
from airflow_mlops.registry.integrity import download_promoted
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.names import LEDGER_TAG
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.integration.registry.test_outside_moves import promoted  # noqa: F401 - a fixture
from tests.integration.stages.test_promote import back, do, verdict, versions  # noqa: F401 - a fixture

DAY = DatasetSelection(name="predictions", window="2026-03-03")


@pytest.fixture
def mount(tmp_path):
    (tmp_path / "mount").mkdir()
    return tmp_path / "mount"


def test_no_decision_is_made_without_the_ledger_that_mlflow_names(client, promoted, mount, monkeypatch):  # noqa: F811
    monkeypatch.setattr(aliases, "_REPAIR_SECONDS", 0)
    _, v2, v3 = promoted
    empty = ArtifactStore(mount.as_uri())
    ledger = Ledger(empty, v2.model)
    for act in (
        lambda: do(empty, verdict(v3, v2), "a"),
        lambda: back(empty, v2.model, "b"),
        lambda: outside_moves.record(client, ledger, "c", "webhook"),
        lambda: canary.withdraw(client, ledger, 3, "It is slow."),
        # A name and a window without a dataset are no error, because there may be no predictions yet.
        lambda: monitor.run(MonitorSpec(model=v2.model, dataset=DAY), StepContext(empty, "d")),
        lambda: download_champion(client, empty, v2, print, named=False),
        lambda: download_promoted(client, empty, v2),
    ):
        with pytest.raises(StoreError, match="entry 2 of the ledger") as caught:
            act()
        assert caught.value.retryable
    assert list(mount.iterdir()) == []
    # A person deletes the tag, because the ledger is lost.
    client.delete_model_version_tag(v2.model, "2", LEDGER_TAG)
    assert do(empty, verdict(v3, v2), "a").promoted


def test_steps_that_read_datasets_refuse_an_empty_store(mount):
    context = StepContext(ArtifactStore(mount.as_uri()), "k")
    joined = {"predictions": DAY, "labels": {"name": "labels"}, "on": ["id"], "label": "y", "name": "outcomes"}
    for step, spec in (
        (score, ScoreSpec(model="m", dataset=DAY)),
        (join_labels, JoinLabelsSpec(**joined)),
    ):
        with pytest.raises(DatasetNotFoundError):
            step.run(spec, context)
    assert list(mount.iterdir()) == []
