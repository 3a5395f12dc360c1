"""Scores of groups of channels: those of the weights that make a channel and read it, put together."""

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
from onnx_tools.model_file import ModelFile
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
    """A weight, and the channels along some of its axes."""

    weight: Weight
    factor: Factor


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

    One weight is in memory at a time. Each weight counts once, however many nodes read it; a quantised one by the real
    values it stands for. Element scores are those of `oxiprune_gpu`, added in float64. `progress`: told before each
    weight, in elements.

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
        weighed = ((part.weight.name, part.weight.elements, part) for part in _parts(weights, channels, may_leave))
        for part in told(weighed, progress):
            own = _slice_scores(part, reader, _metric_for(part.weight, config.metric, gradients))
            groups = channels.groups.of[part.factor.ids].reshape(-1)
            np.add.at(sums, groups, own)
            np.add.at(elements, groups, part.weight.elements / len(groups))
            numbers, places = np.unique(groups, return_inverse=True)
            members[numbers] += 1
            total = np.bincount(places, own)
            highest[numbers] = np.maximum(highest[numbers], np.sqrt(total) if root else total)
    found = {"sum": sums, "mean": sums / np.maximum(members, 1), "max": highest, "saved": sums}[config.group_score]
    if root and config.group_score != "max":
        found = np.sqrt(found)
    return found / np.maximum(elements, 1) if config.group_score == "saved" else found


def _parts(weights: Sequence[Weight], channels: ChannelMap, may_leave: Ids) -> Iterator[_Part]:
    """The weights that make or read these groups, in the order of the model."""
    wanted = channels.without(may_leave)
    by_path = {weight.path: weight for weight in weights}
    seen: set[tuple[Any, tuple[int, ...]]] = set()
    for member in channels.members:
        weight, key = by_path.get(member.tensor.path), (member.tensor.path, member.factor.axes)
        if weight is None or member.role not in (Role.MAKES, Role.READS) or key in seen:
            continue
        if member.factor.fits(weight.shape) and wanted.gone[member.factor.ids].any():
            seen.add(key)
            yield _Part(weight, member.factor)


def _metric_for(weight: Weight, metric: ImportanceMetric, gradients: Gradients | None) -> ImportanceMetric:
    if gradients is None:
        return metric
    if weight.name not in gradients:
        raise InvalidOption(
            f"no gradient for weight '{weight.name}': add it under this name, or choose channels without gradients"
        )
    return Taylor(np.asarray(gradients[weight.name]))


def _slice_scores(part: _Part, reader: WeightReader, metric: ImportanceMetric) -> Scores:
    """The sum of the element scores at each entry of the factor, flat."""
    weight, axes = part.weight, part.factor.axes
    source = reader.weight(weight, weight.shape)
    values = np.empty(weight.shape, source.dtype)
    values.reshape(-1)[:] = source.load(0, weight.elements, values.reshape(-1))
    scores = compute_importance(WeightTensor(weight.name, values), metric).scores
    others = tuple(axis for axis in range(len(weight.shape)) if axis not in axes)
    return np.asarray(scores.sum(axis=others, dtype=np.float64)).reshape(-1)
