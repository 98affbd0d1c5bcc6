"""Functions that all commands of ``airflow mlops`` share: errors, the audit log, the artifact store, and steps."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import uuid
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.utils.cli import action_cli, suppress_logs_and_warning
from airflow.utils.platform import getuser

from airflow_mlops import __version__, server
from airflow_mlops.core.calls import Provenance, Spec, StepCall
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.settings import default_store, step_environment

if TYPE_CHECKING:
    from airflow_mlops.data.store import ArtifactStore

_log = logging.getLogger("airflow_mlops.cli")
# Arguments without a flag.
_POSITIONAL = ("model", "version")


def command(function: Callable[[Namespace], None]) -> Callable[[Namespace], None]:
    """Turn a function into a command.

    An error of this package is printed without a traceback, and the exit status is 1. Airflow's audit log records the
    command.
    """

    @functools.wraps(function)
    def run(args: Namespace) -> None:
        # This is done as in a task, because some commands run steps in this process.
        os.environ.update(step_environment())
        try:
            function(args)
        except MLOpsError as error:
            raise SystemExit(with_flags(str(error), args)) from None

    # action_cli records the command and the user in Airflow's audit log.
    recorded: Callable[[Namespace], None] = action_cli(check_db=False)(suppress_logs_and_warning(run))
    return recorded


def with_flags(message: str, args: Namespace) -> str:
    """If a message names parameters of the step, replace them with the arguments of the command."""
    for name in vars(args):
        argument = name.upper() if name in _POSITIONAL else f"--{name.replace('_', '-')}"
        # parse() writes a name as "older_than: ...", and the steps write it between backquotes or as "older_than=". In
        # a shell, a mapping is written as one word.
        message = re.sub(rf"\b{name}=(\{{[^{{}}]*\}})", rf'{argument} "\1"', message)
        message = re.sub(rf"(?<=[:;] ){name}(?=: )|`{name}`|\b{name}=", argument, message)
    return message.replace("mlflow.conn_id: ", "--mlflow-conn-id: ")


def store_of(args: Namespace) -> ArtifactStore:
    """Open the artifact store of a command: ``--store``, or by default ``[mlops] artifacts``."""
    from airflow_mlops.data.store import ArtifactStore

    return ArtifactStore(args.store or default_store())


def run_step(step: str, spec: Spec, args: Namespace) -> dict[str, Any]:
    """Run a step in a separate process, as an operator would, and return its result."""
    from airflow_mlops.compute import Process
    from airflow_mlops.compute.base import runner_for
    from airflow_mlops.core.connections import environment_name, to_json

    store = store_of(args)
    call = StepCall(
        step=step,
        spec=spec.model_dump(mode="json"),
        store=store.url,
        key=f"results/cli/{uuid.uuid4().hex}.json",
        version=__version__,
        provenance=Provenance(user=getuser()),
    )
    environment = {
        environment_name(args.mlflow_conn_id): to_json(server.connection(args.mlflow_conn_id)),
        # Modules of user-defined trainers are next to the DAG files.
        "PYTHONPATH": os.pathsep.join(filter(None, [*sys.path, server.dags_folder()])),
    }
    try:
        return runner_for(Process(sys.executable, environment), _log).run(call, set(), {})
    finally:
        store.delete(call.key)
