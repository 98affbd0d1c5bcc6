"""The command ``python -m airflow_mlops.serving MODEL --store URL``, which serves the champion or a version of a model.

The environment variable ``AIRFLOW_CONN_MLFLOW_DEFAULT`` contains the Airflow connection to MLflow. The environment
variable ``MLOPS_SERVE_TOKEN`` contains the token that requests must carry. ``airflow mlops serve`` starts this command.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from airflow_mlops.core.arrow_memory import use_malloc
from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.secrets import MaskedStream
from airflow_mlops.serving.spec import ServeSpec

TOKEN_VARIABLE = "MLOPS_SERVE_TOKEN"  # noqa: S105 - the name of a variable


def main() -> int:
    """Serve until the process gets SIGTERM or SIGINT. Return the exit status."""
    sys.stderr = MaskedStream(sys.stderr)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        serve(settings())
    except MLOpsError as error:
        print(f"ERROR {error}", file=sys.stderr)
        return 1
    return 0


def settings(words: Sequence[str] | None = None) -> ServeSpec:
    """Return the settings of a command line.

    :param words: arguments of the command line; by default those of this process
    :raises SpecError: a setting is invalid, or settings contradict each other
    """
    parser = argparse.ArgumentParser(prog="python -m airflow_mlops.serving")
    parser.add_argument("model")
    parser.add_argument("--store", required=True, help="URL of the artifact store")
    parser.add_argument("--mlflow-conn-id", default="mlflow_default")
    parser.add_argument("--version", type=int, help="version to serve instead of following the champion")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--predictions", help="name of the datasets of predictions")
    parser.add_argument(
        "--window", choices=("hour", "day"), default="day", help="length of the windows of the predictions"
    )
    parser.add_argument("--no-log", action="store_true", help="do not log predictions")
    parser.add_argument(
        "--shadow", help="number or alias of a version that scores the same rows; its predictions are only logged"
    )
    parser.add_argument("--canary", help="number or alias of a version that answers a share of the requests")
    parser.add_argument(
        "--canary-share", type=float, help="share of the requests that the canary answers, 0 to 1 (default: 0.1)"
    )
    parser.add_argument(
        "--canary-key", help="field whose value decides which version answers (default: the request's id)"
    )
    parser.add_argument("--hash-column", action="append", default=[], help="a column that is logged as keyed hashes")
    parser.add_argument("--drop-column", action="append", default=[], help="a column that is not logged")
    parser.add_argument("--hash-conn-id", help="connection whose password is the secret key for the hashes")
    parser.add_argument("--sample", type=float, default=1.0, help="share of the requests that are logged, 0 to 1")
    parser.add_argument("--feast-repo", help="Feast repository in whose online store features are looked up")
    parser.add_argument("--spool", help="folder for predictions that are not yet in the artifact store")
    arguments = parser.parse_args(words)
    fields = {
        "model": arguments.model,
        "store": arguments.store,
        "mlflow": {"conn_id": arguments.mlflow_conn_id},
        "version": arguments.version,
        "host": arguments.host,
        "port": arguments.port,
        "token": os.environ.get(TOKEN_VARIABLE) or None,
        "predictions": arguments.predictions,
        "window": arguments.window,
        "log": not arguments.no_log,
        "shadow": arguments.shadow,
        "canary": arguments.canary,
        "canary_share": arguments.canary_share,
        "canary_key": arguments.canary_key,
        "hash_columns": arguments.hash_column,
        "drop_columns": arguments.drop_column,
        "hash_conn_id": arguments.hash_conn_id,
        "sample": arguments.sample,
        "feast_repo": arguments.feast_repo,
        "spool": arguments.spool,
    }
    spec: ServeSpec = parse(ServeSpec, fields, "The server")
    return spec


def serve(spec: ServeSpec) -> None:
    """Serve until the process gets SIGTERM or SIGINT, and then answer the requests that were already received."""
    # Arrow's own allocator takes 2 to 6 MB more in each process.
    use_malloc()
    import uvicorn

    from airflow_mlops.serving.http.app import create_app
    from airflow_mlops.serving.http.connections import TimedProtocol, allow_connections
    from airflow_mlops.serving.light import without_pandas

    if spec.feast_repo is None:
        without_pandas()
    allow_connections()
    TimedProtocol.seconds = spec.request_seconds
    config = uvicorn.Config(
        # The access log goes to standard output, without a buffer: a thread that waits in a buffered write would make
        # Python exit with an error.
        create_app(spec, open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)),  # noqa: SIM115
        host=spec.host,
        port=spec.port,
        http=TimedProtocol,
        # The server has no WebSockets, whose connections would have no time limit.
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=30,
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    sys.exit(main())
