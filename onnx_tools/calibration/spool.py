"""Arrays in temporary files: what becomes of tensors, until it is written into a model."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
import weakref
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.new_values import NewTensor
from onnx_tools.temporaries import writing


class Spool:
    """Arrays in temporary files, which go with this object."""

    def __init__(self) -> None:
        with writing(pathlib.Path(tempfile.gettempdir())):
            self._folder = pathlib.Path(tempfile.mkdtemp(prefix="oxiprune-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._count = 0

    def add(self, kept: NDArray[np.bool_] | None, values: NDArray[Any] | None) -> NewTensor:
        """Keep what becomes of a tensor; what is returned reads it."""
        read = [None if array is None else partial(self._load, self._save(array)) for array in (kept, values)]
        return NewTensor(read[0], read[1])

    def _save(self, array: NDArray[Any]) -> tuple[pathlib.Path, np.dtype[Any]]:
        path = self._folder / f"{self._count}.npy"
        self._count += 1
        with writing(path):
            np.save(path, array)
        return path, array.dtype

    def _load(self, saved: tuple[pathlib.Path, np.dtype[Any]]) -> NDArray[Any]:
        found: NDArray[Any] = np.load(saved[0], mmap_mode="r").view(saved[1])  # numpy saves bfloat16 as bytes
        return found
