"""Pruning whole channels: the groups with the lowest scores become zero, in all that makes and reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from onnx_tools.compaction.choice.choosing import Chooser
from onnx_tools.compaction.choice.config import ChannelConfig
from onnx_tools.compaction.choice.measuring import measure_for
from onnx_tools.compaction.choice.scoring import score_groups
from onnx_tools.compaction.mapping.channel_map import ChannelMap, Mask
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.shapes import InputShapes
from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.compaction.progress import Progress, parts
from onnx_tools.compaction.zeros import leaving_one, removable
from onnx_tools.encodings.encode import refuse_encoded
from onnx_tools.file_facts import bytes_on_disk
from onnx_tools.graph_parts import StoredTensor
from onnx_tools.model_file import ModelFile
from onnx_tools.new_values import NewValues
from onnx_tools.plan import Gradients
from onnx_tools.report import PruneReport
from onnx_tools.rewrite import prune_file
from onnx_tools.slice_masks import STAY, SliceMask, SliceMasks
from onnx_tools.weight_selection import Selection, check_matched, matches
from onnx_tools.weights import Weight, find_weights
from onnx_tools.wire import Path

_EVERYTHING = Selection(min_elements=0, depthwise=True, embeddings=True, linear_models=True)
_WEIGHTS = frozenset({Role.MAKES, Role.READS})
_ZEROED = frozenset({Role.MAKES, Role.READS, Role.SHIFTS, Role.SCALES})


class Refit(Protocol):
    """From a model and what falls in it to new values of its tensors."""

    def __call__(self, path: str | os.PathLike[str], config: SliceMasks, /, *, progress: Progress | None) -> NewValues:
        """As `DataMethod.new_values`."""


class Chosen(NamedTuple):
    """The groups that leave, ascending, and how many were asked for; 0 where a target was."""

    gone: Ids
    wanted: int


def prune_channels(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    config: ChannelConfig,
    selection: Selection = _EVERYTHING,
    gradients: Gradients | None = None,
    input_shapes: InputShapes | None = None,
    refit: Refit | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> PruneReport:
    """Set whole channels of an ONNX file to zero, so that `compact_file` can remove them.

    Channels that must go together form a group: an output channel of a layer with its bias and normalisation, the
    input channels of all layers that read it, the same channel of all branches of a residual sum. What leaves is
    chosen among groups; a group becomes zero wherever it is made, shifted, scaled or read.

    Args:
        path: the model; external data is found beside it.
        output: the new file; None replaces the model itself.
        config: how many channels, and which.
        selection: `include` names the weights whose output channels may leave, `exclude` weights that lose nothing,
            neither output nor input channels; the rest of it is ignored.
        gradients: of the loss, by the name of the weight; the score of an element is then |w * g|.
        input_shapes: sizes that the model leaves open, by the name of the input.
        refit: gives what is kept other values, to make up for what falls: `new_values` of a `DataMethod` that repairs.
        progress: told before each step, and before each weight.
        options: `force`, `delete_old_data`, `dry_run`, `backend`, `verify`, `conditions`, `extras`, as in `prune_file`.

    Raises:
        NothingSelected: no channel may leave; says why.
        InvalidOption: a target can't be reached; a gradient is missing.
        InvalidInputShape, PatternMatchesNothing, PruningError: as `prune_file`.
    """
    model = ModelFile.open(path)
    refuse_encoded(model)
    steps = 3 if refit is None else 4
    mapping, scoring, *refitting, pruning = parts(progress, steps, bytes_on_disk(model))
    mapping("channels that go together", 0, 1)
    channels = map_channels(model.skeleton, input_shapes)
    weights = find_weights(model.skeleton).weights
    may_leave = groups_of_layers(weights, channels, selection)
    chosen = choose_channels(model, weights, channels, config, may_leave, gradients, scoring)
    gone = chosen.gone
    configuration = config.configuration(selection, gradients is not None)
    masks = SliceMasks(slice_masks(channels, gone, may_leave), configuration, _reasons(channels, may_leave))
    how = masks if refit is None else refit(path, masks, progress=refitting[0])
    report = prune_file(path, output, config=how, progress=pruning, **options)
    return replace(report, warnings=(*_fewer(chosen), *report.warnings))


def choose_channels(
    model: ModelFile,
    weights: Sequence[Weight],
    channels: ChannelMap,
    config: ChannelConfig,
    may_leave: Ids,
    gradients: Gradients | None = None,
    progress: Progress | None = None,
) -> Chosen:
    """Those of the groups `may_leave` that leave. Other arguments and errors as in `prune_channels`.

    What a model can lose as it is falls first: the removal takes it too, beside what was chosen.
    """
    scores = score_groups(model, weights, channels, config, may_leave, gradients, progress)
    scores[removable(model, channels).gone] = -np.inf
    measure = None if config.target is None else measure_for(model, channels, config.target)
    chooser = Chooser(channels, scores, config, may_leave)
    return Chosen(leaving_one(channels, chooser.choose(measure)), chooser.wanted)


def _fewer(chosen: Chosen) -> tuple[str, ...]:
    """A warning where fewer groups leave than a sparsity asks for."""
    if len(chosen.gone) >= chosen.wanted:
        return ()
    why = "--min-channels, --ceiling and --round-to keep the others, and one of each layer stays"
    return (f"{chosen.wanted:,} groups of channels were asked for, {len(chosen.gone):,} leave: {why}",)


def groups_of_layers(weights: Sequence[Weight], channels: ChannelMap, selection: Selection) -> Ids:
    """The free groups that the patterns of `selection` permit.

    A group must be made by a weight that is included, if any is, and no weight that makes or reads it may be excluded.
    Raises `PatternMatchesNothing`.
    """
    check_matched((*selection.include, *selection.exclude), weights)
    by_path = {weight.path: weight for weight in weights}
    barred, included = np.zeros((2, len(channels.groups.of)), bool)
    for member in channels.members:
        weight = by_path.get(member.tensor.path)
        if weight is None or member.role not in _WEIGHTS:
            continue
        groups = channels.groups.of[member.factor.ids]
        barred[groups] |= any(matches(weight, pattern) for pattern in selection.exclude)
        included[groups] |= member.role is Role.MAKES and any(matches(weight, each) for each in selection.include)
    free = channels.groups.free
    return free[~barred[free] & (included[free] | (not selection.include))]


def slice_masks(channels: ChannelMap, gone: Ids, may_leave: Ids) -> dict[Path, SliceMask]:
    """What becomes zero where the groups `gone` are made, shifted, scaled and read, by the path of the tensor.

    All tensors are there that could lose groups of `may_leave`, also those that lose none.
    """
    remaining = channels.without(gone)
    possible = channels.without(may_leave)
    kept: dict[Path, dict[int, Mask]] = {}
    tensors: dict[Path, StoredTensor] = {}
    for member in channels.members:
        if member.role not in _ZEROED or not possible.gone[member.factor.ids].any():
            continue
        tensors[member.tensor.path] = member.tensor
        known = kept.setdefault(member.tensor.path, {})
        for axis, mask in remaining.masks((member.factor,)).items():
            known[axis] = mask & known.get(axis, mask)
    return {path: _slice_mask(tensors[path], axes) for path, axes in kept.items()}


def _slice_mask(tensor: StoredTensor, kept: Mapping[int, Mask]) -> SliceMask:
    readers = [node for value in tensor.values for node, _ in value.readers]
    op_types = tuple(dict.fromkeys(node.op_type for node in readers))
    return SliceMask(kept, op_types, tuple(dict.fromkeys(node.label for node in readers)))


def _reasons(channels: ChannelMap, may_leave: Ids) -> dict[Path, str]:
    """Why tensors lose nothing: what holds the channels that they make."""
    found: dict[Path, str] = {}
    kept = "all its channels were kept" if len(may_leave) else "the patterns leave out every layer that could lose any"
    for member in channels.members:
        if member.role is Role.MAKES:
            held = channels.groups.of[member.factor.ids].reshape(-1)
            reason = next(
                (channels.groups.reasons[group] for group in held.tolist() if group in channels.groups.reasons), ""
            )
            found.setdefault(member.tensor.path, f"{STAY}{reason}" if reason else kept)
    return found
