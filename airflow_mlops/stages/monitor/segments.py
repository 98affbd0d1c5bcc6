"""Find the segments of a window with worse performance than at training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airflow_mlops.data.columns import LABEL
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.performance import segments as comparison
from airflow_mlops.performance.findings import LossChange, Segment
from airflow_mlops.profiles import segments
from airflow_mlops.stages.monitor import clusters
from airflow_mlops.stages.monitor.check import Check
from airflow_mlops.stages.monitor.performance import Realised

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class SegmentFindings:
    """The change of the mean loss, and the segments with worse performance.

    The fields have the same names and meanings as in :class:`~airflow_mlops.policy.findings.Findings`.
    """

    loss: LossChange | None = None
    segments: list[Segment] = field(default_factory=list)


def compare(check: Check, reference: TrainingReference, realised: Realised) -> SegmentFindings:
    """Compare the segments of the window with the same segments at training.

    :param realised: realised performance. If it cannot be judged, nothing is compared. If its rows have weights, the
        segments are weighted, too, in the window and at training
    """
    judged, values = realised.judged, realised.weights.values
    profile = reference.profile
    known = profile.segments if values is None or profile.weighted is None else profile.weighted.segments
    if known is None or judged is None or judged.metric not in known.losses:
        return SegmentFindings()
    cuts = {name: cut for name, cut in known.cuts.items() if check.has_columns(name)}
    contract, metric = reference.contract, judged.metric
    mask = None if values is None else values > 0

    def rows() -> Iterator[pa.RecordBatch]:
        found = metrics.measurable(check.batches(list({*cuts, LABEL, "score"})), contract)
        return segments.measured(found, mask)

    outcomes = metrics.outcomes(check.batches(metrics.COLUMNS), contract)
    outcomes = replace(outcomes, groups=clusters.measured(check, contract))
    outcomes = replace(outcomes, columns=realised.columns)
    outcomes = outcomes if values is None else outcomes.weighted(values)
    losses = metrics.losses(metric, outcomes)
    current = segments.tally(cuts, rows(), {metric: losses}, outcomes.weight)[metric]
    designs = None
    if outcomes.groups is not None:
        designs = segments.design_effects(cuts, rows(), losses, outcomes.groups, outcomes.weight)
    compared = comparison.compare(known, current, metric, check.policy, designs)
    return SegmentFindings() if compared is None else SegmentFindings(*compared)
