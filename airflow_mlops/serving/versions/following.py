"""Start the process that follows the champion or another alias, and switch to each reported version.

The process (:mod:`airflow_mlops.serving.processes.follow`) ends when no version has changed for some seconds. A thread of the
server then looks up the version by plain HTTP, and starts the process again when there is a version to load.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from airflow_mlops.core.connections import from_environment
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.canary_counts import ServerCounts
from airflow_mlops.registry.light import Aliases
from airflow_mlops.registry.versions import CHAMPION
from airflow_mlops.serving.rows.online_features import OnlineFeatures
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions.failures import Failures, absent
from airflow_mlops.serving.versions.loaded import Served, Versions

log = logging.getLogger(__name__)

_RESTART_SECONDS, _RETRY_SECONDS = 2.0, 5.0


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
        self._failures = Failures()
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
                if self._follow():
                    self._watch()
                    continue
            except Exception as error:
                # If the thread ended, no later version would be served.
                target = self._target or "the champion"
                log.exception("The server cannot follow %s.", target)
                self.problem = f"The process that follows {target} cannot be used: {error}"
            self._stopped.wait(_RESTART_SECONDS)

    def _watch(self) -> None:
        """Look up the version to serve by plain HTTP, until there is a version that the process has to load."""
        target = self._target or str(self._spec.version or CHAMPION)
        aliases = None if target.isdecimal() else Aliases(from_environment(self._spec.mlflow.conn_id))
        pause = 0.0
        while not self._stopped.wait(pause):
            pause = self._spec.poll_seconds
            try:
                version = int(target) if aliases is None else aliases.version(self._spec.model, target)
            except MLOpsError as error:
                pause = max(pause, _RETRY_SECONDS)
                self._say_once(str(error))
                continue
            served = self._versions.champion
            if version is None:
                if served is not None and self._target is not None:
                    self._remove()
                self._say_once(absent(self._spec.model, target))
            elif served is not None and served.ref.version == version:
                self.problem = ""
            elif self._failures.due(version):
                return

    def _follow(self) -> bool:
        """Start the process, and act on its messages until it ends.

        :return: whether the process has ended because no version had changed
        """
        given = {"spec": self._spec.for_processes(), "failures": self._failures.state}
        with self._telling:
            # The settings are the first line.
            process = self._process = subprocess.Popen(  # noqa: S603 - the arguments are a list
                [sys.executable, "-m", "airflow_mlops.serving.processes.follow", *([self._target] if self._target else [])],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stdin is not None
            process.stdin.write(json.dumps(given) + "\n")
            process.stdin.flush()
        with process:
            assert process.stdout is not None
            self._tell(self._withdrawn)
            # Imported while no requests are answered, or while a version is loaded, because the import delays requests.
            import requests  # noqa: F401

            end = None
            try:
                for line in process.stdout:
                    end = self._heard(line)
                    if end is not None:
                        break
            finally:
                loading = self._set_loading(None)
                process.kill()
        if self._stopped.is_set() or end is not None:
            return end == "resting"
        if loading is None:
            what = f"The process that follows {self._target or 'the champion'} ended"
        else:
            self._failures.add(loading)
            what = f"v{loading} of {self._spec.model} " + (
                f"was not loaded within {self._spec.load_seconds:g} s"
                if self._late
                else "crashed the process that loads it"
            )
        self._say(f"{what} (exit status {process.returncode}). {self._kept()}")
        return False

    def _heard(self, line: str) -> Literal["refused", "resting"] | None:
        """Act on a line that the process has written.

        :return: ``None`` if the next line is to be read. Otherwise the reason to stop reading: ``refused`` if the
            server cannot load the version that the process has loaded, ``resting`` if no version has changed
        """
        try:
            facts: dict[str, Any] = json.loads(line)
        except ValueError:
            return None
        self._set_loading(facts.get("loading"))
        if "error" in facts:
            self._say(f"{facts['error']} {self._kept()}")
        elif "removed" in facts:
            self._remove()
        elif "resting" in facts:
            self._failures = Failures(*facts["resting"])
            return "resting"
        elif "folder" in facts:
            ref = ModelVersionRef(model=self._spec.model, version=facts["version"], run_id=facts["run_id"])
            share = facts.get("share")
            if not self._switch(ref, Path(facts["folder"]), float(share) if share is not None else None):
                return "refused"
        return None

    def _remove(self) -> None:
        self._versions.clear()
        self._changed()

    def _switch(self, ref: ModelVersionRef, folder: Path, share: float | None) -> bool:
        found = self._versions.find(str(ref.version))
        try:
            served = found or Served.load(
                ref, folder, self._store, self._spec, self._features, other=self._target is not None
            )
        except (MLOpsError, OSError) as error:
            self._failures.add(ref.version)
            self._say(f"{error} {self._kept()}")
            return False
        self.problem, self._failures = "", Failures()
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

    def _kept(self) -> str:
        champion = self._versions.champion
        return f"v{champion.ref.version} is still served." if champion else ""

    def _say_once(self, problem: str) -> None:
        if f"{problem} {self._kept()}".strip() != self.problem:
            self._say(f"{problem} {self._kept()}")

    def _say(self, problem: str) -> None:
        self.problem = problem.strip()
        log.warning("%s", self.problem)
