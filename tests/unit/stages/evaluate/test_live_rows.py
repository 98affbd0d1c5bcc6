"""Rows of several versions are paired by their identity."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.stages.evaluate.live import _pair, _Scored

IDS = st.lists(st.integers(0, 12), max_size=20)


@given(st.lists(IDS, min_size=1, max_size=3))
def test_a_row_counts_if_each_version_predicted_it_once(versions):
    scored = [
        _Scored(ModelVersionRef(model="m", version=number, run_id=""), [], np.array(ids, np.uint64), pa.table({}))
        for number, ids in enumerate(versions)
    ]
    counts, places = _pair(scored)
    everywhere = set.intersection(*map(set, versions))
    once = {item for item in everywhere if all(ids.count(item) == 1 for ids in versions)}
    expected = [item for item in versions[0] if item in once]
    for ids, index in zip(versions, places, strict=True):
        assert [ids[place] for place in index] == expected
    assert counts.unpaired == len(set().union(*versions)) - len(everywhere)
    assert counts.repeated == len(everywhere) - len(once)
