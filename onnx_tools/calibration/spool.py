"""Arrays in temporary files: what becomes of tensors, until it is written into a model."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.temporaries import writing


class Spool:
    """Arrays in temporary files, which go with this object."""

    def __init__(self) -> None:
        with writing(pathlib.Path(tempfile.gettempdir())):
            self._folder = pathlib.Path(tempfile.mkdtemp(prefix="oxiprune-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._count = 0

    def keep(self, array: NDArray[Any]) -> Callable[[], NDArray[Any]]:
        """Write an array into a file; what is returned maps it, to be read only."""
        path = self._folder / f"{self._count}.npy"
        self._count += 1
        with writing(path):
            np.save(path, array)
        return partial(self._load, path, array.dtype)

    def _load(self, path: pathlib.Path, dtype: np.dtype[Any]) -> NDArray[Any]:
        found: NDArray[Any] = np.load(path, mmap_mode="r").view(dtype)  # numpy saves bfloat16 as bytes
        return found
