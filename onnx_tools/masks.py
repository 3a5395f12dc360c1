"""The masks of a model that is pruned already."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from functools import partial

import numpy as np

from onnx_tools.errors import InvalidMasks
from onnx_tools.mask_file import Entry, Mask, Masks
from onnx_tools.model_file import ModelFile
from onnx_tools.weight_values import WeightReader
from onnx_tools.weights import Weight, find_weights

_SLAB = 1 << 20
"""Elements worked on at a time."""


def masks_of(path: str | os.PathLike[str], names: Collection[str] | None = None) -> Masks:
    """The masks of a stored model: of each weight what is not zero (in a quantised one, not the zero point).

    An element that pruning kept although it was zero already counts as pruned: it is what the file says, it holds for
    models from anywhere, and a weight that was sparser than asked for stays so sparse.

    Args:
        path: the model. Each mask is read when it is asked for, so the file must stay as it is meanwhile.
        names: of which weights; the others are left dense. None: all weights.

    Raises:
        InvalidMasks: a name that no weight has.
        InvalidModelFile, InvalidExternalData.
    """
    model = ModelFile.open(path)
    weights = {weight.name: weight for weight in find_weights(model.skeleton).weights}
    chosen = list(weights) if names is None else list(names)
    missing = [name for name in chosen if name not in weights]
    if missing:
        raise InvalidMasks(f"{model.path}: no weight is named '{missing[0]}', so it has no mask")
    entries = {name: Entry(weights[name].shape, partial(_read, model, weights[name])) for name in chosen}
    return Masks(entries, weights.keys() - entries.keys(), model.path.name)


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
