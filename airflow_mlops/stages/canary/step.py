"""Compare the canary with the champion, and increase or keep its share, withdraw it or promote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_mlops import __version__
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import RegistryError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.gates.base import percent
from airflow_mlops.metrics.catalog import (
    REALISED,
    is_coverage_gap,
    is_on_request,
    is_ranking,
    realised,
)
from airflow_mlops.metrics.forecasts import MASE
from airflow_mlops.metrics.judged import NoCommonMetricError, common_metric_of_rows, has_other_unit
from airflow_mlops.metrics.realised import UnmeasurableError
from airflow_mlops.models import contracts
from airflow_mlops.overview import index
from airflow_mlops.registry import aliases, canary_counts, versions
from airflow_mlops.registry import canary as canaries
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.integrity import card_hashes, file_hashes
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.origins import origin
from airflow_mlops.registry.records.canary import CanaryStep
from airflow_mlops.registry.records.entry import Decision, Entry
from airflow_mlops.registry.records.verdict import CandidateVerdict, Verdict
from airflow_mlops.stages.canary import evidence
from airflow_mlops.stages.canary.comparison import Comparison, compare, failures
from airflow_mlops.stages.canary.spec import CanaryResult, CanarySpec, State
from airflow_mlops.stages.context import StepContext

if TYPE_CHECKING:
    from mlflow import MlflowClient

_STATES: dict[str, State] = {
    canaries.STARTED: "started",
    canaries.WIDENED: "widened",
    canaries.HELD: "held",
    canaries.WITHDRAWN: "withdrawn",
    "promoted": "promoted",
}


def run(spec: CanarySpec, context: StepContext) -> CanaryResult:
    """Start the canary, or compare it with the champion and decide about its share. The ledger records the decision.

    Nothing is decided if no version has the alias, while there are too few labels, and after the canary of the version
    has ended.

    :raises RegistryError: the model has no champion, MLflow cannot be used, or the ledger was tampered with
    :raises SpecError: the versions cannot be compared by the metric, or the labelled predictions lack a column
    """
    context = context.for_call()
    client = connect(spec.mlflow, context.connection)
    ledger = Ledger(context.store, spec.model)
    # A crashed task may have left an entry that is not carried out.
    canaries.carry_out(client, ledger)
    ref = versions.find(client, spec.model, str(spec.version))
    if ref is None:
        now = versions.champion(client, spec.model)
        reason = f"No version has the alias {spec.version!r}."
        return CanaryResult(
            state="idle", model=spec.model, version=None, champion=now, reason=reason, summary=f"No canary: {reason}"
        )
    task = _Task(spec, context, client, ledger, ref)
    entry = ledger.record(context.key, task.decide)
    if entry is None:
        return task.result(task.state, task.reason, task.share, task.champion)
    if entry.moves:
        aliases.carry_out(client, ledger)
    canaries.carry_out(client, ledger)
    index.update(context.store, spec.model, "decisions")
    return _recorded(task, entry, ledger.url(entry.seq))


@dataclass
class _Task:
    """Decides about the canary. If nothing is decided, ``state`` and ``reason`` say why."""

    spec: CanarySpec
    context: StepContext
    client: MlflowClient
    ledger: Ledger
    ref: ModelVersionRef
    state: State = "idle"
    reason: str = ""
    share: float = 0.0
    champion: ModelVersionRef | None = None

    def decide(self, entries: list[Entry]) -> Decision | None:
        """Return the decision; ``None`` if nothing is decided."""
        now = self.champion = aliases.settled_champion(self.client, self.ledger, entries)
        if now is None:
            raise RegistryError(
                f"The model {self.spec.model!r} has no champion with which a canary could be compared. Promote a version first."
            )
        self.state, self.share = "idle", 0.0
        if now.version == self.ref.version:
            self.reason = f"{self.ref} is the champion."
            return None
        if (end := canaries.ended(entries, self.ref)) is not None:
            self.reason = f"The canary {self.ref} has ended with entry {end.seq} of the ledger: {end.reason}"
            return None
        contract, other = (contracts.read(self.client, self.context.store, item).contract for item in (self.ref, now))
        # A canary that cannot be compared must not start.
        metric = _metric(self.spec, contract, other)
        rollout = canaries.last_rollout(entries)
        if rollout is None or not rollout.under_way or rollout.version.version != self.ref.version:
            return self._start(now, "")
        if rollout.champion is None or rollout.champion.version != now.version:
            return self._start(now, f" again, because {rollout.champion} is no longer the champion,")
        return self._next(rollout, now, contract, metric)

    def _start(self, now: ModelVersionRef, again: str) -> Decision:
        share = self.spec.shares[0]
        reason = f"{self.ref} begins{again} to answer {percent(share)} of the requests. The champion {now} answers the others."
        files = file_hashes(versions.download(self.client, self.ref))
        mine = CandidateVerdict(candidate=self.ref, metrics={}, gates=[], passed=False, reason=reason, files=files)
        return self._decision(canaries.STARTED, now, reason, CanaryStep(version=self.ref, share=share), mine)

    def _next(
        self, rollout: canaries.Rollout, now: ModelVersionRef, contract: ModelContract, metric: str
    ) -> Decision | None:
        self.state, self.share = "waiting", rollout.step.share
        # A promotion of the canary copies the file hashes from this entry.
        self.ledger.require_signed(rollout.entries[0])
        spec, step = self.spec, rollout.step
        failed = failures(canary_counts.total(self.context.store, self.ref, now, rollout.entries[0].time))
        if failed is not None and not failed.passed:
            # Failed requests have no predictions, so this is known without labels.
            return self._judged(rollout, now, Comparison([failed], {}, {}, failed.explanation), step)
        strata: dict[tuple[int, str], int] = {}
        names = (
            spec.canary_outcomes or f"{spec.model}_canary_outcomes",
            spec.outcomes or f"{spec.model}_outcomes",
        )
        try:
            mine, theirs = (
                evidence.read(
                    self.context.store, name, ref, contract, metric, rollout.shares, spec.groups, strata
                )
                for name, ref in zip(names, (self.ref, now), strict=True)
            )  # fmt: skip
        except UnmeasurableError as error:
            raise SpecError(f"{self.ref} cannot be compared with {now} by {metric}, because {error}.") from error
        new = min(mine.labels_now, mine.labels - step.labels)
        if min(new, theirs.labels) < spec.min_labels:
            self.reason = (
                f"{self.ref} answers {percent(step.share)} of the requests. It is compared with the champion when it has "
                f"{spec.min_labels:,} new labelled predictions ({max(0, new):,} so far, and {theirs.labels:,} of the champion)."
            )
            return None
        look = step.looks + 1
        found = compare(mine, theirs, metric, look, spec.confidence, spec.max_loss)
        if found is None:
            self.reason = f"{self.ref} and {now} have no window in which both have labelled predictions."
            return None
        if failed is not None:
            found.gates.append(failed)
        return self._judged(
            rollout, now, found, CanaryStep(version=self.ref, share=step.share, looks=look, labels=mine.labels)
        )

    def _judged(self, rollout: canaries.Rollout, now: ModelVersionRef, found: Comparison, step: CanaryStep) -> Decision:
        files = next((item.files for entry in rollout.entries for item in entry.candidates), {})
        wider = next((share for share in self.spec.shares if share > step.share), None)
        about = found.gates[0].explanation
        kind, share, passed = canaries.HELD, step.share, not found.worse and not found.uncertain
        if found.worse:
            kind, share, reason = canaries.WITHDRAWN, 0.0, f"{self.ref} is withdrawn: {found.worse}"
        elif found.uncertain:
            reason = f"{self.ref} keeps {percent(share)} of the requests: {found.uncertain}"
        elif wider is not None:
            kind, share = canaries.WIDENED, wider
            reason = f"{self.ref} answers {percent(share)} of the requests instead of {percent(step.share)}: {about}"
        elif not self.spec.promote:
            reason = (
                f"{self.ref} was no worse than {now} at the last share, {percent(share)}, and can be promoted: {about}"
            )
        elif file_hashes(versions.download(self.client, self.ref)) != files:
            kind, share, passed = canaries.WITHDRAWN, 0.0, False
            reason = f"{self.ref} is withdrawn, because its files are not those with which the canary began."
        else:
            kind, share = "promoted", 0.0
            reason = f"It was no worse than {now} at {percent(step.share)} of the requests: {about}"
        mine = CandidateVerdict(
            candidate=self.ref, metrics=found.metrics, gates=found.gates, passed=passed, reason=reason, files=files
        )
        return self._decision(kind, now, reason, step.model_copy(update={"share": share}), mine)

    def _decision(
        self, kind: str, now: ModelVersionRef, reason: str, step: CanaryStep, mine: CandidateVerdict
    ) -> Decision:
        more: dict[str, Any] = {}
        if kind == "promoted":
            more = {"files": mine.files, "card": card_hashes(self.client, self.ref)}
        return Decision(
            decision=kind,
            replaced=now,
            champion=self.ref if kind == "promoted" else now,
            candidates=[mine],
            code={"airflow_mlops": __version__},
            origins=[origin(self.client, self.ref)],
            provenance=self.context.provenance,
            reason=reason,
            canary=step,
            **more,
        )

    def result(
        self, state: State, reason: str, share: float, champion: ModelVersionRef | None, **more: Any
    ) -> CanaryResult:
        """Return the result of the step."""
        return CanaryResult(
            state=state,
            model=self.spec.model,
            version=self.ref,
            share=share,
            champion=champion,
            reason=reason,
            summary=f"Canary {self.ref}, {state}: {reason}",
            **more,
        )


def _recorded(task: _Task, entry: Entry, url: str) -> CanaryResult:
    step, mine = entry.canary, entry.candidates[0]
    assert step is not None
    state = _STATES[entry.decision]
    if state == "held" and mine.passed:
        state = "passed"
    before = entry.replaced
    verdict = None
    if state in ("passed", "promoted"):
        (metric,) = mine.metrics
        verdict = Verdict(
            model=entry.model,
            dataset_name=task.spec.canary_outcomes or f"{entry.model}_canary_outcomes",
            dataset_id="",
            part="data",
            metric=metric,
            winner=task.ref,
            champion=before,
            candidates=[mine],
            reason=mine.reason,
            policy="A hash of the request or of the entity assigned each request to one of the two versions.",
        )
    return task.result(
        state,
        entry.reason,
        step.share,
        entry.champion,
        replaced=before if entry.moves else None,
        promoted=entry.moves,
        verdict=verdict,
        ledger_url=url,
    )


def _metric(spec: CanarySpec, contract: ModelContract, champion: ModelContract) -> str:
    """Return the metric by which two versions are compared.

    :raises SpecError: they have different tasks or classes, or the metric cannot be compared
    """
    if (contract.task, contract.label, {*contract.classes}, contract.positive) != (
        champion.task, champion.label, {*champion.classes}, champion.positive,
    ):  # fmt: skip
        raise SpecError(
            f"The canary and the champion of {spec.model!r} differ in label, ML task or classes, so they cannot be compared. "
            "Promote the canary with PromoteOperator."
        )
    known = [name for name in REALISED[contract.task] if name in evidence.METRICS]
    metric = spec.metric or _default(spec.model, [contract, champion])
    if spec.metric is None and spec.max_loss is not None and has_other_unit(contract):
        raise SpecError(
            f"`max_loss` is set without `metric`, and the canary of {spec.model!r} is judged by {metric} instead of {known[0]}. Set "
            "`metric` to the metric whose unit `max_loss` has."
        )
    # Each version answers only some rows of a group, so their rankings and coverage gaps cannot be compared. MASE leaves rows out.
    on_request = (
        is_on_request(metric)
        and not is_ranking(metric)
        and not is_coverage_gap(metric)
        and metric != MASE
        and realised(contract.task, [metric])
    )
    if metric not in known and not on_request:
        raise SpecError(
            f"A canary of a {contract.task} model cannot be compared by {metric!r}. Set `metric` to one of {', '.join(known)}."
        )
    return metric


def _default(model: str, contracts: Sequence[ModelContract]) -> str:
    """Return the metric by which two versions are compared if the user names none.

    :raises SpecError: the versions have no common default metric, or no default metric of single rows
    """
    try:
        metric = common_metric_of_rows(contracts)
    except NoCommonMetricError as error:
        raise SpecError(
            f"The canary of {model!r} and the champion predict different quantiles, a ranking or the mean ({', '.join(error.metrics)}). "
            "Set `metric`."
        ) from None
    if metric is None:
        raise SpecError(
            f"A canary of {model!r} cannot be judged by NDCG, because each version answers only some rows of a group. Compare the "
            "versions by their predictions for the same rows (`evidence` of EvaluateOperator), or set `metric`."
        )
    return metric
