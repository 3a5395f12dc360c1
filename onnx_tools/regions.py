"""Regions of data files that are replaced: what lies behind them moves, and keeps its alignment to 64 bytes."""

from __future__ import annotations

import pathlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import accumulate

from onnx_tools.errors import InvalidTensor
from onnx_tools.model_copy import ModelCopy
from onnx_tools.model_file import Location, ModelFile, iter_tensors
from onnx_tools.shared_bytes import external_pieces
from onnx_tools.wire import FileSpan, Path, Rope, Span, rope_length

_ALIGNMENT = 64
_PIECE_ALIGNMENT = 8


@dataclass(eq=False)
class Region:
    """Bytes of a data file, and what comes in their place. `start`: where that will lie, once all are arranged."""

    old: Location
    new: Rope
    start: int = -1
    offsets: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes in the new file."""
        return rope_length(self.new)


def packed_region(old: Location, parts: list[FileSpan]) -> Region:
    """A region for `parts`, each aligned, and padded so that what follows keeps its alignment."""
    rope: Rope = []
    offsets = []
    for part in parts:
        rope.append(bytes(-rope_length(rope) % _PIECE_ALIGNMENT))
        offsets.append(rope_length(rope))
        rope.append(part)
    rope.append(bytes((old.length - rope_length(rope)) % _ALIGNMENT))
    return Region(old, rope, offsets=offsets)


def refuse_overlaps(model: ModelFile, regions: list[Region], pieces: Collection[Path]) -> None:
    """See that nothing but `pieces` lies in the regions.

    Raises `InvalidTensor` for a region that ends behind its file, or has bytes in common with another one or with a
    tensor that is not among the `pieces`.
    """
    extents = defaultdict(list)
    for region in regions:
        extents[region.old.file].append((region.old.offset, region.old.offset + region.old.length, True))
    for file, tensors in external_pieces(model).items() if regions else ():
        extents[file] += [(tensor.start, tensor.stop, False) for tensor in tensors if tensor.path not in pieces]
    for file, inside in extents.items():
        region_end = tensor_end = 0
        for start, stop, is_region in sorted(inside):
            if start < region_end or (is_region and (start < tensor_end or stop > file.stat().st_size)):
                raise InvalidTensor(
                    f"{file.name}: the bytes from {start} to {stop} do not belong to one tensor, as those of an "
                    "encoded weight must; decode an unchanged copy"
                )
            region_end, tensor_end = (stop, tensor_end) if is_region else (region_end, max(stop, tensor_end))


def arrange(copy: ModelCopy, model: ModelFile, regions: list[Region]) -> None:
    """Put all regions in their places in the copy; tensors that are in none of them move with the bytes they have."""
    by_file: dict[pathlib.Path, list[Region]] = defaultdict(list)
    for region in regions:
        by_file[region.old.file].append(region)
    starts = _starts(model) if regions else {}
    for file, members in by_file.items():
        members.sort(key=lambda region: region.old.offset)
        ends = [region.old.offset + region.old.length for region in members]
        shifts = [0, *accumulate(region.size - region.old.length for region in members)]
        for region, shift in zip(members, shifts, strict=False):
            region.start = region.old.offset + shift
        offsets = {path: start + shifts[bisect_right(ends, start)] for path, start in starts[file].items()}
        copy.rearrange_data(file, _rope(members, ends, file.stat().st_size), offsets)


def _rope(regions: list[Region], ends: list[int], size: int) -> Rope:
    rope: Rope = []
    for start, region in zip([0, *ends], regions, strict=False):
        rope += [Span(start, region.old.offset - start), *region.new]
    return [*rope, Span(ends[-1], size - ends[-1])]


def _starts(model: ModelFile) -> dict[pathlib.Path, dict[Path, int]]:
    """Where each tensor in a data file says that it starts."""
    starts: dict[pathlib.Path, dict[Path, int]] = defaultdict(dict)
    for path, tensor in iter_tensors(model.skeleton):
        file = model.data_file(tensor)
        if file is not None:
            text = next((entry.value for entry in tensor.external_data if entry.key == "offset"), "0")
            starts[file][path] = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    return starts
