"""A walk over the protobuf wire format of an ONNX model, driven by onnx's own descriptors.

`scan` separates a model into a small skeleton, which protobuf parses, and the places of its large payloads.
`rewrite` gives a file with single submessages replaced, as a *rope*: new bytes, and spans of the old file. Neither
copies a payload, so the size of the file does not matter. The format is described in protobuf's encoding guide; a
message is a row of records, a record is a tag (field number and wire type) and a value, and a submessage is a value
with its length in front.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection, Iterator, Mapping
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


class FileSpan(NamedTuple):
    """A run of bytes of another file, which is open."""

    descriptor: int
    offset: int
    length: int


Rope = list[bytes | Span | FileSpan]
"""A file in pieces: new bytes, spans of the source, and spans of other files."""


@dataclass(frozen=True, slots=True)
class Records:
    """Whole records, tags included, for the place of one: of any fields of the message around it, any number."""

    rope: Rope


Edit = bytes | Records | None
"""What a message becomes: another serialised message, some records, or nothing."""


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
    return sum(map(_piece_length, rope))


def _piece_length(piece: bytes | Span | FileSpan) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.length


def join(data: Data, rope: Rope) -> bytes:
    """Return the file that `rope`, without pieces of other files, describes; its spans lie in `data`."""
    if any(isinstance(piece, FileSpan) for piece in rope):
        raise ValueError("a rope with pieces of other files is written to a file")
    with memoryview(data) as view:
        return b"".join(view[p.offset : p.offset + p.length] if isinstance(p, Span) else bytes(p) for p in rope)


def field_record(number: int, value: Rope) -> Rope:
    """Return the record of field `number` that holds `value`, a message, a string or bytes."""
    return [encode_varint(number << 3 | _LENGTH) + encode_varint(rope_length(value)), *value]


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
        elif _piece_length(piece):
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


@dataclass(slots=True)
class _Step:
    """What happens at one step of the paths: records in front, an edit of the message itself, or edits below it."""

    before: Rope = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    below: dict[tuple[str, int], _Step] = field(default_factory=dict)


def rewrite(data: Data, edits: Mapping[Path, Edit], insertions: Mapping[Path, Rope] | None = None) -> Rope:
    """Return the serialised ModelProto `data` with the messages at some paths replaced.

    `edits` holds for each path the new serialised message, or records for its place, or None to drop it; `insertions`
    the records to put in front of it. The lengths of the messages around an edit are computed again; every other byte
    is as it was. Raises `KeyError` for a path that does not exist, `ValueError` if one edit lies inside another, and
    `InvalidModelFile` if a singular message on the way is given twice: protobuf would merge the two.
    """
    if not edits and not insertions:
        return [Span(0, len(data))]
    with memoryview(data) as view:
        return _edited(view, 0, len(view), MODEL, _as_tree(edits, insertions or {}))


def _as_tree(edits: Mapping[Path, Edit], insertions: Mapping[Path, Rope]) -> dict[tuple[str, int], _Step]:
    root = _Step()
    for path, edit in edits.items():
        _step_at(root, path).edits.append(edit)
    for path, rope in insertions.items():
        _step_at(root, path).before.extend(rope)
    return root.below


def _step_at(root: _Step, path: Path) -> _Step:
    if not path:
        raise ValueError("the empty path names the whole model")
    step = root
    for part in path:
        step = step.below.setdefault(part, _Step())
    return step


def _edited(view: memoryview, start: int, end: int, message: MessageType, steps: dict[tuple[str, int], _Step]) -> Rope:
    """Apply `steps`, whose keys are the steps below this message."""
    pending = dict(steps)

    def change(record: Record, field: FieldType, index: int) -> Rope | None:
        if index > 0 and not field.repeated and (field.name, 0) in steps:
            raise InvalidModelFile(
                f"a second `{field.name}` at byte {record.start}; save the model anew with onnx.save"
            )
        step = pending.pop((field.name, index), None)
        return None if step is None else step.before + _stepped(view, record, field, step)

    rope = _changed(view, start, end, message.fields, change)
    if pending or rope is None:
        raise KeyError(f"no such message: {sorted(pending)}")
    return rope


def _stepped(view: memoryview, record: Record, field: FieldType, step: _Step) -> Rope:
    """What stands in the place of `record`."""
    if step.edits and step.below:
        raise ValueError(f"the edit at {sorted(step.below)} lies inside another")
    if step.below:
        return _enclose(view, record, _edited(view, record.body, record.end, field.message, step.below))
    if not step.edits:
        return [Span(record.start, record.end - record.start)]
    (edit,) = step.edits
    if edit is None:
        return []
    return edit.rope if isinstance(edit, Records) else _enclose(view, record, [edit])


def locate(data: Data, paths: Collection[Path]) -> dict[Path, Span]:
    """Return where the records of the messages at `paths` lie, tags included. Raises as `rewrite`."""
    found: dict[Path, Span] = {}

    def walk(start: int, end: int, message: MessageType, here: Path, steps: dict[tuple[str, int], _Step]) -> None:
        def note(record: Record, field: FieldType, index: int) -> None:
            step = steps.get((field.name, index))
            if step is not None:
                path = (*here, (field.name, index))
                found[path] = Span(record.start, record.end - record.start)
                walk(record.body, record.end, field.message, path, step.below)

        if steps:
            _changed(view, start, end, message.fields, note)

    with memoryview(data) as view:
        walk(0, len(view), MODEL, (), _as_tree(dict.fromkeys(paths), {}))
    return {path: found[path] for path in paths}
