"""The report of a step that ran on another machine."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from airflow_mlops import __version__
from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.stages import reported

SECRET = "rEpOrTeDsEcReT"


@pytest.fixture
def report(monkeypatch):
    """``report(error)``: the report of a step that raises ``error``."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.root.level)

    def report(error: Exception | None):
        def run_call(call):
            print(f"the step {call.step} has {SECRET}")
            if error is not None:
                raise error

        monkeypatch.setattr(reported, "run_call", run_call)
        call = StepCall(step="train", spec={}, store="memory://", key="k", version=__version__)
        return json.loads(reported.run_reported(call.model_dump_json()))

    return report


def test_a_step_that_succeeds_has_an_empty_report(report, capsys):
    assert report(None) == {}
    assert capsys.readouterr().out == "the step train has ***\n"


def test_errors_have_a_type_and_no_credentials(report):
    found = report(TrainingError("too few\nrows"))
    assert found == {"error": "TrainingError", "message": "too few rows", "retryable": False, "traceback": ""}
    found = report(ValueError(f"wrong {SECRET}"))
    assert (found["error"], found["message"]) == ("ValueError", "wrong ***")
    assert "Traceback" in found["traceback"]
    assert SECRET not in str(found)


def test_a_package_that_is_not_installed_is_named(report):
    assert report(ModuleNotFoundError("No module named 'a'", name="a"))["missing"] == "a"
