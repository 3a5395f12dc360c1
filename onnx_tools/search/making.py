"""How the models of trials are made."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from onnx_tools.calibration.methods import DataMethod
from onnx_tools.compact_report import CompactReport
from onnx_tools.compaction.choice.config import ChannelConfig
from onnx_tools.compaction.choice.pruning import prune_channels
from onnx_tools.compaction.compact import compact_file
from onnx_tools.compaction.mapping.shapes import InputShapes
from onnx_tools.encodings.encode import encode_file
from onnx_tools.file_facts import bytes_on_disk
from onnx_tools.masks import How
from onnx_tools.model_file import ModelFile
from onnx_tools.new_values import NewValues
from onnx_tools.policy import Policy
from onnx_tools.policy_file import policy_text
from onnx_tools.report import PruneReport
from onnx_tools.rewrite import prune_file
from onnx_tools.search_report import WeightSparsity
from onnx_tools.weight_selection import Selection

Recipe = Policy | ChannelConfig
"""What decides the model of a trial."""


def recipe_text(recipe: Recipe) -> str:
    """A recipe in words: equal texts make equal models."""
    if isinstance(recipe, Policy):
        return policy_text(recipe)
    return json.dumps(asdict(recipe.configuration(Selection(), gradients=False)), sort_keys=True)


class Made(NamedTuple):
    """A model that was made at `path`. What the figures mean: see `TrialReport`."""

    path: pathlib.Path
    sparsity: float
    bytes: int | None
    macs: int | None
    weights: tuple[WeightSparsity, ...]


@dataclass(frozen=True)
class Maker:
    """Makes models out of one.

    `method`: what looks at data, if any does. `packed`: policies give a model that is encoded without its zeros.
    `input_shapes`: of the compaction that follows the pruning of channels.
    """

    model: pathlib.Path
    selection: Selection
    method: DataMethod | None = None
    packed: bool = False
    input_shapes: InputShapes = field(default_factory=dict)
    backend: str = "auto"

    def make(self, recipe: Recipe, folder: pathlib.Path) -> Made:
        """Make the model of a recipe in an empty folder, under the name of the original.

        Raises NothingSelected and whatever else pruning, encoding or compaction do.
        """
        if isinstance(recipe, ChannelConfig):
            return self._without_channels(recipe, folder)
        path = folder / self.model.name
        dense = folder / f"dense.{self.model.name}" if self.packed else path
        how = self._how(recipe)
        pruned = prune_file(self.model, dense, config=how, selection=self.selection, backend=self.backend)
        if self.packed:
            encode_file(dense, path, encoding="packed", verify=False)
        size = bytes_on_disk(ModelFile.open(path)) if self.packed else None
        weights = _weights_of(pruned, how)
        parameters = sum(weight.parameters for weight in weights)
        zeros = parameters - sum(weight.kept for weight in weights)
        return Made(path, zeros / max(parameters, 1), size, None, weights)

    def _how(self, policy: Policy) -> How:
        return policy if self.method is None else self.method.new_values(self.model, policy, self.selection)

    def _without_channels(self, config: ChannelConfig, folder: pathlib.Path) -> Made:
        path, masked = folder / self.model.name, folder / f"masked.{self.model.name}"
        chosen = Selection(self.selection.include, self.selection.exclude)
        refit, shapes = None if self.method is None else self.method.new_values, self.input_shapes
        prune_channels(self.model, masked, config=config, selection=chosen, input_shapes=shapes, refit=refit)
        report = compact_file(masked, path, input_shapes=self.input_shapes, verify=None)
        totals = report.totals
        gone = totals.parameters_before - totals.parameters_after
        size = bytes_on_disk(ModelFile.open(path))
        return Made(path, gone / max(totals.parameters_before, 1), size, _macs(report), ())


def _macs(report: CompactReport) -> int | None:
    known = any(layer.macs_after is not None for layer in report.layers)
    return report.totals.macs_after if known else None


def _weights_of(report: PruneReport, how: How) -> tuple[WeightSparsity, ...]:
    """What was kept of the weights; those of one name together, as rules of a policy see them.

    Tensors that a method only moves, such as biases, are none.
    """
    planned = {item.weight.name for item in how.plan.planned} if isinstance(how, NewValues) else None
    sums: dict[str, tuple[int, int]] = {}
    for weight in report.weights:
        if planned is not None and weight.name not in planned:
            continue
        parameters, kept = sums.get(weight.name, (0, 0))
        sums[weight.name] = parameters + weight.parameters, kept + weight.nonzero_after
    return tuple(WeightSparsity(name, parameters, kept) for name, (parameters, kept) in sums.items())


def sparsities(weights: tuple[WeightSparsity, ...], kept: Mapping[str, int]) -> dict[str, float]:
    """The sparsities that leave so many elements of each weight.

    In the middle between one element more and one less, so that rounding decides nothing.
    """
    return {
        weight.name: min(max(weight.parameters - kept[weight.name] + 0.5, 0.0) / weight.parameters, 1 - 2**-20)
        for weight in weights
        if kept[weight.name] < weight.parameters
    }
