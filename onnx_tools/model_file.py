"""An ONNX model as it lies on disk: the parsed skeleton, and where each tensor's bytes are.

Input is hostile here. Nothing is believed about a tensor before `ModelFile.location` has held its shape against its
bytes, and external data must lie inside the model's folder. Nothing is kept open, and no payload is read:
`file_blocks.FileBlocks` reads and writes the values later, block by block, through a descriptor that its maker holds
open.

A model given by a symbolic link has two folders: that of the file and that of the link. Data is looked for beside the
file, then beside the link, and must lie, links followed, inside one of the two. So a model of the Hugging Face cache
works, where `snapshots/REVISION/` holds links named like the files and `blobs/` the files named by their hashes.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import onnx

from onnx_tools.errors import InvalidExternalData, InvalidModelFile, InvalidTensor, OnnxToolsError
from onnx_tools.file_blocks import contents
from onnx_tools.float_lists import as_tensor, is_float_list, with_values
from onnx_tools.wire import MODEL, Data, MessageType, Path, Payload, scan

_DataType = onnx.TensorProto.DataType

DTYPES: dict[int, np.dtype[Any]] = {
    onnx.TensorProto.FLOAT: np.dtype(np.float32),
    onnx.TensorProto.FLOAT16: np.dtype(np.float16),
    onnx.TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    onnx.TensorProto.DOUBLE: np.dtype(np.float64),
}
"""Data types of tensors that can be pruned, with the dtype of their elements."""

_BITS_BY_NAME = {
    **dict.fromkeys(("UINT2", "INT2"), 2),
    **dict.fromkeys(("UINT4", "INT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("UINT8", "INT8", "BOOL", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"), 8),
    **dict.fromkeys(("UINT16", "INT16", "FLOAT16", "BFLOAT16"), 16),
    **dict.fromkeys(("FLOAT", "INT32", "UINT32"), 32),
    **dict.fromkeys(("DOUBLE", "INT64", "UINT64", "COMPLEX64"), 64),
    "FLOAT8E8M0": 8,
    "COMPLEX128": 128,
}
_BITS: dict[int, int] = {number: _BITS_BY_NAME[name] for name, number in _DataType.items() if name in _BITS_BY_NAME}

_TYPED_FIELDS = {
    "float_data": (onnx.TensorProto.FLOAT, onnx.TensorProto.COMPLEX64),
    "double_data": (onnx.TensorProto.DOUBLE, onnx.TensorProto.COMPLEX128),
}
_VALUE_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")

_MAX_ELEMENTS = 1 << 62


@dataclass(frozen=True, slots=True)
class Location:
    """The bytes of one tensor: `length` bytes at `offset` of `file`, little-endian, row-major."""

    file: pathlib.Path
    offset: int
    length: int


def dtype_of(tensor: onnx.TensorProto) -> np.dtype[Any] | None:
    """Return the dtype of a tensor that can be pruned (float16, bfloat16, float32, float64), None for others."""
    return DTYPES.get(tensor.data_type)


def bits_of_type(tensor: onnx.TensorProto) -> int | None:
    """Return how many bits an element of the tensor takes, None where that is not known (strings)."""
    return _BITS.get(tensor.data_type)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators; 0 if none is named."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return max(versions, default=0)


def tensor_at(model: onnx.ModelProto, path: Path) -> onnx.TensorProto:
    """Return the tensor at `path`; `KeyError` if nothing is there, `ValueError` if it is no tensor.

    A list of floats in an attribute comes as a tensor of its own: changes to it must be put back.
    """
    message = message_at(model, path)
    if isinstance(message, onnx.AttributeProto) and is_float_list(message):
        return as_tensor(message)
    if not isinstance(message, onnx.TensorProto):
        raise ValueError(f"{path} is a {type(message).__name__}")
    return message


def put_back(model: onnx.ModelProto, path: Path, tensor: onnx.TensorProto) -> None:
    """Put the values of what `tensor_at` gave into `model`, where they are not there already."""
    message = message_at(model, path)
    if isinstance(message, onnx.AttributeProto):
        message.CopyFrom(with_values(message, tensor))


def serialised_for(model: onnx.ModelProto, path: Path, tensor: onnx.TensorProto) -> bytes:
    """The message at `path` with the values of `tensor`."""
    message = message_at(model, path)
    is_list = isinstance(message, onnx.AttributeProto)
    return bytes((with_values(message, tensor) if is_list else tensor).SerializeToString())


def message_at(model: onnx.ModelProto, path: Path) -> Any:
    """Return the message at `path`; `KeyError` if nothing is there."""
    message: Any = model
    try:
        for name, index in path:
            value = getattr(message, name)
            message = value[index] if hasattr(value, "add") else value
    except (AttributeError, IndexError):
        raise KeyError(path) from None
    return message


def iter_tensors(model: onnx.ModelProto) -> Iterator[tuple[Path, onnx.TensorProto]]:
    """Yield every tensor of `model` with its path, in the order of the field numbers.

    Initializers, the parts of sparse tensors, tensors in attributes (Constant nodes), in subgraphs, in functions and in
    training information.
    """
    return ((path, message) for path, message in _iter_messages(model) if isinstance(message, onnx.TensorProto))


def iter_float_lists(model: onnx.ModelProto) -> Iterator[tuple[Path, onnx.AttributeProto]]:
    """Yield every attribute that can hold weights as a list of floats, with its path."""
    for path, message in _iter_messages(model):
        if isinstance(message, onnx.AttributeProto) and is_float_list(message):
            yield path, message


def _iter_messages(model: onnx.ModelProto) -> Iterator[tuple[Path, Any]]:
    """Yield the messages on the way to every tensor, and the tensors."""
    stack: list[tuple[Path, Any, MessageType]] = [((), model, MODEL)]
    while stack:
        path, message, kind = stack.pop()
        yield path, message
        if kind.payload_fields:
            continue
        below: list[tuple[Path, Any, MessageType]] = []
        for field in kind.tensor_fields.values():
            if field.repeated:
                children = enumerate(getattr(message, field.name))
                below += [((*path, (field.name, index)), child, field.message) for index, child in children]
            elif message.HasField(field.name):
                below.append(((*path, (field.name, 0)), getattr(message, field.name), field.message))
        stack += reversed(below)


@dataclass(frozen=True)
class ModelFile:
    """A model file, read but not kept open. Make one with `ModelFile.open`."""

    path: pathlib.Path
    """What to open the model by again: `file`, or the link that was given if data is to be found beside that."""
    file: pathlib.Path
    """The file itself, symbolic links resolved."""
    skeleton: onnx.ModelProto
    """The model without its large payloads. Read it, never change it."""
    payloads: Mapping[Path, Payload]
    """The payloads that lie in the file in one piece and are not in the skeleton, by the path of their tensor."""
    regular: bool
    """False if the file gives a singular message twice. The skeleton is then the whole model, with no payloads cut."""
    stamp: tuple[int, int]
    """Size and modification time (ns) of what was read, to notice that the file changed since."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ModelFile:
        """Read the model at `path`; memory stays small whatever its size.

        Raises `InvalidModelFile` if it cannot be read or is not an ONNX model.
        """
        try:
            resolved = _regular_file(path)
            with resolved.open("rb") as file:
                status = os.fstat(file.fileno())
                with contents(file.fileno(), status.st_size) as data:
                    skeleton, payloads, regular = _take_apart(data)
        except OnnxToolsError as error:
            raise InvalidModelFile(f"{path}: {error}") from None
        except OSError as error:
            raise InvalidModelFile(f"{path}: cannot be read: {error.strerror or error}") from error
        opened_by = _opened_by(pathlib.Path(path).absolute(), resolved, skeleton)
        return cls(opened_by, resolved, skeleton, payloads, regular, (status.st_size, status.st_mtime_ns))

    def location(self, path: Path, tensor: onnx.TensorProto) -> Location | None:
        """Return where the bytes of `tensor`, which is the skeleton's tensor at `path`, lie.

        None means that its values are in the skeleton: they are few, or split up, or stored as varints. Raises
        `InvalidTensor` if bytes and shape do not fit, `InvalidExternalData` if its file is not there for us.
        """
        payload = self.payloads.get(path)
        refuse_contradictions(tensor, payload)
        if _is_external(tensor):
            return self._external_location(tensor)
        if payload is None:
            check_in_skeleton(tensor)
            return None
        if tensor.data_type not in _TYPED_FIELDS.get(payload.field, (tensor.data_type,)):
            _bad_tensor(tensor, f"{payload.field} cannot hold its data type")
        _check_length(tensor, payload.length)
        return Location(self.file, payload.offset, payload.length)

    def data_files(self) -> tuple[pathlib.Path, ...]:
        """Return the model's external data files, each once, in the order of first use.

        Raises `InvalidExternalData` if one of them is missing or lies outside the model's folder.
        """
        return tuple(dict.fromkeys(map(self._external_file, self._external)))

    @cached_property
    def _external(self) -> tuple[onnx.TensorProto, ...]:
        """A tensor for each place of external data; found once, as the walk over a model of many nodes takes time."""
        found: dict[str, onnx.TensorProto] = {}
        for _, tensor in iter_tensors(self.skeleton):
            if _is_external(tensor):
                found.setdefault(_location_of(tensor), tensor)
        return tuple(found.values())

    def data_file(self, tensor: onnx.TensorProto) -> pathlib.Path | None:
        """Return the file that holds the external data of `tensor`, symbolic links resolved; None if it has none."""
        return self._external_file(tensor) if _is_external(tensor) else None

    def _external_file(self, tensor: onnx.TensorProto) -> pathlib.Path:
        location = _location_of(tensor)
        folders = [self.file.parent, self.path.parent]
        try:
            file = _first_there(location, folders)
            status = file.stat()
            itself = os.path.samestat(status, self.file.stat())
            allowed = any(file.is_relative_to(folder.resolve()) for folder in folders)
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            hint = f"the file must lie beside {self.file}, where symbolic links were followed to"
            _bad_external(tensor, location, f"cannot be found: {reason}; {hint}")
        if not allowed:
            _bad_external(tensor, location, f"links to {file}, outside the model's folder; copy the file there")
        if itself or not stat.S_ISREG(status.st_mode):
            _bad_external(tensor, location, "is not a data file; save the model anew")
        return file

    def _external_location(self, tensor: onnx.TensorProto) -> Location:
        file = self._external_file(tensor)
        entries = _external_entries(tensor)
        expected = _expected_bytes(tensor)
        offset = _external_number(tensor, entries, "offset", 0)
        length = _external_number(tensor, entries, "length", expected)
        _check_length(tensor, length)
        size = file.stat().st_size
        if offset + length > size:
            needed = f"bytes {offset} to {offset + length} are needed, the file has {size}"
            _bad_external(tensor, entries["location"], f"is truncated: {needed}; copy or download it again")
        return Location(file, offset, length)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def _regular_file(path: str | os.PathLike[str]) -> pathlib.Path:
    """Return `path` with links resolved, if it is a file; opening a pipe would wait for ever."""
    try:
        resolved = pathlib.Path(path).resolve(strict=True)
    except (RuntimeError, ValueError) as error:  # links in a circle, a NUL in the name
        raise InvalidModelFile(f"no usable file name: {error}") from None
    if not resolved.is_file():
        raise InvalidModelFile("not a file; give the .onnx file itself")
    return resolved


def _opened_by(given: pathlib.Path, resolved: pathlib.Path, skeleton: onnx.ModelProto) -> pathlib.Path:
    """Return `given` if it is a link, in another folder than the file, that external data is found beside."""
    if given.parent.resolve() == resolved.parent:
        return resolved
    for _, tensor in iter_tensors(skeleton):
        if _is_external(tensor):
            with contextlib.suppress(OnnxToolsError, OSError, RuntimeError, ValueError):  # said when it is needed
                _first_there(_location_of(tensor), [given.parent])
                return given
    return resolved


def _first_there(location: str, folders: Sequence[pathlib.Path]) -> pathlib.Path:
    """Return the file at `location` in the first of `folders` that has it, links resolved; else raise the first error.

    Raises what the system does: `OSError`; for names it can't have, `ValueError`; for links in a circle `RuntimeError`.
    """
    missing: FileNotFoundError | None = None
    for folder in folders:
        try:
            return (folder / location).resolve(strict=True)
        except FileNotFoundError as error:
            missing = missing or error
    raise missing or FileNotFoundError(location)


def _location_of(tensor: onnx.TensorProto) -> str:
    """The path of the external data of `tensor`, in the model's folder by its spelling."""
    location = _external_entries(tensor).get("location", "")
    _refuse_escape(tensor, location)
    return location


def _take_apart(data: Data) -> tuple[onnx.ModelProto, Mapping[Path, Payload], bool]:
    """Return skeleton, payloads and regularity of a serialised model."""
    if len(data) == 0:
        raise InvalidModelFile("the file is empty; export or download the model again")
    if data[:24] == b"version https://git-lfs.":
        raise InvalidModelFile("a Git LFS pointer, not the model; fetch it with `git lfs pull`")
    advice = "not an ONNX model, or a damaged one; export or download it again"
    try:
        found = scan(data)
    except InvalidModelFile as error:
        raise InvalidModelFile(f"{error}; {advice}") from None
    try:
        skeleton = onnx.ModelProto.FromString(found.skeleton if found.regular else bytes(data))
    except Exception as error:  # protobuf's DecodeError, whose module has no types
        raise InvalidModelFile(f"{error}; {advice}") from None
    if not skeleton.HasField("graph"):
        raise InvalidModelFile(f"no graph in it: {advice}")
    payloads = {payload.path: payload for payload in found.payloads} if found.regular else {}
    return skeleton, payloads, found.regular


def _bad_tensor(tensor: onnx.TensorProto, reason: str) -> NoReturn:
    raise InvalidTensor(f"tensor {tensor.name!r} of shape {_shown(tensor)}: {reason}; export the model again")


def _bad_external(tensor: onnx.TensorProto, location: object, reason: str) -> NoReturn:
    raise InvalidExternalData(f"tensor {tensor.name!r}: its external data {location!r} {reason}")


def _shown(tensor: onnx.TensorProto) -> list[int]:
    """The shape, short enough for a message."""
    return list(tensor.dims[:16])


def _expected_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that the tensor's shape and data type ask for."""
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        _bad_tensor(tensor, f"data type {tensor.data_type} has no known size")
    return (_elements(tensor) * bits + 7) // 8


def _elements(tensor: onnx.TensorProto) -> int:
    if any(size < 0 for size in tensor.dims):
        _bad_tensor(tensor, "a negative dimension")
    if 0 in tensor.dims:
        return 0
    elements = 1
    for size in tensor.dims:  # not math.prod: thousands of large dimensions would make a huge number
        elements *= size
        if elements > _MAX_ELEMENTS:
            _bad_tensor(tensor, "impossibly many elements")
    return elements


def _check_length(tensor: onnx.TensorProto, length: int) -> None:
    expected = _expected_bytes(tensor)
    if length != expected:
        _bad_tensor(tensor, f"{expected} bytes of data expected, {length} found")


def refuse_contradictions(tensor: onnx.TensorProto, payload: Payload | None) -> None:
    """Raise `InvalidTensor` if values are given in two ways; `payload` was one of the fields before it was cut out."""
    external = _is_external(tensor)
    given = [name for name in _VALUE_FIELDS if len(getattr(tensor, name))]
    given += ["raw_data"] if (tensor.raw_data if external else tensor.HasField("raw_data")) else []
    given += [payload.field] if payload is not None else []
    given += ["external_data"] if external else []
    if len(given) > 1:
        _bad_tensor(tensor, f"values given twice, in {' and '.join(given)}")
    if tensor.HasField("segment"):
        _bad_tensor(tensor, "stored in segments, which are not supported")


def check_in_skeleton(tensor: onnx.TensorProto) -> None:
    """Raise `InvalidTensor` if shape and values of a tensor that protobuf parsed do not fit each other."""
    if tensor.HasField("raw_data"):
        _check_length(tensor, len(tensor.raw_data))
        return
    dtype = dtype_of(tensor)
    if dtype is None:
        return
    field = {4: "float_data", 8: "double_data"}.get(dtype.itemsize, "int32_data")
    values = getattr(tensor, field)
    if len(values) != _elements(tensor):
        _bad_tensor(tensor, f"{_elements(tensor)} values expected in {field}, {len(values)} found")
    if field == "int32_data" and any(not 0 <= value <= 0xFFFF for value in values):
        _bad_tensor(tensor, "a value in int32_data does not fit 16 bits")


def _external_entries(tensor: onnx.TensorProto) -> dict[str, str]:
    """Return the entries that say where external data lies; bytes that are no UTF-8 come out of protobuf as bytes."""
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in entries:
            _bad_external(tensor, entry.value, f"has two entries {entry.key!r}; save the model anew")
        if entry.key in {"location", "offset", "length"}:
            if not isinstance(entry.value, str):
                _bad_external(tensor, entry.value, f"has a {entry.key} that is not text; save the model anew")
            entries[entry.key] = entry.value
    return entries


def _external_number(tensor: onnx.TensorProto, entries: Mapping[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        _bad_external(tensor, entries["location"], f"has {key} {text[:40]!r}, not a byte count; save the model anew")
    return int(text)


def _refuse_escape(tensor: onnx.TensorProto, location: str) -> None:
    """Refuse what leaves the folder by its spelling, on any operating system; links are looked at later."""
    advice = "a path relative to the model's folder and inside it is needed; save the model anew"
    windows = pathlib.PureWindowsPath(location)  # takes both slashes for separators
    if not windows.parts:
        _bad_external(tensor, location, f"names no file; {advice}")
    if windows.drive or windows.root:
        _bad_external(tensor, location, f"is an absolute path; {advice}")
    depth = 0
    for part in windows.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            _bad_external(tensor, location, f"leads out of the model's folder; {advice}")
