"""Start the process that follows the champion or another alias, and switch to each version that it reports."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.serving.versions import Served, Versions

log = logging.getLogger(__name__)

_RESTART_SECONDS = 2.0


class Following:
    """Keeps ``versions`` at the champion or at another version, until :meth:`stop`.

    :param spec: settings of the server
    :param versions: the loaded versions
    :param target: number or alias of the version to follow; by default the champion. If the alias is removed, no version is
        left; a champion stays
    :param changed: function that is called after each change
    """

    def __init__(
        self,
        spec: ServeSpec,
        store: ArtifactStore,
        versions: Versions,
        target: str | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._target, self._changed = target, changed
        self._spec, self._store, self._versions = spec, store, versions
        self._stopped = threading.Event()
        self._process: subprocess.Popen[str] | None = None
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

    def _run(self) -> None:
        while not self._stopped.is_set():
            loading: int | None = None
            self._process = subprocess.Popen(  # noqa: S603 - the arguments are a list
                [sys.executable, "-m", "airflow_mlops.serving.follow", *([self._target] if self._target else [])],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(self._spec.model_copy(update={"token": None}).model_dump_json() + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                loading = self._heard(line, loading)
            code = self._process.wait()
            if self._stopped.is_set():
                return
            what = (
                f"v{loading} of {self._spec.model} crashed the process that loads it"
                if loading
                else "The follower ended"
            )
            self._say(f"{what} (exit status {code}). {self._kept()}")
            self._stopped.wait(_RESTART_SECONDS)

    def _heard(self, line: str, loading: int | None) -> int | None:
        """Act on a line of the process. Return the number of the version that it is loading."""
        try:
            facts = json.loads(line)
        except ValueError:
            return loading
        if "error" in facts:
            self._say(f"{facts['error']} {self._kept()}")
            return None
        if "removed" in facts:
            self._versions.clear()
            self._changed()
            return None
        if "folder" not in facts:
            return int(facts["loading"])
        ref = ModelVersionRef(model=self._spec.model, version=facts["version"], run_id=facts["run_id"])
        found = self._versions.find(str(ref.version))
        try:
            folder, other = Path(facts["folder"]), self._target is not None
            self._versions.promote(found or Served.load(ref, folder, self._store, self._spec, other=other))
        except MLOpsError as error:
            self._say(f"{error} {self._kept()}")
            return None
        self.problem = ""
        log.info("%s is %s.", ref, f"loaded as {self._target}" if self._target else "served")
        self._changed()
        return None

    def _kept(self) -> str:
        champion = self._versions.champion
        return f"v{champion.ref.version} is still served." if champion else ""

    def _say(self, problem: str) -> None:
        self.problem = problem.strip()
        log.warning("%s", self.problem)
