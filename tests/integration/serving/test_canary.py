"""A canary answers a share of the requests of a real server, one version for each entity, until it fails too often for all servers."""

from __future__ import annotations

import time
import uuid
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import numpy as np
import pytest
import requests

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.registry import canary_counts
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.versions import by_alias
from airflow_mlops.serving.canary.answering import place
from airflow_mlops.serving.log.merge import merge
from airflow_mlops.stages.canary import step as canary_step
from airflow_mlops.stages.canary.spec import CanarySpec
from airflow_mlops.stages.context import StepContext
from tests.integration.serving.test_server import served
from tests.support import candidates
from tests.support.candidates import register, training_set


def fragile(task, features, weights) -> bytes:
    """A linear model that fails if ``wind`` is 5 or more, like a lookup table that has only the values of the training data."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    made = onnx.load_from_string(linear(task, features, weights))
    graph = made.graph
    next(node for node in graph.node if "value" in node.output).output[0] = "sum"
    graph.initializer.append(numpy_helper.from_array(np.zeros(5, dtype=np.float32), "table"))
    place = next(number for number, node in enumerate(graph.node) if "sum" in node.output) + 1
    for node in reversed(
        [
            helper.make_node("Cast", ["wind"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "whole"], ["found"]),
            helper.make_node("Add", ["sum", "found"], ["value"]),
        ]
    ):
        graph.node.insert(place, node)
    return bytes(made.SerializeToString())


linear = candidates.linear


@pytest.fixture
def model(client, store, tmp_path, mlflow_server, monkeypatch):
    """A model with a champion, and a canary that fails for some rows."""
    name = f"delays_{uuid.uuid4().hex[:8]}"
    dataset = training_set(store, name=f"{name}_training")
    champion = register(client, tmp_path / "v1", dataset, (1, 2), model=name)
    monkeypatch.setattr(candidates, "linear", fragile)
    canary = register(client, tmp_path / "v2", dataset, (2, 0), model=name)
    client.set_registered_model_alias(name, "champion", str(champion.version))
    client.set_registered_model_alias(name, "challenger", str(canary.version))
    return SimpleNamespace(model=name, url=store.url, mlflow=mlflow_server)


def metrics(server) -> dict[str, float]:
    lines = requests.get(f"{server.url}/metrics", timeout=10).text.splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}


def wait_for(condition) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)


def test_entities_keep_their_version_and_failures_are_shown_counted_and_end_the_canary(client, store, model, tmp_path):
    began = datetime.now(timezone.utc)
    # The server uses the share in MLflow instead of the share of its option.
    options = ("--canary", "canary", "--canary-share", "0.9", "--canary-key", "flight")
    with served(model, tmp_path / "spool", *options) as server:
        spec = CanarySpec(model=model.model, version="challenger", shares=[0.3])
        assert canary_step.run(spec, StepContext(store=store)).state == "started"
        wait_for(lambda: metrics(server)["mlops_serve_canary_version"] == 2)
        assert metrics(server)["mlops_serve_canary_share"] == 0.3
        with requests.Session() as session:

            def ask(flight: int, wind: float = 0.0, path: str = server.predict):
                row = {"distance": 1.0, "wind": wind, "flight": flight}
                return session.post(path, json={"rows": [row]}, timeout=20)

            expected = {flight: 2 if place(model.model, flight) < 0.3 else 1 for flight in range(100)}
            for _ in range(2):
                assert {flight: ask(flight).json()["version"] for flight in expected} == expected
            theirs = [flight for flight, version in expected.items() if version == 2]
            inputs = [
                {"name": name, "shape": [1, 1], "datatype": kind, "data": [value]}
                for name, kind, value in (
                    ("distance", "FP64", 1.0),
                    ("wind", "FP64", 0.0),
                    ("flight", "INT64", theirs[0]),
                )
            ]
            answer = session.post(server.infer, json={"inputs": inputs}).json()
            assert answer["model_version"] == "2"
            named = f"{server.url}/v2/models/{model.model}/versions/1/predict"
            assert ask(theirs[0], path=named).json()["version"] == 1
            # CanaryOperator reads the failures of all servers from the artifact store.
            row = {"distance": 1.0, "wind": 0.0, "flight": theirs[0]}
            v2, v1, since = (*(ModelVersionRef(model=model.model, version=n, run_id="") for n in (2, 1)), began)
            wait_for(
                lambda: (
                    session.post(server.predict, json={"rows": [row], "log": False}).ok
                    and canary_counts.total(store, v2, v1, since)
                )
            )
            (counts,) = canary_counts.total(store, v2, v1, since).items()
            assert (counts[0], counts[1].canary_failed, counts[1].champion_failed) == (0.3, 0, 0)
            assert counts[1].canary > 0
            # Requests that name the canary are not part of its share, and their failures do not withdraw it.
            canary = f"{server.url}/v2/models/{model.model}/versions/2/predict"
            assert {ask(theirs[0], wind=7.0, path=canary).status_code for _ in range(10)} == {500}
            # If the canary fails to answer a request, no other version answers it.
            failures = [ask(theirs[0], wind=7.0) for _ in range(10)]
            assert {answer.status_code for answer in failures} == {500}
            assert all("v2" in answer.json()["error"] for answer in failures)
            found = metrics(server)
            assert found['mlops_serve_version_requests_total{status="failed",version="2"}'] == 20
            assert found["mlops_serve_canary_withdrawn_version"] == 2
            assert ask(theirs[0], wind=7.0).json()["version"] == 1
            # All other servers follow the alias.
            wait_for(lambda: by_alias(client, model.model, "canary") is None)
            assert metrics(server)["mlops_serve_canary_withdrawn_version"] == 2
    *_, entry = Ledger(store, model.model).entries()
    assert (entry.decision, entry.canary.version.version, entry.canary.share) == ("canary_withdrawn", 2, 0)
    assert "failed 10 of its last" in entry.reason
    assert any("withdrawn" in line for line in server.lines)
    later = datetime.now(timezone.utc) + timedelta(days=1)
    for kind, version, rows in ((None, 1, 2 * (100 - len(theirs)) + 2), ("canary", 2, 2 * len(theirs) + 1)):
        name = f"{model.model}{f'_{kind}' if kind else ''}_predictions"
        merge(store, model.model, name, later, apart=kind)
        datasets = PredictionLog(store, model.model, name).present()
        assert {
            (item.manifest.details["model_version"], bool(item.manifest.details.get("canary"))) for item in datasets
        } == {(version, kind == "canary")}
        assert sum(item.rows for item in datasets) == rows
