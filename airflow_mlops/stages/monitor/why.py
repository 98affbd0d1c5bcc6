"""What monitoring finds out about the reasons: the segments where performance fell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.columns import LABEL
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.metrics import realised as performance
from airflow_mlops.performance import segments as segment_comparison
from airflow_mlops.policy.findings import Findings
from airflow_mlops.profiles import segments
from airflow_mlops.stages.monitor.columns import BATCH_ROWS

if TYPE_CHECKING:
    import pyarrow as pa


def fallen(
    datasets: Sequence[Dataset], contract: ModelContract, reference: segments.SegmentLosses | None, found: Findings
) -> dict[str, Any]:
    """The segments where performance fell, where it can be judged and the version's profile has segments."""
    if reference is None or found.performance is None or found.unmeasured is not None:
        return {}
    metric = found.performance.metric
    if metric not in reference.losses:
        return {}
    present = {column.name for dataset in datasets for column in dataset.manifest.columns}
    cuts = {name: cut for name, cut in reference.cuts.items() if name in present}

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return (batch for item in datasets for batch in item.batches(columns=columns, batch_rows=BATCH_ROWS))

    costs = performance.losses(metric, performance.outcomes(read(performance.COLUMNS), contract))
    rows = performance.measurable(read(list({*cuts, LABEL, "score"})), contract)
    current = segments.tally(cuts, rows, {metric: costs})[metric]
    compared = segment_comparison.compare(reference, current, metric, found.policy)
    return {} if compared is None else {"loss": compared[0], "segments": compared[1]}
