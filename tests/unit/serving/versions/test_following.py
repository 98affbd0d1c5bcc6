"""The look-ups of the server itself, after the process that follows the champion has ended."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from airflow_mlops.core.errors import RegistryUnavailableError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions import following
from airflow_mlops.serving.versions.failures import Failures
from airflow_mlops.serving.versions.loaded import Versions

AWAY = RegistryUnavailableError("MLflow is away.")


@pytest.fixture
def watched(monkeypatch):
    """Return a function that looks up the given answers, one after another, while v1 is served."""
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", '{"conn_type": "mlflow", "host": "http://mlflow:5000"}')
    monkeypatch.setattr(following, "_RETRY_SECONDS", 0.001)

    def watch(*answers, target=None, failures=None, **fields):
        left, pending = list(answers), []

        def version(model, alias):
            assert (model, alias) == ("m", target or "champion")
            pending.append(found.problem)
            answer = left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(following, "Aliases", lambda connection: SimpleNamespace(version=version))
        versions = Versions()
        versions.promote(SimpleNamespace(ref=ModelVersionRef(model="m", version=1, run_id="")))
        spec = ServeSpec(model="m", store="file:///s", poll_seconds=0.001, **fields)
        found = following.Following(spec, None, versions, target)
        found._failures = failures or Failures()
        found._watch()
        return SimpleNamespace(left=left, problems=[*pending[1:], found.problem], numbers=versions.numbers)

    return watch


def test_another_version_ends_the_look_ups(watched):
    found = watched(1, 1, 2, 3)
    assert (found.left, found.problems[:2]) == ([3], ["", ""])


def test_an_unavailable_mlflow_is_reported_once_and_the_version_is_kept(watched, caplog):
    with caplog.at_level(logging.WARNING):
        found = watched(AWAY, AWAY, 1, AWAY, 2)
    kept = "MLflow is away. v1 is still served."
    assert found.problems == [kept, kept, "", kept, kept]
    assert [record.getMessage() for record in caplog.records] == [kept, kept]
    assert found.numbers == ["1"]


def test_a_champion_stays_without_its_alias_and_another_version_does_not(watched):
    found = watched(None, None, 2)
    assert "has no champion yet" in found.problems[0]
    assert found.numbers == ["1"]
    found = watched(None, None, 1, target="challenger", shadow="challenger")
    assert "has no challenger yet" in found.problems[0]
    assert found.numbers == []


def test_a_version_that_failed_is_tried_again_only_when_it_is_due(watched):
    failures = Failures(2, 1, left=3_600)
    found = watched(2, 2, 3, failures=failures)
    assert found.left == []
    found = watched(2, 2, failures=Failures(2, 1, left=0))
    assert found.left == [2]


def test_a_pinned_version_is_not_looked_up(watched):
    found = watched(target="2", shadow="2")
    assert found.numbers == ["1"]
