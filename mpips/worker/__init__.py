"""Pull, push, handles, clocks."""

from mpips.worker.worker import Reader, Worker

__all__ = ["Reader", "Worker"]
