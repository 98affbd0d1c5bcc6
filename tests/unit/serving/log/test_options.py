"""Which requests are logged. Neither the spool nor the store contains a value that was hashed or dropped."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.base import parse
from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.errors import SchemaError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.predictions.privacy import KEEP_ALL, Privacy, Pseudonymizer
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.serving.layout import online_folder, window_at
from airflow_mlops.serving.log import spool as log
from airflow_mlops.serving.log.merge import merge
from airflow_mlops.serving.log.options import in_sample
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.rows.request import InputColumns
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.loaded import Served

NOW = 1_700_000_000.0
KEY, OTHER = Pseudonymizer(b"0123456789abcdef"), Pseudonymizer(b"fedcba9876543210")
CONTRACT = ModelContract(
    task="regression",
    label="y",
    features=[FeatureColumn(name="city", kind="string"), FeatureColumn(name="amount", kind="number")],
    timestamp="at",
    dataset_name="d",
    dataset_id="i",
)
TRAINING = pa.schema(
    [("customer", pa.int64()), ("at", pa.timestamp("us", "UTC")), ("request_id", pa.string()), ("tags", pa.list_(pa.string()))]
)  # fmt: skip
COLUMNS = InputColumns(CONTRACT, TRAINING, ["customer", "request_id", "tags"])


def answer(request_id: str, version: int = 1) -> log.Answer:
    model = SimpleNamespace(engine="none", contract=CONTRACT)
    served = Served(ModelVersionRef(model="m", version=version, run_id=""), model, COLUMNS)
    row = {"city": "Timbuktu", "amount": 1, "customer": 987654321, "at": "2013-04-01"}
    found = Predictions(np.array([1.0]), np.array([1.0]), None)
    return log.Answer(served, COLUMNS.rows([row]), found, request_id, NOW, 1.0)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return ArtifactStore((tmp_path / "store").as_uri())


def run(store, folder, ids, privacy=KEEP_ALL, sample=1.0) -> bytes:
    """Log requests, and return the bytes that were in the spool."""
    found = log.PredictionSpool(store, "m", folder, "hour", Metrics(), privacy=privacy, sample=sample)
    for request_id in ids:
        found.add(answer(request_id))
    found._flush()
    spooled = b"".join(file.read_bytes() for file in folder.iterdir())
    found._close(0)
    found._upload()
    return spooled


def merged(store):
    merge(store, "m", "m_predictions", window_at(NOW, "hour").end + timedelta(hours=1))
    (dataset,) = PredictionLog(store, "m").present()
    return dataset


def test_hashed_or_dropped_values_are_neither_in_the_spool_nor_in_the_store(store, tmp_path):
    secret = (b"Timbuktu", (987654321).to_bytes(8, "little"), b"mrs-smith")
    plain = run(store, tmp_path / "plain", ["mrs-smith"])
    assert all(text in plain for text in secret)
    for key in store.find(online_folder("m")):
        store.delete(key)
    spooled = run(store, tmp_path / "spool", ["mrs-smith"], Privacy(["customer", "request_id"], ["city", "at"], KEY))
    assert not any(text in spooled for text in secret)
    (key,) = store.find(online_folder("m"))
    with store.open(key) as file:
        (row,) = pq.read_table(file).to_pylist()
    assert "city" not in row
    assert row["customer"] == KEY.hash_column(pa.array([987654321])).to_pylist()[0]
    assert row["request_id"] == KEY.hash_column(pa.array(["mrs-smith"])).to_pylist()[0]
    details = merged(store).manifest.details
    assert (details["keys"], details["timestamp"]) == (["customer", "tags"], None)
    assert (details["hashed"], details["dropped"]) == (["customer", "request_id"], ["at", "city"])
    assert details["hash_key_id"] == KEY.key_id


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)])
@pytest.mark.parametrize("together", [True, False])
def test_a_window_with_changing_options_gets_the_strictest_one(store, tmp_path, order, together):
    options = [
        KEEP_ALL,
        Privacy(["customer"], (), KEY),
        Privacy((), ["city"]),
        Privacy(["customer", "city"], (), OTHER),
    ]
    for number in order:
        run(store, tmp_path / "spool", [f"r{number}"], options[number])
        if not together:
            merged(store)
    dataset = merged(store)
    rows = {row["request_id"]: row for row in dataset.table().to_pylist()}
    assert len(rows) == 4
    assert "city" not in dataset.schema.names
    details = dataset.manifest.details
    assert (details["hashed"], details["dropped"]) == (["customer"], ["city"])
    with_key = {KEY.key_id: "r1", OTHER.key_id: "r3"}[details["hash_key_id"]]
    assert {name for name, row in rows.items() if row["customer"] is not None} == {with_key}


@given(st.text(max_size=50), st.floats(0, 1), st.floats(0, 1))
def test_a_request_of_a_smaller_sample_is_in_a_larger_one(request_id, one, other):
    small, large = sorted((one, other))
    assert in_sample(request_id, small) <= in_sample(request_id, large)
    assert in_sample(request_id, 1.0)
    assert not in_sample(request_id, 0.0)


def test_the_share_of_requests_in_the_sample_is_the_configured_one():
    # At most five standard deviations of a binomial distribution.
    for share in (0.01, 0.1, 0.5, 0.9):
        found = sum(in_sample(f"order-{number}", share) for number in range(20_000))
        assert abs(found - 20_000 * share) < 5 * (20_000 * share * (1 - share)) ** 0.5


def test_a_sample_is_logged_and_recorded(store, tmp_path):
    ids = [f"order-{number}" for number in range(60)]
    # The second 60 are the same requests again.
    run(store, tmp_path / "spool", ids + ids, sample=0.5)
    dataset = merged(store)
    logged = sorted(dataset.table()["request_id"].to_pylist())
    chosen = [request_id for request_id in ids if in_sample(request_id, 0.5)]
    assert logged == sorted(chosen + chosen)
    assert 10 < len(chosen) < 50
    assert dataset.manifest.details["sample"] == {"0.5": len(logged)}
    run(store, tmp_path / "spool", ["all-1", "all-2"])
    assert merged(store).manifest.details["sample"] == {"0.5": len(logged), "1.0": 2}


def test_without_sampling_the_manifest_does_not_mention_it(store, tmp_path):
    run(store, tmp_path / "spool", ["one"])
    assert not {"sample", "share", "hashed", "dropped"} & merged(store).manifest.details.keys()


def test_columns_that_are_not_logged_or_cannot_be_hashed_are_refused():
    COLUMNS.require_private(["customer", "request_id"], ["city"], "They have")
    with pytest.raises(SchemaError, match="'custmer'"):
        COLUMNS.require_private([], ["custmer"], "They have")
    with pytest.raises(SchemaError, match="hash"):
        COLUMNS.require_private(["tags"], [], "They have")


@pytest.mark.parametrize(
    "fields",
    [{"hash_columns": ["a"]}, {"drop_columns": ["score"]}, {"sample": 1.5}, {"sample": -0.1}, {"sample": float("nan")}],
)
def test_contradictory_settings_are_refused(fields):
    with pytest.raises(SpecError):
        parse(ServeSpec, {"model": "m", "store": "file:///s", **fields}, "The server")
