"""Statistics in files, one for each observation: what is done stays done, and memory holds one at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from onnx_tools.calibration.observed import Observation
from onnx_tools.calibration.sums import Statistics
from onnx_tools.temporaries import Temporary, writing
from oxiprune_gpu.errors import InvalidOption

_VERSION = 1

FINE = ""
NOT_FINITE = "its inputs are NaN or infinite on this data"
NOTHING = "nothing reaches it on this data"
UNFIT = "its inputs have shapes that do not go with it"
"""What is to be said of statistics."""


def verdict(states: Collection[str]) -> str:
    """What is to be said of a weight whose readers have these states."""
    return next((state for state in (UNFIT, NOT_FINITE, FINE) if state in states), NOTHING)


class Store:
    """A folder of .npz files. `key`: what the statistics depend on besides the observation; others stay as they are."""

    def __init__(self, folder: pathlib.Path, key: str, *, hessian: bool) -> None:
        self.folder = folder
        self._key = f"{_VERSION} {key}"
        self._hessian = hessian
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def save(self, observation: Observation, found: Statistics | None, state: str) -> None:
        """Write what was found, None if that is of no use, and what is to be said; the file is whole or not there.

        Raises `WriteFailed`, as for a full disk.
        """
        arrays: dict[str, Any] = {"state": np.str_(state)}
        if found is not None:
            arrays |= {"samples": np.int64(found.samples), "sums": found.sums, "squares": found.squares}
            arrays |= {} if found.hessian is None else {"hessian": found.hessian}
        path = self._path(observation)
        temporary = Temporary(path, None)
        with writing(path):
            try:
                temporary.create()
                with os.fdopen(os.dup(temporary.descriptor), "wb") as file:
                    np.savez(file, **arrays)
                temporary.flush()
                os.replace(temporary.path, path)
            finally:
                temporary.discard()

    def has(self, observation: Observation) -> bool:
        """Whether it is there and whole. One that is damaged is as good as none."""
        try:
            with zipfile.ZipFile(self._path(observation)) as archive:
                return "state.npy" in archive.namelist() and archive.testzip() is None
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError):
            return False

    def state(self, observation: Observation) -> str:
        """What is to be said of what was saved: `FINE` or a reason."""
        with self._open(observation) as arrays:
            return str(arrays["state"])

    def load(self, observation: Observation) -> Statistics | None:
        """What was saved; None if that is of no use."""
        with self._open(observation) as arrays:
            if str(arrays["state"]) != FINE:
                return None
            hessian = arrays["hessian"] if self._hessian else None
            return Statistics(int(arrays["samples"]), arrays["sums"], arrays["squares"], hessian)

    @contextlib.contextmanager
    def _open(self, observation: Observation) -> Iterator[Any]:
        path = self._path(observation)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                yield arrays
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
            raise InvalidOption(
                f"{path}: statistics that were saved are gone or damaged: {error}; collect again"
            ) from None

    def _path(self, observation: Observation) -> pathlib.Path:
        text = f"{self._key} {self._hessian} {observation.key!r}"
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.npz"
