"""Which inputs count as unchanged in the cache, and what happens if a cached result was deleted or changed."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops import __version__
from airflow_mlops.core import own_code
from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Provenance, Request, StepCall
from airflow_mlops.core.errors import DatasetPurgedError, SpecError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, find_datasets, make_current, mark_purged, open_dataset
from airflow_mlops.data.results import result_key
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.cache import Cached
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.forecast_rows.spec import ForecastRowsSpec
from airflow_mlops.stages.profile.spec import ProfileSpec
from airflow_mlops.stages.runner import run_call
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.stages.validate.spec import ValidateSpec

ROWS = {"at": [f"2024-01-{day:02}" for day in range(1, 21)], "n": [*range(20)], "late": [0, 1] * 10}
SPECS = {
    "profile": ProfileSpec,
    "validate": ValidateSpec,
    "training_set": TrainingSetSpec,
    "forecast_rows": ForecastRowsSpec,
}
SUITE = {"name": "s", "expectations": [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "n"}}]}


@pytest.fixture(scope="module")
def store() -> ArtifactStore:
    return ArtifactStore("memory://cache")


def write(store, rows=ROWS, window="2024-01", name="rows"):
    with DatasetWriter(store, name) as writer:
        writer.write(pa.table(rows))
        return writer.commit(window=Window.model_validate(window))[0].ref


def key(store, step, spec, provenance=None):
    """The fingerprint of the inputs of a step."""
    parsed = parse(SPECS[step], spec, "The step")
    provenance = provenance or Provenance()
    call = StepCall(
        step=step, spec=parsed.model_dump(mode="json"), store=store.url, key="k", version=__version__, cache="use"
    )
    return Cached(call, parsed, StepContext(store=store, provenance=provenance))._key


# For each step a spec, and values that other fields may have.
STEPS = {
    "profile": ({}, {"columns": [["n"], ["late"], ["n", "late"]], "shards": [2, 3]}),
    "validate": (
        {"suite": SUITE},
        {
            "suite": [SUITE | {"name": "t"}, {"name": "s", "expectations": SUITE["expectations"] * 2}],
            "on_failure": ["warn"],
        },
    ),
    "training_set": (
        {"name": "set", "timestamp": "at", "columns": ["n"], "label": "late"},
        {"columns": [["n", "at2"]], "label": [None], "split": ["hash"], "name": ["other"], "positive": [0]},
    ),
    "forecast_rows": (
        {"name": "set", "series": "late", "time": "at", "value": "n", "every": "P1D", "horizon": 2, "lags": [1]},
        {"lags": [[1, 2]], "horizon": [3], "season": [2], "origins": ["newest"], "zone": ["Europe/Berlin"]},
    ),
}
INPUT = {"profile": "dataset", "validate": "dataset", "training_set": "entities", "forecast_rows": "entities"}


@st.composite
def changes(draw):
    """A step, its spec, and a change of spec or rows or window."""
    step = draw(st.sampled_from(sorted(STEPS)))
    spec, others = STEPS[step]
    field = draw(st.sampled_from([*sorted(others), "rows", "window"]))
    if field == "rows":
        row, column = draw(st.integers(0, 19)), draw(st.sampled_from(["n", "late"]))
        changed = {**ROWS, column: [value + (1 if index == row else 0) for index, value in enumerate(ROWS[column])]}
        return step, spec, spec, {"rows": changed}
    if field == "window":
        return step, spec, spec, {"window": draw(st.sampled_from(["2024-02", "2024", "2024-01-01"]))}
    return step, spec, {**spec, field: draw(st.sampled_from(others[field]))}, {}


@settings(max_examples=30)
@given(changes())
def test_every_change_of_spec_or_rows_is_another_input(store, change):
    step, spec, other, data = change
    before = key(store, step, {**spec, INPUT[step]: write(store)})
    after = key(store, step, {**other, INPUT[step]: write(store, **data)})
    assert None not in (before, after)
    assert before != after
    assert key(store, step, {**spec, INPUT[step]: write(store)}) == before


@settings(max_examples=15)
@given(
    step=st.sampled_from(sorted(STEPS)),
    named=st.sampled_from(
        [{"name": "rows", "window": "2024-01"}, {"dataset": {"name": "rows", "window": "2024-01"}}, "reference", "list"]
    ),
)
def test_the_same_rows_named_in_another_way_are_the_same_input(store, step, named):
    ref = write(store)
    spec = STEPS[step][0]
    chosen = {"reference": ref.model_copy(update={"rows": 0, "parts": {}}), "list": [ref]}.get(str(named), named)
    assert key(store, step, {**spec, INPUT[step]: ref}) == key(store, step, {**spec, INPUT[step]: chosen})


def test_another_dataset_under_the_same_name_is_another_input(store):
    chosen = {"name": "rows", "window": "2024-01"}
    write(store)
    before = key(store, "profile", {"dataset": chosen})
    write(store, {**ROWS, "n": [7] * 20})
    assert key(store, "profile", {"dataset": chosen}) != before


def test_the_content_of_a_suite_counts_and_not_its_path(store, tmp_path):
    ref = write(store)

    def of(suite):
        return key(store, "validate", {"dataset": ref, "suite": suite})

    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(json.dumps(SUITE))
    two.write_text(json.dumps(SUITE, indent=2))
    before = of(str(one))
    assert before == of(str(two)) == of(SUITE)
    two.write_text(json.dumps(SUITE | {"expectations": SUITE["expectations"] * 2}))
    assert of(str(two)) != before


@pytest.mark.parametrize(
    ("kind", "kwargs", "reason"),
    [
        ("expect_column_values_to_be_odd", {}, "the code of the expectation"),
        ("expect_column_max_to_be_between", {"max_value": {"$PARAMETER": "now()"}}, "may depend on the time"),
        ("unexpected_rows_expectation", {"unexpected_rows_query": "SELECT 1"}, "runs a query"),
        ("expect_query_results_to_match_comparison", {}, "runs a query"),
    ],
)
def test_a_suite_that_depends_on_more_is_not_cached_and_the_log_says_why(store, kind, kwargs, reason, caplog):
    caplog.set_level("INFO", logger="airflow_mlops.stages")
    suite = {"name": "s", "expectations": [{"type": kind, "kwargs": kwargs}]}
    assert key(store, "validate", {"dataset": write(store), "suite": suite}) is None
    assert reason in caplog.text


def test_features_that_a_retraining_request_leaves_out_count(store):
    request = Request(
        id="r", model="m", triggers=[], reason="", window="2024-01", created="2024-02-01T00:00:00Z", without=["n"]
    )
    spec = {**STEPS["training_set"][0], "entities": write(store)}
    assert key(store, "training_set", spec) != key(store, "training_set", spec, Provenance(requests=[request]))


def test_another_version_is_another_input(store, monkeypatch):
    spec = {"dataset": write(store)}
    before = key(store, "profile", spec)
    monkeypatch.setattr(own_code, "__version__", "0.0.1")
    assert key(store, "profile", spec) != before


def profiled(store, run_id, cache="use", **spec):
    """Profile the rows as a task of a DAG run does."""
    return as_task("profile", parse(ProfileSpec, spec, "The step"), store, run_id, cache)


def as_task(step, spec, store, run_id, cache):
    """Run a step as a task of a DAG run does."""
    content = spec.model_dump(mode="json")
    provenance = Provenance(dag_id="d", run_id=run_id, task_id="t")
    call = StepCall(
        step=step,
        spec=content,
        store=store.url,
        key=result_key(step, content, provenance),
        version=__version__,
        provenance=provenance,
        cache=cache,
    )
    return run_call(call)


@pytest.fixture
def place(tmp_path):
    return ArtifactStore(f"file://{tmp_path}/store")


def test_a_result_is_returned_with_the_run_that_made_it(place):
    ref = write(place)
    first = profiled(place, "one", dataset=ref)
    assert first["cached"] is None
    second, third = (profiled(place, run_id, dataset=ref) for run_id in ("two", "three"))
    for found in (second, third):
        assert (found["cached"]["run_id"], found["cached"]["task_id"]) == ("one", "t")
        assert found["profile"] == first["profile"]
        assert found["summary"] == f"{first['summary']} Taken from the cache: task d.t in run one computed it."
    # Without the cache, and in a task that was cleared, the step runs.
    assert profiled(place, "four", cache=None, dataset=ref)["cached"] is None
    assert profiled(place, "five", cache="renew", dataset=ref)["cached"] is None
    assert profiled(place, "six", dataset=ref)["cached"]["run_id"] == "five"


def drop_profile(store, first):
    store.delete(f"datasets/rows/profiles/{first['profile']['id']}.json.gz")


def change_profile(store, first):
    store.write_bytes(f"datasets/rows/profiles/{first['profile']['id']}.json.gz", b"changed")


def change_result(store, first):
    store.write_json(first["key"], {**store.read_json(first["key"]), "summary": "Changed."})


def drop_result(store, first):
    store.delete(first["key"])


def damage_entry(store, first):
    (entry,) = store.keys("cache/profile")
    store.write_bytes(entry, b"{")


@pytest.mark.parametrize("damage", [drop_profile, change_profile, change_result, drop_result, damage_entry])
def test_a_deleted_or_changed_result_is_computed_again(place, damage, caplog):
    caplog.set_level(logging.INFO, logger="airflow_mlops.stages")
    ref = write(place)
    first = profiled(place, "one", dataset=ref)
    (entry,) = place.keys("cache/profile")
    damage(place, {**first, "key": place.read_json(entry)["origin"]["key"]})
    second = profiled(place, "two", dataset=ref)
    assert second["cached"] is None
    assert second["profile"] == first["profile"]
    assert "so the step is computed" in caplog.text
    assert profiled(place, "three", dataset=ref)["cached"]["run_id"] == "two"


def test_a_failed_step_is_not_cached(place):
    ref = write(place)
    with pytest.raises(Exception, match="no column"):
        profiled(place, "one", dataset=ref, columns=["absent"])
    assert place.keys("cache") == []
    assert profiled(place, "two", dataset={"name": "none"}, on_missing="skip")["profile"] is None
    assert place.keys("cache") == []


def test_inputs_that_change_while_the_step_runs_are_not_cached(place, monkeypatch):
    from airflow_mlops.stages.profile import step

    ref, profile = write(place), step.profile

    def changing(batches, columns):
        monkeypatch.setattr(own_code, "__version__", "0.0.1")
        return profile(batches, columns)

    monkeypatch.setattr(step, "profile", changing)
    profiled(place, "one", dataset=ref)
    assert place.keys("cache") == []


def test_a_step_without_cache_refuses_it(place):
    call = StepCall(step="promote", spec={}, store=place.url, key="k", version=__version__, cache="use")
    with pytest.raises(SpecError, match="'promote' does not support cache=True"):
        Cached(call, None, StepContext(store=place))


def purge(store, ref):
    mark_purged(store, open_dataset(store, ref).manifest, datetime.now(timezone.utc))


@pytest.mark.parametrize("step", sorted(STEPS))
def test_purged_rows_are_not_an_input(place, step, caplog):
    caplog.set_level("INFO", logger="airflow_mlops.stages")
    ref = write(place)
    spec = {**STEPS[step][0], INPUT[step]: ref}
    assert key(place, step, spec) is not None
    purge(place, ref)
    assert key(place, step, spec) is None
    assert "dataset 'rows' was purged" in caplog.text


def test_a_profile_of_purged_rows_fails_as_without_the_cache(place):
    ref = write(place)
    assert profiled(place, "one", dataset=ref)["cached"] is None
    assert profiled(place, "two", dataset=ref)["cached"]["run_id"] == "one"
    purge(place, ref)
    for run_id, cache in (("three", "use"), ("four", None)):
        with pytest.raises(DatasetPurgedError):
            profiled(place, run_id, cache, dataset=ref)


def built(store, run_id, ref, cache="use"):
    """Build a training set as a task of a DAG run does."""
    spec = parse(TrainingSetSpec, {**STEPS["training_set"][0], "entities": ref}, "")
    return as_task("training_set", spec, store, run_id, cache)


def test_a_purged_training_set_is_built_again_and_purged_events_fail_as_without_the_cache(place):
    ref = write(place)
    first = built(place, "one", ref)
    assert built(place, "two", ref)["cached"]["run_id"] == "one"
    # The files of a purged dataset may still exist.
    purge(place, parse(DatasetRef, first["dataset"], ""))
    again = built(place, "three", ref)
    assert (again["cached"], again["dataset"]) == (None, first["dataset"])
    assert built(place, "four", ref)["cached"]["run_id"] == "three"
    purge(place, ref)
    for run_id, cache in (("five", "use"), ("six", None)):
        with pytest.raises(DatasetPurgedError):
            built(place, run_id, ref, cache)


def test_the_cached_dataset_becomes_the_current_one_again(place):
    first = built(place, "one", write(place))
    second = built(place, "two", write(place, {**ROWS, "n": [*range(100, 120)]}))
    third = built(place, "three", write(place))
    assert (second["cached"], third["cached"]["run_id"]) == (None, "one")
    (current,) = find_datasets(place, "set")
    assert current.manifest.id == third["dataset"]["id"] == first["dataset"]["id"]
    make_current(place, current.manifest)
    # The files were purged.
    for file in current.manifest.files:
        place.delete(file.path)
    assert built(place, "four", write(place))["cached"] is None
