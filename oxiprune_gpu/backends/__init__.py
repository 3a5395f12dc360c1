"""Backends: who does the work. `BACKENDS` is the table, `backend_of` the way in.

To add one: a class with the primitives of `Backend`, and a row here. The contract test then runs over it unchanged.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from oxiprune_gpu.backends.base import Backend, Statistics
from oxiprune_gpu.backends.numpy_backend import NumpyBackend

BACKENDS: dict[str, type[Backend]] = {"numpy": NumpyBackend}
"""Library of the arrays that a backend works on -> its class."""


def backend_of(array: Any) -> Backend:
    """Return the backend that works on arrays of this kind."""
    return _backend(type(array).__module__.partition(".")[0])


@cache
def _backend(library: str) -> Backend:
    return BACKENDS[library]()


__all__ = ["BACKENDS", "Backend", "NumpyBackend", "Statistics", "backend_of"]
