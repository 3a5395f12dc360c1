"""The allocation "sensitivity" in a search: by curves that are measured on the cases that are searched with."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

from onnx_tools.quality import Measured, Quality
from onnx_tools.rewrite import Progress
from onnx_tools.search.allocating import Curves, sensitivity_policy
from onnx_tools.search.judging import Judge
from onnx_tools.search.lines import Line
from onnx_tools.search.making import Recipe
from onnx_tools.search.options import Search
from onnx_tools.search.sensitivity import Sensitivity, measure_sensitivity
from oxiprune_gpu import InvalidOption

SENSITIVITY = "sensitivity"
"""The allocation that minimises the sum of the losses that were measured of each weight alone."""

_SPARSITIES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""What is measured of each weight: closer than for a picture, since no weight gets anything between."""


@dataclass(frozen=True)
class _Searched:
    """A quality on the cases that are searched with alone: curves of the others would tell of what is held out."""

    quality: Quality
    judge: Judge

    @property
    def text(self) -> str:
        """Its name, with what tells these cases from all."""
        return f"{self.quality.text}, {self.judge.held_out:g} held out by seed {self.judge.seed}"

    def measure(self, model: pathlib.Path) -> Measured:
        """Measure a model."""
        return self.judge.searched(self.quality.measure(model))


def sensitive_line(search: Search, model: pathlib.Path, judge: Judge, log: pathlib.Path, tell: Progress | None) -> Line:
    """Measure each weight alone, and deal out sparsities by that. Points are in the log; they are no trials.

    Raises as `measure_sensitivity`.
    """
    asked = Sensitivity(
        _Searched(search.quality, judge),
        _SPARSITIES,
        granularity=search.granularity,
        metric=search.metric,
        method=search.method,
        selection=search.selection,
        data=search.named_data,
        log=log,
        backend=search.backend,
    )
    curves = Curves.of(measure_sensitivity(model, asked, progress=tell))

    def at(sparsity: float) -> Recipe | None:
        try:
            return sensitivity_policy(curves, sparsity)
        except InvalidOption:  # more than was measured
            return None

    return Line(SENSITIVITY, at)
