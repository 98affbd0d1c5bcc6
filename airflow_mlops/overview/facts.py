"""Models of the facts about a model, as the JSON API returns them and the index stores them.

Only this package writes these facts, so their times have a single format. pydantic parses it much faster than this
package's parser of many formats.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import Window
from airflow_mlops.policy.findings import Decision as Verdict
from airflow_mlops.registry.records.approval import ApprovalRecord
from airflow_mlops.registry.records.canary import CanaryStep
from airflow_mlops.registry.records.endpoint import Endpoint
from airflow_mlops.registry.records.verdict import GateResult, Refit

TREND = 36
"""Number of windows in the trend of a model."""


class WindowFacts(Model):
    """A time window.

    :param start: first instant
    :param end: first instant after the window
    :param label: the shortest text form, such as ``2013-04``
    """

    start: AwareDatetime
    end: AwareDatetime
    label: str

    @classmethod
    def of(cls, window: Window) -> WindowFacts:
        """Return the facts of a window."""
        return cls(start=window.start, end=window.end, label=window.label)


class TaskFacts(Model):
    """The Airflow task that wrote something."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1


class Level(Model):
    """The value of a metric with a confidence interval.

    :param low: lower bound of the interval
    :param high: upper bound of the interval
    :param reference: value of the metric on the held-out split part at training; ``None`` if unknown
    """

    value: float
    low: float
    high: float
    reference: float | None = None


class Point(Model):
    """A monitored window, in a few numbers.

    :param verdict: decision about the window
    :param headline: the main reason
    :param checked: time at which the window was checked
    :param version: version that made the predictions; ``None`` without predictions
    :param rows: number of predictions
    :param labelled: number of predictions with a label
    :param coverage: share of the predictions that have a label; ``None`` without predictions
    :param metric: name of the metric of ``realised`` and ``estimated``; ``None`` if nothing was measured
    :param greater_is_better: whether larger values of ``metric`` are better
    :param realised: realised performance; ``None`` if it was not measured
    :param estimated: performance estimated without labels; ``None`` if it was not estimated
    :param requested: whether retraining was requested because of the window
    :param report: path of the HTML report below ``/mlops/artifacts/``
    :param task: the task that checked the window; ``None`` in reports of earlier releases and without Airflow
    """

    window: WindowFacts
    verdict: Verdict
    headline: str
    checked: AwareDatetime
    version: int | None = None
    rows: int = 0
    labelled: int = 0
    coverage: float | None = None
    metric: str | None = None
    greater_is_better: bool | None = None
    realised: Level | None = None
    estimated: Level | None = None
    requested: bool = False
    report: str = ""
    task: TaskFacts | None = None


class Trend(Model):
    """The metric and the verdict of the last windows. All lists have one item for each window, ordered by time.

    Lists are much faster to read than one object for each window.

    :param windows: labels of the windows
    :param values: realised performance; ``None`` if it was not measured
    :param estimated: estimated performance; ``None`` if it was not estimated
    :param verdicts: decisions about the windows
    """

    windows: list[str] = Field(default_factory=list)
    values: list[float | None] = Field(default_factory=list)
    estimated: list[float | None] = Field(default_factory=list)
    verdicts: list[Verdict] = Field(default_factory=list)


class Acknowledgement(Model):
    """The acknowledgement of the verdict ``watch`` on a window by a user.

    :param by: name of the user
    :param at: time of the acknowledgement
    :param note: comment of the user
    """

    by: str
    at: AwareDatetime
    note: str = ""


class Champion(Model):
    """The champion.

    :param since: time at which the version became champion
    :param by: user who approved the promotion or started the run; ``None`` if no user did
    :param reason: reason for the decision
    """

    version: int
    since: AwareDatetime
    by: str | None = None
    reason: str = ""


class Candidate(Model):
    """The version that was trained last.

    :param trained: time at which its training had finished
    """

    version: int
    trained: AwareDatetime


class Monitoring(Model):
    """The last monitored window, and the windows before it.

    :param checked: time at which the window was checked
    :param headline: the main reason for the verdict
    :param metric: name of the metric of the trend; ``None`` if nothing was measured in the last windows
    :param greater_is_better: whether larger values of ``metric`` are better
    :param coverage: share of the predictions that have a label; ``None`` without predictions
    :param trend: the last windows. Values of metrics other than ``metric`` are left out
    :param acknowledged: the acknowledgement of the verdict ``watch``; ``None`` if there is none
    """

    window: WindowFacts
    checked: AwareDatetime
    verdict: Verdict
    headline: str
    metric: str | None = None
    greater_is_better: bool | None = None
    coverage: float | None = None
    trend: Trend = Trend()
    acknowledged: Acknowledgement | None = None


class Scoring(Model):
    """The scoring of the last window.

    :param window: time window of the predictions; ``None`` if they have no window
    :param scored_at: time at which the predictions were written
    :param version: version that made the predictions
    :param rows: number of predictions
    """

    window: WindowFacts | None
    scored_at: AwareDatetime
    version: int
    rows: int


class OpenRequest(Model):
    """The last request for retraining, if no candidate has been promoted or refused for it.

    :param id: id of the request
    :param reason: why retraining is requested
    :param created: time at which the request was created
    :param state: ``answered`` if a training has begun, else ``open``
    :param by: user who requested the retraining; ``monitoring: DAG x, task y`` if monitoring requested it
    :param started: time at which the training began; ``None`` if it has not begun
    :param training: the first task of the training; ``None`` if the training has not begun
    """

    id: str
    reason: str
    created: AwareDatetime
    state: Literal["open", "answered", "expired", "moot"] = "open"
    by: str | None = None
    started: AwareDatetime | None = None
    training: TaskFacts | None = None


class PendingApproval(Model):
    """A request for approval that waits for an answer in Airflow.

    :param map_index: index of a mapped task instance; -1 if the task is not mapped
    :param subject: title of the request
    :param assignees: ids of the users who may answer; empty if Airflow has no list of users for the request
    :param can_answer: whether Airflow lets the user answer
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    subject: str
    assignees: list[str] = Field(default_factory=list)
    can_answer: bool = False


class ModelDags(Model):
    """Ids of the DAGs that train, score and monitor a model."""

    train: list[str] = Field(default_factory=list)
    score: list[str] = Field(default_factory=list)
    monitor: list[str] = Field(default_factory=list)

    def ids(self) -> set[str]:
        """Return all ids."""
        return {*self.train, *self.score, *self.monitor}


class Overview(Model):
    """The newest facts about a model.

    :param name: name of the registered model
    :param owner: owners of its DAGs, separated by commas; ``None`` if they are unknown
    :param tags: tags of its DAGs
    :param champion: the champion according to the ledger; ``None`` if the model has no champion
    :param candidate: the newest trained version; ``None`` if unknown, for example for versions that were registered
        elsewhere
    :param previous: the version that the champion replaced
    :param labels_until: end of the last monitored window in which predictions have labels
    :param request: the last request for retraining; ``None`` if there is none, or it led to a decision
    :param approval: the request for approval that waits for an answer; ``None`` if there is none
    :param can_act: whether the user may roll back, request retraining and acknowledge
    :param problems: what could not be read, one sentence each
    """

    name: str
    owner: str | None = None
    tags: list[str] = Field(default_factory=list)
    dags: ModelDags = ModelDags()
    champion: Champion | None = None
    candidate: Candidate | None = None
    previous: int | None = None
    monitoring: Monitoring | None = None
    scoring: Scoring | None = None
    labels_until: AwareDatetime | None = None
    request: OpenRequest | None = None
    approval: PendingApproval | None = None
    can_act: bool = False
    problems: list[str] = Field(default_factory=list)


class CandidateFacts(Model):
    """A candidate of a decision, with its metrics and the results of its gates.

    :param passed: whether the candidate passed every gate
    :param reason: why the candidate won or did not win
    """

    version: int
    passed: bool
    reason: str
    metrics: dict[str, float]
    gates: list[GateResult]


class DecisionFacts(Model):
    """An entry of the ledger.

    :param seq: number of the entry, from 1
    :param decision: kind of the entry; entries of newer releases may have unknown kinds
    :param champion: version that is champion after the decision
    :param replaced: version that was champion before the decision
    :param by: user who approved, rolled back, requested or acknowledged; ``monitoring: DAG x, task y`` if monitoring
        requested; ``None`` if neither a user nor monitoring made the decision
    :param window: window of a request for retraining or of an acknowledgement
    :param dag_id: DAG of the task that made the decision; empty without Airflow
    :param endpoint: the endpoint that was deployed or removed; ``None`` for other decisions
    :param canary: the step of a canary; ``None`` for other decisions
    """

    seq: int
    time: AwareDatetime
    decision: str
    champion: int | None
    replaced: int | None
    by: str | None
    reason: str
    approval: ApprovalRecord | None = None
    candidates: list[CandidateFacts] = Field(default_factory=list)
    window: WindowFacts | None = None
    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    map_index: int = -1
    refit: Refit | None = None
    endpoint: Endpoint | None = None
    canary: CanaryStep | None = None


class Chain(Model):
    """The state of the ledger's chain of hashes.

    :param intact: whether the entries follow each other without a change or a gap
    :param problem: where the chain is broken
    """

    intact: bool = True
    problem: str | None = None


class ModelFacts(Overview):
    """All facts about a model.

    :param details: the facts behind the last verdict, one sentence each
    :param windows: all monitored windows, ordered by time
    :param decisions: all entries of the ledger, newest first
    """

    details: list[str] = Field(default_factory=list)
    windows: list[Point] = Field(default_factory=list)
    decisions: list[DecisionFacts] = Field(default_factory=list)
    chain: Chain = Chain()


class Models(Model):
    """The models that a user may see."""

    models: list[Overview]
    problems: list[str] = Field(default_factory=list)
