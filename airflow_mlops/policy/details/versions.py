"""Facts about replaced versions."""

from __future__ import annotations

from airflow_mlops.core.counts import counted
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.policy.checks import is_replaced
from airflow_mlops.policy.details.observation import Observation
from airflow_mlops.policy.details.performance import fell, level_of, levels_of
from airflow_mlops.policy.findings import Findings, VersionFindings
from airflow_mlops.policy.wording import capitalized, listed, metric_name, name


def model_version(version: ModelVersionRef) -> str:
    """Return the name of a version for use within a sentence, such as ``model delays v1``."""
    return f"model {version}"


def replaced_version(findings: Findings, estimated: bool = False) -> Observation | None:
    """Return an observation about worse performance of a version that is no longer the champion.

    :param estimated: whether to report estimated instead of realised performance
    :return: ``None`` if the champion made the predictions
    """
    measured = findings.estimated if estimated else findings.performance
    scored_by, champion = findings.scored_by, findings.champion
    if measured is None or scored_by is None or champion is None or not is_replaced(findings):
        return None
    kind, prefix = ("Estimated", "Estimated ") if estimated else ("Realised", "")
    version = f"v{scored_by.version}"
    because = f"because {model_version(champion)} has replaced {version}, which made these predictions"
    subject = capitalized(f"{prefix}{metric_name(measured.metric)} of {version}")
    return Observation(
        f"{subject} {fell(measured, findings.policy)}; {version} was already replaced by v{champion.version}",
        [*levels_of(measured, findings.policy, kind), f"No retraining is requested {because}."],
    )


def replaced_in_window(findings: Findings) -> list[Observation]:
    """Return an observation about versions that were replaced within the window.

    :return: empty if one version made all predictions
    """
    if not findings.replaced or findings.scored_by is None:
        return []
    rows = findings.rows + sum(item.rows for item in findings.replaced)
    version = f"v{findings.scored_by.version}"
    headline = f"{version} made {findings.rows:,} of {counted(rows, 'prediction')}"
    others = "Each version is compared with its own training, and the decision is about the latest version"
    return [
        Observation(headline, [f"{headline}. {others}.", *(_replaced(item, findings) for item in findings.replaced)])
    ]


def _replaced(item: VersionFindings, findings: Findings) -> str:
    made = f"v{item.version.version} made {counted(item.rows, 'prediction')}"
    if item.performance is not None and item.unmeasured is None:
        level = level_of(item.performance, findings.policy)
    else:
        level = f"Its performance is not judged, because {item.unmeasured or 'it was not measured'}."
    drifted = [name(drift.column) for drift in item.features if drift.drifted]
    return f"{made}. {level} {f'Drifted: {listed(drifted)}' if drifted else 'No feature drifted'}."
