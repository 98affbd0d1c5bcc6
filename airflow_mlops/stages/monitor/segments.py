"""Find the segments of a window with worse performance than at training."""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow_mlops.data.columns import LABEL
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.performance import segments as comparison
from airflow_mlops.performance.findings import LossChange, Performance, Segment
from airflow_mlops.profiles import segments
from airflow_mlops.stages.monitor import clusters
from airflow_mlops.stages.monitor.check import Check


@dataclass(frozen=True)
class SegmentFindings:
    """The change of the mean loss, and the segments with worse performance.

    The fields have the same names and meanings as in :class:`~airflow_mlops.policy.findings.Findings`.
    """

    loss: LossChange | None = None
    segments: list[Segment] = field(default_factory=list)


def compare(check: Check, reference: TrainingReference, judged: Performance | None) -> SegmentFindings:
    """Compare the segments of the window with the same segments at training.

    :param judged: realised performance; ``None`` if performance cannot be judged. Without realised performance, nothing
        is compared
    """
    known = reference.profile.segments
    if known is None or judged is None or judged.metric not in known.losses:
        return SegmentFindings()
    present = {column.name for dataset in check.datasets for column in dataset.manifest.columns}
    cuts = {name: cut for name, cut in known.cuts.items() if name in present}
    contract, metric = reference.contract, judged.metric
    losses = metrics.losses(metric, metrics.outcomes(check.batches(metrics.COLUMNS), contract))
    rows = metrics.measurable(check.batches(list({*cuts, LABEL, "score"})), contract)
    current = segments.tally(cuts, rows, {metric: losses})[metric]
    groups = clusters.measured(check, contract)
    designs = None
    if groups is not None:
        rows = metrics.measurable(check.batches(list({*cuts, LABEL, "score"})), contract)
        designs = segments.design_effects(cuts, rows, losses, groups)
    compared = comparison.compare(known, current, metric, check.policy, designs)
    return SegmentFindings() if compared is None else SegmentFindings(*compared)
