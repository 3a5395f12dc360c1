"""What is in a model: its weights, their zeros by element, row, column and 2:4, and what else it stores."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_tools.file_facts import facts_of, file_reports
from onnx_tools.model_file import ModelFile
from onnx_tools.operators import UnitAxis
from onnx_tools.report import InspectedWeight, InspectReport
from onnx_tools.report_parts import left_alone_reports, versions
from onnx_tools.rewrite import Progress
from onnx_tools.values import ValueReader
from onnx_tools.weights import Weight, find_weights
from oxiprune_gpu import BlockSource

_SLAB = 1 << 22
"""Elements looked at at a time."""


def inspect_file(
    path: str | os.PathLike[str], *, hashes: bool = False, compressed: bool = False, progress: Progress | None = None
) -> InspectReport:
    """Look at a model without changing it.

    Every weight that could be pruned is listed, those that the defaults of pruning leave alone too.

    Args:
        path: the model; external data is found beside it.
        hashes: also the SHA-256 of every file.
        compressed: also what every file weighs after zstd at level 3.
        progress: told before each weight.

    Raises:
        PruningError: the model can't be read, see `onnx_tools.errors`.
    """
    model = ModelFile.open(path)
    found = find_weights(model.skeleton)
    files = [facts_of(f, hashes=hashes, compressed=compressed) for f in (model.path, *model.data_files())]
    total = sum(weight.elements for weight in found.weights)
    inspected, done = [], 0
    with ValueReader(model) as reader:
        for weight in found.weights:
            if progress is not None:
                progress(weight.name, done, total)
            inspected.append(_inspected(weight, reader))
            done += weight.elements
    return InspectReport(
        input=model.path.name,
        versions=versions(),
        weights=tuple(inspected),
        left_alone=left_alone_reports(found.left_alone),
        files=file_reports(files, None),
    )


def _inspected(weight: Weight, reader: ValueReader) -> InspectedWeight:
    zeros = _read_zeros(reader.blocks(weight.path, weight.shape))
    rows = _units(zeros, weight.rows)
    columns = _units(zeros, weight.columns)
    groups = _groups_of_four(zeros, weight.columns)
    return InspectedWeight(
        name=weight.name,
        op_types=weight.op_types,
        consumers=weight.consumers,
        shape=weight.shape,
        dtype=str(weight.dtype),
        parameters=weight.elements,
        bytes=weight.elements * weight.dtype.itemsize,
        zeros=int(np.count_nonzero(zeros)),
        rows=rows.count if rows else None,
        zero_rows=rows.zero if rows else None,
        columns=columns.count if columns else None,
        zero_columns=columns.zero if columns else None,
        groups_2_4=groups.count if groups else None,
        satisfying_2_4=groups.zero if groups else None,
        depthwise=weight.depthwise,
    )


@dataclass(frozen=True)
class _Tally:
    """How many there are, and how many of them are zero (or, of groups, zero enough)."""

    count: int
    zero: int


def _read_zeros(source: BlockSource) -> NDArray[np.bool_]:
    """Which elements are zero, flat: a byte an element is all that is held of a weight."""
    size = math.prod(source.shape)
    zeros = np.empty(size, np.bool_)
    scratch = np.empty(min(size, _SLAB), source.dtype)
    for start in range(0, size, _SLAB):
        stop = min(start + _SLAB, size)
        np.equal(source.load(start, stop, scratch), 0, out=zeros[start:stop])
    return zeros


def _grouped(zeros: NDArray[np.bool_], axis: UnitAxis) -> NDArray[np.bool_]:
    """Zeros as (groups, outer, units, inner)."""
    shape, at = axis.view_shape, axis.axis
    outer = math.prod(shape[:at]) // axis.groups
    return zeros.reshape(axis.groups, outer, shape[at], math.prod(shape[at + 1 :]))


def _units(zeros: NDArray[np.bool_], axis: UnitAxis | None) -> _Tally | None:
    if axis is None:
        return None
    whole = np.logical_and.reduce(_grouped(zeros, axis), axis=(1, 3))
    return _Tally(whole.size, int(np.count_nonzero(whole)))


def _groups_of_four(zeros: NDArray[np.bool_], axis: UnitAxis | None) -> _Tally | None:
    """Groups of four neighbours along the reduction axis; a remainder that fills no group is not counted."""
    if axis is None or axis.view_shape[axis.axis] < 4:
        return None
    grouped = _grouped(zeros, axis)
    fours = grouped.shape[2] // 4
    parts = [grouped[:, :, place : fours * 4 : 4].astype(np.uint8) for place in range(4)]
    enough = (parts[0] + parts[1] + parts[2] + parts[3]) >= 2
    return _Tally(enough.size, int(np.count_nonzero(enough)))
