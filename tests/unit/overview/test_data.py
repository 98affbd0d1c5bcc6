"""The windows of the datasets that a model reads."""

from __future__ import annotations

import pyarrow as pa

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview.data import _windows


def write(store, name, window, rows, **fields):
    with DatasetWriter(store, name) as writer:
        writer.write(pa.table({"x": list(range(rows))}))
        writer.commit(window=Window.model_validate(window), **fields)


def test_the_rows_of_two_quarantines_of_a_window_are_added(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    for window in ("2013-01", "2013-02"):
        write(store, "flights_valid", window, 10)
    write(store, "flights_quarantine", "2013-01", 3)
    write(store, "flights_valid_quarantine", "2013-01", 2)
    write(store, "flights_quarantine", "2013-02", 4)
    assert [item.quarantined for item in _windows(store, "flights_valid").windows] == [5, 4]


def test_the_rows_of_online_predictions_are_those_of_all_versions(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    for window in ("2013-01", "2013-02"):
        for version, rows in ((1, 10), (2, 4), (2, 5)):
            write(
                store,
                "p",
                window,
                rows,
                source={"online": ["a"]},
                slots=[f"{Window.model_validate(window).key}-v{version}"],
            )
    # In batch scoring, each version scores all rows of the window.
    for version in (1, 2):
        write(store, "batch", "2013-01", 7 + version, slots=[f"v{version}"])
    for _ in range(2):
        assert [(item.rows, item.replaced) for item in _windows(store, "p").windows] == [(15, 1), (15, 1)]
        assert [(item.rows, item.replaced) for item in _windows(store, "batch").windows] == [(9, 1)]
