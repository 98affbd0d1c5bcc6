"""Facts about the comparison with challengers."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.core.counts import counted
from airflow_mlops.metrics.catalog import find_metric, is_mean_of_rows
from airflow_mlops.performance.challenger import Challenger, Comparison, Gain, OtherTrainer, PastTrainings
from airflow_mlops.policy.details.inputs import broken_inputs
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.wording import capitalized, listed, metric_name, number, share


def deciding_comparison(findings: Findings) -> Comparison | None:
    """Return the comparison with challengers if the comparison decides about retraining.

    The comparison decides if ``retrain_on`` contains ``challenger`` and no feature is broken. With broken features, a
    challenger cannot show whether a model that is trained on repaired features would be better.

    :return: ``None`` if the comparison does not decide, or if no challenger was trained
    """
    decides = "challenger" in findings.policy.retrain_on and not broken_inputs(findings)
    return findings.challenger if decides else None


def gain_of(comparison: Comparison, gain: Gain) -> str:
    """Return a clause about a better challenger, such as ``Retraining would raise ROC AUC from 0.598 to 0.640``.

    The mean loss over several windows decides, so the metric need not be better in this window. The clause is then
    about the loss.
    """
    better = find_metric(comparison.metric).higher_is_better
    if (gain.value <= comparison.value) if better else (gain.value >= comparison.value):
        over = f" of {gain.windows} windows" if gain.windows > 1 else ""
        return f"Retraining would reduce the mean loss{over} by {share(gain.share)}"
    values = f"from {number(comparison.value)} to {number(gain.value)}"
    return f"Retraining would {'raise' if better else 'lower'} {metric_name(comparison.metric)} {values}"


def challengers_of(comparison: Comparison, policy: Policy) -> list[str]:
    """Return sentences with the values of the champion and of all challengers, and the largest significant gain.

    Each trainer has its own sentence, because the values of several trainers are too long for one detail.
    """
    metric = metric_name(comparison.metric)
    rows = counted(comparison.rows, "labelled row")
    # Each challenger is trained twice, and each of its two models predicts one half of the rows. Metrics such as ROC
    # AUC are computed for each half, so the mean of the two values differs from the metric of the whole window.
    whole = is_mean_of_rows(comparison.metric)
    measured = f"{metric} on {rows}" if whole else f"mean {metric} of the two halves of {rows}"
    of_each: dict[OtherTrainer | None, list[Challenger]] = {
        trainer: [] for trainer in dict.fromkeys(item.trainer for item in comparison.challengers)
    }
    for item in comparison.challengers:
        of_each[item.trainer].append(item)
    champion = f"champion v{comparison.champion.version} {number(comparison.value)}"
    (first, *others) = [
        f"challengers{_named(trainer, len(of_each))} trained {_values(items)}" for trainer, items in of_each.items()
    ]
    facts = [f"{capitalized(measured)}: {champion}; {first}."]
    if (best := comparison.best) is None:
        needed = _needed(policy.min_gain, comparison.usual, up_to=True)
        facts.append(f"No challenger reduces the mean loss significantly and by enough ({needed}).")
    else:
        needed = _needed(policy.min_gain, best.usual)
        over = f"mean of {best.windows} windows" if best.windows > 1 else "this window"
        over += f", corrected for {len(of_each)} compared trainers" if len(of_each) > 1 else ""
        facts.append(
            f"The challenger{_named(best.trainer, len(of_each))} trained on {_past(best.past)} reduces the mean loss by {share(best.share)} ({over}; at least "
            f"{share(best.low)} with {share(policy.confidence, 0)} confidence, {needed})."
        )
    if comparison.trainings is not None and not comparison.trainings.paid:
        facts.append(_unpaid(comparison.trainings))
    return [*facts, *(f"{capitalized(other)}." for other in others)]


def _unpaid(trainings: PastTrainings) -> str:
    """Return a sentence about trainings that have not paid off."""
    return (
        f"Retraining has not paid off so far: in the first window after each of the last {trainings.number} trainings, the mean "
        f"loss changed by {-trainings.gain:+.1%} on average. Only an unusually large gain requests retraining."
    )


def _needed(min_gain: float, usual: float, up_to: bool = False) -> str:
    """Return a clause about the gain that is needed: ``min_gain``, and the usual gain after a training if there is one."""
    needed = f"{share(min_gain, 0)} needed"
    if usual <= 0:
        return needed
    return f"{needed} on top of {'up to ' if up_to else ''}{share(usual)}, the usual gain just after a training"


def _named(trainer: OtherTrainer | None, compared: int) -> str:
    """Return the name of a trainer in parentheses. The champion's trainer is named only if others are compared with it."""
    if trainer is not None:
        return f" ({trainer.name})"
    return " (the champion's trainer)" if compared > 1 else ""


def _values(challengers: Sequence[Challenger]) -> str:
    return listed([f"on {_past(item.past)} {number(item.value)}" for item in challengers], len(challengers))


def _past(windows: int | None) -> str:
    if windows is None:
        return "all windows"
    return "this window alone" if windows == 1 else f"the last {windows} windows"
