"""The clusters of a window (``policy.groups``) have numbers, in memory and by DuckDB."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.clusters import alike
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.monitor import clusters
from airflow_mlops.stages.monitor.check import CLUSTER, Check
from tests.support.deployed import write

CUSTOMERS = [["a", "b", "a", None, "c"], [None, "b", "d"]]


@pytest.fixture
def check(tmp_path) -> Check:
    store = ArtifactStore(f"file://{tmp_path}/store")
    kinds = (lambda names: pa.array(names).dictionary_encode(), pa.array)
    tables = [
        pa.table({"customer": kind(names), "score": np.arange(len(names), dtype=float)})
        for kind, names in zip(kinds, CUSTOMERS, strict=True)
    ]
    found = [
        open_dataset(store, write(store, "scored", table, f"2013-0{month}")) for month, table in enumerate(tables, 4)
    ]
    now = datetime.now(timezone.utc)
    return Check("m", Window.model_validate("2013-04..2013-05"), now, Policy(groups="customer"), found, store)


@pytest.mark.parametrize("in_memory", [1_000, 0])
def test_each_name_has_a_number_and_each_null_is_its_own_cluster(check, monkeypatch, in_memory):
    monkeypatch.setattr(clusters, "_ROWS_IN_MEMORY", in_memory)
    with clusters.numbered(check) as checked:
        assert checked.clusters is not None
        batches = list(checked.batches([CLUSTER, "customer"], batch_rows=2))
        numbers = np.concatenate([clusters.of_batch(batch) for batch in batches])
        names = [name for batch in batches for name in batch.column("customer").to_pylist()]
        assert names == [name for window in CUSTOMERS for name in window]
        assert sorted({*numbers.tolist()}) == list(range(checked.clusters.count)) == list(range(6))
        known = {(name, number) for name, number in zip(names, numbers.tolist(), strict=True) if name is not None}
        assert len(known) == 4
        assert clusters.of_scores(checked) == alike(numbers)


def test_rows_are_independent_unless_the_policy_names_a_column(check):
    from dataclasses import replace

    with clusters.numbered(replace(check, policy=Policy())) as checked:
        assert checked.clusters is None
        assert clusters.of_scores(checked) is None
    with pytest.raises(SpecError), clusters.numbered(replace(check, policy=Policy(groups="shop"))):
        pass
