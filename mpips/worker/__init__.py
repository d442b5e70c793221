"""Pull, push, handles, clocks."""

from mpips.worker.client import Reader
from mpips.worker.worker import Worker

__all__ = ["Reader", "Worker"]
