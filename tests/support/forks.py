"""One process that imports slow libraries once, and forks for each piece of code that needs a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType

_SERVER = """
import json, os, sys, tempfile, traceback

exec(sys.argv[1])
for line in sys.stdin:
    code, arguments = json.loads(line)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv, status = ["-c", *arguments], 0
            try:
                exec(code)
            except BaseException:
                traceback.print_exc()
                status = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = []
        for file in (out, err):
            file.seek(0)
            found.append(file.read().decode())
    print(json.dumps([status, *found]), flush=True)
"""


class Forks:
    """Runs code in forks of one process.

    :param before: the code that this process runs once, such as imports
    :param env: the environment of this process; by default that of the tests
    :param cwd: the folder in which this process and its forks run
    """

    def __init__(self, before: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        command = [sys.executable, "-c", _SERVER, before]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=cwd
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def run(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``code`` in a new fork and wait for its end. ``sys.argv[1:]`` contains ``arguments``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([code, arguments]), file=self._process.stdin, flush=True)
        # Lines before the answer are what the code of ``before`` printed.
        while not (line := self._process.stdout.readline()).startswith("["):
            assert line, f"The process that forks ended with status {self._process.wait()}."
        status, out, err = json.loads(line)
        return subprocess.CompletedProcess(code, status, out, err)
