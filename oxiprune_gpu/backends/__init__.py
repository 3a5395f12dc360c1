"""Backends: who does the work. `BACKENDS` is the table; `backend_named` and `NumpyBackend` are the way in.

To add one: a class with the primitives of `Backend`, and a row here. The contract test then runs over it unchanged.
"""

from __future__ import annotations

from oxiprune_gpu.backends.base import Backend, Statistics
from oxiprune_gpu.backends.numpy_backend import NumpyBackend

BACKENDS: dict[str, type[Backend]] = {"numpy": NumpyBackend}
"""Name of a backend -> its class."""

__all__ = ["BACKENDS", "Backend", "NumpyBackend", "Statistics"]
