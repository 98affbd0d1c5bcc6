"""The labelled rows that challengers are trained on: their ages, for the weights of ``Decay``, and their clusters."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.refitting import AGE
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.monitor.challengers import LabelledRows, labelled, labelled_clusters
from tests.support.deployed import write

ROWS = pa.table({"label": [0, 1, 0]})
DAY = timedelta(days=1)
UNTIL = datetime(2013, 4, 11, tzinfo=timezone.utc)


def test_the_age_counts_from_the_time_of_each_row_in_half_lives():
    times = pa.chunked_array([[UNTIL - 20 * DAY, UNTIL - 5 * DAY, UNTIL + 10 * DAY]], pa.timestamp("us", "UTC"))
    found = LabelledRows(ROWS, times, Window.model_validate("2013-01..2013-03")).aged(10 * DAY, UNTIL)
    assert found.table[AGE].to_pylist() == pytest.approx([2.0, 0.5, -1.0])


def test_without_times_the_age_counts_from_the_middle_of_the_window():
    window = Window.model_validate("2013-04-01/2013-04-11")
    assert LabelledRows(ROWS, window=window).aged(10 * DAY, UNTIL).table[AGE].to_pylist() == pytest.approx([0.5] * 3)


def test_without_a_half_life_the_rows_have_no_ages():
    assert LabelledRows(ROWS).aged(None, UNTIL).table.column_names == ["label"]


def test_each_labelled_row_has_the_cluster_of_its_group_in_all_datasets(tmp_path):
    store, policy = ArtifactStore(f"file://{tmp_path}/store"), Policy(groups="customer")
    tables = [
        pa.table({"customer": ["a", "b", "a", None], "label": [1.0, None, 0.0, 1.0]}),
        pa.table({"customer": pa.array(["b", "a"]).dictionary_encode(), "label": [1.0, float("nan")]}),
    ]
    datasets = [
        open_dataset(store, write(store, "outcomes", table, f"2013-0{number}"))
        for number, table in enumerate(tables, 4)
    ]
    found = labelled_clusters(datasets, policy)
    # The rows a, a, null and b have a label, in the order of the rows on which challengers are compared.
    assert sum(labelled(item, ["label"]).num_rows for item in datasets) == len(found) == 4
    assert found[0] == found[1]
    assert len({*found.tolist()}) == 3
    assert labelled_clusters(datasets, Policy()) is None
    with pytest.raises(SpecError):
        labelled_clusters(datasets, Policy(groups="shop"))
