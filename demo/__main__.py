"""``python -m demo up [--detach]`` and ``python -m demo stop``; ``make demo`` and ``make stop`` call these."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from types import FrameType

from demo.api import AirflowApi
from demo.replay import Month, Replay, ReplayError, Say, table
from demo.services import Services
from demo.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the services, replay the months, print the table")
    up.add_argument("--detach", action="store_true", help="return after the table and leave the services running")
    commands.add_parser("stop", help="end the services")
    arguments = parser.parse_args()
    services = Services(Settings.from_environment())
    if arguments.command == "stop":
        count = services.stop()
        print(f"Stopped {count} processes." if count else "The demo was not running.")
        return
    _up(services, detach=arguments.detach)


def _up(services: Services, *, detach: bool) -> None:
    settings, began = services.settings, time.monotonic()

    def say(message: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {message}", flush=True)

    # Ctrl-C and `kill` both end the services on the way out.
    signal.signal(signal.SIGTERM, _interrupt)
    keep, failed = False, False
    try:
        say("starting Airflow (scheduler, API server, DAG processor, triggerer) and MLflow ...")
        say("they are up" if services.start() else "they were running already")
        say(f"watch it at {settings.airflow_url} (Airflow) and {settings.mlflow_url} (MLflow)")
        failed = not _replay(settings, say)
        print(f"\nAirflow  {settings.airflow_url}\nMLflow   {settings.mlflow_url}\nState    {settings.home}")
        keep = detach
        if detach:
            print("The services stay up; `make stop` ends them.")
        else:
            print("Ctrl-C ends the services.", flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        print("\nStopping ...", flush=True)
    finally:
        if not keep:
            services.stop()
    sys.exit(int(failed))


def _replay(settings: Settings, say: Say) -> bool:
    """Replay the months, print the table; after a failure, the table of the months before it."""
    replay = Replay(AirflowApi(settings.airflow_url), say)
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


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _wait_for_dags(api: AirflowApi, timeout: float = 120) -> None:
    """Wait until the DAG processor has read every example."""
    wanted = {"flights_ingest", "flights_score", "flights_monitor", "flights_train"}
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        dags = api.call("GET", "/dags", limit=100)["dags"]
        if wanted <= {dag["dag_id"] for dag in dags}:
            return
        time.sleep(1)
    errors = api.call("GET", "/importErrors")["import_errors"]
    details = "\n".join(error["stack_trace"] for error in errors)
    raise ReplayError(f"Airflow did not find the example DAGs.\n{details}")


if __name__ == "__main__":
    main()
