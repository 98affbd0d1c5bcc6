"""Exported metrics arrive in a real Pushgateway and Prometheus, in textfiles, and over the protocol of OpenTelemetry."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.observability.export import export
from airflow_mlops.observability.samples import METRICS, monitored, scored
from tests.integration.conftest import end_group, free_port
from tests.support.deployed import flights, promote, scoring_set
from tests.support.observed import dashboard, groups, monitor_result, score_result

log = logging.getLogger(__name__)


@contextlib.contextmanager
def serve(program: str, ready: str, folder: Path, *options: str) -> Iterator[str]:
    """Run a server of Prometheus on a free port of the loopback interface, and yield its address."""
    if shutil.which(program) is None:
        pytest.skip(f"{program.upper()} IS NOT INSTALLED (apt-get install {program}): this test needs it")
    listens = f"127.0.0.1:{free_port()}"
    with (folder / f"{program}.log").open("wb") as output:
        server = subprocess.Popen(
            [program, f"--web.listen-address={listens}", *options],
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder,
        )  # fmt: skip
        try:
            for _ in range(120):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://{listens}{ready}", timeout=1).read()
                    break
                time.sleep(0.25)
            else:
                pytest.fail(f"{program} did not start: {(folder / f'{program}.log').read_text()[-2000:]}")
            yield listens
        finally:
            end_group(server)


@pytest.fixture
def pushgateway(tmp_path, monkeypatch):
    with serve("prometheus-pushgateway", "/-/ready", tmp_path) as listens:
        monkeypatch.setenv("AIRFLOW__MLOPS__PROMETHEUS_PUSHGATEWAY", f"http://{listens}")
        yield listens


def pushed(pushgateway: str) -> dict[tuple[str, str, str], float]:
    """Read the values in the Pushgateway by metric, job and version."""
    text = urllib.request.urlopen(f"http://{pushgateway}/metrics", timeout=10).read().decode()
    return {
        (item.name, item.labels["job"], item.labels.get("version", "")): item.value
        for family in text_string_to_metric_families(text)
        for item in family.samples
        if item.labels.get("model")
    }


def test_the_pushgateway_holds_the_last_run_of_each_model(pushgateway, caplog):
    export(groups()["champion"], log)
    export(scored(score_result()), log)
    export(scored(score_result(7, number=4)), log)
    export(groups()["monitor"], log)
    export(monitored({**monitor_result(), "metrics": {"rows": 5}}), log)
    found = pushed(pushgateway)
    assert found["airflow_mlops_score_rows", "airflow_mlops_score", "4"] == 7
    assert ("airflow_mlops_score_rows", "airflow_mlops_score", "3") not in found
    assert found["airflow_mlops_monitor_rows", "airflow_mlops_monitor", "3"] == 5
    # A value that the last run did not measure is removed.
    assert ("airflow_mlops_monitor_coverage_ratio", "airflow_mlops_monitor", "3") not in found
    assert found["airflow_mlops_champion_version", "airflow_mlops_champion", ""] == 3
    assert caplog.records == []


def test_every_panel_of_the_dashboard_has_data(pushgateway, tmp_path):
    for samples in groups().values():
        export(samples, log)
    config = tmp_path / "prometheus.yml"
    targets = f"[{{job_name: mlops, honor_labels: true, static_configs: [{{targets: ['{pushgateway}']}}]}}]"
    config.write_text(f"global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs: {targets}\n")
    options = (f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}")
    with serve("prometheus", "/-/ready", tmp_path, *options) as listens:

        def ask(expression: str) -> list:
            query = urllib.parse.urlencode({"query": expression.replace("$model", ".*")})
            answer = urllib.request.urlopen(f"http://{listens}/api/v1/query?{query}", timeout=10)
            return json.load(answer)["data"]["result"]

        for _ in range(120):
            if ask("airflow_mlops_champion_version") and ask("airflow_mlops_score_rows"):
                break
            time.sleep(0.25)
        assert [panel for panel, expression in dashboard() if not ask(expression)] == []
        (decision,) = ask(dict(dashboard())["Decision"])
        assert (decision["metric"], decision["value"][1]) == ({"model": "delays"}, "0")


@pytest.fixture
def collector():
    """Run an OTLP endpoint. Yield its address, and the attributes and values of the received gauges by metric name."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    found: dict[str, list[tuple[dict[str, str], float]]] = {}

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportMetricsServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            for metric in (m for r in request.resource_metrics for scope in r.scope_metrics for m in scope.metrics):
                found[metric.name] = [
                    ({a.key: a.value.string_value for a in point.attributes}, point.as_double)
                    for point in metric.gauge.data_points
                ]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/metrics", found
        server.shutdown()


# Initialises Airflow's metrics in the same way as Airflow's task runner.
TASK = """
import logging
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics import stats_utils
from airflow_mlops.observability.export import export
from tests.support.observed import groups
stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
for samples in groups().values():
    export(samples, logging.getLogger())
"""


def test_airflow_sends_every_metric_over_opentelemetry(collector):
    address, found = collector
    settings = {
        "AIRFLOW__METRICS__OTEL_ON": "True",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": address,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    done = subprocess.run(
        [sys.executable, "-c", TASK], env={**os.environ, **settings}, cwd=Path(__file__).parents[3],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # A collector converts names for Prometheus. The converted names equal the names in the textfiles.
    assert {name.replace(".", "_") for name in found} == {metric.prometheus for metric in METRICS.values()}
    assert found["airflow.mlops.score.rows"] == [({"model": "delays", "version": "3"}, 2_000)]
    assert sorted((labels["decision"], value) for labels, value in found["airflow.mlops.monitor.decision"]) == [
        ("healthy", 1), ("retrain", 0), ("watch", 0),
    ]  # fmt: skip


DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import MonitorOperator, PromoteOperator, ScoreOperator

with DAG("metrics_{model}", default_args={{"model": "{model}"}}):
    scored = ScoreOperator(task_id="score", dataset={{"name": "scoring_{model}", "window": "2013-04"}})
    MonitorOperator(task_id="monitor", dataset=scored.output) >> PromoteOperator(task_id="promote", verdict={verdict})
"""


def test_each_task_of_a_dag_writes_a_textfile(run_dag, mlflow_connection, tmp_path, monkeypatch):
    from airflow_mlops.core.connections import from_environment
    from airflow_mlops.registry.client import connect
    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    model = f"delays_{uuid.uuid4().hex[:8]}"
    version = promote(connect(MLflowTarget(), from_environment), tmp_path, store, model)
    scoring_set(store, flights(300), "2013-04", f"scoring_{model}")
    verdict = {
        "model": model, "dataset_name": "d", "dataset_id": "0", "part": "test", "metric": "roc_auc", "winner": None,
        "champion": version.model_dump(), "candidates": [], "reason": "None passed.",
    }  # fmt: skip
    folder = tmp_path / "textfile"
    folder.mkdir()
    monkeypatch.setenv("AIRFLOW__MLOPS__PROMETHEUS_TEXTFILE", str(folder))
    run = run_dag(DAG.format(model=model, verdict=verdict))
    assert set(run.states().values()) == {"success"}, run.states()
    found = {
        (item.name, *(item.labels[name] for name in ("version", "decision", "source") if name in item.labels)): item
        for file in folder.iterdir()
        for family in text_string_to_metric_families(file.read_text())
        for item in family.samples
    }
    assert len(list(folder.iterdir())) == 3
    assert {item.labels["model"] for item in found.values()} == {model}
    assert found["airflow_mlops_score_rows", "1"].value == 300
    assert found["airflow_mlops_monitor_rows", "1"].value == 300
    assert found["airflow_mlops_monitor_decision", "1", run.xcom("monitor")["decision"]].value == 1
    estimated = run.xcom("monitor")["metrics"]["estimated_roc_auc"]
    assert found["airflow_mlops_monitor_performance", "1", "estimated"].value == estimated
    assert found["airflow_mlops_champion_decision", "refused"].value == 1
    assert found["airflow_mlops_champion_version",].value == 1
