"""Steps in real pods: results, errors, retries, and clusters that misbehave."""

from __future__ import annotations

import json
import time

import pytest

from airflow_mlops import __version__
from tests.kubernetes.conftest import evict, meanwhile
from tests.kubernetes.faults import FaultyApi

MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])


def failed(run, log: str, *texts: str) -> None:
    assert run.states() == {"probe": "failed"}
    for text in texts:
        assert text in log, log[-6000:]


@MODES
def test_step_runs_in_a_pod_and_its_log_is_in_the_log_of_the_task(cluster, run_probe, counter, deferrable, capfd):
    run = run_probe(cluster.pod(deferrable=deferrable), {"counter": str(counter), "seconds": 2, "text": "hello"})
    logged = capfd.readouterr().out
    assert run.states() == {"probe": "success"}
    result = run.xcom("probe")
    assert result.pop("usage")["seconds"] >= 0
    assert result == {"runs": 1, "text": "hello", "summary": "Probed 1 times.", "cached": None}
    assert "probing, run 1" in logged
    assert "second 2" in logged
    assert "rror" not in logged, logged
    assert ("Pausing task as DEFERRED" in logged) is deferrable
    assert counter.read_text().startswith("probe-")
    cluster.wait_until_empty()


def test_call_reaches_the_pod_unchanged_and_is_not_in_its_manifest(cluster, run_probe, counter):
    """Kubernetes replaces ``$(NAME)`` and ``$$`` in environment variables, and an environment variable has a limit of 128 KiB."""
    store = cluster.folder / "$(HOME)$$store"
    store.mkdir(exist_ok=True)
    text = "SELECT '$(HOME) $$x', $(MLOPS_POD) FROM t -- " + "漢字" * 100_000
    manifests = []

    def look() -> None:
        manifests.append(str(cluster.wait_for_pod().to_dict()))

    with meanwhile(look):
        run = run_probe(
            cluster.pod(), {"counter": str(counter), "seconds": 3, "text": text}, f"retries=0, store='file://{store}'"
        )
    assert run.states() == {"probe": "success"}
    assert run.xcom("probe")["text"] == text
    assert "SELECT" not in manifests[0]
    assert len(list(store.glob("calls/**/*.json"))) == 1


@MODES
def test_pod_that_is_deleted_after_its_result_was_stored_is_a_success(cluster, run_probe, counter, deferrable):
    def delete() -> None:
        cluster.wait_for_pod()
        while not list(cluster.folder.glob("artifacts/results/**/*.json")):
            time.sleep(0.1)
        (pod,) = cluster.pods()
        cluster.core.delete_namespaced_pod(pod.metadata.name, cluster.namespace, grace_period_seconds=0)

    for old in cluster.folder.glob("artifacts/results/**/*.json"):
        old.unlink()
    with meanwhile(delete):
        pod = cluster.pod(deferrable=deferrable, env={"PROBE_LINGERS": "30"})
        run = run_probe(pod, {"counter": str(counter)}, "retries=0")
    assert run.xcom("probe")["runs"] == 1


@MODES
def test_evicted_pod_is_retried(cluster, run_probe, counter, deferrable, capfd):
    def evict_it() -> None:
        while not counter.exists():
            time.sleep(0.1)
        evict(cluster)

    with meanwhile(evict_it):
        run = run_probe(cluster.pod(deferrable=deferrable), {"counter": str(counter), "seconds": 8}, "retries=1")
    logged = capfd.readouterr().out
    assert run.states() == {"probe": "success"}
    assert run.xcom("probe")["runs"] == 2
    assert "was drained" in logged, logged


@MODES
def test_error_of_the_step_is_the_error_of_the_task(cluster, run_probe, counter, deferrable, capfd):
    options = {"counter": str(counter), "fail": "The well is dry: dig another."}
    run = run_probe(cluster.pod(deferrable=deferrable), options)
    failed(run, capfd.readouterr().out, "SourceError: The well is dry: dig another.")
    cluster.wait_until_empty()


@MODES
def test_next_try_gets_more_memory_after_out_of_memory(cluster, run_probe, counter, deferrable, capfd):
    options = {"counter": str(counter), "memory_mb": 300}
    pod = cluster.pod(deferrable=deferrable, memory="256Mi", grow_memory=2)
    run = run_probe(pod, options, "retries=2")
    logged = capfd.readouterr().out
    assert run.states() == {"probe": "success"}
    assert run.xcom("probe")["runs"] == 2
    assert "OOMKilled" in logged, logged
    assert "The limit is 256Mi" in logged
    assert "2 times Pod(memory=...)" in logged


def test_out_of_memory_is_a_final_error_if_memory_does_not_grow(cluster, run_probe, counter, capfd):
    run = run_probe(cluster.pod(memory="128Mi"), {"counter": str(counter), "memory_mb": 300}, "retries=3")
    failed(run, capfd.readouterr().out, "MemoryLimitError", "Pod(grow_memory=2)")
    assert len(counter.read_text().splitlines()) == 1


@MODES
@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({"image": "localhost/no-such-image:1"}, ["ImageError: Image 'localhost/no-such-image:1'"]),
        ({"image": "not an image"}, ["ImageError", "InvalidImageName"]),
        (
            {"image": "localhost/busybox:1", "pod_template_file": "USER"},
            ["ImageError: Image 'localhost/busybox:1'", "docker/"],
        ),
        ({"env_from": ["no-such-secret"]}, ["SpecError: Container 'base'", "no-such-secret"]),
        (
            {"tolerations": [{"operator": "Sometimes"}]},
            ["SpecError: ", "tolerations"],
        ),
        ({"affinity": {"node": {"weight": 1}}}, ["SpecError: ", "'spec.affinity.node'"]),
        ({"cpu": "much"}, ["SpecError: ", "quantit"]),
    ],
    ids=["image", "image name", "command", "secret", "toleration", "field", "quantity"],
)
def test_pod_that_cannot_start_fails_within_seconds_and_is_not_retried(
    cluster, run_probe, counter, deferrable, options, messages, capfd
):
    if "pod_template_file" in options:
        template = cluster.folder / "user.yaml"
        template.write_text("spec: {securityContext: {runAsUser: 1000}}")
        options = {**options, "pod_template_file": str(template)}
    start = time.monotonic()
    run = run_probe(cluster.pod(deferrable=deferrable, **options), {"counter": str(counter)}, "retries=3")
    taken = time.monotonic() - start
    failed(run, capfd.readouterr().out, *messages)
    # The default of schedule_timeout is longer.
    assert taken < 100
    cluster.wait_until_empty()


def test_another_version_in_the_image_is_a_final_error(cluster, run_probe, counter, capfd):
    folder = cluster.folder / "other" / "airflow_mlops"
    folder.mkdir(parents=True, exist_ok=True)
    pod = cluster.pod(env={"PROBE_VERSION": "9.9.9"})
    run = run_probe(pod, {"counter": str(counter)}, "retries=3")
    failed(run, capfd.readouterr().out, "SpecError: ", "9.9.9", __version__)
    assert not counter.exists()


@MODES
def test_gpu_that_no_node_has_is_named_after_schedule_timeout(cluster, run_probe, counter, deferrable, capfd):
    pod = cluster.pod(deferrable=deferrable, gpus=1, gpu_resource="mlops.test/absent", schedule_timeout=8)
    run = run_probe(pod, {"counter": str(counter)}, "retries=0")
    failed(run, capfd.readouterr().out, "Insufficient mlops.test/absent", "NoCapacityError: ", "schedule_timeout")
    cluster.wait_until_empty()


def test_exhausted_quota_is_named(cluster, run_probe, counter, capfd):
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    cluster.core.create_namespaced_resource_quota(cluster.namespace, quota)
    try:
        time.sleep(1)
        run = run_probe(cluster.pod(), {"counter": str(counter)}, "retries=0")
    finally:
        cluster.core.delete_namespaced_resource_quota("none", cluster.namespace)
    failed(run, capfd.readouterr().out, "NoCapacityError: ", "quota", cluster.namespace)


def test_missing_rights_are_a_final_error(cluster, run_probe, counter, capfd):
    if "airflow" not in cluster.contexts:
        pytest.skip("the cluster has no user 'airflow'")
    run = run_probe(cluster.pod(namespace="default"), {"counter": str(counter)}, "retries=3")
    failed(run, capfd.readouterr().out, "ComputeError: Kubernetes refuses", "'default'", "Running on Kubernetes")


@MODES
def test_api_server_that_refuses_and_drops_requests_has_no_effect(
    cluster, run_dag, probe_dag, counter, deferrable, tmp_path, monkeypatch
):
    monkeypatch.delenv("KUBECONFIG")
    context = "airflow" if "airflow" in cluster.contexts else cluster.contexts[0]
    with FaultyApi(cluster.kubeconfig, context, tmp_path) as api:
        extra = {"kube_config_path": str(api.kubeconfig), "cluster_context": context, "namespace": cluster.namespace}
        connection = json.dumps({"conn_type": "kubernetes", "extra": extra})
        pod = cluster.pod(deferrable=deferrable)
        source = probe_dag(pod, {"counter": str(counter), "seconds": 5}, "retries=0")
        run = run_dag(source, connections={"kubernetes_default": connection})
    assert run.states() == {"probe": "success"}
    assert run.xcom("probe")["runs"] == 1
    assert set(api.faults) == {"429", "500", "drop", "lose"}, api.seen
    cluster.wait_until_empty()
