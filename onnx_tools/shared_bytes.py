"""External tensors that lie on the same bytes: they are one weight, whatever they are called, and are pruned once."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import NamedTuple

import onnx

from onnx_tools.errors import OnnxToolsError
from onnx_tools.model_file import DTYPES, ModelFile, iter_tensors
from onnx_tools.wire import Path


class Piece(NamedTuple):
    """Bytes of a data file that belong to a tensor."""

    start: int
    stop: int
    data_type: int
    path: Path
    name: str

    @property
    def elements(self) -> tuple[int, int, int]:
        """Equal for pieces that have the same values, element by element."""
        return self[:3]


class Overlap(NamedTuple):
    """The tensor called `name` has bytes in common with a weight, and decides whether they are `pruned`.

    `same`: it has exactly the weight's elements.
    """

    name: str
    pruned: bool
    same: bool = True

    @property
    def reason(self) -> str:
        """Why the weight itself is left alone."""
        why = f"is {'' if self.pruned else 'not '}pruned" if self.same else "has other elements there"
        return f"has bytes in common with '{self.name}', which {why}"


def overlaps(model: ModelFile, weights: Collection[Path]) -> dict[Path, Overlap]:
    """Find those of the `weights` that can't be pruned for themselves: another tensor has bytes in common with them.

    Of several weights on the same bytes the first in the model is pruned; none is, when what lies there too is no
    weight, is quantised, or has another type or extent: a zero of one would be something else in the other.
    """
    found: dict[Path, Overlap] = {}
    for cluster in clusters(model):
        found |= _judged(cluster, weights)
    return {path: overlap for path, overlap in found.items() if path in weights}


def same_bytes(model: ModelFile, weights: Collection[Path]) -> set[Path]:
    """The tensors that have exactly the elements of one of the `weights`, which are among them."""
    found = set(weights)
    for cluster in clusters(model):
        known = {piece.elements for piece in cluster if piece.path in weights}
        found |= {piece.path for piece in cluster if piece.elements in known}
    return found


def twins(model: ModelFile) -> dict[Path, list[Path]]:
    """Tensors that have exactly the elements of others: for each all of them, itself too."""
    found: dict[Path, list[Path]] = {}
    for cluster in clusters(model):
        alike: dict[tuple[int, int, int], list[Path]] = defaultdict(list)
        for piece in cluster:
            alike[piece.elements].append(piece.path)
        found |= {path: paths for paths in alike.values() if len(paths) > 1 for path in paths}
    return found


def sharing(model: ModelFile) -> dict[Path, str]:
    """The tensors that have bytes in common with another one, each with the name of such a one."""
    return {
        piece.path: next(other.name for other in cluster if other is not piece)
        for cluster in clusters(model)
        for piece in cluster
    }


def _judged(cluster: list[Piece], weights: Collection[Path]) -> dict[Path, Overlap]:
    others = [piece for piece in cluster if piece.path not in weights]
    if not others and cluster[0].data_type not in DTYPES:
        return {piece.path: Overlap(_another(piece, cluster).name, pruned=False) for piece in cluster}
    if others:
        return {piece.path: Overlap(others[0].name, pruned=False) for piece in cluster}
    distinct = {piece.elements: piece for piece in cluster}
    if len(distinct) > 1:
        unlike = _unlike(list(distinct.values()))
        return {piece.path: Overlap(unlike[piece.elements].name, pruned=False, same=False) for piece in cluster}
    keeper = min(cluster, key=lambda piece: piece.path)
    return {piece.path: Overlap(keeper.name, pruned=True) for piece in cluster if piece is not keeper}


def _another(piece: Piece, cluster: list[Piece]) -> Piece:
    return next(other for other in cluster if other is not piece)


def _unlike(distinct: list[Piece]) -> dict[tuple[int, int, int], Piece]:
    """For the elements of each of a cluster's pieces, which are sorted, another piece that it overlaps.

    If it overlaps any before it, then the one of those that reaches furthest; else the next one.
    """
    found: dict[tuple[int, int, int], Piece] = {}
    furthest: Piece | None = None
    for piece, following in itertools.zip_longest(distinct, distinct[1:]):
        found[piece.elements] = furthest if furthest and furthest.stop > piece.start else following
        furthest = piece if furthest is None or piece.stop > furthest.stop else furthest
    return found


def clusters(model: ModelFile) -> Iterator[list[Piece]]:
    """Sets of two or more tensors whose bytes overlap."""
    for pieces in external_pieces(model).values():
        cluster: list[Piece] = []
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


def external_pieces(model: ModelFile) -> dict[pathlib.Path, list[Piece]]:
    """The external tensors of each data file. One that can't be read is no weight either; it is met elsewhere."""
    pieces: dict[pathlib.Path, list[Piece]] = defaultdict(list)
    for path, tensor in iter_tensors(model.skeleton):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        with contextlib.suppress(OnnxToolsError):
            location = model.location(path, tensor)
            if location is not None and location.length:
                stop = location.offset + location.length
                pieces[location.file].append(Piece(location.offset, stop, tensor.data_type, path, tensor.name))
    return pieces
