"""Comparing what is left of two models when the values of their tensors are taken out: the frame.

Frames are compared as bytes. Only where protobuf's own rules make bytes useless (a singular message given twice, so
that it was serialised anew) are they compared as protobuf parses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from onnx_tools.errors import InvalidModelFile
from onnx_tools.file_blocks import contents
from onnx_tools.model_file import ModelFile
from onnx_tools.verification.byte_spans import Violation
from onnx_tools.wire import Path, join, rewrite, scan

Edits = Mapping[Path, bytes | None]
"""Messages of a model to compare in another form, or (None) not at all."""

_WHERE = "the model outside its tensors' values"


def compare_frames(before: ModelFile, after: ModelFile, edits_before: Edits, edits_after: Edits) -> list[Violation]:
    """Return how the frames of two models differ, after each had its edits; at most one violation."""
    if before.regular and after.regular:
        try:
            old, new = _frame(before, edits_before), _frame(after, edits_after)
        except InvalidModelFile:  # a small message given twice, which `regular` does not see
            pass
        else:
            return [] if old == new else [_explained(before, after, edits_before, edits_after, _first_byte(old, new))]
    if _parsed(before, edits_before).SerializeToString(deterministic=True) == _parsed(
        after, edits_after
    ).SerializeToString(deterministic=True):
        return []
    return [_explained(before, after, edits_before, edits_after, "differs")]


def _frame(model: ModelFile, edits: Edits) -> bytes:
    """The skeleton as it lies in the file; `ModelFile` keeps only what protobuf made of it."""
    with model.path.open("rb") as file, contents(file.fileno(), model.stamp[0]) as data:
        skeleton = scan(data).skeleton
    return join(skeleton, rewrite(skeleton, edits)) if edits else skeleton


def _parsed(model: ModelFile, edits: Edits) -> onnx.ModelProto:
    frame = onnx.ModelProto()
    frame.CopyFrom(model.skeleton)
    for path, body in sorted(edits.items(), reverse=True):  # from the end, since deleting moves those behind
        parent: Any = frame
        for name, index in path[:-1]:
            child = getattr(parent, name)
            parent = child[index] if hasattr(child, "add") else child
        name, index = path[-1]
        if body is None:
            del getattr(parent, name)[index]
        else:
            child = getattr(parent, name)
            (child[index] if hasattr(child, "add") else child).ParseFromString(body)
    return frame


def _first_byte(old: bytes, new: bytes) -> str:
    first = next(
        (i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), min(len(old), len(new))
    )
    return f"differs from byte {first} of the structure on"


def _explained(before: ModelFile, after: ModelFile, edits_before: Edits, edits_after: Edits, what: str) -> Violation:
    """Name the field where that is possible; differences in order or encoding have none."""
    place = first_difference(_parsed(before, edits_before), _parsed(after, edits_after))
    return Violation(_WHERE, f"{place} differs" if place else what)


def first_difference(before: Any, after: Any, where: str = "") -> str:
    """Return the first field in which two messages of one type differ, like "graph.node[3].name"; "" if none."""
    for field in before.DESCRIPTOR.fields:
        old, new = getattr(before, field.name), getattr(after, field.name)
        name = f"{where}.{field.name}" if where else field.name
        if field.message_type is None:
            if not hasattr(old, "append") and before.HasField(field.name) != after.HasField(field.name):
                return name
            if old != new:
                return name
        elif hasattr(old, "add"):
            pairs = [(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(old, new, strict=False))]
            place = next((p for p in (_below(a, b, n) for n, a, b in pairs) if p), "")
            if place or len(old) != len(new):
                return place or f"the number of {name} ({len(old)} before, {len(new)} after)"
        elif place := (name if before.HasField(field.name) != after.HasField(field.name) else _below(old, new, name)):
            return place
    return ""


def _below(old: Any, new: Any, name: str) -> str:
    if old.SerializeToString(deterministic=True) == new.SerializeToString(deterministic=True):
        return ""
    return first_difference(old, new, name) or name
