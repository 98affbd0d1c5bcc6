"""What monitoring measures drift against: training, or what earlier windows looked like when they were checked.

Every check stores what its window looked like as ``profiles/MODEL/WINDOW.json.gz``.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift import earlier_windows
from airflow_mlops.drift.earlier_windows import WindowProfile
from airflow_mlops.drift.reference import TRAINING, DriftReference, Reference
from airflow_mlops.policy.findings import Findings
from airflow_mlops.profiles.multivariate import ERROR
from airflow_mlops.profiles.profile import ModelProfile, Profile

_SUFFIX = ".json.gz"


@dataclass(frozen=True)
class Baselines:
    """What the columns of a window are compared with.

    :param features: profiles of features, by a name for what each is of: ``training``, or windows
    :param watched: the same of what is watched beside them
    :param scores: the same of the scores
    :param together: the same of the reconstruction error of all features; empty where the model has none
    """

    features: dict[str, Profile]
    watched: dict[str, Profile]
    scores: dict[str, Profile]
    together: dict[str, Profile]
    used: DriftReference
    notes: list[str]


def keep(store: ArtifactStore, found: Findings, scored_by: ModelVersionRef, current: Profile) -> None:
    """Store what the window looks like, for checks of later ones."""
    item = WindowProfile(window=found.window, version=scored_by.version, profile=current)
    store.write_bytes(_key(found.model, found.window), gzip.compress(item.model_dump_json().encode(), mtime=0))


def forget(store: ArtifactStore, found: Findings) -> None:
    """Store no longer what the window looked like: it has no rows now."""
    store.delete(_key(found.model, found.window))


def baselines(
    asked: Reference,
    found: Findings,
    scored_by: ModelVersionRef,
    training: ModelProfile,
    current: Profile,
    store: ArtifactStore,
) -> Baselines:
    """What ``current`` is compared with: the windows that were asked for, and training where they say too little.

    Scores and reconstruction errors are compared with those of the same version: another one gives others to the same
    rows.

    :raises SpecError: a season is shorter than the window
    """
    windows, notes = _earlier(asked, found, store)
    alike = [item for item in windows if item.version == scored_by.version]
    features, unknown = _split(training.features, windows, current, found.policy.min_rows)
    watched, unwatched = _split(training.watched, windows, current, found.policy.min_rows)
    scores, unscored = _split(training.scores, alike, current, found.policy.min_rows)
    together: dict[str, Profile] = {}
    if training.multivariate is not None:
        errors = training.multivariate.errors
        only = Profile(rows=errors.rows, columns={ERROR: errors})
        together, _ = _split(only, alike, current, found.policy.min_rows)
    where = earlier_windows.label([item.window for item in windows]) if windows else ""
    if windows and (unknown := [*unknown, *unwatched]):
        notes.append(
            f"In {where} there are too few values to compare with, so training is the reference: {', '.join(unknown)}."
        )
    if windows and unscored:
        what = "the scores and the features together" if together else "the scores"
        notes.append(f"In {where} too little was scored by {scored_by}: {what} are compared with training.")
    used = DriftReference(
        asked=asked, features=[item.window for item in windows], scores=[item.window for item in alike]
    )
    return Baselines(features, watched, scores, together, used, notes)


def _earlier(asked: Reference, found: Findings, store: ArtifactStore) -> tuple[list[WindowProfile], list[str]]:
    """The windows to compare with, and what there is to say about those that are not there."""
    if asked == Reference():
        return [], []
    keys = {}
    for key in store.keys(f"profiles/{found.model}"):
        window = Window.from_file_name(key.rpartition("/")[2].removesuffix(_SUFFIX))
        if window is not None:
            keys[window] = key
    chosen = earlier_windows.choose(asked, found.window, keys)
    read = {window: _read(store, keys[window]) for window in chosen}
    windows = [item for item in read.values() if item is not None]
    notes = [
        f"What {window.label} looked like cannot be read, and it was left out of the reference: check it again."
        for window, item in read.items()
        if item is None
    ]
    if not windows:
        before = f"no window before {found.window.label} has been checked"
        if asked.season is not None:
            before = (
                f"{earlier_windows.seasonal(found.window, asked.season).label}, {asked.season} earlier, was not checked"
            )
        notes.append(f"Drift is measured against training: {before}.")
    return windows, notes


def _read(store: ArtifactStore, key: str) -> WindowProfile | None:
    try:
        return WindowProfile.model_validate_json(gzip.decompress(store.read_bytes(key)))
    except (FileNotFoundError, gzip.BadGzipFile, EOFError, zlib.error, ValueError):
        # Broken, or an older version's.
        return None


def _split(
    training: Profile, windows: Sequence[WindowProfile], current: Profile, min_rows: int
) -> tuple[dict[str, Profile], list[str]]:
    """The columns of ``training`` as they were in ``windows``, or else at training, and the names of the latter."""
    like = {name: current.columns[name] for name in training.columns if name in current.columns}
    known = earlier_windows.combined(windows, Profile(rows=current.rows, columns=like), min_rows)
    rest = {name: column for name, column in training.columns.items() if name not in known.columns}
    groups = {TRAINING: Profile(rows=training.rows, columns=rest)}
    if known.columns:
        groups[earlier_windows.label([item.window for item in windows])] = known
    return groups, list(rest)


def _key(model: str, window: Window) -> str:
    return f"profiles/{model}/{window.file_name}{_SUFFIX}"
