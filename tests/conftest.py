"""What holds for all tests."""

from __future__ import annotations

import os

# As airflow_mlops.steps.runner does: on busy processors OpenMP's waiting threads would eat the time of those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
