"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)  # nothing timed is asserted: the machine may be shared
settings.load_profile("patient")
