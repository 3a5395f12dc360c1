"""A walk over the protobuf wire format of an ONNX model, driven by onnx's own descriptors.

`scan` separates a model into a small skeleton, which protobuf parses, and the places of its large payloads.
`rewrite` gives a file with single submessages replaced, as a *rope*: new bytes, and spans of the old file. Neither
copies a payload, so the size of the file does not matter. The format is described in protobuf's encoding guide; a
message is a row of records, a record is a tag (field number and wire type) and a value, and a submessage is a value
with its length in front.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import onnx

from onnx_tools.errors import InvalidModelFile

Path = tuple[tuple[str, int], ...]
"""Where a message lies in a ModelProto: field names, each with the index of its occurrence (0 if not repeated)."""

Data = bytes | bytearray | memoryview | mmap.mmap
"""What is walked over."""

MAX_DEPTH = 100
"""How deep messages may nest; protobuf's own parsers stop there too."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_FIELD_NUMBER = (1 << 29) - 1
_PAYLOAD_FIELDS = {"raw_data": (_LENGTH,), "float_data": (_LENGTH, _FIXED32), "double_data": (_LENGTH, _FIXED64)}


class Span(NamedTuple):
    """A run of bytes of the source file."""

    offset: int
    length: int


Rope = list[bytes | Span]
"""A file in pieces: new bytes, and spans of the source."""


@dataclass(frozen=True, slots=True)
class Payload:
    """The values of one tensor, where they lie in the file: `length` bytes at `offset`, little-endian."""

    path: Path
    """The TensorProto's path."""
    field: str
    """`raw_data`, `float_data` or `double_data`."""
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What `scan` found."""

    skeleton: bytes
    """The serialised model without the payloads."""
    payloads: tuple[Payload, ...]
    """The payloads that were cut out, in the order of the file."""
    regular: bool
    """False if a singular message is given twice: protobuf merges the two, so paths and spans say nothing."""


class Record(NamedTuple):
    """One record: its tag lies at `start`, its value (without the length in front) at `body`, both before `end`."""

    number: int
    wire: int
    start: int
    body: int
    end: int


def encode_varint(value: int) -> bytes:
    """Return `value` >= 0 as a varint of the fewest bytes."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(view: memoryview, start: int, end: int) -> tuple[int, int]:
    """Return the varint at `start` and the position after it; it must end before `end`."""
    value = 0
    for position in range(start, min(end, start + 10)):
        byte = view[position]
        value |= (byte & 0x7F) << 7 * (position - start)
        if byte < 0x80:
            if value >> 64:
                break
            return value, position + 1
    if end - start < 10:
        raise InvalidModelFile(f"truncated: a number at byte {start} does not end before byte {end}")
    raise InvalidModelFile(f"the number at byte {start} is longer than 64 bits")


def records(view: memoryview, start: int, end: int) -> Iterator[Record]:
    """Yield the records of the message in `view[start:end]`.

    Raises `InvalidModelFile`, with the byte, for what no ONNX model holds: a value past the end, field number 0,
    groups (wire types 3 and 4) and the wire types that do not exist.
    """
    while start < end:
        tag, body = read_varint(view, start, end)
        number, wire = tag >> 3, tag & 7
        if not 0 < number <= _MAX_FIELD_NUMBER:
            raise InvalidModelFile(f"the record at byte {start} has field number {number}")
        if wire == _LENGTH:
            length, body = read_varint(view, body, end)
            stop = body + length
        elif wire == _VARINT:
            stop = read_varint(view, body, end)[1]
        elif wire == _FIXED32:
            stop = body + 4
        elif wire == _FIXED64:
            stop = body + 8
        else:
            raise InvalidModelFile(f"the record at byte {start} has wire type {wire}, which no ONNX model uses")
        if stop > end:
            raise InvalidModelFile(f"truncated: the value at byte {body} ends at byte {stop}, its message at {end}")
        yield Record(number, wire, start, body, stop)
        start = stop


def rope_length(rope: Rope) -> int:
    """Return the bytes of the file that `rope` describes."""
    return sum(piece.length if isinstance(piece, Span) else len(piece) for piece in rope)


def join(data: Data, rope: Rope) -> bytes:
    """Return the file that `rope` describes, whose spans lie in `data`, in memory."""
    with memoryview(data) as view:
        return b"".join(view[p.offset : p.offset + p.length] if isinstance(p, Span) else p for p in rope)


@dataclass(slots=True, eq=False)
class MessageType:
    """A message type: its fields that are messages, and those of them below which a tensor can lie."""

    fields: dict[int, FieldType] = field(default_factory=dict)
    tensor_fields: dict[int, FieldType] = field(default_factory=dict)
    payload_fields: dict[int, str] = field(default_factory=dict)
    """Empty but for TensorProto."""

    def reaches_tensor(self, seen: set[int]) -> bool:
        """Whether it is TensorProto, or holds it at some depth; `seen` are ids of types already asked."""
        if id(self) in seen:
            return False
        seen.add(id(self))
        return bool(self.payload_fields) or any(f.message.reaches_tensor(seen) for f in self.fields.values())


class FieldType(NamedTuple):
    """A field that is a message."""

    name: str
    repeated: bool
    message: MessageType


def _describe(descriptor: Any, known: dict[str, MessageType]) -> MessageType:
    """Return the message type of a protobuf descriptor; types contain each other, so `known` ends the recursion."""
    if descriptor.full_name in known:
        return known[descriptor.full_name]
    message = known[descriptor.full_name] = MessageType()
    for entry in descriptor.fields:
        if entry.message_type is not None:
            message.fields[entry.number] = FieldType(
                entry.name, _is_repeated(entry), _describe(entry.message_type, known)
            )
        elif descriptor.name == "TensorProto" and entry.name in _PAYLOAD_FIELDS:
            message.payload_fields[entry.number] = entry.name
    return message


def _is_repeated(entry: Any) -> bool:
    """`is_repeated` came with protobuf 6.30, and `label` leaves later."""
    return bool(entry.is_repeated if hasattr(entry, "is_repeated") else entry.label == entry.LABEL_REPEATED)


def _describe_model() -> MessageType:
    known: dict[str, MessageType] = {}
    model = _describe(onnx.ModelProto.DESCRIPTOR, known)
    for message in known.values():
        message.tensor_fields = {n: f for n, f in sorted(message.fields.items()) if f.message.reaches_tensor(set())}
    return model


MODEL = _describe_model()
"""The type of a whole model."""

_Change = Callable[[Record, FieldType, int], Rope | None]
"""What to put in the place of a record that holds a submessage, given its occurrence index; None leaves it."""


def _changed(view: memoryview, start: int, end: int, fields: dict[int, FieldType], change: _Change) -> Rope | None:
    """Return the message in `view[start:end]` after asking `change` about each of `fields`; None if all stays."""
    rope: Rope = []
    counts = dict.fromkeys(fields, 0)
    done = start
    for record in records(view, start, end):
        if record.wire != _LENGTH or record.number not in fields:
            continue
        new = change(record, fields[record.number], counts[record.number])
        counts[record.number] += 1
        if new is not None:
            _extend(rope, [Span(done, record.start - done), *new])
            done = record.end
    if done == start:
        return None
    _extend(rope, [Span(done, end - done)])
    return rope


def _extend(rope: Rope, pieces: Rope) -> None:
    """Append `pieces`, leaving out the empty ones and joining spans that touch."""
    for piece in pieces:
        last = rope[-1] if rope else None
        if isinstance(piece, Span) and isinstance(last, Span) and last.offset + last.length == piece.offset:
            rope[-1] = Span(last.offset, last.length + piece.length)
        elif piece.length if isinstance(piece, Span) else piece:
            rope.append(piece)


def _enclose(view: memoryview, record: Record, inner: Rope) -> Rope:
    """Return `record` with `inner` as its value: the same tag, a new length."""
    tag_end = read_varint(view, record.start, record.end)[1]
    return [bytes(view[record.start : tag_end]) + encode_varint(rope_length(inner)), *inner]


class _Cutter:
    """Cuts payloads of at least `threshold` bytes out of a model."""

    def __init__(self, view: memoryview, threshold: int) -> None:
        self.payloads: list[Payload] = []
        self.regular = True
        self._view = view
        self._threshold = threshold

    def cut(self, start: int, end: int, message: MessageType, path: Path) -> Rope | None:
        """Return the message in `view[start:end]` without payloads; None if it has none."""
        if len(path) > MAX_DEPTH:
            raise InvalidModelFile(f"messages nest deeper than {MAX_DEPTH} at byte {start}")
        if message.payload_fields:
            return self._cut_payload(start, end, message, path)

        def change(record: Record, field: FieldType, index: int) -> Rope | None:
            if index > 0 and not field.repeated:
                self.regular = False
            if record.end - record.body < self._threshold:
                return None  # too small for a payload, so most nodes need no walk
            inner = self.cut(record.body, record.end, field.message, (*path, (field.name, index)))
            return None if inner is None else _enclose(self._view, record, inner)

        return _changed(self._view, start, end, message.tensor_fields, change)

    def _cut_payload(self, start: int, end: int, tensor: MessageType, path: Path) -> Rope | None:
        """Cut the payload of a tensor if it lies in one record; protobuf itself puts several together."""
        found: Record | None = None
        for record in records(self._view, start, end):
            name = tensor.payload_fields.get(record.number)
            if name is not None and record.wire in _PAYLOAD_FIELDS[name]:
                if found is not None:
                    return None
                found = record
        if found is None or found.wire != _LENGTH or found.end - found.body < self._threshold:
            return None
        name = tensor.payload_fields[found.number]
        self.payloads.append(Payload(path, name, found.body, found.end - found.body))
        return [Span(start, found.start - start), Span(found.end, end - found.end)]


def scan(data: Data, threshold: int = 256) -> Scan:
    """Cut the payloads of at least `threshold` bytes out of a serialised ModelProto.

    A payload that is split over several records of its tensor, or unpacked, stays in the skeleton, where protobuf
    parses it. Raises `InvalidModelFile`, naming the byte, if `data` is not in the wire format.
    """
    with memoryview(data) as view:
        cutter = _Cutter(view, threshold)
        rope = cutter.cut(0, len(view), MODEL, ())
    whole: Rope = [Span(0, len(data))]
    return Scan(join(data, whole if rope is None else rope), tuple(cutter.payloads), cutter.regular)


_Edits = dict[tuple[str, int], "bytes | _Edits | None"]


def rewrite(data: Data, edits: Mapping[Path, bytes | None]) -> Rope:
    """Return the serialised ModelProto `data` with the messages at some paths replaced.

    `edits` holds for each path the new serialised message, or None to drop it. The lengths of the messages around an
    edit are computed again; every other byte is as it was. Raises `KeyError` for a path that does not exist,
    `ValueError` if one edit lies inside another, and `InvalidModelFile` if a singular message on the way is given
    twice: protobuf would merge the two.
    """
    if not edits:
        return [Span(0, len(data))]
    with memoryview(data) as view:
        return _edited(view, 0, len(view), MODEL, _as_tree(edits))


def _as_tree(edits: Mapping[Path, bytes | None]) -> _Edits:
    root: _Edits = {}
    for path, body in sorted(edits.items(), key=lambda item: len(item[0])):
        if not path:
            raise ValueError("the empty path names the whole model")
        branch = root
        for step in path[:-1]:
            below = branch.setdefault(step, {})
            if not isinstance(below, dict):
                raise ValueError(f"the edit at {path} lies inside another")
            branch = below
        branch[path[-1]] = body
    return root


def _edited(view: memoryview, start: int, end: int, message: MessageType, edits: _Edits) -> Rope:
    """Apply `edits`, whose keys are the steps below this message."""
    pending = dict(edits)

    def change(record: Record, field: FieldType, index: int) -> Rope | None:
        if index > 0 and not field.repeated and (field.name, 0) in edits:
            raise InvalidModelFile(
                f"a second `{field.name}` at byte {record.start}; save the model anew with onnx.save"
            )
        step = (field.name, index)
        if step not in pending:
            return None
        edit = pending.pop(step)
        if edit is None:
            return []
        inner: Rope = [edit] if isinstance(edit, bytes) else _edited(view, record.body, record.end, field.message, edit)
        return _enclose(view, record, inner)

    rope = _changed(view, start, end, message.fields, change)
    if pending or rope is None:
        raise KeyError(f"no such message: {sorted(pending)}")
    return rope
