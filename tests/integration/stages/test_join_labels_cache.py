"""With the cache, labelled predictions and the pointers to them are those of a join that is always computed."""

from __future__ import annotations

import json
import logging
import uuid
from datetime import datetime, timezone

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import DatasetPurgedError, SpecError
from airflow_mlops.data.datasets import find_datasets, in_slots, mark_purged, open_dataset
from airflow_mlops.data.store import ArtifactStore
from tests.support.cached import run_step
from tests.support.deployed import write

PREDICTIONS, LABELS = {"name": "predictions", "window": "2013-04"}, {"name": "flights"}
SPEC = {"on": ["flight"], "label": "late", "name": "outcomes"}


def predict(store, flights=(1, 2, 3), window="2013-04"):
    details = {"model": "delays", "model_version": 3}
    return write(store, "predictions", pa.table({"flight": flights, "score": [0.5] * len(flights)}), window, details)


def arrive(store, late, window="2013-04"):
    return write(store, "flights", pa.table({"flight": [1, 2], "late": late}), window)


def join(store, run_id, cache="use", **spec):
    return run_step(
        store, "join_labels", run_id, cache, **{"predictions": PREDICTIONS, "labels": LABELS, **SPEC, **spec}
    )


def current(store):
    slots = {slot: manifest.id for slot, manifest in in_slots(store, "outcomes").items()}
    return slots, {str(item.window): item.manifest.id for item in find_datasets(store, "outcomes")}


CHANGES = st.one_of(
    st.tuples(st.just(predict), st.sampled_from([(1, 2, 3), (3, 2, 1), (1, 2)]), st.just("2013-04")),
    st.tuples(
        st.just(arrive),
        st.sampled_from([(True, False), (False, False), (None, True)]),
        st.sampled_from(["2013-04", "2013-05"]),
    ),
    st.just((join, None, None)),
)


@settings(max_examples=15)
@given(st.lists(CHANGES, max_size=6))
def test_results_and_pointers_are_the_same_as_without_a_cache(changes):
    stores = [ArtifactStore(f"memory://{uuid.uuid4().hex}") for _ in range(2)]
    for store in stores:
        predict(store)
        arrive(store, (True, False))
    for number, (change, *values) in enumerate([*changes, (join,), (join,)]):
        found = []
        for store, cache in zip(stores, ("use", None), strict=True):
            if change is not join:
                change(store, *values)
                continue
            try:
                result = join(store, f"run {number}", cache)
                found.append({**result, "summary": None, "usage": None, "cached": None})
            except Exception as error:  # noqa: BLE001 - the labels of two windows may differ
                found.append(str(error))
        assert found[:1] == found[1:]
        assert current_or_none(stores[0]) == current_or_none(stores[1])


def current_or_none(store):
    return current(store) if store.keys("datasets/outcomes/windows") else None


def test_labels_that_are_corrected_and_corrected_back(store):
    predict(store)
    arrive(store, (True, False))
    first = join(store, "one")
    before = current(store)
    assert join(store, "two")["cached"]["run_id"] == "one"
    arrive(store, (True, True))
    second = join(store, "three")
    assert (second["cached"], second["dataset"]["id"] == first["dataset"]["id"]) == (None, False)
    arrive(store, (True, False))
    third = join(store, "four")
    assert third["cached"]["run_id"] == "one"
    assert {**third, "cached": None, "usage": None, "summary": first["summary"]} == {**first, "usage": None}
    assert current(store) == before
    # Without `window`, labels of all windows count.
    arrive(store, (None, None), "2013-05")
    assert join(store, "five")["cached"] is None


def test_a_join_in_shards_is_not_cached(store, caplog):
    caplog.set_level(logging.INFO, logger="airflow_mlops.stages")
    predict(store)
    arrive(store, (True, False))
    for run_id in ("one", "two"):
        assert join(store, run_id, shard=0, shards=1)["cached"] is None
    assert "in shards is not cached" in caplog.text


def purge(store, dataset):
    mark_purged(store, dataset.manifest, datetime.now(timezone.utc))
    for file in dataset.manifest.files:
        store.delete(file.path)


def test_purged_predictions_fail_and_purged_outcomes_are_joined_again(store):
    made = predict(store)
    arrive(store, (True, False))
    first = join(store, "one")
    (outcomes,) = find_datasets(store, "outcomes")
    purge(store, outcomes)
    again = join(store, "two")
    assert (again["cached"], again["dataset"]["id"]) == (None, first["dataset"]["id"])
    assert join(store, "three")["cached"]["run_id"] == "two"
    purge(store, open_dataset(store, made))
    with pytest.raises(DatasetPurgedError):
        join(store, "four")


def test_another_key_for_hashes_fails_as_without_the_cache(store, monkeypatch):
    def with_key(letter):
        monkeypatch.setenv("AIRFLOW_CONN_HASHES", json.dumps({"conn_type": "generic", "password": letter * 32}))

    from airflow_mlops.core.connections import from_environment
    from airflow_mlops.data.predictions.privacy import Privacy

    with_key("a")
    privacy = Privacy.of(["flight"], [], "hashes", from_environment)
    rows = privacy.apply(pa.record_batch({"flight": [1, 2], "score": [0.5, 0.5]}))
    details = {"model": "delays", "model_version": 3, **privacy.details}
    write(store, "predictions", pa.Table.from_batches([rows]), "2013-04", details)
    arrive(store, (True, False))
    assert join(store, "one", hash_conn_id="hashes")["labelled"] == 2
    assert join(store, "two", hash_conn_id="hashes")["cached"]["run_id"] == "one"
    with_key("b")
    with pytest.raises(SpecError, match="different from the password"):
        join(store, "three", hash_conn_id="hashes")
