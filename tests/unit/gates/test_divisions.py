"""Groups of rows that are counted in batches: the same groups and rates as with all rows in memory."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.gates.divisions import divide
from airflow_mlops.gates.group_rates import CountedRates, group_rates
from airflow_mlops.metrics.fairness_rule import FairnessRule

COLUMNS = {
    pa.string(): st.text("abcdefgh", min_size=1, max_size=2),
    pa.int64(): st.integers(-50, 50),
    pa.float64(): st.floats(-3, 3) | st.sampled_from([float("nan"), float("inf"), 0.0]),
    pa.bool_(): st.booleans(),
    pa.date32(): st.dates(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.none()),
    pa.decimal128(5, 2): st.integers(-40, 40).map(lambda number: Decimal(number) / 4),
}


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_batches_have_the_rates_of_all_rows(data):
    kind = data.draw(st.sampled_from(sorted(COLUMNS, key=str)))
    each = st.tuples(st.none() | COLUMNS[kind], st.booleans(), st.booleans(), st.integers(0, 3))
    count = data.draw(st.sampled_from([0, 1, 10, 40, 60]))
    rows = data.draw(st.lists(each, min_size=count, max_size=count))
    values = pa.array([row[0] for row in rows], kind)
    predicted, truth = (np.array([row[place] for row in rows], bool) for place in (1, 2))
    groups = np.array([row[3] for row in rows], np.int64) if data.draw(st.booleans()) else None
    metric = data.draw(st.sampled_from(["demographic_parity", "equalized_odds"]))
    rule = FairnessRule(fairness=metric, sensitive="x", max_difference=0.1)
    labels = truth if rule.needs_labels else None
    expected = group_rates(rule, values, predicted, labels, groups)
    size = data.draw(st.integers(1, 20))
    parts = [slice(at, at + size) for at in range(0, len(rows), size)]
    division = divide("x", lambda: (values[part] for part in parts), len(rows))
    counted = CountedRates(rule, division, None if groups is None else 4)
    for part in parts:
        of_part = None if labels is None else labels[part]
        counted.add(values[part], predicted[part], of_part, None if groups is None else groups[part])
    for found, known in zip(counted.rates(), expected, strict=True):
        assert (found.of, list(found.groups.items())) == (known.of, list(known.groups.items()))
        assert found.designs.keys() == known.designs.keys()
        # An infinite design effect is null.
        pairs = [
            [(item.designs[name][0] or math.inf, item.designs[name][1]) for name in known.designs]
            for item in (found, known)
        ]
        assert np.ravel(pairs[0]) == pytest.approx(np.ravel(pairs[1]), rel=1e-9)
