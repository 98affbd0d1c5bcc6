"""The manifest of the pod that runs a step: it names the call and does not contain it."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from airflow_mlops.compute import Deployment, KServe, Pod
from airflow_mlops.core.calls import Provenance, StepCall
from airflow_mlops.core.errors import MemoryLimitError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.stages.calls import KEY_VARIABLE, STORE_VARIABLE, call_key
from airflow_mlops.stages.deploy.spec import DeployResult

SPEC = {"sql": "SELECT '$(HOME) $$x' FROM secret_table", "text": "漢" * 200_000}


def call(**changes) -> StepCall:
    fields = {"step": "ingest", "spec": SPEC, "store": "s3://bucket/mlops", "key": "results/d/r/t/-1/0-ab.json"}
    return StepCall(**{**fields, "version": "1", "provenance": Provenance(dag_id="d", task_id="t"), **changes})


def manifest(step: StepCall, template: dict | None = None, states: dict | None = None, **options) -> dict:
    from airflow_mlops.compute.kubernetes.step_manifest import step_manifest

    pod = Pod(image="i", **options)
    return step_manifest(pod, template or {}, step, {"task_state_store": states})


def expanded(value: str, env: dict[str, str]) -> str:
    """What the kubelet makes of a value: ``$$`` becomes ``$``, and ``$(NAME)`` the value of a known variable."""
    return re.sub(
        r"\$\$|\$\(([^)]*)\)",
        lambda found: "$" if found[0] == "$$" else env.get(found[1], found[0]),
        value,
    )


def env_of(pod: dict) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in pod["spec"]["containers"][0]["env"]}


def test_no_part_of_the_spec_is_in_the_manifest():
    text = json.dumps(manifest(call()), ensure_ascii=False)
    assert "SELECT" not in text
    assert "secret_table" not in text
    assert "漢" not in text
    assert len(text) < 5_000


@pytest.mark.parametrize(
    "url", ["s3://bucket/mlops", "file:///data/$(HOME)", "file:///$$x", "file:///$$(HOME)/$$$/$", "file:///$(UNKNOWN)"]
)
def test_store_and_key_survive_the_expansion_by_kubernetes(url):
    step = call(store=url, key="results/cli/$(HOME)$$.json")
    env = env_of(manifest(step))
    known = {"HOME": "/root", **env}
    assert expanded(env[STORE_VARIABLE], known) == url
    assert expanded(env[KEY_VARIABLE], known) == call_key(step)


def test_a_template_keeps_its_variables_and_cannot_replace_the_call():
    template = {"spec": {"containers": [{"name": "step", "env": [{"name": KEY_VARIABLE, "value": "other"}]}]}}
    env = env_of(manifest(call(), template, env={"MINE": "1"}))
    assert env[KEY_VARIABLE] == call_key(call())
    assert env["MINE"] == "1"


def test_a_field_that_kubernetes_does_not_know_is_named():
    with pytest.raises(SpecError, match=r"'spec.affinity.node'"):
        manifest(call(), affinity={"node": {"weight": 1}})


def test_memory_grows_with_every_try_that_ran_out_of_it():
    from airflow_mlops.compute.kubernetes.memory_growth import grow_on_oom

    states: dict = {}
    context = {"task_state_store": SimpleNamespace(get=states.get, set=states.__setitem__)}
    for total in (2, 4):
        error = grow_on_oom(MemoryLimitError("Too little."), 2, context)
        assert error.retryable
        assert f"{total} times" in str(error)
    limits = manifest(call(), states=states, memory="1Gi")["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"memory": "4Gi"}


def test_memory_does_not_grow_after_other_errors_or_without_a_factor():
    from airflow_mlops.compute.kubernetes.memory_growth import grow_on_oom

    states: dict = {}
    context = {"task_state_store": SimpleNamespace(get=states.get, set=states.__setitem__)}
    other, memory = SpecError("Wrong."), MemoryLimitError("Too little.")
    assert grow_on_oom(other, 2, context) is other
    assert grow_on_oom(memory, 1, context) is memory
    assert not memory.retryable
    assert states == {}


@pytest.mark.parametrize("content", ["kind: Service", "[1]", "{"])
def test_the_error_names_a_template_that_is_not_a_pod(tmp_path, content):
    from airflow_mlops.compute.kubernetes.step_manifest import read_template

    (tmp_path / "pod.yaml").write_text(content)
    with pytest.raises(SpecError, match=r"pod\.yaml"):
        read_template("pod.yaml", {"dag": SimpleNamespace(folder=str(tmp_path))})


def endpoint(kind: type, **options) -> dict:
    """The manifest of a server's pod."""
    from airflow_mlops.compute.kubernetes.serving.rollout import Rollout

    target = kind(pod=Pod(image="i", namespace="n", **options))
    ref = ModelVersionRef(model="late", version=3, run_id="r")
    chosen = DeployResult(model="late", version=ref, follows=True, check_key="k", summary="")
    return Rollout(target, call(step="deploy", spec={"model": "late"}), chosen, {}, None)._pod


@pytest.mark.parametrize("kind", [None, Deployment, KServe], ids=["step", "deployment", "kserve"])
def test_a_pod_checks_signatures_if_the_deployment_requires_them(monkeypatch, kind):
    def variables(**options):
        made = endpoint(kind, **options) if kind else manifest(call(), **options)
        (container,) = made["spec"]["containers"]
        return {item["name"]: item.get("value") for item in container["env"]}

    assert "MLOPS_VERIFYING_KEY" not in variables()
    monkeypatch.setenv("AIRFLOW__MLOPS__VERIFYING_KEY", "/etc/mlops/$1.pem")
    assert variables()["MLOPS_VERIFYING_KEY"] == "/etc/mlops/$$1.pem"
    # A pod does not get the private key. Its ``env`` can name another path of the public key.
    monkeypatch.setenv("AIRFLOW__MLOPS__SIGNING_KEY", "/etc/mlops/private.pem")
    found = variables(env={"MLOPS_VERIFYING_KEY": "/keys/public.pem"})
    assert found["MLOPS_VERIFYING_KEY"] == "/keys/public.pem"
    assert "MLOPS_SIGNING_KEY" not in found
