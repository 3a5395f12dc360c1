"""Scores of groups of channels: those of what makes, scales and reads a channel, put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.compaction.choice.config import ChannelConfig
from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.factors import Factor
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.progress import Progress, told
from onnx_tools.graph_parts import StoredTensor, element_count
from onnx_tools.model_file import DTYPES, ModelFile
from onnx_tools.plan import Gradients
from onnx_tools.weight_values import WeightReader
from onnx_tools.weights import Weight
from oxiprune_gpu import (
    ImportanceMetric,
    InvalidOption,
    L2Magnitude,
    Random,
    Taylor,
    WeightTensor,
    compute_importance,
)

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class _Part:
    """A stored tensor, the channels along some of its axes, and the weight that it is; None for a scale."""

    tensor: StoredTensor
    factor: Factor
    weight: Weight | None

    @property
    def name(self) -> str:
        return self.tensor.name if self.weight is None else self.weight.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape if self.weight is None else self.weight.shape

    @property
    def elements(self) -> int:
        return element_count(self.shape)


def score_groups(
    model: ModelFile,
    weights: Sequence[Weight],
    channels: ChannelMap,
    config: ChannelConfig,
    may_leave: Ids,
    gradients: Gradients | None = None,
    progress: Progress | None = None,
) -> Scores:
    """The score of each of the groups `may_leave`, by its number, of the `weights` of a model; without any it is 0.

    What a channel is multiplied by, as in a batch normalisation, counts as a weight of its group does (as in DepGraph,
    Fang and others, CVPR 2023), but not for what a parameter is worth: a scale of about 1 says nothing beside weights
    of other layers. One tensor is in memory at a time. Each counts once, however many nodes read it; a quantised weight
    by the real values it stands for. Element scores are those of `oxiprune_gpu`, added in float64. Of `gradients` those
    of all weights must be there; a scale without one is left out. `progress`: told before each tensor, in elements.

    Raises:
        NonFiniteWeight, NonFiniteScore: NaN, with the name of the weight.
        InvalidOption, ShapeMismatch: a gradient is missing or does not fit.
    """
    count = len(channels.groups.of)
    if isinstance(config.metric, Random):
        return np.asarray(compute_importance(np.ones(count, np.float32), config.metric).scores, np.float64)
    sums, highest, elements, members = np.zeros((4, count))
    root = gradients is None and isinstance(config.metric, L2Magnitude)
    with WeightReader(model) as reader:
        parts = _parts(weights, channels, may_leave, scales=config.group_score != "saved", gradients=gradients)
        weighed = ((part.name, part.elements, part) for part in parts)
        for part in told(weighed, progress):
            own = _slice_scores(part, reader, _metric_for(part, config.metric, gradients))
            groups = channels.groups.of[part.factor.ids].reshape(-1)
            np.add.at(sums, groups, own)
            np.add.at(elements, groups, part.elements / len(groups))
            numbers, places = np.unique(groups, return_inverse=True)
            members[numbers] += 1
            total = np.bincount(places, own)
            highest[numbers] = np.maximum(highest[numbers], np.sqrt(total) if root else total)
    if config.group_score == "max":
        return highest
    shared = {"sum": np.ones(1), "mean": members, "saved": elements}[config.group_score]
    found: Scores = sums / np.maximum(shared, 1)
    return np.sqrt(found) if root else found


def _parts(
    weights: Sequence[Weight], channels: ChannelMap, may_leave: Ids, *, scales: bool, gradients: Gradients | None
) -> Iterator[_Part]:
    """What makes or reads these groups, or scales them, in the order of the model."""
    wanted = channels.without(may_leave)
    by_path = {weight.path: weight for weight in weights}
    seen: set[tuple[Any, tuple[int, ...]]] = set()
    for member in channels.members:
        tensor, key = member.tensor, (member.tensor.path, member.factor.axes)
        part = _Part(tensor, member.factor, by_path.get(tensor.path))
        if member.role in (Role.MAKES, Role.READS):
            counts = part.weight is not None
        else:
            counts = scales and member.role is Role.SCALES and _is_scored(tensor, gradients)
        if counts and key not in seen and part.factor.fits(part.shape) and wanted.gone[part.factor.ids].any():
            seen.add(key)
            yield part


def _is_scored(scale: StoredTensor, gradients: Gradients | None) -> bool:
    return scale.data_type in DTYPES and (gradients is None or scale.name in gradients)


def _metric_for(part: _Part, metric: ImportanceMetric, gradients: Gradients | None) -> ImportanceMetric:
    if gradients is None:
        return metric
    if part.name not in gradients:
        raise InvalidOption(
            f"no gradient for weight '{part.name}': add it under this name, or choose channels without gradients"
        )
    return Taylor(np.asarray(gradients[part.name]))


def _slice_scores(part: _Part, reader: WeightReader, metric: ImportanceMetric) -> Scores:
    """The sum of the element scores at each entry of the factor, flat."""
    weight, axes = part.weight, part.factor.axes
    source = reader.blocks(part.tensor.path, part.shape) if weight is None else reader.weight(weight, part.shape)
    values = np.empty(part.shape, source.dtype)
    values.reshape(-1)[:] = source.load(0, part.elements, values.reshape(-1))
    scores = compute_importance(WeightTensor(part.name, values), metric).scores
    others = tuple(axis for axis in range(values.ndim) if axis not in axes)
    return np.asarray(scores.sum(axis=others, dtype=np.float64)).reshape(-1)
