"""Masks and models: the masks of a model that is pruned, and the plan that prunes a model by masks."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import onnx

from onnx_tools.errors import InvalidMasks, NothingSelected
from onnx_tools.mask_file import Entry, Mask, Masks, below_one
from onnx_tools.model_file import ModelFile
from onnx_tools.new_values import NewValues, plan_values
from onnx_tools.plan import Gradients, Plan, PlannedWeight, make_plan
from onnx_tools.policy import Policy
from onnx_tools.shared_bytes import Overlap, overlaps
from onnx_tools.slice_masks import STAY, SliceMask, SliceMasks
from onnx_tools.weight_selection import Selection, select_weights
from onnx_tools.weight_values import WeightReader
from onnx_tools.weights import LeftAlone, Weight, find_weights
from onnx_tools.wire import Path
from oxiprune_gpu import BlockSource, InvalidOption, PruneCounts, PruningConfig, Unstructured

_SLAB = 1 << 20
"""Elements worked on at a time."""
_MOST_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class MaskedWeight(PlannedWeight):
    """A weight that is pruned by its mask, whatever its `config`. `mask`: gives it, in the weight's shape."""

    mask: Callable[[], Mask]

    def prune(self, source: BlockSource) -> PruneCounts:
        """Set to zero what the mask does not keep; kept elements keep their bits. `source`: the weight."""
        kept = self.mask().reshape(-1)
        scratch = np.empty(min(len(kept), _SLAB), source.dtype)
        before = after = 0
        for start in range(0, len(kept), _SLAB):
            stop = min(start + _SLAB, len(kept))
            block = source.load(start, stop, scratch)
            before += int(np.count_nonzero(block))
            block[~kept[start:stop]] = 0
            after += int(np.count_nonzero(block))
            source.store(start, block)
        return PruneCounts(len(kept), len(kept) - int(np.count_nonzero(kept)), before, after)


def masks_of(path: str | os.PathLike[str], names: Collection[str] | None = None) -> Masks:
    """The masks of a stored model: of each weight what is not zero (in a quantised one, not the zero point).

    An element that pruning kept although it was zero already counts as pruned: it is what the file says, it holds for
    models from anywhere, and a weight that was sparser than asked for stays so sparse.

    Args:
        path: the model. Each mask is read when it is asked for, so the file must stay as it is meanwhile.
        names: of which weights, biases or normalisations; other weights are left dense. None: all weights.

    Raises:
        InvalidMasks: a name that no weight has.
        InvalidModelFile, InvalidExternalData.
    """
    model = ModelFile.open(path)
    found = find_weights(model.skeleton)
    weights = found.maskable()
    chosen = [weight.name for weight in found.weights] if names is None else list(names)
    missing = [name for name in chosen if name not in weights]
    if missing:
        raise InvalidMasks(f"{model.path}: no weight is named '{missing[0]}', so it has no mask")
    entries = {name: Entry(weights[name].shape, partial(_read, model, weights[name])) for name in chosen}
    return Masks(entries, {weight.name for weight in found.weights} - entries.keys(), model.path.name)


@dataclass(frozen=True)
class Channel(Unstructured):
    """Whole channels of several weights; which, is said by masks."""

    name: ClassVar[str] = "channel"


How = Policy | Masks | SliceMasks | NewValues
"""What says how a model is pruned."""


def how_of(config: PruningConfig | How) -> How:
    """What says how a model is pruned."""
    return Policy.of(config) if isinstance(config, PruningConfig) else config


def plan_for(model: onnx.ModelProto, how: How, selection: Selection, gradients: Gradients | None) -> Plan:
    """What is done with each weight of a model, by a policy, masks or new values; only a policy needs `gradients`."""
    if isinstance(how, SliceMasks):
        return _plan_slices(model, how)
    if isinstance(how, NewValues):
        return plan_values(model, how)
    if not isinstance(how, Masks):
        return make_plan(model, how, selection, gradients)
    if gradients is not None:
        raise InvalidOption("gradients: masks say what falls; leave the gradients out, or prune by the metric taylor")
    return _plan_masks(model, how, selection)


def apart(model: ModelFile, plan: Plan) -> tuple[Plan, set[Path]]:
    """The plan without weights that can't be pruned for themselves, and those of them that change with one that is.

    Those are external tensors that have bytes in common with others: see `overlaps`. Raises as `refuse_conflicts`.
    """
    shared = overlaps(model, {item.weight.path for item in plan.planned})
    aliases = {path for path, overlap in shared.items() if overlap.pruned}
    refuse_conflicts(plan, shared)
    return plan.without({path: overlap.reason for path, overlap in shared.items()}, aliases), aliases


def refuse_conflicts(plan: Plan, shared: Mapping[Path, Overlap]) -> None:
    """Raise `InvalidMasks` if weights that lie on the same bytes have different masks; `shared`: see `overlaps`."""
    masked = {item.weight.name: item for item in plan.planned if isinstance(item, MaskedWeight)}
    for name, item in masked.items():
        overlap = shared.get(item.weight.path)
        if overlap is None or not overlap.pruned or overlap.name not in masked:
            continue
        if not np.array_equal(item.mask().reshape(-1), masked[overlap.name].mask().reshape(-1)):
            raise InvalidMasks(
                f"the masks of '{name}' and '{overlap.name}' differ, and both lie on the same bytes: give them one mask"
            )


def notes_on(how: How, plan: Plan) -> tuple[str, ...]:
    """Warnings that new values bring, and one that names masks for which the model has no weight.

    No error: since every weight of the model has a mask or is known to be dense, those weights are gone.
    """
    if isinstance(how, NewValues):
        return how.notes
    if not isinstance(how, Masks):
        return ()
    known = {item.weight.name for item in plan.planned} | {item.name for item in plan.left_alone}
    names = sorted(how.keys() - known)
    return (f"masks in {how.label} without a weight in the model: {_listed(names)}",) if names else ()


def _plan_masks(model: onnx.ModelProto, masks: Masks, selection: Selection) -> Plan:
    """Match masks with the weights of a model, by name and shape.

    Every weight that has a mask is pruned, whatever its size and kind, unless a pattern of `selection` leaves it out.
    The others must be ones that the masks leave dense, or that `selection` leaves alone: else this is not the model
    that the masks are for.

    Raises:
        InvalidMasks: a mask is missing, or its shape is not that of its weight.
        NothingSelected: no weight has a mask.
        PatternMatchesNothing.
    """
    found = find_weights(model)
    wanted = select_weights(found, selection)
    any_kind = replace(selection, min_elements=0, depthwise=True, embeddings=True, linear_models=True)
    masked = [weight for weight in select_weights(found, any_kind).weights if weight.name in masks]
    known = {weight.name for weight in found.weights}
    masked += [other for name, other in found.maskable().items() if name in masks and name not in known]
    dense = [weight for weight in wanted.weights if weight.name not in masks]
    _check(masked, dense, masks)
    planned = {weight.path for weight in masked}
    left_alone = (
        *(_left_alone(weight, f"{masks.label} leaves it dense") for weight in dense),
        *(item for item in wanted.left_alone if item.path not in planned),
    )
    if not masked:
        raise NothingSelected(f"{masks.label} has no mask for a weight of the model; nothing was written")
    total = sum(weight.elements for weight in found.weights)
    return Plan(tuple(_planned(weight, masks) for weight in masked), left_alone, total)


def _check(masked: Sequence[Weight], dense: Sequence[Weight], masks: Masks) -> None:
    for weight in masked:
        shape = masks.shape_of(weight.name)
        if shape != weight.shape:
            raise InvalidMasks(
                f"the mask of weight '{weight.name}' has shape {list(shape)} in {masks.label}, the weight "
                f"{list(weight.shape)}: save masks of a model with this weight, or leave it out with --exclude"
            )
    missing = [f"{weight.name} {list(weight.shape)}" for weight in dense if weight.name not in masks.dense]
    if missing:
        raise InvalidMasks(
            f"{masks.label} has no mask for {_listed(missing)}: save masks of a model with the same names, or leave "
            "these weights out with --exclude"
        )


def _planned(weight: Weight, masks: Masks) -> PlannedWeight:
    sparsity = below_one(weight.elements - masks.kept(weight.name), weight.elements)
    config, mask = PruningConfig(sparsity, min_nonzero=0), partial(masks.__getitem__, weight.name)
    return MaskedWeight(weight, weight.shape, config, Unstructured(), mask=mask)


def _plan_slices(model: onnx.ModelProto, how: SliceMasks) -> Plan:
    """Every stored tensor that loses slices, weights or not: biases and normalisations fall with their channels.

    Raises NothingSelected if none does.
    """
    found = find_weights(model)
    weights = {weight.path: weight for weight in found.weights}
    missing = how.masks.keys() - weights.keys()
    others = (weight for weight in found.maskable().values() if weight.path in missing)
    weights |= {other.path: _read_by(other, how.masks[other.path]) for other in others}
    planned = tuple(_sliced(weights[path], mask, how) for path, mask in how.masks.items() if path in weights)
    if not planned:
        raise NothingSelected(f"no channel was selected, nothing was written: {_why_none(how)}")
    left_alone = (
        *(
            _left_alone(weight, how.reasons.get(path, "no layer's channels lie along its axes"))
            for path, weight in weights.items()
            if path not in how.masks
        ),
        *(item for item in found.left_alone if item.path not in weights),
    )
    return Plan(planned, left_alone, sum(weight.elements for weight in weights.values()))


def _why_none(how: SliceMasks) -> str:
    """What holds the channels of a model, the first few reasons."""
    reasons = [*dict.fromkeys(reason.removeprefix(STAY) for reason in how.reasons.values())]
    more = f"; and {len(reasons) - _MOST_SHOWN} more" if len(reasons) > _MOST_SHOWN else ""
    return "; ".join(reasons[:_MOST_SHOWN]) + more if reasons else "no layer of the model makes channels"


def _read_by(weight: Weight, mask: SliceMask) -> Weight:
    return replace(weight, op_types=mask.op_types, consumers=mask.consumers)


def _metric(text: str) -> str:
    """The metric of a report as one that needs no array."""
    return "taylor" if text.startswith("taylor") else text


def _sliced(weight: Weight, mask: SliceMask, how: SliceMasks) -> PlannedWeight:
    kept = math.prod(
        int(np.count_nonzero(mask.kept[axis])) if axis in mask.kept else size for axis, size in enumerate(weight.shape)
    )
    sparsity = below_one(weight.elements - kept, weight.elements)
    config = PruningConfig(sparsity, _metric(how.configuration.metric), min_nonzero=0)
    return MaskedWeight(weight, weight.shape, config, Channel(), mask=partial(mask.elements, weight.shape))


def _left_alone(weight: Weight, reason: str) -> LeftAlone:
    return LeftAlone(weight.name, weight.path, weight.shape, weight.dtype_name, weight.elements, reason)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_MOST_SHOWN]) + more


def _read(model: ModelFile, weight: Weight) -> Mask:
    size = math.prod(weight.shape)
    mask = np.empty(size, np.bool_)
    with WeightReader(model) as reader:
        source = reader.weight(weight, weight.shape)
        scratch = np.empty(min(size, _SLAB), source.dtype)
        for start in range(0, size, _SLAB):
            stop = min(start + _SLAB, size)
            np.not_equal(source.load(start, stop, scratch), 0, out=mask[start:stop])
    return mask.reshape(weight.shape)
