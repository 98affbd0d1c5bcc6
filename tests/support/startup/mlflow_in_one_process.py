"""The command line of MLflow, whose server is a child of this process without a Python of its own.

``mlflow server`` starts gunicorn in a second Python, which imports MLflow again: 2 s of CPU time.
"""

from __future__ import annotations

import os
import sys

from gunicorn.app import wsgiapp
from mlflow import cli, server
from mlflow.server import handlers


def run_here(command: list[str], extra_env: dict[str, str], **_: object) -> None:
    """Run gunicorn in this process until it ends.

    :param command: what MLflow would start: ``[python, "-m", "gunicorn", ...]``
    :param extra_env: environment variables that MLflow adds
    """
    os.environ.update(extra_env)
    # The worker must not inherit connections of SQLite.
    for store in (handlers._tracking_store, handlers._model_registry_store):
        store.engine.dispose()
    sys.argv = command[command.index("gunicorn") :]
    wsgiapp.run()


if __name__ == "__main__":
    server._exec_cmd = run_here
    cli.cli()
