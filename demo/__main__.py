"""Run the demo: ``python -m demo up [--detach]`` (``make demo``) and ``python -m demo stop`` (``make stop``)."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from types import FrameType

from demo import request
from demo.api import AirflowApi
from demo.replay import Log, Month, Replay, ReplayError, table
from demo.services import Services
from demo.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the services, replay the months, print the table")
    up.add_argument(
        "--detach", action="store_true", help="exit after the table is printed and leave the services running"
    )
    commands.add_parser("stop", help="stop the services")
    arguments = parser.parse_args()
    services = Services(Settings.from_environment())
    if arguments.command == "stop":
        count = services.stop()
        print(f"Stopped {count} processes." if count else "The demo is not running.")
        return
    _up(services, detach=arguments.detach)


def _up(services: Services, *, detach: bool) -> None:
    settings, started = services.settings, time.monotonic()

    def log(message: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - started), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {message}", flush=True)

    # Ctrl-C and `kill` both stop the services before the demo exits.
    signal.signal(signal.SIGTERM, _interrupt)
    keep, failed = False, False
    try:
        log("Starting Airflow (scheduler, API server, DAG processor, triggerer), MLflow and a server ...")
        log("The services are running." if services.start() else "The services were already running.")
        log(f"Open {settings.airflow_url} (Airflow) or {settings.mlflow_url} (MLflow) to watch the replay.")
        failed = not _replay(settings, log)
        print(
            f"\nAirflow  {settings.airflow_url}\nMLflow   {settings.mlflow_url}\nState    {settings.home}"
            f"\n\nOpen the model in Airflow: {settings.airflow_url}/plugin/mlops/flight_delays"
        )
        if not failed:
            _serve(services, log)
        keep = detach
        if detach:
            print("The services keep running. Stop them with `make stop`.")
        else:
            print("Press Ctrl-C to stop the services.", flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        print("\nStopping ...", flush=True)
    finally:
        if not keep:
            services.stop()
    sys.exit(int(failed))


def _replay(settings: Settings, log: Log) -> bool:
    """Replay the months and print the table. After a failure the table contains the months before it.

    :return: whether all months were replayed
    """
    replay = Replay(AirflowApi(settings.airflow_url), log)
    months: list[Month] = []
    try:
        _wait_for_dags(replay.api)
        for key in settings.months:
            months.append(replay.month(key))
    except ReplayError as error:
        print(f"\n{error}", flush=True)
        return False
    finally:
        if months:
            print(f"\n{table(months)}", flush=True)
    return True


def _serve(services: Services, log: Log) -> None:
    """Print a command that requests a prediction from the server of the champion."""
    url = services.serving()
    if url is None:
        log(f"The server does not answer with the champion. See {services.settings.home}/logs/serving.log")
        return
    row = request.flight(services.settings, url)
    print(f"\nAsk the champion about a flight:\n\n{request.curl(url, row)}\n\n{request.answer(url, row)}\n", flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _wait_for_dags(api: AirflowApi, timeout: float = 120) -> None:
    """Wait until the DAG processor has parsed every example DAG."""
    wanted = {"flights_ingest", "flights_score", "flights_monitor", "flights_train", "flights_deploy"}
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        dags = api.call("GET", "/dags", limit=100)["dags"]
        if wanted <= {dag["dag_id"] for dag in dags}:
            return
        time.sleep(1)
    errors = api.call("GET", "/importErrors")["import_errors"]
    details = "\n".join(error["stack_trace"] for error in errors)
    raise ReplayError(f"Airflow did not find the example DAGs within {timeout:.0f} s.\n{details}")


if __name__ == "__main__":
    main()
