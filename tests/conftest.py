"""Settings of all tests."""

from hypothesis import settings

# A loaded machine is no reason for a failure: no example is timed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
