"""Compare the attributions of a window with the first checked window of the version.

A sample of that window is the reference. What happens to a stored reference:

- The same window is checked again: its sample is stored again if it changed.
- Attributions of the window and of the reference have different origins, or the reference has too few rows or clusters:
  the window replaces the reference.
- The file cannot be read: nothing is compared or replaced until a person restores or deletes the file.

A note in the report and a log line state each of these.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from airflow_mlops.core.counts import counted
from airflow_mlops.data.predictions.privacy import hashed_or_dropped
from airflow_mlops.drift.attributions import COLUMN, Sample, compare, fewest, unmeasured
from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.stages.monitor.attributions import reference as stored
from airflow_mlops.stages.monitor.attributions.reference import About, Origin, Reference
from airflow_mlops.stages.monitor.attributions.sample import draw
from airflow_mlops.stages.monitor.check import Check

log = logging.getLogger(__name__)

# The scores are among the columns of the reference. The labels, all features together and the attributions are not.
_OTHER_COLUMNS = 3


class Attributions(NamedTuple):
    """The drift of the attributions.

    :param drift: the drift before the correction for multiple tests; empty if the predictions have no attributions
    :param notes: a sentence about a reference that was replaced or cannot be read; empty otherwise
    """

    drift: list[Drift]
    notes: list[str]


def measure(check: Check, training: TrainingReference) -> Attributions:
    """Measure the drift of attributions against the reference of the version.

    :param training: the training reference of the version that made the predictions
    :raises SpecError: the predictions do not have the column ``policy.groups``
    """
    explained = [item for item in check.datasets if COLUMN in item.manifest.column_names]
    if not explained:
        return Attributions([], [])
    part = replace(check, datasets=explained)
    sample, rows = draw(part, [feature.name for feature in training.contract.features])
    least = fewest(check.policy.false_alarm_rate / (len(training.columns) + _OTHER_COLUMNS))
    origins = _origins(part, training)
    why = _unsuitable(part, sample, rows, least, origins)
    if why is not None:
        found, note = unmeasured(why, check.window.label), None
    else:
        version = training.version.version
        about = About(window=check.window, version=version, origin=origins[0], features=sample.features)
        found, note = _against_reference(check, Reference(about, sample), least)
    if note is not None:
        log.warning("%s", note)
    if rows < check.rows:
        share = f"{rows:,} of {counted(check.rows, 'row')} have attributions"
        found = found.model_copy(update={"note": f"{found.note}; {share}"})
    return Attributions([found], [note] if note is not None else [])


def _unsuitable(part: Check, sample: Sample, rows: int, least: int, origins: Sequence[Origin]) -> str | None:
    """Say why the attributions of the window cannot be compared; ``None`` if they can be.

    :param part: the check, with only the datasets that have attributions
    :param rows: number of rows with attributions
    :param least: number of rows or clusters that the test needs
    """
    if part.version is not None and any(
        item.manifest.details.get("model_version") != part.version for item in part.datasets
    ):
        # A joined dataset of several versions records the method and the scale of its last version's attributions.
        return "the dataset does not record how the attributions of this version were made"
    if rows < part.policy.min_rows:
        return f"{counted(rows, 'row')} with attributions, {part.policy.min_rows:,} are needed"
    if len(sample.sums) < least:
        return f"{counted(len(sample.sums), _unit(part))} with attributions, the test needs {least:,}"
    if not np.isfinite(sample.sums).all():
        return "some attributions are not finite numbers"
    if len(origins) > 1:
        return f"within {part.window.label}, {'; '.join(origins[0].changes(origins[1]))}"
    return None


def _against_reference(check: Check, now: Reference, least: int) -> tuple[Drift, str | None]:
    """Compare the attributions of a window with the reference of the version, or make them the reference.

    :param now: the attributions of the window
    :param least: number of rows or clusters that the test needs
    :return: the drift, and a sentence about a reference that was replaced or cannot be read
    """
    window, key = check.window.label, f"attributions/{check.model}/{now.about.version}.npz"
    try:
        before = stored.read(check.store, key)
        # If two windows are checked at the same time, only one of them becomes the reference.
        if before is None and not check.store.create_exclusive(key, now.to_bytes()):
            before = stored.read(check.store, key)
    except stored.DamagedReferenceError as error:
        advice = "Restore the file, or delete it: the next checked window then becomes the reference."
        why = f"the reference {key} cannot be read"
        return unmeasured(why, window), f"Attributions are not compared, because {why} ({error}). {advice}"
    becomes = unmeasured(f"{window} is the reference for later windows of this version", window)
    if before is None or now.equals(before):
        return becomes, None
    old, changes = before.about.window.label, before.about.origin.changes(now.about.origin)
    if len(before.sample.sums) < least:
        changes.append(f"{old} has only {counted(len(before.sample.sums), _unit(check))}, and {least:,} are needed")
    if before.about.window == check.window:
        check.store.write_bytes(key, now.to_bytes())
        why = "; ".join(changes) or "the attributions changed"
        return becomes, f"The reference of the attributions, {window}, was stored again, because {why}."
    if changes:
        check.store.write_bytes(key, now.to_bytes())
        return becomes, f"{window} replaces {old} as the reference of the attributions, because {'; '.join(changes)}."
    return compare(before.sample, now.sample, old), None


def _unit(check: Check) -> str:
    return "row" if check.policy.groups is None else "cluster"


def _origins(check: Check, training: TrainingReference) -> list[Origin]:
    """Return the distinct origins of the attributions in the datasets of a check."""
    names = {feature.name for feature in training.contract.features}
    found: list[Origin] = []
    for item in (item for item in check.datasets if item.rows):
        details = item.manifest.details
        origin = Origin(
            run_id=training.version.run_id,
            scale=details.get("attribution_scale"),
            method=details.get("attribution_method"),
            without=sorted(names & set(hashed_or_dropped(details))),
            groups=check.policy.groups,
        )
        if origin not in found:
            found.append(origin)
    return found
