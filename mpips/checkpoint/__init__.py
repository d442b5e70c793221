"""Checkpoints: complete or not there, of one clock, readable by any HDF5 tool; the format is in FORMAT.md.

Importing this loads neither h5py nor msgspec; `mpips.Saved`, in `read`, is the reader.
"""

from __future__ import annotations

from mpips.checkpoint.policy import Checkpoints

__all__ = ["Checkpoints"]
