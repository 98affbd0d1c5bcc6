"""Settings of all tests: how they are distributed, and the list of what was skipped."""

from __future__ import annotations

import fcntl
import gc
import os
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# Imported early, because skops searches all imported modules for each function of SciPy when it is imported. It
# searches them in the order of their import. If SciPy came last, the search took 2 s of CPU time.
import scipy.special  # noqa: F401
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from airflow_mlops.core import secrets
from tests.support import memory, shared_airflow
from tests.support.airflow_db import FOLDER as MADE
from tests.support.live import LiveAirflow

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

TESTS = Path(__file__).parent
# The files of the live Airflow that run before those on the cluster, while the image of the pods is perhaps not built
# yet.
LIVE_FIRST = ("test_live_airflow.py", "test_live_approval.py")

# OpenMP threads that wait by spinning slow each other down where tests share few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The tests already run in parallel. Threads of LightGBM that wait for a core made a training 30 times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The imported libraries create many objects, so garbage collection took an eighth of the CPU time.
gc.set_threshold(10_000, 10, 10)
# Tests and services write many small files and create many directories. In memory, this takes a tenth of the CPU time.
memory.use_for_temporary_files()

# The library requests reads all environment variables twice for each request to a test's service, unless NO_PROXY lists
# the host.
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(dict.fromkeys(["127.0.0.1", *filter(None, os.environ.get(_name, "").split(","))]))

# The processes that tests start also collect garbage less often. Python imports sitecustomize.py from this folder when
# it starts.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(TESTS / "support" / "startup"), os.environ.get("PYTHONPATH")])
)

# Examples have no deadline, because a slow run on a loaded machine is not a failure. CI uses the same examples in every
# run. Elsewhere, each run uses other examples, to find more defects.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Number bytes in test ids: compressed bytes contain the time, and all xdist workers need the same ids."""
    return "bytes" if isinstance(val, bytes) else None


def group(path: str) -> str:
    """The group of a test file. One xdist worker runs the tests of a group, one after the other.

    Most files share no fixtures, so each file is a group. Three groups have several files. The files on the cluster share a
    namespace and an MLflow server. The files in the folders ``live`` share an Airflow. The files of the plugin share the
    application of Airflow's API server.

    :param path: path of the file, relative to the root of the repository
    """
    parts = path.split("/")
    if parts[1:3] == ["integration", "plugin"]:
        return "plugin"
    return next((part for part in ("live", "kubernetes") if part in parts), path)


class Groups(LoadScopeScheduling):
    """Distributes whole groups in the order of collection. While the image of pods is built, groups on the cluster come last.

    The last worker takes groups from the end, where the tests are that need neither MLflow nor Airflow's database. This
    worker therefore does not start these services, and the other workers import less.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group(str(nodeid).partition("::")[0])

    def _assign_work_unit(self, node: WorkerController) -> None:
        names = list(self.workqueue)
        if self.numnodes > 2 and node.gateway.id == f"gw{self.numnodes - 1}":
            names.reverse()
        if image_is_being_built():
            # Groups that do not need the image come first. The group of the live Airflow needs the image only for its
            # later files.
            names.sort(key=lambda name: name.startswith("kubernetes"))
        self.workqueue.move_to_end(names[0], last=False)
        super()._assign_work_unit(node)

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        super().mark_test_complete(node, item_index, duration)
        in_use = Path(os.environ.get("MLOPS_TEST_CLUSTER_IN_USE", "/none"))
        if in_use.exists() and not image_is_being_built() and not self._needs_cluster():
            in_use.unlink(missing_ok=True)

    def _needs_cluster(self) -> bool:
        """Whether a test on the cluster has not ended yet."""
        return any(
            nodeid.startswith("tests/kubernetes/") and not done
            for units in (self.workqueue, *self.assigned_work.values())
            for tests in units.values()
            for nodeid, done in tests.items()
        )


def image_is_being_built() -> bool:
    """Whether the tests of the cluster would wait for the image of their pods; see tests/kubernetes/conftest.py."""
    return Path(os.environ.get("MLOPS_TEST_IMAGE_BUILD", "/none")).exists()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    # The schedulers of xdist cannot be used: `loadfile` would run several files on the cluster at once, and `loadgroup`
    # of xdist 3.8 does not work with pytest 9.2.
    config.option.loadscopereorder = False
    return Groups(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without a search for garbage: nearly all objects stay, and the searches took a seventh of the CPU time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(wrapper=True, specname="pytest_collection")
def pytest_collection_in_turn() -> Generator[None, object, object]:
    """In a new environment, let one xdist worker collect first, so that the others need not compile the libraries.

    Otherwise each worker compiles them: a collection then takes 37 s of CPU time instead of 12 s.
    """
    compiled = MADE / "compiled"
    if "PYTEST_XDIST_WORKER" in os.environ and not compiled.exists():
        MADE.mkdir(parents=True, exist_ok=True)
        with (MADE / "compiling").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not compiled.exists():
                result = yield
                compiled.touch()
                return result
    return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow groups first: no worker should begin a slow group when the other workers have nothing left to do.

    Groups that need neither MLflow nor Airflow's database are taken from the end, so slow groups among them come last.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    services = {item.path for item in items if {"mlflow_server", "airflow_db"} & set(getattr(item, "fixturenames", ()))}

    def order(item: pytest.Item) -> int:
        parts = item.path.relative_to(TESTS).parts
        if "live" in parts:
            # The cluster uses a fifth of a core, so it is stopped after its last test. That costs more than a live Airflow
            # that waits for the image of the pods.
            return 2 if parts[0] == "kubernetes" else 1 if parts[-1] in LIVE_FIRST else 3
        if parts[0] == "kubernetes":
            return 0
        if item.path in services:
            return 4 if item.path in slow else 5
        return 7 if item.path in slow else 6

    items.sort(key=order)


def pytest_collection_finish() -> None:
    """Exclude the objects that the collection has imported from the search for garbage, because they stay until the process ends."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the live Airflow after the last test that may use it, because it takes CPU time even if no DAG runs."""
    if nextitem is None or "live" not in nextitem.path.relative_to(TESTS).parts:
        shared_airflow.stop()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """End the live Airflow even if the tests were interrupted. The temporary files of tests that failed stay until the next run."""
    shared_airflow.stop()
    # Five times at the end, pytest searches all objects for garbage.
    gc.freeze()
    if exitstatus == pytest.ExitCode.OK:
        # The processes of xdist end after this.
        session.config.add_cleanup(memory.remove)


@pytest.fixture(autouse=True)
def no_remembered_secrets() -> Iterator[None]:
    """Forget the secrets of a test, because a process masks them in all messages: a password may be a word of another test."""
    yield
    secrets._known.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a live Airflow logged, next to the failure of a test that used it."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, LiveAirflow):
                report.sections.append(("Log of the live Airflow", value.problems()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List at the end what was skipped, by reason."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    terminalreporter.section("not tested")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count} test{'s' if count > 1 else ''} skipped: {reason}")
    if not reasons:
        terminalreporter.line("Nothing was skipped.")
