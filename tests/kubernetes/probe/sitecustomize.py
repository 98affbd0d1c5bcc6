"""Adds the probe to the steps of the package if this folder is on PYTHONPATH."""

import atexit
import os
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.util import spec_from_file_location
from pathlib import Path


class _Probe(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        folder = Path(__file__).parent
        if fullname == "airflow_mlops.stages.probe":
            return spec_from_file_location(fullname, folder / "empty.py", submodule_search_locations=[])
        if fullname == "airflow_mlops.stages.probe.step":
            return spec_from_file_location(fullname, folder / "probe_step.py")
        return None


sys.meta_path.insert(0, _Probe())

if "PROBE_LINGERS" in os.environ:
    # Keeps the pod running after its result was stored.
    atexit.register(time.sleep, float(os.environ["PROBE_LINGERS"]))

if "PROBE_VERSION" in os.environ:
    import airflow_mlops

    airflow_mlops.__version__ = os.environ["PROBE_VERSION"]
