"""Collect the profiles that drift is measured against: profiles of training or of earlier windows.

Every check stores the profile of its window as ``profiles/MODEL/WINDOW.json.gz``.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.data.timeline import Timeline, window_of
from airflow_mlops.drift import earlier_windows
from airflow_mlops.drift.earlier_windows import WindowProfile
from airflow_mlops.drift.reference import TRAINING, DriftReference, Reference
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.policy.wording import capitalized, period
from airflow_mlops.profiles.multivariate import ERROR
from airflow_mlops.profiles.profile import Profile
from airflow_mlops.stages.monitor.check import Check

_SUFFIX = ".json.gz"


@dataclass(frozen=True)
class Baselines:
    """The profiles with which the columns of a window are compared.

    The first four fields contain profiles by the name of the reference: ``training``, or the name of earlier windows.

    :param features: profiles of the features
    :param watched: profiles of the watched columns
    :param scores: profiles of the scores
    :param together: profiles of the reconstruction error of the features; empty if the profile of the model has no
        reconstruction error
    :param used: the earlier windows that were used
    :param notes: remarks about columns and windows that cannot be used as reference, one sentence each
    """

    features: dict[str, Profile]
    watched: dict[str, Profile]
    scores: dict[str, Profile]
    together: dict[str, Profile]
    used: DriftReference
    notes: list[str]


def keep(store: ArtifactStore, model: str, window: Window, scored_by: ModelVersionRef, current: Profile) -> None:
    """Store the profile of a window, so that checks of later windows can use the profile as reference.

    :param scored_by: the version that made the predictions of the window
    :param current: the profile of the window
    """
    item = WindowProfile(window=window, version=scored_by.version, profile=current)
    store.write_bytes(
        _profiles(store, model).key(window.file_name, window), gzip.compress(item.model_dump_json().encode(), mtime=0)
    )


def forget(store: ArtifactStore, model: str, window: Window) -> None:
    """Delete the profile of a window that no longer has rows."""
    timeline = _profiles(store, model)
    timeline.delete(timeline.key(window.file_name, window))


def baselines(requested: Reference, check: Check, training: TrainingReference, current: Profile) -> Baselines:
    """Collect the profiles that ``current`` is compared with.

    Columns with too few values in the requested windows are compared with training. Scores and reconstruction errors
    are compared only with windows that the same version scored, because a different version computes different scores
    for the same rows.

    :param requested: the reference in the operator's parameters
    :param training: the training reference of the version that made the predictions
    :param current: the profile of the window
    :raises SpecError: the season of ``requested`` is shorter than the window
    """
    windows, notes = _earlier(requested, check)
    known, version, min_rows = training.profile, training.version, check.policy.min_rows
    same_version = [item for item in windows if item.version == version.version]
    features, unknown = _split(known.features, windows, current, min_rows)
    watched, unwatched = _split(known.watched, windows, current, min_rows)
    scores, unscored = _split(known.scores, same_version, current, min_rows)
    together: dict[str, Profile] = {}
    if known.multivariate is not None:
        errors = known.multivariate.errors
        together, _ = _split(Profile(rows=errors.rows, columns={ERROR: errors}), same_version, current, min_rows)
    named = earlier_windows.label([item.window for item in windows]) if windows else ""
    if windows and (unknown := [*unknown, *unwatched]):
        notes.append(
            f"Drift of {', '.join(map(repr, unknown))} is measured against training, because {named} has too few values."
        )
    if windows and unscored:
        what = "the scores and the features together are" if together else "the scores are"
        notes.append(
            f"{capitalized(what)} compared with training, because model {version} made too few predictions in {named}."
        )
    used = DriftReference(
        asked=requested, features=[item.window for item in windows], scores=[item.window for item in same_version]
    )
    return Baselines(features, watched, scores, together, used, notes)


def _earlier(requested: Reference, check: Check) -> tuple[list[WindowProfile], list[str]]:
    """Return the profiles of the requested windows, and notes about profiles that are absent or cannot be read."""
    if requested == Reference():
        return [], []
    keys = _candidates(requested, check)
    chosen = earlier_windows.choose(requested, check.window, keys)
    read = {window: _read(check.store, keys[window]) for window in chosen}
    windows = [item for item in read.values() if item is not None]
    notes = [
        f"The profile of {window.label} cannot be read and is left out of the reference. Check {window.label} again."
        for window, item in read.items()
        if item is None
    ]
    if not windows:
        reason = f"no window before {check.window.label} has been checked"
        if requested.season is not None:
            season = earlier_windows.seasonal(check.window, requested.season).label
            reason = f"{season}, the window {period(requested.season)} earlier, has not been checked"
        notes.append(f"Drift is measured against training, because {reason}.")
    return windows, notes


def _candidates(requested: Reference, check: Check) -> dict[Window, str]:
    """Return the key of each stored profile from which the requested profiles are chosen, by window."""
    timeline = _profiles(check.store, check.model)
    if requested.season is not None:
        return _dated(timeline.find(earlier_windows.seasonal(check.window, requested.season)))
    wanted = count = requested.rolling or 0
    while True:
        found, others_end = timeline.recent(count, check.window)
        chosen = earlier_windows.rolling(wanted, check.window, found)
        # The windows with the latest ends are chosen, so windows that end before the chosen windows do not change the
        # choice.
        if others_end is None or (len(chosen) == wanted and chosen[0].end >= others_end):
            return found
        count *= 4


def _dated(keys: Sequence[str]) -> dict[Window, str]:
    return {window: key for key in keys if (window := window_of(key)) is not None}


def _read(store: ArtifactStore, key: str) -> WindowProfile | None:
    try:
        return WindowProfile.model_validate_json(gzip.decompress(store.read_bytes(key)))
    except (FileNotFoundError, gzip.BadGzipFile, EOFError, zlib.error, ValueError):
        # The file is damaged, or an older version of this package wrote it.
        return None


def _split(
    training: Profile, windows: Sequence[WindowProfile], current: Profile, min_rows: int
) -> tuple[dict[str, Profile], list[str]]:
    """Divide the columns of ``training`` between two references, earlier windows and training.

    A column is compared with ``windows`` if they have enough values of the column. Otherwise, it is compared with
    training.

    :return: the profile of each reference with its columns, by the name of the reference; and the names of the columns
        that are compared with training
    """
    like = {name: current.columns[name] for name in training.columns if name in current.columns}
    known = earlier_windows.combined(windows, Profile(rows=current.rows, columns=like), min_rows)
    rest = {name: column for name, column in training.columns.items() if name not in known.columns}
    groups = {TRAINING: Profile(rows=training.rows, columns=rest)}
    if known.columns:
        groups[earlier_windows.label([item.window for item in windows])] = known
    return groups, list(rest)


def _profiles(store: ArtifactStore, model: str) -> Timeline:
    return Timeline(store, f"profiles/{model}", _SUFFIX)
