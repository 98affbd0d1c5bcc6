"""Follow the champion, or load one version, in a separate process: ``python -m airflow_mlops.serving.processes.follow``.

If the argument is a version number or an alias, the process follows that version instead. It also follows the share of
the requests that the version answers as a canary.

The process imports MLflow's client, so that the server does not need to import it. The process loads each new version
before the server does, so a model that crashes on loading does not end the server. The process takes about 90 MB of memory,
so it ends when no version has changed for some seconds. The server then looks up the version by plain HTTP, and starts
the process again when the version changes. The process does not end if it follows a canary, or if plain HTTP is not sufficient.

The process reports to the server on standard output, with one JSON object per line. It reports each version that it
starts to load, each version that can be served, a removed alias, errors, and its end.

The first line of standard input contains the settings as JSON. Each further line names a canary that the server has
withdrawn, or has counts of failed requests. The process then withdraws this canary from all servers, or writes the
counts to the artifact store.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from airflow_mlops.core.connections import from_environment
from airflow_mlops.core.errors import MLOpsError, ModelCorruptError, ModelFormatError, SchemaError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.secrets import MaskedStream
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.champion import download_champion
from airflow_mlops.models.contract_file import has_contract
from airflow_mlops.registry import canary as canaries
from airflow_mlops.registry import canary_counts, light, signatures
from airflow_mlops.registry import versions as models
from airflow_mlops.registry.canary_counts import ServerCounts
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.integrity import download_unchanged
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.serving.light import hide, postpone
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.failures import Failures, absent
from airflow_mlops.serving.versions.loaded import Served

_RETRY_SECONDS = 5.0
# Changes often follow each other, as a rollback follows a promotion.
_REST_SECONDS = 10.0


def main() -> None:
    """Report each new version until standard input is closed, which happens when the server ends."""
    logging.basicConfig(stream=MaskedStream(sys.stderr), level=logging.WARNING)
    given = json.loads(sys.stdin.readline())
    spec = ServeSpec.model_validate(given["spec"])
    if spec.feast_repo is None:
        # MLflow's client imports these if it can, which takes 40, 8 and 4 MB.
        hide("pandas", "pyspark", "IPython")
    # MLflow's client also imports these modules, which takes 11 MB. The code that reads a database needs the first one.
    postpone("mlflow.gateway", *(["mlflow.genai"] if _asks_a_server(spec) else []))
    follower = Follower(spec, Failures(*given["failures"]), sys.argv[1] if len(sys.argv) > 1 else None)
    threading.Thread(target=_listen, args=(follower.withdrawn, follower.counted), daemon=True).start()
    while (pause := follower.look()) is not None:
        time.sleep(pause)


class Follower:
    """Looks up a version or an alias again and again, and reports to the server what has changed.

    :param spec: the settings of the server
    :param failures: failures to load versions, of this process and of earlier processes
    :param other: the version number or the alias to follow instead of the champion; ``None`` for the version of ``spec``
        or the champion
    :ivar withdrawn: withdrawn canaries that the server has reported
    :ivar counted: the last counts that are not written yet. Later counts include earlier ones
    """

    def __init__(self, spec: ServeSpec, failures: Failures, other: str | None) -> None:
        self.withdrawn: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.counted: deque[ServerCounts] = deque(maxlen=1)
        self._spec, self._failures = spec, failures
        self._other = other is not None
        self._target = other or str(spec.version or models.CHAMPION)
        self._store = ArtifactStore(spec.store)
        self._client: Any = None
        self._current: dict[str, Any] = {}
        # The share of the canary according to its tag in MLflow.
        self._tag: str | None = None
        self._said = ""
        self._report: dict[str, Any] | None = None
        self._trying: int | None = None
        self._changed, self._rests = time.monotonic(), self._target != spec.canary

    def look(self) -> float | None:
        """Look up the version once, load it if it is new, and report what has changed.

        :return: seconds until the next look-up; ``None`` if this process is not needed until a version changes
        """
        self._trying = None
        try:
            self._client = self._client or connect(self._spec.mlflow, from_environment)
            self._carry_out()
            self._follow()
            if self._can_rest():
                _say(resting=self._failures.state)
                return None
        except MLOpsError as error:
            return self._failed(error)
        return self._spec.poll_seconds

    def _carry_out(self) -> None:
        """Withdraw a canary and write the counts, if the server has sent any."""
        if self._report is None and not self.withdrawn.empty():
            self._report = self.withdrawn.get()
        if self._report is not None:
            _withdraw(self._client, self._store, self._spec.model, self._report)
            self._report = None
        if self.counted:
            canary_counts.write(self._store, self._spec.model, self.counted.pop())

    def _follow(self) -> None:
        """Load the version to which the target points, if it is another one, and report it."""
        ref, tags = models.find_tagged(self._client, self._spec.model, self._target)
        tag = tags.get(canaries.SHARE_TAG)
        if ref is None:
            self._missing()
        elif ref.version == self._current.get("version"):
            if self._said or tag != self._tag:
                # The alias points to the loaded version again, or the share of the canary has changed.
                share = _share(self._store, ref, self._spec, self._target, tag)
                self._said, self._tag, self._current["share"] = "", tag, share
                _say(**self._current)
        elif self._failures.due(ref.version):
            self._trying = ref.version
            folder = _load(self._client, self._store, ref, self._spec, self._target, other=self._other)
            share = _share(self._store, ref, self._spec, self._target, tag)
            self._current = {"version": ref.version, "run_id": ref.run_id, "folder": str(folder), "share": share}
            self._said, self._tag, self._changed = "", tag, time.monotonic()
            _say(**self._current)

    def _missing(self) -> None:
        """Report that the target names no version."""
        if self._target != models.CHAMPION and (self._current or not self._said):
            # The server may still have a version that an earlier process has reported.
            self._current = {}
            _say(removed=True)
        if (problem := absent(self._spec.model, self._target)) != self._said:
            self._said, self._changed = problem, time.monotonic()
            _say(error=problem)

    def _can_rest(self) -> bool:
        """Return whether nothing has changed for some seconds, and plain HTTP is sufficient to notice a change."""
        if self._rests and time.monotonic() - self._changed >= _REST_SECONDS:
            # If the target is the number of a version, no look-ups are needed, because the version never changes.
            self._rests = self._target.isdecimal() or light.sufficient(from_environment(self._spec.mlflow.conn_id))
            return self._rests
        return False

    def _failed(self, error: MLOpsError) -> float:
        """Report an error, and return the seconds until the next look-up."""
        if str(error) != self._said:
            self._said = str(error)
            _say(error=self._said)
        if self._trying is not None and isinstance(error, (ModelCorruptError, ModelFormatError, SchemaError)):
            self._failures.add(self._trying)
            self._changed = time.monotonic()
            return self._spec.poll_seconds
        self._client = None
        return max(self._spec.poll_seconds, _RETRY_SECONDS)


def _asks_a_server(spec: ServeSpec) -> bool:
    """Return whether MLflow is a server, and not for example a database."""
    try:
        return light.server_address(from_environment(spec.mlflow.conn_id)) is not None
    except MLOpsError:
        # The error is reported when the process connects.
        return True


def _share(store: ArtifactStore, ref: ModelVersionRef, spec: ServeSpec, target: str, tag: str | None) -> str | None:
    """Return the share of the requests that a version answers as a canary; ``None`` if there is none.

    Everyone with write access to MLflow can set the tag. If signatures are required, the share is therefore read from
    the ledger.

    :param tag: the share according to MLflow
    :raises ModelCorruptError: the ledger entry with the share was not signed, but a signature is required
    """
    if target != spec.canary or not signatures.required():
        return tag
    rollout = canaries.rollout_under_way(Ledger(store, ref.model), ref)
    return f"{rollout.step.share:g}" if rollout is not None else "0"


def _download(client: Any, store: ArtifactStore, ref: ModelVersionRef, spec: ServeSpec, target: str) -> Path:
    """Download the files of a version, and check them against the ledger.

    A champion is checked against its promotion, and a canary against the start of its rollout.

    :raises ModelCorruptError: a file was changed, or a signature is required and the ledger has none
    :raises StoreError: the artifact store cannot be reached
    """
    store.require()
    rollout = canaries.rollout_under_way(Ledger(store, ref.model), ref) if target == spec.canary else None
    if rollout is not None:
        start = rollout.entries[0]
        files = next((item.files for item in start.candidates), {})
        return download_unchanged(client, ref, start.model_copy(update={"files": files}))
    if target == spec.canary and signatures.required():
        raise ModelCorruptError(
            f"The canary {ref} is not served, because the setting [mlops] verifying_key requires a signed rollout, and the ledger "
            "has no rollout of this version in progress. Start a rollout with CanaryOperator."
        )
    return download_champion(
        client, store, ref, lambda text: print(text, file=sys.stderr), named=target != models.CHAMPION
    )


def _load(
    client: Any, store: ArtifactStore, ref: ModelVersionRef, spec: ServeSpec, target: str, *, other: bool
) -> Path:
    """Download, check and load a version, and return the folder with its files.

    :raises ModelCorruptError: see :func:`_download`
    :raises ModelFormatError: TrainOperator did not train the version, or the model cannot be loaded
    :raises SchemaError: see :meth:`Served.load`
    """
    folder = _download(client, store, ref, spec, target)
    if not has_contract(folder):
        raise ModelFormatError(
            f"{ref} cannot be served, because TrainOperator did not train it. Score it in batches with ScoreOperator, or train "
            "a version with TrainOperator."
        )
    # Imported before the version is reported as loading, so that the import does not count towards `load_seconds`.
    import onnxruntime  # noqa: F401

    _say(loading=ref.version)
    Served.load(ref, folder, store, spec, other=other)
    return folder


def _withdraw(client: Any, store: ArtifactStore, model: str, report: dict[str, Any]) -> None:
    """Withdraw a canary from all servers, if a CanaryOperator rolls it out.

    Any other canary is withdrawn only from the server that reported it.
    """
    if canaries.withdraw(client, Ledger(store, model), report["withdrawn"], report["reason"]):
        from airflow_mlops.overview import index

        index.update(store, model, "decisions")


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def _listen(withdrawn: queue.SimpleQueue[dict[str, Any]], counted: deque[ServerCounts]) -> None:
    """Read withdrawn canaries and counts from standard input, and end this process when the input is closed."""
    for line in sys.stdin:
        message = json.loads(line)
        if "counts" in message:
            counted.append(ServerCounts.model_validate(message["counts"]))
        else:
            withdrawn.put(message)
    os._exit(0)


if __name__ == "__main__":
    main()
