"""The label delay is the time from events to the arrival of their labels, in days."""

from __future__ import annotations

import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.profiles.delays import label_delay

CAME = pa.array(["2013-04-03T12:00:00Z", None, "2013-04-06T12:00:00Z"])


@pytest.mark.parametrize(
    "events",
    [
        pa.array(["2013-04-02 12:00:00+00", "2013-04-02", "2013-04-05T12:00"]),
        pa.array(["2013-04-02T12:00:00", "2013-04-02", "2013-04-05T12:00:00"]).cast(pa.timestamp("ns")),
        pa.array(["2013-04-02T12:00:00", "2013-04-02", "2013-04-05T12:00:00"]).cast(pa.timestamp("s")),
    ],
)
@pytest.mark.parametrize("kind", [pa.string(), pa.timestamp("us", "UTC")])
def test_times_of_any_type_have_a_delay(events, kind):
    found = label_delay([pa.record_batch({"label_at": CAME.cast(kind), "at": events})], "at")
    assert (found.median, found.p99) == (1, 1)


def test_labels_of_the_year_9999_do_not_wrap_around():
    batch = pa.record_batch({"label_at": ["9999-12-31"], "at": ["0001-01-01"]})
    assert label_delay([batch], "at").median == pytest.approx(3_652_058)


def test_without_labels_or_times_there_is_no_delay_and_other_text_is_an_error():
    assert (
        label_delay([pa.record_batch({"label_at": pa.nulls(1, pa.timestamp("us")), "at": ["2013-04-02"]})], "at")
        is None
    )
    assert label_delay([pa.record_batch({"label_at": ["2013-04-02"], "at": [1]})], "at") is None
    with pytest.raises(SchemaError, match="'at' .*'4/2/2013'"):
        label_delay([pa.record_batch({"label_at": ["2013-04-02"], "at": ["4/2/2013"]})], "at")
