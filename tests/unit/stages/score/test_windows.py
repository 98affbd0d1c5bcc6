"""The window of predictions is that of their rows."""

from __future__ import annotations

import uuid
from datetime import date

import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.score.windows import window_of_predictions


def dataset(window: str | None, **details: object):
    """A dataset with the rows of March as the part train, and those of April as the part test."""
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}")
    with DatasetWriter(store, "rows") as writer:
        for part, month in (("train", 3), ("test", 4)):
            writer.write(pa.table({"x": [1.0, 2.0], "day": [date(2013, month, 1), date(2013, month, 30)]}), part)
        made = writer.commit(window=Window.model_validate(window) if window else None, details=details)[0]
    return open_dataset(store, made.ref)


def window(*datasets, **fields: object) -> str | None:
    spec = ScoreSpec(model="m", dataset=[item.ref for item in datasets], **fields)
    found = window_of_predictions(spec, datasets)
    return None if found is None else str(found)


def test_a_dataset_without_a_window_gets_the_given_one():
    rows = dataset(None)
    assert window(rows) is None
    assert window(rows, window="2013-05") == "2013-05-01T00:00:00Z/2013-06-01T00:00:00Z"


def test_the_window_of_the_rows_is_that_of_the_predictions_in_any_form():
    rows = dataset("2013-03..2013-04")
    assert window(rows) == window(rows, window="2013-03-01/P2M") == "2013-03-01T00:00:00Z/2013-05-01T00:00:00Z"
    # The same moments in another time zone.
    paris = window(dataset("2013-04[Europe/Paris]"), window="2013-03-31T22:00Z/2013-04-30T22:00Z")
    assert paris == "2013-03-31T22:00:00Z/2013-04-30T22:00:00Z"


@pytest.mark.parametrize("other", ["2013-05", "2013-04", "2013-03..2013-05"])
def test_another_window_than_that_of_the_rows_is_refused(other):
    with pytest.raises(SpecError, match="recorded for the wrong time"):
        window(dataset("2013-03..2013-04", timestamp="day"), window=other)


def test_a_split_part_may_have_a_shorter_window_that_contains_its_rows():
    rows = dataset("2013-01..2013-06", timestamp="day")
    assert window(rows, part="test", window="2013-04") == "2013-04-01T00:00:00Z/2013-05-01T00:00:00Z"
    for other, said in (("2013-03", "2 rows .* are not in it"), ("2013-04-01..2013-04-20", "1 row .* is not in it")):
        with pytest.raises(SpecError, match=said):
            window(rows, part="test", window=other)
    with pytest.raises(SpecError, match="recorded for the wrong time"):
        window(rows, part="test", window="2013-04..2013-07")
    # Rows without times cannot be checked.
    assert window(dataset("2013-01..2013-06"), part="test", window="2013-02") is not None
