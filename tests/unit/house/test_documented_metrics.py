"""The table of the server's metrics in the documentation is complete."""

from __future__ import annotations

import re
from pathlib import Path

from airflow_mlops.serving.metrics import Metrics

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


def test_the_page_lists_each_metric_of_the_server_with_its_type_and_labels():
    registered = {
        (f"{found.name}_total" if found.type == "counter" else found.name, found.type): set(metric._labelnames)
        for metric in vars(Metrics()).values()
        if hasattr(metric, "collect") and hasattr(metric, "_labelnames")
        for found in metric.describe()
    }
    rows = re.findall(r"^\| `(mlops_serve_\w+)` \| (\w+) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert {(name, kind) for name, kind, _ in rows} == registered.keys()
    assert len(rows) == len(registered)
    assert all(f"`{label}`" in text for name, kind, text in rows for label in registered[name, kind])
