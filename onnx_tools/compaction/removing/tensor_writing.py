"""Stored tensors that get other values and sizes, written into a copy of the model one after another."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping

from onnx import AttributeProto, NodeProto, TensorProto

from onnx_tools.compaction.removing.elements import Elements, packed
from onnx_tools.graph_parts import LITERAL, Path, StoredTensor
from onnx_tools.model_copy import ModelCopy
from onnx_tools.model_file import Location, ModelFile, iter_tensors, message_at
from onnx_tools.records import INITIALIZER, tensor_message
from onnx_tools.regions import Region, arrange, packed_region
from onnx_tools.shared_bytes import Piece, clusters
from onnx_tools.wire import Rope, field_record

_VALUE_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data", "raw_data")
_FIELDS = {
    "initializer": INITIALIZER,
    "t": int(AttributeProto.DESCRIPTOR.fields_by_name["t"].number),
    "attribute": int(NodeProto.DESCRIPTOR.fields_by_name["attribute"].number),
}
_ALIGNMENT = 64


class TensorWriter:
    """Writes tensors where they lay: in the model file, or in a data file, where what lies behind moves.

    Of tensors that share bytes of a data file each that changes gets its own at the end of the file; those with the
    same bytes before and after go on sharing them.
    """

    def __init__(self, copy: ModelCopy, model: ModelFile) -> None:
        self._copy = copy
        self._model = model
        self._regions: list[Region] = []
        self._clusters: dict[Path, list[Piece]] = {
            piece.path: cluster for cluster in clusters(model) for piece in cluster
        }
        self._appended: dict[tuple[Location, bytes], Region] = {}
        self._longer: set[pathlib.Path] = set()
        self._changed: dict[Path, Location] = {}
        self._dropped: set[Path] = set()

    def write(self, tensor: StoredTensor, elements: Elements) -> None:
        """Give a tensor other elements, and their shape."""
        message = message_at(self._model.skeleton, tensor.path)
        if tensor.place == LITERAL:
            self._replace(tensor.path, [_listed(message, elements).SerializeToString()])
            return
        data = packed(elements, tensor.data_type)
        proto = _without_values(message, elements.shape)
        if message.data_location == TensorProto.EXTERNAL:
            self._write_outside(tensor.path, proto, self._model.location(tensor.path, message), data)
        else:
            self._replace(tensor.path, tensor_message(proto, self._copy.store(data)))

    def drop(self, path: Path) -> None:
        """Take a message out of the model, with the external data of the tensor that it is."""
        self._dropped.add(path)
        message = message_at(self._model.skeleton, path)
        if isinstance(message, TensorProto) and message.data_location == TensorProto.EXTERNAL:
            location = self._model.location(path, message)
            assert location is not None
            self._changed[path] = location
            if path not in self._clusters:
                self._regions.append(packed_region(location, []))
        self._copy.replace_record(path, lambda names: [])

    def finish(self) -> None:
        """Put what was written to data files in its places there."""
        for cluster in {id(cluster): cluster for cluster in self._clusters.values()}.values():
            places = {self._changed.get(piece.path) for piece in cluster}
            if len(places) == 1 and (place := places.pop()) is not None:
                self._regions.append(packed_region(place, []))
        arrange(self._copy, self._model, self._regions)
        for file in self._unused_files():
            self._copy.leave_out(file)

    def _unused_files(self) -> set[pathlib.Path]:
        kept = (
            self._model.data_file(tensor)
            for path, tensor in iter_tensors(self._model.skeleton)
            if not any(path[:end] in self._dropped for end in range(1, len(path) + 1))
        )
        return set(self._model.data_files()).difference(kept) if self._dropped else set()

    def _replace(self, path: Path, message: Rope) -> None:
        rope = field_record(_FIELDS[path[-1][0]], message)
        self._copy.replace_record(path, lambda names: rope)

    def _write_outside(self, path: Path, proto: TensorProto, old: Location | None, data: memoryview) -> None:
        assert old is not None
        self._changed[path] = old
        region = self._appended_region(old, data) if path in self._clusters else self._region(old, data)

        def written(names: Mapping[pathlib.Path, str]) -> Rope:
            offset = str(region.start + region.offsets[0])
            entries = {"location": names[old.file], "offset": offset, "length": str(data.nbytes)}
            return field_record(_FIELDS[path[-1][0]], [_placed(proto, entries).SerializeToString()])

        self._copy.replace_record(path, written)

    def _region(self, old: Location, data: memoryview) -> Region:
        region = packed_region(old, [self._copy.store(data)])
        self._regions.append(region)
        return region

    def _appended_region(self, old: Location, data: memoryview) -> Region:
        """Bytes at the end of a data file."""
        key = (old, hashlib.sha256(data).digest())
        if key not in self._appended:
            end = old.file.stat().st_size
            region = self._appended[key] = self._region(Location(old.file, end, 0), data)
            if old.file not in self._longer:
                region.new.insert(0, bytes(-end % _ALIGNMENT))
                region.offsets[0] = -end % _ALIGNMENT
            self._longer.add(old.file)
        return self._appended[key]


def _without_values(tensor: TensorProto, shape: tuple[int, ...]) -> TensorProto:
    """A tensor without the values that are inside it, of another shape."""
    copy = TensorProto()
    copy.CopyFrom(tensor)
    for name in _VALUE_FIELDS:
        copy.ClearField(name)
    copy.dims[:] = shape
    return copy


def _placed(tensor: TensorProto, entries: Mapping[str, str]) -> TensorProto:
    """A tensor that says where its external data lies; a checksum of what that was is left out."""
    kept = [entry.key for entry in tensor.external_data if entry.key in entries]
    del tensor.external_data[:]
    for key in (*kept, *(key for key in entries if key not in kept)):
        tensor.external_data.add(key=key, value=entries[key])
    return tensor


def _listed(attribute: AttributeProto, elements: Elements) -> AttributeProto:
    """The list of a Constant node with other elements."""
    copy = AttributeProto()
    copy.CopyFrom(attribute)
    flat = elements.reshape(-1)
    if attribute.name == "value_floats":
        copy.floats[:] = flat.view("<f4").tolist()
    elif attribute.name == "value_ints":
        copy.ints[:] = flat.view("<i8").tolist()
    return copy
