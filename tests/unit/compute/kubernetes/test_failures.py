"""Which error the last state of a pod becomes, and whether a retry can help."""

from __future__ import annotations

import json

import pytest

from airflow_mlops.compute.kubernetes import failures
from airflow_mlops.core.errors import ComputeError, ImageError, MemoryLimitError, SourceError, SpecError


def pod(code: int, message: str = "", reason: str = "Error", limit: str | None = "1Gi") -> dict:
    resources = {"limits": {"memory": limit}} if limit else {}
    ended = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return {
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"nodeName": "m", "containers": [{"name": "base", "image": "i:1", "resources": resources}]},
        "status": {"phase": "Failed", "containerStatuses": [{"name": "base", "state": ended}]},
    }


def error(found: dict | None, text: str = "Pod p returned a failure."):
    return failures.failure(found, "base", [], text)


@pytest.mark.parametrize(("name", "kind"), [("SpecError", SpecError), ("SourceError", SourceError)])
def test_error_of_the_step_comes_from_the_termination_message(name, kind):
    found = error(pod(1, json.dumps({"error": name, "message": "Why.", "peak_memory": 1})))
    assert type(found) is kind
    assert str(found) == "Why."


def test_log_lines_are_never_parsed_as_an_error_of_the_step():
    # With FallbackToLogsOnError, Kubernetes puts the end of the log into an empty termination message.
    found = error(pod(1, "ERROR SpecError not from the step\nparting words"))
    assert type(found) is ComputeError
    assert "parting words" in str(found)


def test_exit_without_an_error_shows_no_json():
    found = error(pod(3, json.dumps({"peak_memory": 5})))
    assert type(found) is ComputeError
    assert "exit status 3" in str(found)
    assert "peak_memory" not in str(found)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (pod(137, reason="OOMKilled"), MemoryLimitError),
        (pod(137, json.dumps({"peak_memory": 1020 * 2**20})), MemoryLimitError),
        (pod(137, json.dumps({"peak_memory": 500 * 2**20})), ComputeError),
        (pod(137, json.dumps({"peak_memory": 500 * 2**20}), limit=None), ComputeError),
        (pod(127), ImageError),
        (pod(1, "/usr/bin/python: No module named airflow_mlops"), ImageError),
        (pod(1, json.dumps({"error": "ModuleNotFoundError", "message": "No module named 'x'"})), ComputeError),
        (pod(143), ComputeError),
        (None, ComputeError),
    ],
    ids=["oom", "oom by use", "killed", "killed, no limit", "command", "module", "module in step", "term", "unseen"],
)
def test_class_of_the_error(state, kind):
    assert type(error(state)) is kind


def test_out_of_memory_names_the_limit_and_the_last_known_use():
    found = str(error(pod(137, json.dumps({"peak_memory": 1020 * 2**20}), reason="OOMKilled")))
    assert "1Gi" in found
    assert "1,020 MiB" in found
    assert "grow_memory=2" in found


def test_pod_that_is_gone_when_a_deferred_task_resumes_was_deleted():
    found = error(None, "Pod n/p not found after resuming from deferral")
    assert type(found) is ComputeError
    assert "deleted" in str(found)
    assert "n/p" in str(found)
    assert found.retryable
    assert "deleted" not in str(error(None, "Connection refused"))
