"""The verdict of an evaluation: the metrics and gate results of each candidate, and the winner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import UtcDatetime
from airflow_mlops.registry.records.fairness import FairnessRates


def _finite(value: Any) -> Any:
    # JSON cannot represent infinity, so an unbounded end of an interval becomes null.
    return None if isinstance(value, float) and not math.isfinite(value) else value


FiniteOrNone = Annotated[float | None, BeforeValidator(_finite)]


class SliceResult(Model):
    """The result of a gate on one slice of the held-out rows.

    The metrics, the improvement and its bounds are ``None`` if the slice has too few rows or only one class.

    :param name: condition of the slice, such as ``carrier = UA``
    :param rows: number of rows in the slice
    :param candidate: metric of the candidate on the slice
    :param champion: metric of the champion on the slice
    :param improvement: improvement of the candidate over the champion; negative if the candidate is worse
    :param low: lower confidence bound of the improvement
    :param high: upper confidence bound of the improvement
    :param state: ``worse`` if the candidate is significantly worse than the champion by more than the tolerance,
        ``fine`` if the candidate is significantly not worse by more than the tolerance, otherwise ``uncertain``
    """

    name: str
    rows: int
    candidate: float | None = None
    champion: float | None = None
    improvement: float | None = None
    low: float | None = None
    high: float | None = None
    state: Literal["fine", "worse", "uncertain"]


class GateResult(Model):
    """The result of one gate for one candidate. Only some gates set the fields after ``explanation``.

    :param gate: the requirement, such as ``roc_auc at least 0.6``
    :param measured: the measured value of the candidate; ``None`` if the value could not be measured
    :param asked: the required value; ``None`` if the gate has no required value in this evaluation
    :param passed: whether the candidate passed the gate
    :param explanation: the reason why the candidate passed or failed the gate
    :param improvement: improvement of the candidate over the champion; positive if the candidate is better
    :param low: lower confidence bound of the improvement, or of the metric for a gate with ``min`` or ``max``
    :param high: upper confidence bound of the improvement, or of the metric for a gate with ``min`` or ``max``
    :param confidence: confidence of each bound, corrected for the number of candidates or slices
    :param rows: number of rows that the gate used
    :param detectable: the smallest true improvement that passes the gate with a probability of 80% on this number of
        rows
    :param slices: the result on each slice
    :param fairness: the rates of the groups, with which monitoring compares a window; only of the gate ``fairness``, and
        ``None`` in verdicts of earlier releases
    """

    gate: str
    measured: float | None
    asked: float | None
    passed: bool
    explanation: str
    improvement: float | None = None
    low: FiniteOrNone = None
    high: FiniteOrNone = None
    confidence: float | None = None
    rows: int | None = None
    detectable: FiniteOrNone = None
    slices: list[SliceResult] = Field(default_factory=list)
    fairness: FairnessRates | None = None


class WindowValue(Model):
    """A metric of one version on a held-out window, with its 95% confidence interval.

    :param low: lower end of the interval; ``None`` if there are too few rows
    :param high: upper end of the interval; ``None`` if there are too few rows
    """

    value: float
    low: float | None = None
    high: float | None = None


class HeldOutWindow(Model):
    """The metric of the verdict on one of the consecutive windows of the held-out rows.

    :param start: start of the window
    :param end: first instant after the window
    :param rows: number of held-out rows in the window
    :param candidates: the metric of each candidate, by number of the version. Candidates whose metric is undefined in
        the window are left out
    :param champion: the metric of the champion; ``None`` if it was not measured or is undefined in the window
    """

    start: UtcDatetime
    end: UtcDatetime
    rows: int
    candidates: dict[int, WindowValue] = Field(default_factory=dict)
    champion: WindowValue | None = None


class CandidateVerdict(Model):
    """The metrics and gate results of one candidate.

    :param metrics: metrics of the candidate on the held-out data
    :param gates: the result of each gate
    :param passed: whether the candidate passed every gate
    :param reason: the reason why the candidate won or did not win
    :param candidate: the evaluated model version
    :param contract_sha256: SHA-256 of the model contract that EvaluateOperator wrote for a version that TrainOperator
        did not train. ``None`` for a version that TrainOperator trained, because the files of such a version contain a
        contract
    :param files: SHA-256 of each file of the evaluated version, by path; empty in verdicts of earlier releases
    :param intervals: lower and upper end of the 95% confidence interval of each metric. A metric is left out if there
        are too few rows. Empty in verdicts of earlier releases
    """

    candidate: ModelVersionRef
    metrics: dict[str, float]
    gates: list[GateResult]
    passed: bool
    reason: str = ""
    contract_sha256: str | None = None
    files: dict[str, str] = Field(default_factory=dict)
    intervals: dict[str, tuple[FiniteOrNone, FiniteOrNone]] = Field(default_factory=dict)


class Refit(Model):
    """A winner that was fitted again on all rows of its training set, held-out rows included.

    :param judged: the version that passed the gates, which was fitted to the split part ``train``
    :param version: the version that was fitted to all rows; ``None`` if it failed a check and was not registered
    :param rows: number of rows to which the new version was fitted
    :param sampled_from: number of rows from which these rows were drawn (``max_rows`` of the trainer); ``None`` if they
        are all rows
    :param checks: the comparisons with the judged version
    :param passed: whether all checks were passed
    :param reason: the result as text
    :param files: SHA-256 of each file of the new version, by path; empty if no version was registered, and in verdicts
        of earlier releases
    """

    judged: ModelVersionRef
    version: ModelVersionRef | None
    rows: int
    sampled_from: int | None = None
    checks: list[GateResult]
    passed: bool
    reason: str
    files: dict[str, str] = Field(default_factory=dict)

    @property
    def fitted_to(self) -> str:
        """Return the rows to which the new version was fitted, as text."""
        if self.sampled_from is None:
            return f"all {self.rows:,} rows"
        return f"a uniform sample of {self.rows:,} of all {self.sampled_from:,} rows"


class LiveRows(Model):
    """Numbers of rows of live evidence, the labelled predictions that several versions made in production.

    :param rows: rows on which the versions were compared: each version predicted them once, and their label is known
    :param unpaired: rows that only some of the versions predicted, which were left out
    :param repeated: rows that a version predicted several times, which were left out
    :param unlabelled: rows whose label is null for at least one of the versions, which were left out
    """

    rows: int
    unpaired: int
    repeated: int
    unlabelled: int

    @property
    def sentence(self) -> str:
        """Return a text with the number of compared rows and the numbers of rows that were left out."""
        return (
            f"{self.rows:,} rows were predicted by all versions and have a label. Left out: {self.unpaired:,} rows "
            f"predicted by only some versions, {self.repeated:,} predicted several times by one version, and "
            f"{self.unlabelled:,} without a label."
        )


class Verdict(Model):
    """The result of an evaluation: the metrics and gate results of all candidates, and the winner.

    :param model: name of the registered model
    :param dataset_name: name of the dataset on which all models were measured
    :param dataset_id: id of the dataset on which all models were measured
    :param part: name of the held-out split part of this dataset, such as ``test``
    :param metric: name of the metric that ranks the candidates that pass every gate
    :param winner: the best candidate that passed every gate; ``None`` if no candidate passed
    :param champion: the champion at the time of the evaluation; ``None`` if the model had no champion
    :param champion_metrics: metrics of the champion on the same rows; empty if the champion could not be measured
    :param baseline_metrics: metrics of a model that always predicts the mean or the class frequencies
    :param tree_metrics: metrics of a decision tree of depth 3 that was fitted to the split part ``train``; empty if no
        tree could be fitted
    :param statistical_metrics: metrics of the statistical models whose forecasts are columns of the rows, by column; empty
        in verdicts of earlier releases
    :param candidates: metrics and gate results of each candidate
    :param reason: the reason why the winner won, or why no candidate won
    :param policy: how the champion was taken into account, and how the rows were weighted
    :param metric_code: SHA-256 of the source file of each custom metric, by import path
    :param sample_weight: column of the held-out rows by which all metrics and gates are weighted; ``None`` if all rows
        have the same weight, and in verdicts of earlier releases
    :param live: numbers of rows if the models were compared by their predictions in production; ``None`` if they were
        compared on held-out rows, and in verdicts of earlier releases
    :param windows: the metric on each window of the held-out rows, in the order of time; empty if the training set was
        not split into windows (``windows``), and in verdicts of earlier releases
    :param refit: how the winner was fitted again; ``None`` if it was not. If the refit passed its checks, ``winner`` is
        the refitted version, and the metrics belong to the judged version
    """

    model: str
    dataset_name: str
    dataset_id: str
    part: str
    metric: str
    winner: ModelVersionRef | None
    champion: ModelVersionRef | None
    champion_metrics: dict[str, float] = Field(default_factory=dict)
    baseline_metrics: dict[str, float] = Field(default_factory=dict)
    tree_metrics: dict[str, float] = Field(default_factory=dict)
    statistical_metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    candidates: list[CandidateVerdict]
    reason: str
    policy: str = ""
    metric_code: dict[str, str] = Field(default_factory=dict)
    sample_weight: str | None = None
    live: LiveRows | None = None
    windows: list[HeldOutWindow] = Field(default_factory=list)
    refit: Refit | None = None

    def files_of(self, version: ModelVersionRef) -> dict[str, str]:
        """Return the SHA-256 of each file, by path, of a candidate or of the refitted version."""
        if self.refit is not None and version == self.refit.version:
            return self.refit.files
        return self.for_candidate(version).files

    def for_candidate(self, candidate: ModelVersionRef) -> CandidateVerdict:
        """Return the verdict on ``candidate``, which must be one of the evaluated candidates.

        For a version that was fitted again, the verdict on the judged version is returned.
        """
        if self.refit is not None and candidate == self.refit.version:
            candidate = self.refit.judged
        return next(item for item in self.candidates if item.candidate == candidate)

    def outcome(self, candidate: ModelVersionRef) -> str:
        """Return ``won``, ``passed`` or ``failed``. A candidate that passed every gate need not be the winner."""
        return "won" if candidate == self.winner else "passed" if self.for_candidate(candidate).passed else "failed"


def _as_verdict(value: Any) -> Any:
    # The result of an EvaluateOperator contains the verdict.
    if isinstance(value, dict) and "verdict" in value:
        if value["verdict"] is None:
            raise ValueError(
                "This is the result of one shard of an evaluation, and another shard has the verdict. Pass on the results of all "
                "shards, for example with verdict=evaluate.output."
            )
        return value["verdict"]
    if isinstance(value, (list, tuple)):
        return _one_verdict(value)
    return value


def _one_verdict(results: Sequence[Any]) -> Any:
    """Return the verdict among the results of a mapped task, such as the shards of one evaluation."""
    # An instance of a mapped task that was skipped has no result.
    given = [item for item in results if item is not None]
    found = [item for item in given if not (isinstance(item, dict) and item.get("verdict", item) is None)]
    if len(found) == 1:
        return _as_verdict(found[0])
    raise ValueError(
        f"This step takes one verdict, but {len(found)} are given. Evaluate all candidates in one task, or map the task over the "
        "verdicts with .expand(verdict=...)."
        if found
        else "No verdict is given, because the evaluation was skipped or is not complete. Skip this task too, for example with "
        "its trigger_rule."
    )


VerdictInput = Annotated[Verdict, BeforeValidator(_as_verdict)]
