"""From a model and a configuration to what is done with each weight, before anything is read or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_tools.errors import NothingSelected
from onnx_tools.operators import UnitAxis
from onnx_tools.weight_selection import Selection, select_weights
from onnx_tools.weights import FoundWeights, LeftAlone, Weight, find_weights
from onnx_tools.wire import Path
from oxiprune_gpu import (
    Axis,
    InvalidOption,
    PruningConfig,
    ShapeMismatch,
    StructuredColumn,
    StructuredRow,
    Taylor,
    Unstructured,
)

Gradients = Mapping[str, NDArray[Any]]
"""The gradient of the loss for each weight, by its name."""


@dataclass(frozen=True)
class PlannedWeight:
    """A weight, the shape its elements are seen in, and the configuration that prunes it in this shape."""

    weight: Weight
    shape: tuple[int, ...]
    config: PruningConfig


@dataclass(frozen=True)
class Plan:
    """What is pruned, and what is left alone."""

    planned: tuple[PlannedWeight, ...]
    left_alone: tuple[LeftAlone, ...]

    @property
    def elements(self) -> int:
        """Elements of all planned weights."""
        return sum(item.weight.elements for item in self.planned)

    @property
    def bytes(self) -> int:
        """Bytes of the values of all planned weights."""
        return sum(item.weight.bytes for item in self.planned)

    def without(self, reasons: Mapping[Path, str]) -> Plan:
        """The plan without the weights at these paths, each left alone for its reason.

        Raises NothingSelected if no weight is left.
        """
        moved = [
            _left_alone(item.weight, reasons[item.weight.path]) for item in self.planned if item.weight.path in reasons
        ]
        kept = tuple(item for item in self.planned if item.weight.path not in reasons)
        left_alone = (*moved, *self.left_alone)
        if not kept:
            raise NothingSelected(_why_nothing(FoundWeights((), left_alone), {}))
        return Plan(kept, left_alone)


def make_plan(
    model: onnx.ModelProto, config: PruningConfig, selection: Selection, gradients: Gradients | None = None
) -> Plan:
    """Decide what happens to each tensor of `model`.

    `row` and `column` mean output and input channels, whatever the layout of the operator. With `gradients` the metric
    is Taylor's |w * g|, instead of the one in `config`.

    Raises:
        NothingSelected: no weight is left to prune; says why.
        PatternMatchesNothing, InvalidSparsity, InvalidOption, ShapeMismatch.
    """
    config.check()
    _check_granularity(config)
    selected = select_weights(find_weights(model), selection)
    missing = {weight.path: _missing_axis(weight, config) for weight in selected.weights}
    weights = [weight for weight in selected.weights if not missing[weight.path]]
    if not weights:
        raise NothingSelected(_why_nothing(selected, missing))
    moved = [_left_alone(weight, missing[weight.path]) for weight in selected.weights if missing[weight.path]]
    return Plan(tuple(_planned(weight, config, gradients) for weight in weights), (*moved, *selected.left_alone))


def _check_granularity(config: PruningConfig) -> None:
    if not isinstance(config.granularity, Unstructured | StructuredRow | StructuredColumn):
        raise InvalidOption(
            f"granularity {config.granularity.text} is for arrays only; on a model use unstructured, row (output "
            "channels) or column (input channels)"
        )


def _axis(weight: Weight, config: PruningConfig) -> UnitAxis | None:
    return weight.rows if isinstance(config.granularity, StructuredRow) else weight.columns


def _missing_axis(weight: Weight, config: PruningConfig) -> str:
    """Why the weight can't be pruned in the granularity asked for; "" when it can."""
    if isinstance(config.granularity, Unstructured) or _axis(weight, config) is not None:
        return ""
    reason = weight.rows_missing if isinstance(config.granularity, StructuredRow) else weight.columns_missing
    return f"no {config.granularity.text}s: {reason}"


def _left_alone(weight: Weight, reason: str) -> LeftAlone:
    return LeftAlone(weight.name, weight.path, weight.shape, weight.dtype_name, weight.elements, reason)


def _planned(weight: Weight, config: PruningConfig, gradients: Gradients | None) -> PlannedWeight:
    if config.min_nonzero > weight.elements:
        raise InvalidOption(
            f"weight '{weight.name}' has {weight.elements} elements, fewer than the {config.min_nonzero} of "
            "--min-nonzero: lower that, or leave the weight out with --exclude or --min-elements"
        )
    axis = None if isinstance(config.granularity, Unstructured) else _axis(weight, config)
    shape = weight.shape if axis is None else axis.view_shape
    granularity = config.granularity if axis is None else Axis(axis.axis, axis.groups)
    metric = config.metric if gradients is None else _gradient_metric(weight, shape, gradients)
    return PlannedWeight(weight, shape, PruningConfig(config.sparsity, metric, granularity, config.min_nonzero))


def _gradient_metric(weight: Weight, shape: tuple[int, ...], gradients: Gradients) -> Taylor:
    if weight.name not in gradients:
        raise InvalidOption(
            f"no gradient for weight '{weight.name}': add it under this name, or leave the weight out with --exclude"
        )
    gradient = np.asarray(gradients[weight.name])
    if gradient.shape != weight.shape:
        raise ShapeMismatch(
            f"gradient of weight '{weight.name}' has shape {list(gradient.shape)}, the weight {list(weight.shape)}: "
            "they must be equal"
        )
    return Taylor(gradient.reshape(shape))


def _why_nothing(found: FoundWeights, missing: Mapping[Any, str]) -> str:
    """The reasons, those that cost most elements first."""
    elements: Counter[str] = Counter()
    tensors: Counter[str] = Counter()
    no_axis = [(missing[weight.path], weight.elements) for weight in found.weights]
    for reason, count in [*no_axis, *((item.reason, item.elements) for item in found.left_alone)]:
        elements[reason] += count
        tensors[reason] += 1
    if not tensors:
        return "no weight was selected, nothing was written: the model stores no tensors"
    listed = "; ".join(f"{tensors[reason]} x {reason}" for reason, _ in elements.most_common(4))
    rest = len(tensors) - 4
    more = f"; and {rest} more reason{'s' if rest > 1 else ''}" if rest > 0 else ""
    return f"no weight was selected, nothing was written. Left alone: {listed}{more}. `oxiprune inspect` lists them all"
