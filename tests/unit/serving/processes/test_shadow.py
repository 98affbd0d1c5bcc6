"""The shadow version receives the same rows as the champion, and no request waits for it."""

from __future__ import annotations

import io
import json
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.serving.layout import window_at
from airflow_mlops.serving.log.merge import merge
from airflow_mlops.serving.log.spool import Answer, PredictionSpool
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.processes.shadow import Shadow, packed, unpacked
from airflow_mlops.serving.rows.other_columns import converted, difference
from airflow_mlops.serving.rows.request import InputColumns
from airflow_mlops.serving.sending import shadow as shadowing
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.loaded import Served, Versions

NOW = 1_700_000_000.0
KINDS = {"a": "number", "n": "integer", "s": "string"}
TRAINING = pa.schema([("key", pa.int32()), ("at", pa.timestamp("us", "UTC")), ("s", pa.string())])


def columns(*features: str, keys: tuple[str, ...] = ("key",)) -> InputColumns:
    return InputColumns(contract(*features), TRAINING, keys)


def contract(*features: str) -> ModelContract:
    return ModelContract(
        task="regression", label="y", timestamp="at", dataset_name="d", dataset_id="i",
        features=[FeatureColumn(name=name, kind=KINDS[name]) for name in features],
    )  # fmt: skip


class Sum:
    """A model that adds its numbers."""

    engine = "none"

    def __init__(self, *features: str) -> None:
        self.contract = contract(*features)

    def predict_values(self, features, count):
        found = np.zeros(count)
        for name in features:
            if KINDS[name] != "string":
                found += np.array([0.0 if value is None else float(value) for value in features[name]])
        return Predictions(found, found, None)


def served(version: int, *features: str) -> Served:
    return Served(ModelVersionRef(model="m", version=version, run_id=""), Sum(*features), columns(*features))


ROW = st.fixed_dictionaries(
    {
        "a": st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False),
        "n": st.integers(-(2**63), 2**63 - 1),
        "s": st.none() | st.text(st.characters(codec="utf-8"), max_size=5),
    },
    optional={"key": st.none() | st.integers(-(2**31), 2**31 - 1), "at": st.just("2023-11-14T12:00:00Z")},
)


@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8"), max_size=5), st.lists(ROW, max_size=3)), min_size=1, max_size=4
    )
)
def test_a_message_has_the_rows_of_the_answers(requests):
    champion = served(1, "a", "n", "s")
    answers = [
        Answer(
            champion, champion.columns.rows(rows), Predictions(np.empty(0), np.empty(0), None), name, NOW + number, 1.0
        )
        for number, (name, rows) in enumerate(requests)
    ]
    message = packed(answers)
    head, rows = unpacked(io.BytesIO(message))
    assert head == [(answer.request_id, answer.at, answer.rows.count) for answer in answers]
    own = converted(rows, champion.columns)
    expected = champion.columns.logged([answer.rows for answer in answers])
    assert champion.columns.logged([own]).equals(expected)
    for end in (0, 3, len(message) - 1):
        assert unpacked(io.BytesIO(message[:end])) is None


def test_a_version_with_other_features_gets_those_that_the_request_has():
    champion, other = columns("a", "n"), columns("a", "s")
    assert difference(champion, columns("a")) is None
    # `s` is a feature of the other version, and the champion does not take it.
    assert "'s'" in difference(champion, other)
    rows = champion.rows([{"a": 1, "n": 2, "key": 7}])
    with pytest.raises(SchemaError, match="'s'"):
        converted(rows, other)
    fewer = converted(rows, columns("n"))
    assert (fewer.features, fewer.carried["key"].to_pylist()) == ({"n": [2]}, [7])


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return ArtifactStore((tmp_path / "store").as_uri())


def test_shadow_predictions_are_logged_for_the_same_requests_and_windows_and_apart(store, tmp_path):
    champion, other = served(1, "a", "n", "s"), served(2, "a")
    versions = Versions()
    spools = [
        PredictionSpool(store, "m", tmp_path / "first", "hour", Metrics()),
        PredictionSpool(store, "m", tmp_path / "second", "hour", Metrics(), "m_shadow_predictions", apart="shadow"),
    ]
    shadow = Shadow(versions, spools[1])
    answers = []
    for number, at in enumerate((NOW, NOW, NOW + 3600)):
        rows = champion.columns.rows([{"a": number, "n": 5, "s": "x", "key": number}, {"a": None, "n": 1, "s": None}])
        answers.append(Answer(champion, rows, champion.predict(rows), f"id-{number}", at, 1.0))
        spools[0].add(answers[-1])
    message = unpacked(io.BytesIO(packed(answers)))
    assert "no version" in shadow.score(*message)
    versions.promote(other)
    assert shadow.score(*message) is None
    for spool in spools:
        spool.start()
        spool.stop()
    later = window_at(NOW + 3600, "hour").end + timedelta(hours=1)
    merge(store, "m", "m_predictions", later)
    merge(store, "m", "m_shadow_predictions", later, apart="shadow")
    identity = ["request_id", "request_row", "scored_at", "key", "at"]
    found = {}
    for name in ("m_predictions", "m_shadow_predictions"):
        datasets = PredictionLog(store, "m", name).present()
        assert [bool(item.manifest.details.get("shadow")) for item in datasets] == ["shadow" in name] * 2
        rows = [row for item in datasets for row in item.table().to_pylist()]
        found[name] = (
            {tuple(row[key] for key in identity) for row in rows},
            {(row["model_version"], row["score"]) for row in rows},
        )
    champions, shadows = found.values()
    assert champions[0] == shadows[0]
    assert len(champions[0]) == 6
    assert shadows[1] == {(2, 0.0), (2, 1.0), (2, 2.0)}


def test_a_full_queue_or_no_process_drops_rows_and_never_waits(monkeypatch):
    metrics = Metrics()
    monkeypatch.setattr(shadowing, "_QUEUED_ROWS", 3)
    found = shadowing.Shadowing(ServeSpec(model="m", store="file:///none", shadow="challenger"), metrics)
    champion = served(1, "a")
    rows = champion.columns.rows([{"a": 1}, {"a": 2}])
    answer = Answer(champion, rows, champion.predict(rows), "id", NOW, 1.0)

    def dropped() -> float:
        return metrics.registry.get_sample_value("mlops_serve_shadow_dropped_rows_total")

    # A process that reads nothing blocks only the thread that sends.
    blocked = threading.Event()
    pipe = SimpleNamespace(write=lambda data: blocked.wait(), flush=lambda: None)
    found._sent = sent = shadowing._Sent(pipe)
    found.offer(answer)
    assert dropped() == 2
    found._heard(json.dumps({"version": 2}).encode(), sent)
    found.offer(answer)
    found.offer(answer)
    assert dropped() == 4
    # If the shadow is also the version that answers, its process scores no rows.
    found._heard(json.dumps({"version": 1}).encode(), sent)
    found.offer(answer)
    assert dropped() == 4
    found._heard(json.dumps({"version": 2}).encode(), sent)
    found._threads[1].start()
    began = time.monotonic()
    for _ in range(50):
        found.offer(answer)
    assert time.monotonic() - began < 5
    assert dropped() >= 4 + 2 * 48
    found._stopped.set()
    blocked.set()
