"""Settings of all tests."""

import os

from hypothesis import settings

# Threads that wait by spinning keep each other from working where tests share few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A loaded machine is no reason for a failure: no example is timed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
