"""Measure the fairness metrics of the policy in a window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SpecError
from airflow_mlops.data import relational
from airflow_mlops.data.columns import LABEL
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.gates.divisions import divide
from airflow_mlops.gates.group_rates import CountedRates
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.metrics.fairness_rule import FairnessRule
from airflow_mlops.metrics.realised.spooled import SORT_MEMORY
from airflow_mlops.performance.fairness import largest_difference
from airflow_mlops.performance.findings import FairnessDifference
from airflow_mlops.registry.records.fairness import FairnessRates, GroupRates
from airflow_mlops.stages.monitor import clusters
from airflow_mlops.stages.monitor.check import CLUSTER, Check
from airflow_mlops.stages.monitor.performance import Realised

if TYPE_CHECKING:
    import pyarrow as pa


def measure(
    check: Check, reference: TrainingReference, realised: Realised
) -> tuple[list[FairnessDifference], list[str]]:
    """Measure the fairness metrics of the policy, each with a confidence interval.

    The groups and the rates are those of the gate :class:`~airflow_mlops.gates.fairness.Fairness`, without weights of
    rows. If the version passed a gate with the same metric and column, the difference at that time is the reference.

    :param reference: the training reference of the version that made the predictions
    :param realised: realised performance, which says whether there are enough labels
    :return: the differences, and why others were not measured or have no reference, one sentence each
    :raises SpecError: the model is not binary, or the predictions do not have a column of the policy
    """
    found, notes = [], []
    confidence = check.policy.confidence
    for rule in check.policy.fairness:
        _require(check, rule, reference.contract)
        name = f"The {rule.difference} difference over {rule.sensitive}"
        if rule.needs_labels and realised.unmeasured is not None:
            notes.append(f"{name} was not measured, because {realised.unmeasured}.")
            continue
        difference = largest_difference(_rates(check, rule, reference.contract), confidence)
        if difference is None:
            notes.append(f"{name} was not measured, because fewer than two groups have such rows.")
            continue
        known = _at_evaluation(rule, reference)
        # An evaluation without clusters does not say how similar the rows of a cluster are.
        before = largest_difference(known.rates, confidence, clusters.of_scores(check)) if known is not None else None
        if known is None or before is None:
            notes.append(
                f"{name} is not compared with the evaluation of {reference.version}, because no gate of its promotion measured "
                "it between two groups."
            )
        value = difference.interval
        found.append(
            FairnessDifference(
                metric=rule.fairness,
                sensitive=rule.sensitive,
                value=value.value,
                low=value.low,
                high=value.high,
                reference=before.interval.value if before is not None else None,
                reference_low=before.interval.low if before is not None else None,
                reference_high=before.interval.high if before is not None else None,
                compared=known.compared if known is not None else 1,
                limit=rule.max_difference,
                of=difference.of,
                least=difference.least,
                most=difference.most,
            )
        )
    return found, notes


def _at_evaluation(rule: FairnessRule, reference: TrainingReference) -> FairnessRates | None:
    """Return the rates that a gate with the metric and the column of a rule measured."""
    measured = (item for item in reference.fairness if (item.metric, item.sensitive) == (rule.fairness, rule.sensitive))
    return next(measured, None)


def _require(check: Check, rule: FairnessRule, contract: ModelContract) -> None:
    if contract.task != "binary":
        raise SpecError(
            f"policy.fairness has {rule.fairness!r}, which is for binary models, but this is a {contract.task} model. Remove it."
        )
    if not check.has_columns(rule.sensitive):
        raise SpecError(
            f"policy.fairness has sensitive={rule.sensitive!r}, which is not a column of the predictions. Keep this column in "
            "`watched` of the training set and in the scored rows, make it a key, or set another column."
        )


def _rates(check: Check, rule: FairnessRule, contract: ModelContract) -> list[GroupRates]:
    columns = [LABEL, "score", rule.sensitive] if rule.needs_labels else ["score", rule.sensitive]
    others = [] if check.clusters is None else [CLUSTER]

    def rows(*more: str) -> Iterator[pa.RecordBatch]:
        batches = check.batches(list(dict.fromkeys([*columns, *more])))
        return metrics.measurable(batches, contract) if rule.needs_labels else metrics.scored(batches, labelled=False)

    def values() -> Iterator[pa.Array]:
        return (clusters.plain(batch.column(rule.sensitive)) for batch in rows())

    division = divide(rule.sensitive, values, check.rows, relational.default_memory(most=SORT_MEMORY))
    found = CountedRates(rule, division, None if check.clusters is None else check.clusters.count)
    for batch in rows(*(["prediction"] if rule.needs_labels else []), *others):
        positive = batch.column("score").to_numpy(zero_copy_only=False) >= contract.threshold
        truth = None
        if rule.needs_labels:
            truth = np.asarray(metrics.outcomes([batch], contract).truth, dtype=bool)
        found.add(
            clusters.plain(batch.column(rule.sensitive)), positive, truth, clusters.of_batch(batch) if others else None
        )
    return found.rates()
