"""External tensors that lie on the same bytes: they are one weight, whatever they are called, and are pruned once."""

from __future__ import annotations

import contextlib
import pathlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import NamedTuple

import onnx

from onnx_tools.errors import OnnxToolsError
from onnx_tools.model_file import ModelFile, iter_tensors
from onnx_tools.wire import Path


class _Piece(NamedTuple):
    """Bytes of a data file that belong to a tensor."""

    start: int
    stop: int
    path: Path
    name: str


class Overlap(NamedTuple):
    """The tensor called `name` has bytes in common with a weight, and decides whether they are `pruned`."""

    name: str
    pruned: bool

    @property
    def reason(self) -> str:
        """Why the weight itself is left alone."""
        return f"has bytes in common with '{self.name}', which is {'' if self.pruned else 'not '}pruned"


def overlaps(model: ModelFile, weights: Collection[Path]) -> dict[Path, Overlap]:
    """Find those of the `weights` that can't be pruned for themselves: another tensor has bytes in common with them.

    Of several weights on the same bytes the first in the model is pruned; none is, when what lies there too is no
    weight.
    """
    found: dict[Path, Overlap] = {}
    for cluster in _clusters(model):
        others = [piece for piece in cluster if piece.path not in weights]
        keeper = others[0] if others else min(cluster, key=lambda piece: piece.path)
        found |= {piece.path: Overlap(keeper.name, not others) for piece in cluster if piece is not keeper}
    return {path: overlap for path, overlap in found.items() if path in weights}


def _clusters(model: ModelFile) -> Iterator[list[_Piece]]:
    """Sets of two or more tensors whose bytes overlap."""
    for pieces in _pieces(model).values():
        cluster: list[_Piece] = []
        reach = -1
        for piece in sorted(pieces):
            if piece.start >= reach:
                if len(cluster) > 1:
                    yield cluster
                cluster = []
            cluster.append(piece)
            reach = max(reach, piece.stop)
        if len(cluster) > 1:
            yield cluster


def _pieces(model: ModelFile) -> dict[pathlib.Path, list[_Piece]]:
    """The external tensors of each data file. One that can't be read is no weight either; it is met elsewhere."""
    pieces: dict[pathlib.Path, list[_Piece]] = defaultdict(list)
    for path, tensor in iter_tensors(model.skeleton):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        with contextlib.suppress(OnnxToolsError):
            location = model.location(path, tensor)
            if location is not None and location.length:
                piece = _Piece(location.offset, location.offset + location.length, path, tensor.name)
                pieces[location.file].append(piece)
    return pieces
