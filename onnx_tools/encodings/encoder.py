"""Writing encoded weights into a copy of a model, one after another."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_tools import records
from onnx_tools.encodings.choice import Prefer, candidates, choose
from onnx_tools.encodings.layouts import Chain, Kept, Layout
from onnx_tools.encodings.marker import SPARSE, Marker
from onnx_tools.encodings.sources import Source, checksum
from onnx_tools.model_copy import ModelCopy
from onnx_tools.regions import Region, packed_region
from onnx_tools.wire import FileSpan, Rope, rope_length

_DATA_TYPES = {"uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16, "int64": TensorProto.INT64}


@dataclass(frozen=True)
class Encoded:
    """What became of a weight: `encoding` is "dense" where nothing, for a `reason`; `bytes`: what it takes now.

    `stored`: elements that differ from the fill; None if its values were not looked at.
    """

    encoding: str
    bytes: int
    reason: str = ""
    stored: int | None = None


@dataclass(frozen=True)
class Request:
    """What is wanted. `layouts`: names of those that may be used.

    `least_saving`: the fraction of its bytes that a weight must save to be encoded.
    """

    encoding: str
    prefer: Prefer
    least_saving: float
    opset: int
    layouts: frozenset[str]


@dataclass(frozen=True)
class _Stored:
    """A piece in the temporary file, as the tensor that it becomes."""

    tensor: TensorProto
    span: FileSpan


class Encoder:
    """Encodes weights of one model; `regions` are those of its data files that have to be replaced then."""

    def __init__(self, copy: ModelCopy, request: Request, prefix: str) -> None:
        self.regions: list[Region] = []
        self._copy = copy
        self._request = request
        self._prefix = prefix
        self._made = 0

    def encode(self, source: Source) -> Encoded:
        """Encode a weight, if that pays."""
        kept = source.kept()
        return replace(self._encoded(source, kept), stored=len(kept.places))

    def _encoded(self, source: Source, kept: Kept) -> Encoded:
        most = (1 - self._request.least_saving) * source.bytes
        if self._request.encoding == SPARSE:
            return self._sparse(source, kept, most)
        layouts = candidates(source.tensor.data_type, self._request.opset, external=source.external)
        if not layouts:
            return _dense(source, f"opset {self._request.opset} lacks the operators; from 11 on it has them")
        allowed = [layout for layout in layouts if layout.name in self._request.layouts]
        layout = choose(kept, allowed, self._request.prefer, most)
        return self._packed(source, kept, layout, most) if layout else self._pays_not(source)

    def _pays_not(self, source: Source) -> Encoded:
        return _dense(source, f"would not save {self._request.least_saving:.0%} of its bytes")

    def _packed(self, source: Source, kept: Kept, layout: Layout, most: float) -> Encoded:
        pieces = layout.pack(kept)
        fill = np.array(kept.fill, kept.bits.dtype).tobytes()
        chain = Chain(f"{self._prefix}{self._made}", source.tensor.data_type, fill)
        names = {role: chain.name() for role in pieces}
        flat = layout.rebuild(chain, names, kept.dims)
        size = sum(piece.nbytes for piece in pieces.values())
        marker = self._marker(layout.name, source, kept, _region_size(source, pieces))
        _finish(chain, flat, source, marker)
        small = records.initializers([[tensor.SerializeToString()] for tensor in chain.constants])
        small += records.nodes(chain.nodes)
        total = size + rope_length(small) + 64 * len(pieces)
        if total > most:
            return self._pays_not(source)
        stored = [self._store(names[role], values, source, role) for role, values in pieces.items()]
        self._place(source, stored, chain)
        return Encoded(layout.name, total)

    def _place(self, source: Source, stored: list[_Stored], chain: Chain) -> None:
        """Write the records of a packed weight when the copy is committed."""
        self._made += 1
        region = self._region(source, [piece.span for piece in stored])
        constants: list[Rope] = [[tensor.SerializeToString()] for tensor in chain.constants]
        nodes = records.nodes(chain.nodes)

        def tensors(names: Mapping[pathlib.Path, str]) -> Rope:
            pieces = [_message(piece, region, i, names) for i, piece in enumerate(stored)]
            return records.initializers([*pieces, *constants])

        if source.is_constant:
            self._copy.replace_record(source.record_path, lambda names: [*tensors(names), *nodes])
        else:
            self._copy.replace_record(source.record_path, tensors)
            self._copy.insert_records((*source.graph, ("node", 0)), lambda names: nodes)

    def _sparse(self, source: Source, kept: Kept, most: float) -> Encoded:
        stored_bytes = len(kept.places) * (kept.bits.itemsize + 8)
        marker = self._marker(SPARSE, source, kept, None)
        total = stored_bytes + len(marker) + 96
        if reason := self._no_sparse(source, kept):
            return _dense(source, reason)
        if total > most:
            return self._pays_not(source)
        values = self._store("" if source.is_constant else source.name, kept.values, source, "values")
        values.tensor.doc_string = "" if source.is_constant else marker
        indices = self._store("", kept.places, source, "places")
        parts = records.SparseParts(_inside(values), _inside(indices), tuple(source.tensor.dims))
        if source.is_constant:
            rope = records.sparse_constant(source.name, marker, parts)
        else:
            rope = records.sparse_initializer(parts)
        self._copy.replace_record(source.record_path, lambda names: rope)
        return Encoded(SPARSE, rope_length(rope))

    def _no_sparse(self, source: Source, kept: Kept) -> str:
        """Why a weight can't become a sparse tensor; "" if it can."""
        if source.external:
            return "lies in external data, and sparse tensors lie inside the model file"
        if kept.fill:
            return f"its most frequent value is {kept.fill}, and sparse tensors leave out zeros only"
        if not len(kept.places):
            return "has no nonzero value, and sparse tensors without values are refused by runtimes"
        return "sparse tensors came with opset 11" if self._request.opset < 11 else ""

    def _marker(self, encoding: str, source: Source, kept: Kept, region: int | None) -> str:
        tensor, crc = source.tensor, checksum(kept.bits)
        return Marker(
            encoding, tensor.data_type, tuple(tensor.dims), kept.fill, crc, source.before, source.after, region
        ).text()

    def _store(self, name: str, values: NDArray[Any], source: Source, role: str) -> _Stored:
        data_type = source.tensor.data_type if role == "values" else _DATA_TYPES[values.dtype.name]
        tensor = TensorProto(name=name, dims=values.shape, data_type=data_type)
        return _Stored(tensor, self._copy.store(np.ascontiguousarray(values).data))

    def _region(self, source: Source, spans: list[FileSpan]) -> Region | None:
        if not source.external:
            return None
        region = packed_region(source.location, spans)
        self.regions.append(region)
        return region


def _dense(source: Source, reason: str) -> Encoded:
    return Encoded("dense", source.bytes, reason)


def _region_size(source: Source, pieces: Mapping[str, NDArray[Any]]) -> int | None:
    """What the pieces will take of a data file; None if they lie in the model file."""
    if not source.external:
        return None
    return packed_region(source.location, [FileSpan(-1, 0, piece.nbytes) for piece in pieces.values()]).size


def _finish(chain: Chain, flat: str, source: Source, marker: str) -> None:
    """The last node gives the weight its shape and its name, and says what it is."""
    shape = chain.constant(list(source.tensor.dims), np.int64)
    node = helper.make_node("Reshape", [flat, shape], [source.name])
    node.doc_string = marker
    chain.nodes.append(node)


def _message(piece: _Stored, region: Region | None, index: int, names: Mapping[pathlib.Path, str]) -> Rope:
    """The tensor of a piece: with its bytes inside, or saying where in a data file they lie."""
    if region is None:
        return _inside(piece)
    tensor = TensorProto()
    tensor.CopyFrom(piece.tensor)
    tensor.data_location = TensorProto.EXTERNAL
    place = {"offset": region.start + region.offsets[index], "length": piece.span.length}
    for key, value in {"location": names[region.old.file], **place}.items():
        tensor.external_data.add(key=key, value=str(value))
    return [tensor.SerializeToString()]


def _inside(piece: _Stored) -> Rope:
    return records.tensor_message(piece.tensor, piece.span)
