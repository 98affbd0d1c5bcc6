"""Which attributions of a window are compared with which reference, and the note if they are not compared."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift import attributions as statistics
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.models.attributions import sorted_lists
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.profile import ModelProfile, Profile
from airflow_mlops.stages.monitor import clusters
from airflow_mlops.stages.monitor.attributions import drift, sample
from airflow_mlops.stages.monitor.attributions.drift import Attributions
from airflow_mlops.stages.monitor.check import Check
from tests.support.deployed import write

NAMES = ["hour", "distance", "carrier"]
KEY = "attributions/late/1.npz"
TRAINING = TrainingReference(
    ModelVersionRef(model="late", version=1, run_id="first run"),
    ModelContract(
        task="binary", label="late", features=[FeatureColumn(name=name, kind="number") for name in NAMES],
        classes=[False, True], positive=True, metrics={}, dataset_name="late_training", dataset_id="0" * 64,
    ),
    ModelProfile(features=Profile(rows=0, columns={}), scores=Profile(rows=0, columns={})), [], [], {}, [],
)  # fmt: skip
HOW = {"attribution_scale": "log-odds of late = True", "attribution_method": "linear terms"}


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch):
    monkeypatch.setattr(statistics, "_ROUNDS", 199)


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


def predictions(store, window: str, rows: int = 400, every: int | None = 1, per_flight: int = 1, **details) -> Dataset:
    """Predictions, of which one in ``every`` has attributions. ``None``: there is no such column."""
    values = np.random.default_rng(int(window[-2:])).normal(size=(rows, len(NAMES))) * [3, 2, 1]
    columns = {"flight": np.arange(rows) // per_flight}
    if every is not None:
        explained = pa.array(np.arange(rows) % every == 0)
        columns["attributions"] = pa.compute.if_else(explained, sorted_lists(NAMES, values), None)
    name = f"predictions_{every}_{rows}"
    return open_dataset(store, write(store, name, pa.table(columns), window, {**HOW, **details}))


def check(store, window: str, *datasets: Dataset, **policy) -> Check:
    created = datetime(2013, 12, 1, tzinfo=timezone.utc)
    return Check("late", Window.model_validate(window), created, Policy(**policy), datasets, store)


def measure(store, window: str, *datasets: Dataset, training=TRAINING, **policy) -> Attributions:
    with clusters.numbered(check(store, window, *(datasets or [predictions(store, window)]), **policy)) as checked:
        return drift.measure(checked, training)


def note(found: Attributions) -> str:
    """The note of a finding that has no effect."""
    (item,) = found.drift
    assert (item.effect, item.p_value) == (None, None)
    return item.note or ""


@pytest.mark.parametrize("groups", [None, "flight"])
def test_rows_without_attributions_take_no_places_in_the_sample(store, monkeypatch, groups):
    monkeypatch.setattr(sample, "UNITS", 100)
    monkeypatch.setattr(sample, "_BATCH_ROWS", 64)
    dataset = predictions(store, "2013-04", 400, 4, per_flight=2)
    with clusters.numbered(check(store, "2013-04", dataset, groups=groups)) as checked:
        found = sample.draw(checked, NAMES)
    assert (found.rows, found.sample.sums.shape) == (100, (100, 3))
    rows = [
        {item["feature"]: item["value"] for item in row} for row in dataset.table()["attributions"].to_pylist() if row
    ]
    expected = np.array([[abs(row[name]) for name in NAMES] for row in rows])
    assert np.sort(found.sample.sums, axis=0) == pytest.approx(np.sort(expected, axis=0))


def test_clusters_are_sampled_with_all_their_rows_of_all_batches(store, monkeypatch):
    monkeypatch.setattr(sample, "UNITS", 10)
    monkeypatch.setattr(sample, "_BATCH_ROWS", 16)
    table = predictions(store, "2013-04").table().set_column(0, "flight", pa.array(np.arange(400) % 40))
    dataset = open_dataset(store, write(store, "mixed", table, "2013-04"))
    sums = np.zeros((40, 3))
    for place, row in enumerate(table["attributions"].to_pylist()):
        for item in row:
            sums[place % 40, NAMES.index(item["feature"])] += abs(item["value"])
    with clusters.numbered(check(store, "2013-04", dataset, groups="flight")) as checked:
        found = sample.draw(checked, NAMES).sample.sums
    assert found.shape == (10, 3)
    assert {tuple(row) for row in found.round(9)} < {tuple(row) for row in sums.round(9)}


def test_a_window_with_too_few_clusters_is_neither_tested_nor_a_reference(store):
    few = predictions(store, "2013-04", 400, per_flight=100)
    found = measure(store, "2013-04", few, groups="flight")
    # The test needs p-values below 0.05 for each of 4 columns. 2 * 5 clusters can be assigned in 252 ways, which is
    # more than 4 / 0.05.
    assert "4 clusters with attributions, the test needs 5" in note(found)
    assert not store.find("attributions")
    assert (
        measure(store, "2013-04", few, groups="flight", false_alarm_rate=0.5)
        .drift[0]
        .note.startswith("not measured: 2013-04 is the reference")
    )
    # A reference of fewer clusters than the test needs now is replaced.
    enough = predictions(store, "2013-05", 400, per_flight=10)
    assert (
        "2013-04 has only 4 clusters, and 5 are needed" in measure(store, "2013-05", enough, groups="flight").notes[0]
    )


@pytest.mark.parametrize("content", [b"", b"PK damaged", b"\x93NUMPY\x01\x00"])
def test_a_damaged_reference_is_named_and_never_replaced(store, caplog, content):
    measure(store, "2013-04")
    store.write_bytes(KEY, content)
    for window in ("2013-05", "2013-04"):
        found = measure(store, window)
        assert f"the reference {KEY} cannot be read" in note(found)
        assert KEY in found.notes[0]
        assert "delete it" in found.notes[0]
        assert found.notes[0] in caplog.text
        assert store.read_bytes(KEY) == content
    store.delete(KEY)
    assert "2013-05 is the reference" in note(measure(store, "2013-05"))


def test_any_damaged_byte_of_a_reference_is_reported(store):
    measure(store, "2013-04")
    whole = store.read_bytes(KEY)
    random = np.random.default_rng(0)
    damaged = 0
    for place in random.choice(len(whole), 150, replace=False):
        store.write_bytes(KEY, whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            drift.stored.read(store, KEY)
        except drift.stored.DamagedReferenceError:
            damaged += 1
    assert damaged > 100


@pytest.mark.parametrize(
    ("details", "run_id", "policy", "why"),
    [
        (
            {"attribution_method": "tree Shapley values of xgboost"},
            "first run",
            {},
            "method changed from linear terms to tree",
        ),
        ({"attribution_scale": "late"}, "first run", {}, "scale changed from log-odds"),
        ({"dropped": ["hour"]}, "first run", {}, "features changed from none to hour"),
        ({}, "second run", {}, "run of the version changed from first run to second run"),
        ({}, "first run", {"groups": "flight"}, "`groups` changed from none to flight"),
    ],
)
def test_attributions_of_another_origin_are_not_compared_and_replace_the_reference_with_a_note(
    store, caplog, details, run_id, policy, why
):
    measure(store, "2013-04")
    training = replace(TRAINING, version=ModelVersionRef(model="late", version=1, run_id=run_id))
    now, later = (predictions(store, window, **details) for window in ("2013-05", "2013-06"))
    found = measure(store, "2013-05", now, training=training, **policy)
    assert "2013-05 is the reference" in note(found)
    (said,) = found.notes
    assert "2013-05 replaces 2013-04" in said
    assert why in said
    assert said in caplog.text
    compared = measure(store, "2013-06", later, training=training, **policy)
    assert (compared.drift[0].reference, compared.notes) == ("2013-05", [])
    assert compared.drift[0].effect is not None


def test_a_window_with_attributions_of_two_origins_is_not_compared(store):
    both = [predictions(store, "2013-04"), predictions(store, "2013-04", 300, attribution_method="other")]
    assert "method changed from linear terms to other" in note(measure(store, "2013-04", *both))
    assert not store.find("attributions")


def test_an_older_version_does_not_get_the_origin_of_a_later_one(store):
    measure(store, "2013-04")
    first = store.read_bytes(KEY)
    joined = predictions(store, "2013-05", model_version=2, model_versions={"1": 400}, attribution_method="tree SHAP")
    of_version_1 = replace(check(store, "2013-05", joined), version=1)
    found = drift.measure(of_version_1, TRAINING)
    assert "does not record how the attributions of this version were made" in note(found)
    assert (found.notes, store.read_bytes(KEY)) == ([], first)


def test_a_reference_window_that_is_checked_again_is_stored_again_only_if_it_changed(store):
    measure(store, "2013-04")
    first = store.read_bytes(KEY)
    assert measure(store, "2013-04").notes == []
    assert store.read_bytes(KEY) == first
    (said,) = measure(store, "2013-04", predictions(store, "2013-04", 300)).notes
    assert "stored again, because the attributions changed" in said
    assert store.read_bytes(KEY) != first


@pytest.mark.parametrize("every", [None, 4])
def test_the_rows_of_a_partly_explained_window_are_compared_and_their_share_is_reported(store, every):
    assert measure(store, "2013-03", predictions(store, "2013-03", every=None)) == Attributions([], [])
    measure(store, "2013-04")
    more = 300 if every is None else 375
    found = measure(store, "2013-05", predictions(store, "2013-05", 300), predictions(store, "2013-05", 300, every))
    (item,) = found.drift
    assert item.effect is not None
    assert f"{more} of 600 rows have attributions" in item.note
    rest = predictions(store, "2013-06", 400, 4)
    assert "100 rows with attributions, 200 are needed; 100 of 400 rows" in note(
        measure(store, "2013-06", rest, min_rows=200)
    )
