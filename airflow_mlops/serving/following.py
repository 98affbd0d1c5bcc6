"""Start the process that follows the champion or another alias, and switch to each reported version."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.canary_counts import ServerCounts
from airflow_mlops.serving.online_features import OnlineFeatures
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions import Served, Versions

log = logging.getLogger(__name__)

_RESTART_SECONDS = 2.0


class Following:
    """Keeps ``versions`` at the champion or at another version, until :meth:`stop`.

    :param spec: settings of the server
    :param store: the artifact store
    :param versions: the loaded versions
    :param target: number or alias of the version to follow; by default the champion. If the alias is removed, its
        version is unloaded; a champion stays loaded
    :param changed: function that is called after each change
    :param features: the Feast repository in which features of requests are looked up
    """

    def __init__(
        self,
        spec: ServeSpec,
        store: ArtifactStore,
        versions: Versions,
        target: str | None = None,
        changed: Callable[[], None] = lambda: None,
        features: OnlineFeatures | None = None,
    ) -> None:
        self._target, self._changed = target, changed
        self._spec, self._store, self._versions = spec, store, versions
        self._features = features
        self._stopped = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        # The version that the process is loading, and the timer that ends the process if loading takes too long.
        self._loading: int | None = None
        self._deadline: threading.Timer | None = None
        self._late = False
        # The version whose loading failed last, and how many times in a row.
        self._failures: tuple[int | None, int] = (None, 0)
        # The line that reports the withdrawn canary to the process.
        self._withdrawn: str | None = None
        self._telling = threading.Lock()
        self.problem = f"The {target or 'champion'} is being loaded."
        self._thread = threading.Thread(target=self._run, name="mlops-follow", daemon=True)

    def start(self) -> None:
        """Start the process."""
        self._thread.start()

    def stop(self) -> None:
        """End the process."""
        self._stopped.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join(5)

    def withdraw(self, version: int, reason: str) -> None:
        """Withdraw a canary from all servers, if a CanaryOperator rolls it out.

        This server has already stopped choosing it.

        :param version: number of the version
        :param reason: the reason, as a sentence
        """
        self._withdrawn = json.dumps({"withdrawn": version, "reason": reason}) + "\n"
        self._tell(self._withdrawn)

    def count(self, counts: ServerCounts) -> None:
        """Write the numbers of failed requests to the artifact store, where CanaryOperator reads them."""
        self._tell(json.dumps({"counts": counts.model_dump(mode="json")}) + "\n")

    def _tell(self, line: str | None) -> None:
        with self._telling:
            process = self._process
            if line is not None and process is not None and process.stdin is not None:
                # If the process has ended, the next process gets the withdrawal and later counts.
                with suppress(OSError, ValueError):
                    process.stdin.write(line)
                    process.stdin.flush()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except Exception as error:
                # If the thread ended, no later version would be served.
                target = self._target or "the champion"
                log.exception("The server cannot follow %s.", target)
                self.problem = f"The process that follows {target} cannot be used: {error}"
            self._stopped.wait(_RESTART_SECONDS)

    def _follow(self) -> None:
        """Start the process, and act on its messages until it ends."""
        given = {"spec": self._spec.for_processes(), "failures": self._failures}
        with self._telling:
            # The settings are the first line.
            process = self._process = subprocess.Popen(  # noqa: S603 - the arguments are a list
                [sys.executable, "-m", "airflow_mlops.serving.follow", *([self._target] if self._target else [])],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stdin is not None
            process.stdin.write(json.dumps(given) + "\n")
            process.stdin.flush()
        with process:
            assert process.stdout is not None
            self._tell(self._withdrawn)
            refused = False
            try:
                for line in process.stdout:
                    refused = not self._heard(line)
                    if refused:
                        break
            finally:
                loading = self._set_loading(None)
                process.kill()
        if self._stopped.is_set() or refused:
            return
        if loading is None:
            what = f"The process that follows {self._target or 'the champion'} ended"
        else:
            self._failed(loading)
            what = f"v{loading} of {self._spec.model} " + (
                f"was not loaded within {self._spec.load_seconds:g} s"
                if self._late
                else "crashed the process that loads it"
            )
        self._say(f"{what} (exit status {process.returncode}). {self._kept()}")

    def _heard(self, line: str) -> bool:
        """Act on a line that the process has written.

        :return: ``False`` if the version that the process has loaded cannot be served
        """
        try:
            facts: dict[str, Any] = json.loads(line)
        except ValueError:
            return True
        self._set_loading(facts.get("loading"))
        if "error" in facts:
            self._say(f"{facts['error']} {self._kept()}")
        elif "removed" in facts:
            self._versions.clear()
            self._changed()
        elif "folder" in facts:
            ref = ModelVersionRef(model=self._spec.model, version=facts["version"], run_id=facts["run_id"])
            share = facts.get("share")
            return self._switch(ref, Path(facts["folder"]), float(share) if share is not None else None)
        return True

    def _switch(self, ref: ModelVersionRef, folder: Path, share: float | None) -> bool:
        found = self._versions.find(str(ref.version))
        try:
            served = found or Served.load(
                ref, folder, self._store, self._spec, self._features, other=self._target is not None
            )
        except (MLOpsError, OSError) as error:
            self._failed(ref.version)
            self._say(f"{error} {self._kept()}")
            return False
        self.problem, self._failures = "", (None, 0)
        self._versions.share = share
        self._versions.promote(served)
        if found is None:
            log.info("%s is %s.", ref, f"loaded as {self._target}" if self._target else "served")
        self._changed()
        return True

    def _set_loading(self, version: int | None) -> int | None:
        """Record the version that the process is loading, and end the process if loading takes too long.

        :param version: number of the version; ``None`` if the process is not loading a version
        :return: the version that it was loading before
        """
        before, self._loading = self._loading, version
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if version is not None:
            self._late = False
            self._deadline = threading.Timer(self._spec.load_seconds, self._end)
            self._deadline.daemon = True
            self._deadline.start()
        return before

    def _end(self) -> None:
        self._late = True
        if self._process is not None:
            self._process.kill()

    def _failed(self, version: int) -> None:
        known, count = self._failures
        self._failures = (version, count + 1 if version == known else 1)

    def _kept(self) -> str:
        champion = self._versions.champion
        return f"v{champion.ref.version} is still served." if champion else ""

    def _say(self, problem: str) -> None:
        self.problem = problem.strip()
        log.warning("%s", self.problem)
