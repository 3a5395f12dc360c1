"""Is a model without some of its channels still the same function? Asked before it gets its name."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from dataclasses import dataclass

from onnx import TensorProto

from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.shapes import InputShapes
from onnx_tools.errors import VerificationFailed
from onnx_tools.model_file import ModelFile
from onnx_tools.report import Check, OutputDrift, VerificationReport
from onnx_tools.verification.runtime_check import check_runtime, is_unmeasured, too_large
from onnx_tools.verify import checker_check

_LIMITS: dict[int, float] = {TensorProto.DOUBLE: 1e-6, TensorProto.FLOAT: 1e-3}
_COARSE_LIMIT = 5e-2
"""Relative L2 that rounding alone can make of an output: sums are added in another order when terms are left out. Half
precision and quantised activations round so coarsely that one step more or less shows."""


@dataclass(frozen=True)
class Checks:
    """What a compacted model is held against. `data`: an .npz with inputs; without, random ones from `seed`.

    `max_drift`: the most that the relative L2 of an output may be; None: what rounding can make of it.
    """

    data: pathlib.Path | None = None
    max_drift: float | None = None
    seed: int = 0

    def run(
        self, model: ModelFile, channels: ChannelMap, finished: pathlib.Path, shapes: InputShapes, *, exact: bool
    ) -> VerificationReport:
        """The checks "checker", "runtime" and "drift". `exact`: whether nothing but rounding may differ.

        Raises `VerificationFailed`, and `InvalidOption` if the data does not fit the model.
        """
        limit = self.max_drift
        if limit is None and exact:
            limit = rounding_limit(channels)
        checks = [checker_check(model.path, finished)]
        drifts: list[OutputDrift] = []
        large = too_large(model.path, model.data_files())
        if large is None:
            more, drifts = check_runtime(model.path, finished, self.data, limit, self.seed, shapes)
            checks += self._softened(more)
        else:
            checks.append(large)
        if failed := [f"{check.name}: {check.detail}" for check in checks if check.outcome == "failed"]:
            raise VerificationFailed(f"{model.path.name}: {'; '.join(failed)}. Nothing was written")
        return VerificationReport(tuple(checks), tuple(drifts))

    def _softened(self, checks: list[Check]) -> Iterator[Check]:
        """That outputs can't be compared fails only a limit that was asked for."""
        for check in checks:
            soft = self.max_drift is None and is_unmeasured(check)
            yield Check(check.name, "warning", check.detail) if soft else check


def rounding_limit(channels: ChannelMap) -> float:
    """The relative L2 that rounding alone may make of an output of a model, by the types of what is cut."""
    kinds = {member.tensor.data_type for member in channels.members}
    return max((_LIMITS.get(kind, _COARSE_LIMIT) for kind in kinds), default=_LIMITS[TensorProto.FLOAT])
