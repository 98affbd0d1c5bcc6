"""Find the segments of a window with worse performance than at training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data import spool
from airflow_mlops.data.columns import LABEL
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.metrics.clusters import at_once
from airflow_mlops.metrics.columns import columns_of
from airflow_mlops.performance import segments as comparison
from airflow_mlops.performance.findings import LossChange, Segment
from airflow_mlops.profiles import segments
from airflow_mlops.profiles.segments import Cut, Losses
from airflow_mlops.stages.monitor import labelled
from airflow_mlops.stages.monitor.check import Check
from airflow_mlops.stages.monitor.performance import Realised

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COST = pa.schema([("cost", pa.float64())])


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
    judged, weight = realised.judged, realised.weights.column
    profile = reference.profile
    known = profile.segments if weight is None or profile.weighted is None else profile.weighted.segments
    if known is None or judged is None or judged.metric not in known.losses:
        return SegmentFindings()
    cuts = {name: cut for name, cut in known.cuts.items() if check.has_columns(name)}
    measured = _in_parts if metrics.is_measured_in_parts(judged.metric) else _in_memory
    current, designs = measured(check, reference.contract, judged.metric, realised, cuts)
    compared = comparison.compare(known, current, judged.metric, check.policy, designs)
    return SegmentFindings() if compared is None else SegmentFindings(*compared)


def _in_parts(
    check: Check, contract: ModelContract, metric: str, realised: Realised, cuts: Mapping[str, Cut]
) -> tuple[dict[str, Losses], dict[str, list[float]] | None]:
    """Return the losses of each segment by feature, and their design effects; ``None`` for independent rows.

    Only a part of the rows is in memory at the same time.
    """
    tally, packed = segments.Tally(cuts), PackedCodes(cuts)
    beside = (packed.count, packed.of_rows)
    with labelled.spooled(check, contract, metric, realised.weights, columns_of([metric]), list(cuts), beside) as rows:
        losses = metrics.losses_of_parts(metric, rows)
        parts = zip(rows.with_beside(packed.count), losses, strict=True)
        if rows.clusters is None:
            for (part, words), cost in parts:
                tally.add(packed.unpacked(words), cost, part.weight)
            return tally.result(), None

        def tallied() -> Iterator[pa.RecordBatch]:
            for (part, words), cost in parts:
                tally.add(packed.unpacked(words), cost, part.weight)
                yield pa.RecordBatch.from_arrays([pa.array(cost)], schema=_COST)

        with spool.spooled(tallied(), _COST) as costs:
            return tally.result(), _designs(cuts, packed, rows, costs)


def _designs(
    cuts: Mapping[str, Cut], packed: PackedCodes, rows: metrics.Spooled, costs: spool.Rows
) -> dict[str, list[float]]:
    """Return the design effect of each segment by feature. The sums of only some features are in memory at the same time.

    :param costs: the losses of the rows
    """
    assert rows.clusters is not None
    found: dict[str, list[float]] = {}
    for some in at_once(list(cuts), rows.clusters * max((len(item.names) for item in cuts.values()), default=1)):
        designs = segments.Designs({name: cuts[name] for name in some}, rows.clusters)
        for (part, words), cost in zip(rows.with_beside(packed.count), costs.to_batches(), strict=True):
            assert part.groups is not None
            codes = packed.unpacked(words)
            designs.add({name: codes[name] for name in some}, cost.column(0).to_numpy(), part.groups, part.weight)
        found |= designs.result()
    return found


class PackedCodes:
    """Packs the segment indices of eight features into one column of 64-bit integers, one byte for each feature.

    :param cuts: the segments by feature name, at most 256 for a feature
    :ivar count: number of columns
    """

    def __init__(self, cuts: Mapping[str, Cut]) -> None:
        assert all(len(item.names) <= 256 for item in cuts.values())
        self._cuts = cuts
        self._unusable: set[str] = set()
        self.count = -(-len(cuts) // 8)

    def of_rows(self, batch: pa.RecordBatch) -> list[NDArray[np.uint64]]:
        """Return the packed columns of n rows, each of shape (n,).

        :param batch: the features
        """
        found = np.zeros((batch.num_rows, 8 * self.count), np.uint8)
        for place, (name, codes) in enumerate(segments.codes_of(self._cuts, batch).items()):
            if codes is None:
                self._unusable.add(name)
            else:
                found[:, place] = codes
        return list(np.ascontiguousarray(found.view(np.uint64).T))

    def unpacked(self, columns: Sequence[NDArray[np.uint64]]) -> dict[str, NDArray[np.int64] | None]:
        """Return the index of the segment of each row by feature, each of shape (n,).

        The value of a feature is ``None`` if it had no codes in some rows (:func:`airflow_mlops.profiles.segments.codes_of`).

        :param columns: columns that :meth:`of_rows` returned. It must have read all rows before
        """
        eight = [column.view(np.uint8).reshape(-1, 8) for column in map(np.ascontiguousarray, columns)]
        return {
            name: None if name in self._unusable else eight[place // 8][:, place % 8].astype(np.int64)
            for place, name in enumerate(self._cuts)
        }


def _in_memory(
    check: Check, contract: ModelContract, metric: str, realised: Realised, cuts: Mapping[str, Cut]
) -> tuple[dict[str, Losses], None]:
    """Return the losses of each segment by feature. Metrics that need all rows at once support no weights and clusters."""
    outcomes = labelled.in_memory(check, contract, metric, realised.weights, columns_of([metric])).outcomes
    rows = metrics.measurable(check.batches(list({*cuts, LABEL, "score"})), contract)
    return segments.tally(cuts, rows, {metric: metrics.losses(metric, outcomes)})[metric], None
