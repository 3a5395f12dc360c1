"""How an encoded weight is recognised: what the last node (or the sparse tensor) says of itself in its `doc_string`.

`oxiprune encoded weight: {...}`, JSON with

- `encoding`: the name of a layout of the packed encoding, or "sparse"; `version`: 1;
- `data_type`, `dims`: of the dense weight; `fill`: the bits of the value that is not stored; `crc32`: of the dense
  values as they lie in a file;
- `before`, `after`: base64 of the record that held the weight, tags and lengths included, up to its values and from
  there on, so that decoding gives back the same bytes whatever wrote the model;
- `region`: for a weight that lies in external data, the bytes that what is stored takes there, padding included.

Names are not trusted: the nodes and initializers are found from the marked node backwards, and what they give must
have the checksum.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

from onnx_tools.errors import InvalidModelFile
from onnx_tools.graph_parts import ENCODED
from onnx_tools.wire import read_varint

SPARSE = "sparse"
"""The encoding of a weight that is a sparse tensor."""

_VERSION = 1


@dataclass(frozen=True)
class Marker:
    """What is said of one weight; see the module."""

    encoding: str
    data_type: int
    dims: tuple[int, ...]
    fill: int
    crc32: int
    before: bytes
    after: bytes
    region: int | None = None

    def text(self) -> str:
        """As it stands in the file."""
        parts: dict[str, object] = {
            "encoding": self.encoding,
            "version": _VERSION,
            "data_type": self.data_type,
            "dims": self.dims,
        }
        parts |= {
            "fill": self.fill,
            "crc32": self.crc32,
            "before": _as_text(self.before),
            "after": _as_text(self.after),
        }
        if self.region is not None:
            parts["region"] = self.region
        return ENCODED + json.dumps(parts, separators=(",", ":"))

    def has_room_for(self, size: int) -> bool:
        """Whether the record that held the weight is as long as it must be for values of `size` bytes."""
        if self.region is not None:
            return True
        try:
            view = memoryview(self.before)
            length, body = read_varint(view, read_varint(view, 0, len(view))[1], len(view))
        except InvalidModelFile:
            return False
        return body + length == len(self.before) + size + len(self.after)


def read_marker(text: str | bytes) -> Marker | None:
    """Return what a `doc_string` says; None if it is no marker.

    Raises `InvalidModelFile` for a marker that is damaged, or of a later version.
    """
    if not isinstance(text, str) or not text.startswith(ENCODED):
        return None
    try:
        parts = json.loads(text.removeprefix(ENCODED))
        if parts["version"] != _VERSION:
            raise InvalidModelFile(f"a weight is encoded in version {parts['version']!r:.20}; update oxiprune-gpu")
        region = None if parts.get("region") is None else _number(parts["region"])
        before, after = _as_bytes(parts["before"]), _as_bytes(parts["after"])
        data_type, fill, crc32 = (_number(parts[key]) for key in ("data_type", "fill", "crc32"))
        dims = tuple(map(_number, parts["dims"]))
        return Marker(str(parts["encoding"]), data_type, dims, fill, crc32, before, after, region)
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise InvalidModelFile(
            "the marker of an encoded weight is damaged; decode an unchanged copy of the file"
        ) from None


def _as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _as_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError(value)
    return value
