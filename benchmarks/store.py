"""Requests to the artifact store: how many, and how long they take if each takes 50 ms.

``python -m benchmarks.store [--stores file s3 azure] [--windows 10 10000] [--skip-chain]``. The servers are moto (S3) and
azurite (Azure, where it is installed). A proxy between the servers and this process counts the requests and delays them. In a
local folder, files that are opened, listed, renamed or deleted are counted. The last line is JSON.

The chain is one month of the lifecycle, for a model with a champion: ingest, validate, training set, train, evaluate,
promote, score, join labels, monitor. Its seconds include the work of the steps. The lookups are measured in a store with a
given number of windows, predictions, reports and ledger entries.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
from aiohttp import web
from yarl import URL

from airflow_mlops.core.calls import Provenance, Request, StepCall
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, find_datasets
from airflow_mlops.data.datasets.manifest import manifest_key
from airflow_mlops.data.datasets.pointers import slots_of, windows_of
from airflow_mlops.data.predictions.log import PredictionLog, slot
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy import archive
from airflow_mlops.policy.findings import Report, Verdict
from airflow_mlops.policy.spec import Policy
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Decision
from airflow_mlops.stages.monitor.report import history, publish
from airflow_mlops.stages.runner import run_call
from benchmarks import azurite
from tests.support import object_stores
from tests.support.lifecycle import MODEL, MONTHS, Lifecycle
from tests.support.months import orders

DELAY = 0.05
VERSION = ModelVersionRef(model=MODEL, version=1, run_id="")
PREDICTIONS = f"{MODEL}_predictions"
# Number of windows that the lookups read.
_READ = 50
# Hop-by-hop headers, and those that aiohttp writes itself.
_OWN_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-encoding", "expect", "server", "date"}


class Meter:
    """Counts requests by method, and delays each of them."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.delay = 0.0

    @contextmanager
    def measured(self, delay: float = 0.0) -> Iterator[dict[str, Any]]:
        self.requests.clear()
        self.delay = delay
        found: dict[str, Any] = {}
        began = time.perf_counter()
        try:
            yield found
        finally:
            self.delay = 0.0
        found["seconds"] = round(time.perf_counter() - began, 2)
        found["requests"] = self.requests.total()
        found["methods"] = dict(self.requests)


@contextmanager
def proxied(target: str, meter: Meter) -> Iterator[str]:
    """Run a proxy for an HTTP server. Yield the proxy's URL."""
    loop = asyncio.new_event_loop()
    started, ended = threading.Event(), asyncio.Event()
    address: list[str] = []

    async def forward(request: web.Request) -> web.StreamResponse:
        meter.requests[request.method] += 1
        await asyncio.sleep(meter.delay)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS}
        body = await request.read()
        # The signature of a request covers its path and its headers.
        async with request.app["session"].request(
            request.method,
            URL(f"{target}{request.raw_path}", encoded=True),
            headers=headers,
            data=body if body or request.method in ("PUT", "POST") else None,
            allow_redirects=False,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
        ) as answer:
            content = await answer.read()
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN_HEADERS}
            return web.Response(status=answer.status, headers=kept, body=content if request.method != "HEAD" else None)

    async def serve() -> None:
        app = web.Application(client_max_size=1 << 30)
        app["session"] = aiohttp.ClientSession(auto_decompress=False)
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        started.set()
        await ended.wait()
        await app["session"].close()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    started.wait()
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


@contextmanager
def s3(meter: Meter, source: Path | None) -> Iterator[str]:
    with object_stores.s3() as url:
        if source is not None:
            copied(source, source.rglob("*"), url)
        options = fsspec.config.conf["s3"]
        with proxied(options["client_kwargs"]["endpoint_url"], meter) as proxy:
            client = {**options["client_kwargs"], "endpoint_url": proxy}
            with object_stores.configured("s3", **{**options, "client_kwargs": client}):
                yield url


@contextmanager
def azure(meter: Meter, source: Path | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder, _azure(Path(folder), meter, source) as url:
        yield url


@contextmanager
def _azure(location: Path, meter: Meter, source: Path | None) -> Iterator[str]:
    if source is not None:
        files = [path for path in source.rglob("*") if path.is_file()]
        empty = [path for path in files if not path.stat().st_size]
        with object_stores.azure(location) as url:
            # One empty file is uploaded. The other empty files get copies of its metadata.
            copied(source, [*(path for path in files if path.stat().st_size), *empty[:1]], url)
        if empty:
            azurite.add_empty_files(location, [path.relative_to(source).as_posix() for path in empty])
    with object_stores.azure(location) as url:
        string = fsspec.config.conf["abfs"]["connection_string"]
        _, _, server = string.partition("BlobEndpoint=")
        target = server.rpartition("/")[0]
        with (
            proxied(target, meter) as proxy,
            object_stores.configured("abfs", connection_string=string.replace(target, proxy)),
        ):
            yield url


@contextmanager
def folder(meter: Meter, source: Path | None) -> Iterator[str]:
    names = {
        "open": "read or write",
        "os.listdir": "list",
        "os.scandir": "list",
        "os.rename": "rename",
        "os.link": "link",
        "os.remove": "delete",
    }
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as root:
        if source is not None:
            shutil.copytree(source, root, dirs_exist_ok=True)

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            if event in names and str(arguments[0]).startswith(root):
                meter.requests[names[event]] += 1
                time.sleep(meter.delay)

        # An audit hook cannot be removed, but it only counts files in this folder, which is deleted afterwards.
        sys.addaudithook(count)
        yield Path(root).as_uri()


STORES: dict[str, Callable[[Meter, Path | None], Any]] = {"file": folder, "s3": s3, "azure": azure}


def chain(url: str, meter: Meter, delay: float) -> dict[str, dict[str, Any]]:
    """Run three months, and measure each step of the last."""
    import mlflow

    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as work:
        connection = ConnectionInfo(conn_id="mlflow_default", conn_type="mlflow", host=f"sqlite:///{work}/mlflow.db")
        mlflow.set_tracking_uri(connection.host or "")
        mlflow.create_experiment(MODEL, f"file://{work}/mlflow")

        def measured(call: StepCall) -> dict[str, Any]:
            with meter.measured(delay) as figures:
                result = run_call(call, lambda _: connection)
            found[call.step] = figures
            return result

        lifecycle = Lifecycle(url, Path(work), measured)
        for month in MONTHS:
            lifecycle.month(month)
    return found


def fill(store: ArtifactStore, count: int) -> list[Window]:
    """Write windows of an hour, and predictions, reports and ledger entries on each of them.

    The files of all but the last windows are empty, because no lookup reads them.
    """
    start = datetime(2013, 1, 1, tzinfo=timezone.utc)
    windows = [
        Window(start=start + timedelta(hours=hour), end=start + timedelta(hours=hour + 1)) for hour in range(count)
    ]
    ledger = Ledger(store, MODEL)
    for window in windows[::10]:
        ledger.record(f"entry-{window.key}", lambda _: _decision(window))  # noqa: B023 - called at once
    for window in windows[:-_READ]:
        for key in _keys(store, window):
            path = store.local_path(key)
            assert path is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for window in windows[-_READ:]:
        table = orders(window, 2)
        with DatasetWriter(store, "orders") as writer:
            writer.write(table)
            writer.commit(window=window, time_column="at")
        with DatasetWriter(store, PREDICTIONS) as writer:
            writer.write(table)
            details = {"model": MODEL, "model_version": 1}
            writer.commit(window=window, details=details, slots=[slot(VERSION, window, [], None)])
        publish(_report(window), [], store)
    return windows


def _keys(store: ArtifactStore, window: Window) -> list[str]:
    """Return the keys of the files on a window."""
    report = archive.key(store, MODEL, window)
    found = [report, archive.page(report), slots_of(store, PREDICTIONS).key(slot(VERSION, window, [], None), window)]
    for name in ("orders", PREDICTIONS):
        dataset_id = fingerprint([name, window.key])
        found += [
            windows_of(store, name).key(window.key, window),
            manifest_key(name, dataset_id),
            f"datasets/{name}/files/{dataset_id}.parquet",
        ]
    return found


def _report(window: Window) -> Report:
    verdict = Verdict(decision="healthy", reason="For a benchmark.", headline="For a benchmark.")
    return Report(model=MODEL, window=window, created=window.end, policy=Policy(), verdict=verdict)


def _decision(window: Window) -> Decision:
    request = Request(
        id=window.key, model=MODEL, triggers=["age"], reason="For a benchmark.", window=window, created=window.end
    )
    return Decision(
        decision="requested",
        replaced=None,
        champion=None,
        provenance=Provenance(requests=[request]),
        reason="For a benchmark.",
    )


def lookups(store: ArtifactStore, windows: list[Window], meter: Meter, delay: float) -> dict[str, dict[str, Any]]:
    """Measure what steps look up in the store, around the last of ``windows``."""
    last = windows[-1]
    day = Window(start=windows[-5].start, end=last.end)
    asked: dict[str, Callable[[], Any]] = {
        "a window": lambda: find_datasets(store, "orders", last),
        "five windows": lambda: find_datasets(store, "orders", day),
        "predictions of a window": lambda: PredictionLog(store, MODEL).present(last),
        "the newest report": lambda: archive.newest(store, MODEL),
        "the last 36 reports": lambda: history(MODEL, last, store),
        "the ledger": lambda: Ledger(store, MODEL).entries(),
    }
    found = {}
    for name, ask in asked.items():
        with meter.measured(delay) as figures:
            ask()
        found[name] = figures
    return found


def copied(source: Path, paths: Iterable[Path], url: str) -> None:
    """Copy files of a local store to another store, because writing it there takes hours."""
    remote, target = fsspec.core.url_to_fs(url)
    files = [path for path in paths if path.is_file()]
    remote.put([str(path) for path in files], [f"{target}/{path.relative_to(source).as_posix()}" for path in files])


def printed(title: str, found: dict[float, dict[str, dict[str, Any]]]) -> dict[str, int]:
    print(f"\n{title:34}{'requests':>10}" + "".join(f"{delay * 1000:>9.0f} ms" for delay in found))
    first = next(iter(found.values()))
    for name, figures in first.items():
        seconds = "".join(f"{each[name]['seconds']:>10.2f} s" for each in found.values())
        print(f"{name:34}{figures['requests']:>10}{seconds}   {figures['methods']}", flush=True)
    return {name: figures["requests"] for name, figures in first.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stores", nargs="+", choices=STORES, default=["file", "s3", "azure"])
    parser.add_argument("--windows", nargs="+", type=int, default=[10, 10_000])
    parser.add_argument("--skip-chain", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    figures: dict[str, Any] = {}
    filled = {}
    work = Path(tempfile.mkdtemp(prefix="mlops-bench-"))
    for count in arguments.windows:
        filled[count] = fill(ArtifactStore((work / str(count)).as_uri()), count)
        print(f"{count:,} windows, predictions and reports are written.", flush=True)
    if "azure" in arguments.stores and shutil.which("azurite-blob") is None:
        print("azurite is not installed, so Azure is left out.")
        arguments.stores.remove("azure")
    for kind in arguments.stores:
        for count in arguments.windows:
            meter = Meter()
            with STORES[kind](meter, work / str(count)) as url:
                store = ArtifactStore(url)
                found = {delay: lookups(store, filled[count], meter, delay) for delay in (0.0, DELAY)}
            each = printed(f"{kind}, {count:,} windows", found)
            figures[f"requests_{count}_{kind}"] = sum(each.values())
        if not arguments.skip_chain:
            meter = Meter()
            with STORES[kind](meter, None) as url:
                found = {delay: chain(f"{url}/{delay}", meter, delay) for delay in (0.0, DELAY)}
            each = printed(f"{kind}, one month", found)
            figures[f"chain_requests_{kind}"] = sum(each.values())
    shutil.rmtree(work)
    for count in arguments.windows:
        figures[f"requests_{count}"] = max(figures[f"requests_{count}_{kind}"] for kind in arguments.stores)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
