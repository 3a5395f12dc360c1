"""Arrays in temporary files: what becomes of tensors, until it is written into a model."""

from __future__ import annotations

import mmap
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.file_blocks import write_at
from onnx_tools.temporaries import writing

_FILE = 1 << 28
"""Bytes that a file has room for; one that nothing was written to takes none on most disks."""
_ALIGNMENT = 64


class Spool:
    """Arrays in temporary files, which go with this object.

    Many arrays share a file and its mapping: each mapping takes one of the files that a process may have open.
    """

    def __init__(self) -> None:
        with writing(pathlib.Path(tempfile.gettempdir())):
            self._folder = pathlib.Path(tempfile.mkdtemp(prefix="oxiprune-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._files = 0
        self._path = self._folder
        self._used = self._room = 0
        self._mapping: mmap.mmap | None = None

    def keep(self, array: NDArray[Any]) -> Callable[[], NDArray[Any]]:
        """Write an array into a file; what is returned shows it there, to be read only. Raises `WriteFailed`."""
        if self._mapping is None or self._used + array.nbytes > self._room:
            self._begin_file(array.nbytes)
        assert self._mapping is not None
        start = self._used
        self._used += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        with writing(self._path):  # not through the mapping: there a full disk ends the process
            descriptor = os.open(self._path, os.O_RDWR | getattr(os, "O_BINARY", 0))
            try:
                write_at(descriptor, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, start)
            finally:
                os.close(descriptor)
        return partial(_shown, self._mapping, start, array.shape, array.dtype, self)

    def _begin_file(self, least: int) -> None:
        self._path = self._folder / str(self._files)
        self._files += 1
        self._used, self._room = 0, max(_FILE, least)
        with writing(self._path), self._path.open("w+b") as file:
            file.truncate(self._room)
            self._mapping = mmap.mmap(file.fileno(), self._room, access=mmap.ACCESS_READ)


def _shown(mapping: mmap.mmap, start: int, shape: tuple[int, ...], dtype: np.dtype[Any], _owner: Spool) -> NDArray[Any]:
    """The array at `start`. Whoever can ask for it keeps the owner of its file."""
    return np.ndarray(shape, dtype, mapping, start)
