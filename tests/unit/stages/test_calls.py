"""A call reaches a pod through the artifact store."""

from __future__ import annotations

import hashlib
import os
from functools import partial

import pytest

from airflow_mlops import __version__
from airflow_mlops.core.calls import Provenance, StepCall
from airflow_mlops.core.errors import ComputeError, SpecError
from airflow_mlops.data.results import result_key
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages import runner
from airflow_mlops.stages.calls import KEY_VARIABLE, STORE_VARIABLE, call_key, read_call, receive_call, write_call

SQL = "SELECT '$(HOME) $$x', '漢字' FROM t"


def call(store: ArtifactStore, **changes) -> StepCall:
    provenance = Provenance(dag_id="d", run_id="manual $(HOME)", task_id="t")
    spec = {"sql": SQL}
    fields = {"step": "ingest", "spec": spec, "store": store.url, "version": __version__, "provenance": provenance}
    return StepCall(**{**fields, "key": result_key("ingest", spec, provenance), **changes})


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/$(HOME)$$store")


def received(call: StepCall, monkeypatch) -> StepCall:
    monkeypatch.setenv(STORE_VARIABLE, call.store)
    monkeypatch.setenv(KEY_VARIABLE, call_key(call))
    return receive_call()


def test_call_arrives_unchanged(store, monkeypatch):
    made = call(store, spec={"sql": SQL, "text": "ü" * 200_000})
    write_call(made)
    assert received(made, monkeypatch) == made
    # A process that the step starts must not receive the call again.
    assert not {STORE_VARIABLE, KEY_VARIABLE} & set(os.environ)


def test_keys_have_the_prefix_of_their_task_and_differ_with_the_content(store):
    first = call(store)
    second = first.model_copy(update={"provenance": first.provenance.model_copy(update={"try_number": 2})})
    assert call_key(first) == call_key(call(store))
    assert call_key(first) != call_key(second)
    prefix = first.key.removesuffix(".json").replace("results/", "calls/", 1)
    for made in (first, second, first):
        assert call_key(made).startswith(f"{prefix}-")
        write_call(made)
    assert store.keys(prefix.rpartition("/")[0]) == sorted([call_key(first), call_key(second)])
    assert store.keys("results") == []


def test_call_that_is_not_in_the_store_names_store_and_key(store, monkeypatch):
    made = call(store)
    with pytest.raises(ComputeError) as error:
        received(made, monkeypatch)
    assert store.url in str(error.value)
    assert call_key(made) in str(error.value)


def test_call_of_another_version_is_a_final_error_whatever_its_fields(store, monkeypatch):
    content = b'{"version": "99.0", "unknown": 1}'
    key = f"calls/d/r/t-{hashlib.sha256(content).hexdigest()[:16]}.json"
    store.write_bytes(key, content)
    monkeypatch.setenv(STORE_VARIABLE, store.url)
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(SpecError) as error:
        receive_call()
    assert "99.0" in str(error.value)
    assert __version__ in str(error.value)


def test_a_call_that_somebody_changed_in_the_store_does_not_run(store, monkeypatch):
    made = call(store)
    write_call(made)
    attack = made.model_copy(update={"step": "train", "spec": {"trainer": {"function": "os:system"}}})
    store.write_bytes(call_key(made), attack.model_dump_json().encode())
    with pytest.raises(SpecError, match="changed"):
        received(made, monkeypatch)
    with pytest.raises(SpecError, match="changed"):
        read_call(store.url, call_key(made))


def test_a_step_sets_the_threads_and_the_allocator_of_libraries_before_it_loads_them(store, monkeypatch):
    called = []
    for name in ("limit_libraries", "use_malloc"):
        monkeypatch.setattr(runner, name, partial(called.append, name))
    with pytest.raises(SpecError):
        runner.run_call(call(store))
    assert called == ["limit_libraries", "use_malloc"]
