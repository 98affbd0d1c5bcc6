"""Puts the probe among the steps of a pod, where this folder is on PYTHONPATH."""

import atexit
import os
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.util import spec_from_file_location
from pathlib import Path


class _Probe(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname != "airflow_mlops.steps.probe":
            return None
        return spec_from_file_location(fullname, Path(__file__).parent / "probe_step.py")


sys.meta_path.insert(0, _Probe())

if "PROBE_LINGERS" in os.environ:
    # The result is written, and the pod does not end yet.
    atexit.register(time.sleep, float(os.environ["PROBE_LINGERS"]))

if "PROBE_VERSION" in os.environ:
    import airflow_mlops

    airflow_mlops.__version__ = os.environ["PROBE_VERSION"]
