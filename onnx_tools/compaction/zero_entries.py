"""Which entries of stored tensors are zero as a whole: every tensor is read once, in blocks, for all that is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.compaction.mapping.channel_map import Member
from onnx_tools.compaction.mapping.factors import Factor
from onnx_tools.compaction.progress import Progress, told
from onnx_tools.errors import InvalidTensor
from onnx_tools.graph_parts import Path, StoredTensor, element_count
from onnx_tools.model_file import DTYPES, ModelFile
from onnx_tools.weight_values import WeightReader
from onnx_tools.weights import Weight, find_weights
from oxiprune_gpu import BlockSource

Mask = NDArray[np.bool_]

_BLOCK = 1 << 20
"""Elements looked at at a time."""


def nonzero_entries(
    model: ModelFile, members: Iterable[Member], progress: Progress | None = None
) -> dict[Member, Mask]:
    """For each member, in the shape of its factor's ids: whether anything but zero lies at these entries.

    A quantised weight is zero where its codes are the zero point. What can't be read as numbers (strings, integers that
    are no weights, data that doesn't fit its shape) counts as not zero, NaN too; -0.0 is zero. Raises
    `InvalidExternalData` and `InvalidModelFile` if a file is not there or can't be read. `progress`: told before each
    tensor, in elements.
    """
    by_tensor: dict[Path, list[Member]] = {}
    for member in members:
        by_tensor.setdefault(member.tensor.path, []).append(member)
    found: dict[Member, Mask] = {}
    with WeightReader(model) as reader:
        quantised = _quantised(model, [those[0].tensor for those in by_tensor.values()])
        for those in told(_sized(by_tensor.values()), progress):
            tensor = those[0].tensor
            masks = _of_tensor(reader, tensor, quantised.get(tensor.path), [each.factor for each in those])
            found.update(zip(those, masks, strict=True))
    return found


def _sized(by_tensor: Iterable[list[Member]]) -> Iterator[tuple[str, int, list[Member]]]:
    for those in by_tensor:
        yield those[0].tensor.name, element_count(those[0].tensor.shape), those


def _quantised(model: ModelFile, tensors: Iterable[StoredTensor]) -> dict[Path, Weight]:
    """Those that are no floats, but weights, by their path."""
    paths = {tensor.path for tensor in tensors if tensor.data_type not in DTYPES}
    weights = find_weights(model.skeleton).weights if paths else ()
    return {weight.path: weight for weight in weights if weight.path in paths}


def _of_tensor(
    reader: WeightReader, tensor: StoredTensor, weight: Weight | None, factors: Sequence[Factor]
) -> list[Mask]:
    """For each factor of a tensor: which entries hold something but zero."""
    try:
        source = _source(reader, tensor, weight)
    except InvalidTensor:
        source = None
    if source is None or any(not _fits(factor, source.shape) for factor in factors):
        return [np.ones(factor.ids.shape, bool) for factor in factors]
    return nonzero_along(source, [factor.axes for factor in factors])


def _source(reader: WeightReader, tensor: StoredTensor, weight: Weight | None) -> BlockSource | None:
    if tensor.data_type in DTYPES:
        return reader.blocks(tensor.path, tensor.shape)
    return None if weight is None else reader.weight(weight, weight.shape)


def _fits(factor: Factor, shape: Sequence[int]) -> bool:
    """Whether the entries of a factor are those of a tensor seen in `shape`; packed codes may be seen in another."""
    return all(
        axis < len(shape) and shape[axis] == size for axis, size in zip(factor.axes, factor.ids.shape, strict=True)
    )


def nonzero_along(source: BlockSource, wanted: Sequence[tuple[int, ...]]) -> list[Mask]:
    """For each tuple of ascending axes: which entries along them hold something but zero; one pass over the source."""
    distinct = dict.fromkeys(wanted)
    found = {axes: np.zeros([source.shape[axis] for axis in axes], bool) for axes in distinct}
    for place, block in blocks_of(source):
        nonzero = block != 0
        for axes, mask in found.items():
            part = tuple(place[axis] for axis in axes)
            mask[part] |= _any_but(nonzero, axes)
    return [found[axes] for axes in wanted]


def blocks_of(source: BlockSource) -> Iterator[tuple[tuple[slice, ...], NDArray[Any]]]:
    """All elements as blocks with all axes, and where they lie."""
    shape = source.shape
    if not prod(shape):
        return
    cut = next((axis for axis in range(len(shape)) if prod(shape[axis + 1 :]) <= _BLOCK), 0)
    inner = prod(shape[cut + 1 :])
    step = max(_BLOCK // inner, 1)
    size = shape[cut] if shape else 1
    scratch = np.empty(min(step, size) * inner, source.dtype)
    whole = tuple(slice(None) for _ in shape[cut + 1 :])
    for number, outer in enumerate(np.ndindex(shape[:cut])):
        for start in range(0, size, step):
            stop = min(start + step, size)
            first = (number * size + start) * inner
            block = source.load(first, first + (stop - start) * inner, scratch)
            place = (*(slice(at, at + 1) for at in outer), *([slice(start, stop)] if shape else []), *whole)
            yield place, block.reshape([1] * cut + ([stop - start] if shape else []) + list(shape[cut + 1 :]))


def _any_but(nonzero: Mask, axes: tuple[int, ...]) -> Mask:
    """Whether anything is true, apart along `axes`. Others are reduced in runs, the first ones first: that is fast."""
    shape: list[int] = []
    reduced: list[bool] = []
    for axis, size in enumerate(nonzero.shape):
        if reduced and reduced[-1] and axis not in axes:
            shape[-1] *= size
        else:
            shape.append(size)
            reduced.append(axis not in axes)
    merged = nonzero.reshape(shape)
    for at, gone in enumerate(reduced):
        merged = np.asarray(merged.any(axis=at, keepdims=True)) if gone else merged
    return merged.reshape([nonzero.shape[axis] for axis in axes])
