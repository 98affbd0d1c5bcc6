"""If the champion changes within a window, the predictions of all versions are read, because each row has one answer."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import DatasetSelection
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, mark_purged, open_dataset
from airflow_mlops.data.predictions.versions import rows_by_version
from airflow_mlops.data.selection import select
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.layout import window_at
from airflow_mlops.serving.log.merge import merge
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from tests.unit.serving.log.test_spool import NOW, answer, spool

NAME = "m_predictions"


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return ArtifactStore((tmp_path / "store").as_uri())


@pytest.fixture
def answered(store, tmp_path):
    """Version 3 is promoted within the hour, and rolled back to version 2. An hour later, only version 2 answers."""
    found = spool(store, tmp_path / "spool")
    for number, (seconds, version) in enumerate([(0, 2), (10, 3), (20, 3), (30, 2), (3600, 2)]):
        found.add(answer(number, NOW + seconds, version))
    found.start()
    found.stop()
    merge(store, "m", NAME, datetime.now(timezone.utc))
    return store


def versions(datasets) -> list[tuple[int, int]]:
    return [(item.manifest.details["model_version"], item.rows) for item in datasets]


def test_a_selection_has_all_versions_and_the_last_answer_is_at_the_end(answered):
    hour = window_at(NOW, "hour")
    both = Window(start=hour.start, end=hour.end + timedelta(hours=1))
    assert versions(select(answered, DatasetSelection(name=NAME, window=hour))) == [(3, 4), (2, 4)]
    expected = [(3, 4), (2, 4), (2, 2)]
    assert versions(select(answered, DatasetSelection(name=NAME, window=both))) == expected
    assert versions(select(answered, DatasetSelection(name=NAME))) == expected
    assert versions(select(answered, [DatasetSelection(name=NAME, window=both)])) == expected
    one = select(answered, DatasetSelection(name=NAME, window=hour))[0].manifest.ref
    assert versions(select(answered, one)) == [(3, 4)]
    with pytest.raises(SpecError, match="overlapping"):
        select(answered, [one, one])


def test_labels_are_joined_to_the_predictions_of_all_versions(answered):
    hour = window_at(NOW, "hour")
    with DatasetWriter(answered, "labels") as writer:
        writer.write(
            pa.table({"request_id": [f"id-{number}" for number in range(5)], "y": [float(n) for n in range(5)]})
        )
        labels = writer.commit()[0].ref
    spec = JoinLabelsSpec(
        predictions={"name": NAME, "window": str(hour)}, labels=labels, on=["request_id"], label="y", name="m_outcomes"
    )
    joined = join_labels.run(spec, StepContext(store=answered))
    assert (joined.rows, joined.labelled) == (8, 8)
    dataset = open_dataset(answered, joined.dataset)
    assert sorted(dataset.table()["request_id"].unique().to_pylist()) == [f"id-{number}" for number in range(4)]
    assert dict(rows_by_version(dataset)) == {2: 4, 3: 4}
    assert dataset.manifest.details["model_version"] == 2


def test_purged_versions_are_left_out_of_all_windows(answered):
    hour = window_at(NOW, "hour")
    first = select(answered, DatasetSelection(name=NAME, window=hour))[0]
    mark_purged(answered, first.manifest, datetime.now(timezone.utc))
    assert versions(select(answered, DatasetSelection(name=NAME))) == [(2, 4), (2, 2)]
