"""The cache of results: a step returns the result of an earlier task if inputs, code and packages are unchanged.

A stage that supports the cache has a module ``cache`` with these functions::

    def inputs(spec, context) -> dict       # everything that determines the result, as JSON; raises NotCacheableError
    def artifacts(result, spec, context) -> dict[str, str]   # hashes of the artifacts; raises if one was deleted
    def replay(result, spec, context) -> Result | None       # repeats the step's effects other than its artifacts, and
                                                             # returns the result if it differs from the cached one
    def state(spec, context) -> Any         # optional: something that each write to an input outside the store changes

The key of an entry is the fingerprint of the inputs. The entry names the stored result of the task that computed it. A
wrong hit is worse than a miss: if something cannot be hashed or checked, the step is computed, and the log says why.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable
from typing import Any

from airflow_mlops.core import own_code
from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Result, Spec, StepCall
from airflow_mlops.core.errors import NotCacheableError, SpecError, one_line
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.secrets import mask
from airflow_mlops.data.datasets import Dataset, make_current, open_dataset
from airflow_mlops.data.results import read_cached, write_cached
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext

log = logging.getLogger("airflow_mlops.stages")


class Cached:
    """The entry of the cache for one step call.

    :param call: the call, whose field ``cache`` is set
    :param spec: the parsed spec of the step
    :param context: context in which the step runs
    :raises SpecError: the stage does not support the cache
    """

    def __init__(self, call: StepCall, spec: Spec, context: StepContext) -> None:
        name = f"airflow_mlops.stages.{call.step}.cache"
        try:
            self._stage = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise SpecError(f"Step {call.step!r} does not support cache=True. Remove it.") from None
        self._call, self._spec, self._context = call, spec, context
        self._key = self._fingerprint()
        self._state: Any = None

    def _fingerprint(self) -> str | None:
        """Return the fingerprint of everything that determines the result; ``None`` if something has no hash."""
        try:
            inputs = self._stage.inputs(self._spec, self._context)
            return fingerprint([self._call.step, own_code.environment(), inputs])
        except NotCacheableError as error:
            log.info("The step is computed and not cached, because %s.", error)
        except Exception as error:  # noqa: BLE001 - the step itself fails if it cannot read its inputs either
            log.info("The step is computed and not cached, because its inputs cannot be hashed: %s.", _reason(error))
        return None

    def find(self) -> Result | None:
        """Return the cached result; ``None`` if the step must be computed."""
        if self._key is None:
            return None
        found = self._find()
        if found is None:
            # It is compared with the state after the step, to detect inputs that changed while the step ran, even if they
            # were changed back.
            self._state = self._state_of_inputs()
        return found

    def _find(self) -> Result | None:
        assert self._key is not None
        if self._call.cache == "renew":
            log.info("The task was cleared, so the step is computed and its cached result is not used.")
            return None
        try:
            found = read_cached(self._context.store, self._call.step, self._key)
            if found is None:
                log.info("The cache has no result for these inputs, so the step is computed.")
                return None
            entry, stored = found
            result: Result = parse(types(self._call.step)[1], stored, "The cached result")
            if self._stage.artifacts(result, self._spec, self._context) != entry.artifacts:
                raise NotCacheableError("the artifacts to which it refers were changed")
            result = self._stage.replay(result, self._spec, self._context) or result
        except Exception as error:  # noqa: BLE001 - the cache must not fail a step that can be computed
            log.info("The cached result cannot be used, so the step is computed: %s.", _reason(error))
            return None
        origin = entry.origin
        log.info("Nothing has changed since %s, so its result is returned. The step does not run.", origin)
        summary = f"{result.summary} Taken from the cache: {origin} computed it."
        return result.model_copy(update={"cached": origin, "summary": summary, "usage": None})

    def _state_of_inputs(self) -> Any:
        """Return the state of the inputs outside the store; ``None`` if the stage has no such inputs.

        If the state is not known, the result is not cached.
        """
        if self._key is None or not hasattr(self._stage, "state"):
            return None
        try:
            return self._stage.state(self._spec, self._context)
        except Exception as error:  # noqa: BLE001 - the step itself fails if it cannot read its inputs either
            log.info("The result will not be cached: %s.", _reason(error))
            self._key = None
            return None

    def keep(self, result: dict[str, Any]) -> None:
        """Add the stored result of the step to the cache. An error is only logged, because the step has succeeded."""
        if self._key is None:
            return
        try:
            # A file that was changed while the step ran may have been read before or after the change.
            if self._fingerprint() != self._key or self._state_of_inputs() != self._state:
                log.info("The result is not cached, because its inputs or code were changed while the step ran.")
                return
            parsed = parse(types(self._call.step)[1], result, "The result")
            artifacts = self._stage.artifacts(parsed, self._spec, self._context)
            write_cached(self._context.store, self._call, self._key, result, artifacts)
        except Exception as error:  # noqa: BLE001 - the step has succeeded
            log.warning("The result was not cached: %s.", _reason(error))


def types(step: str) -> tuple[type[Spec], type[Result]]:
    """Return the classes of a stage's spec and result.

    A result from the cache is found without the module ``step``, because it imports the libraries that the step uses.
    """
    module = importlib.import_module(f"airflow_mlops.stages.{step}.spec")
    name = step.title().replace("_", "")
    return getattr(module, f"{name}Spec"), getattr(module, f"{name}Result")


def _reason(error: Exception) -> str:
    # Errors of other libraries may contain credentials.
    return mask(str(error) if isinstance(error, NotCacheableError) else one_line(error))


def verified(store: ArtifactStore, ref: DatasetRef) -> dict[str, str]:
    """Check the files of a dataset against their hashes, and return an entry of a result's artifacts.

    :raises NotCacheableError: the dataset was purged
    :raises MLOpsError: the dataset does not exist or was changed
    """
    dataset = open_dataset(store, ref)
    # The files of a purged dataset may still exist for a moment.
    if dataset.manifest.purged is not None:
        raise NotCacheableError(f"its dataset {ref.name!r} was purged")
    dataset.verify_bytes()
    return {f"dataset {ref.name}": ref.id}


def require_unpurged(datasets: Iterable[Dataset]) -> None:
    """Check that none of the datasets that a step reads was purged. The step would fail on a purged dataset.

    :raises NotCacheableError: a dataset was purged
    """
    for dataset in datasets:
        if dataset.manifest.purged is not None:
            raise NotCacheableError(f"dataset {dataset.manifest.name!r} was purged")


def point_to(store: ArtifactStore, ref: DatasetRef, slots: Iterable[str] = ()) -> None:
    """Make a dataset the current one of its window and of ``slots``, as the step that writes the dataset does.

    :param slots: names of pointers to current datasets, see :mod:`airflow_mlops.data.datasets`
    """
    make_current(store, open_dataset(store, ref).manifest, slots)
