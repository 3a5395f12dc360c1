"""A user's own function as quality."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_tools.calibration.data import function_named, working_folder_imported
from onnx_tools.errors import EvaluationFailed
from onnx_tools.quality.measured import Measured, mean_of
from onnx_tools.verification.feeds import one_line
from oxiprune_gpu.errors import InvalidOption


@dataclass(frozen=True, eq=False)
class Custom:
    """What `function` gives for the path (a text) of a model: a number, or one a case. Higher is better."""

    text: str
    function: Callable[[str], Any]

    def measure(self, model: pathlib.Path) -> Measured:
        """Call the function. Raises `EvaluationFailed` if it raises, or gives anything but numbers."""
        try:
            with working_folder_imported():
                given = self.function(str(model))
        except (Exception, SystemExit) as error:  # whatever a user's code raises
            raise EvaluationFailed(
                f"{self.text} on {model}: it raised {type(error).__name__}: {one_line(error)}"
            ) from error
        return self._read(given, model)

    def _read(self, given: Any, model: pathlib.Path) -> Measured:
        try:
            numbers = np.asarray(given)
        except Exception:  # numpy's, for lists of different lengths; that of an array on a GPU
            numbers = np.asarray(None)
        if numbers.dtype.kind not in "fiub":
            raise self._refused(model, f"{type(given).__name__} {one_line(ValueError(repr(given)))}")
        if numbers.ndim > 1 or not numbers.size:
            raise self._refused(model, f"an array of shape {numbers.shape}")
        values = numbers.astype(np.float64)
        if np.isnan(values).any():
            raise self._refused(model, "NaN" if values.ndim == 0 else f"{int(np.isnan(values).sum())} NaN")
        return Measured(float(values), None) if values.ndim == 0 else mean_of(values)

    def _refused(self, model: pathlib.Path, what: str) -> EvaluationFailed:
        return EvaluationFailed(
            f"{self.text} on {model}: it gave {what}; it must give a number, or an array with a number for each case"
        )


def custom(text: str) -> Custom:
    """The quality that is named as module:function. Raises `InvalidOption` if it can't be imported or called."""
    try:
        function = function_named(text)
    except (Exception, SystemExit) as error:  # whatever importing a user's code raises
        raise InvalidOption(f"{text}: {type(error).__name__}: {one_line(error)}") from error
    if not callable(function):
        raise InvalidOption(f"{text}: {type(function).__name__} is no function")
    return Custom(text, function)
