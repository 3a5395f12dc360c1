"""Channels leave a model: what is stored of them is cut, and all that counts them says what is left."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import FunctionProto, TensorProto, ValueInfoProto

from onnx_tools.compaction.constants.folds import Fold
from onnx_tools.compaction.mapping.channel_map import ChannelMap, Remaining
from onnx_tools.compaction.progress import Progress, told
from onnx_tools.compaction.removing.adjusting import adjust
from onnx_tools.compaction.removing.dead_code import drop_unread
from onnx_tools.compaction.removing.elements import cut, read
from onnx_tools.compaction.removing.folding import fold
from onnx_tools.compaction.removing.graph_edits import GraphEdits
from onnx_tools.compaction.removing.tensor_writing import TensorWriter
from onnx_tools.graph_parts import Path, Scope, Value, element_count
from onnx_tools.model_copy import CommittedFiles, ModelCopy
from onnx_tools.model_file import ModelFile, message_at, opset_of
from onnx_tools.records import initializers, nodes
from onnx_tools.values import ValueReader
from onnx_tools.verification.metadata import METADATA_KEY
from onnx_tools.wire import Rope, field_record


def write_without(
    model: ModelFile,
    channels: ChannelMap,
    gone: NDArray[np.int64],
    folds: Sequence[Fold],
    output: pathlib.Path | None,
    *,
    force: bool = False,
    delete_old_data: bool = False,
    metadata: str | None = None,
    check: Callable[[pathlib.Path], None] | None = None,
    progress: Progress | None = None,
) -> CommittedFiles:
    """Write a model without some of its channels. What has nothing to do with them stays byte for byte.

    Memory is a few times the largest tensor that is cut. Equal arguments give equal files.

    Args:
        model: the model that `channels` was made of.
        channels: its channels.
        gone: numbers of the groups that leave; none that is held.
        folds: constants that they leave behind.
        output: the new file; None to replace the model itself.
        force: overwrite an existing output.
        delete_old_data: in place, delete the data files that new ones were written for.
        metadata: the text of the model's metadata entry `oxiprune`; None leaves what is there.
        check: called with the finished file before it gets its name; what it raises comes out, and nothing is written.
        progress: told before each stored tensor, in elements.

    Raises:
        ValueError: a group that must stay, or a fold that can't be carried out.
        PruningError: bad input, or an output that can't be written; nothing was written.
    """
    held = channels.groups.held[gone]
    if held.any():
        group = int(gone[held][0])
        raise ValueError(f"group {group} must stay: {channels.groups.reasons.get(group, '')}")
    remaining = channels.without(gone)
    opset = opset_of(model.skeleton)
    with ValueReader(model) as reader, ModelCopy(model, output, force=force, delete_old_data=delete_old_data) as copy:
        edits = GraphEdits(channels.index, model.skeleton)
        adjust(edits, remaining, reader, opset)
        fold(edits, remaining, reader, opset, folds)
        drop_unread(edits, channels.index)
        _write_tensors(edits, remaining, reader, TensorWriter(copy, model), progress)
        _write_nodes(edits, copy, model.skeleton)
        _write_sizes(edits, remaining, copy, model.skeleton)
        if metadata is not None:
            copy.set_metadata(METADATA_KEY, metadata)
        return copy.commit(check)


def _write_tensors(
    edits: GraphEdits, remaining: Remaining, reader: ValueReader, writer: TensorWriter, progress: Progress | None
) -> None:
    kept = (tensor for tensor in remaining.map.index.tensors if not _is_dropped(edits, tensor.path))
    for tensor in told(((tensor.name, element_count(tensor.shape), tensor) for tensor in kept), progress):
        if tensor.path in edits.values:
            writer.write(tensor, edits.values[tensor.path][1])
        elif masks := remaining.masks(remaining.map.of(tensor.value)):
            writer.write(tensor, cut(read(reader, tensor), masks))
    for path in sorted(edits.dropped):
        writer.drop(path)
    writer.finish()


def _is_dropped(edits: GraphEdits, path: Path) -> bool:
    return any(path[:end] in edits.dropped for end in range(2, len(path) + 1)) if edits.dropped else False


def _write_nodes(edits: GraphEdits, copy: ModelCopy, skeleton: onnx.ModelProto) -> None:
    for path, node in edits.nodes.items():
        if path not in edits.dropped:
            _replace(copy, path, nodes((node, *edits.behind.get(path, ()))))
    if edits.added:
        field = "output" if skeleton.graph.output else "node"
        copy.insert_records((("graph", 0), (field, 0)), lambda names: _added(edits.added, skeleton.ir_version))


def _added(tensors: list[TensorProto], ir_version: int) -> Rope:
    """New initializers, which had to be graph inputs too before IR version 4."""
    rope = initializers([tensor.SerializeToString()] for tensor in tensors)
    for tensor in tensors if ir_version < 4 else ():
        info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        rope += _info_record("input", info)
    return rope


def _info_record(field: str, info: ValueInfoProto) -> Rope:
    return field_record(onnx.GraphProto.DESCRIPTOR.fields_by_name[field].number, [info.SerializeToString()])


def _replace(copy: ModelCopy, path: Path, rope: Rope) -> None:
    copy.replace_record(path, lambda names: rope)


def _write_sizes(edits: GraphEdits, remaining: Remaining, copy: ModelCopy, skeleton: onnx.ModelProto) -> None:
    """Sizes that the graphs give for their values."""
    for scope in remaining.map.index.scopes:
        for path, info, value in _infos(scope, skeleton):
            if path in edits.dropped:
                continue
            if _is_gone(edits, value):
                _replace(copy, path, [])
            elif (new := _resized(info, _lost(edits, remaining, value))) is not None:
                _replace(copy, path, _info_record(path[-1][0], new))


def _infos(scope: Scope, skeleton: onnx.ModelProto) -> Iterator[tuple[Path, ValueInfoProto, Value]]:
    if isinstance(scope.graph, FunctionProto):
        return
    graph = message_at(skeleton, scope.path)
    for field in ("input", "output", "value_info"):
        for i, info in enumerate(getattr(graph, field)):
            value = scope.values.get(info.name)
            if value is not None:
                yield (*scope.path, (field, i)), info, value


def _is_gone(edits: GraphEdits, value: Value) -> bool:
    holder: Any = value.producer or value.tensor
    return holder is not None and holder.path in edits.dropped


def _lost(edits: GraphEdits, remaining: Remaining, value: Value) -> Mapping[int, int]:
    """The new sizes of axes that have one."""
    if value.tensor is not None and value.tensor.path in edits.values:
        return dict(enumerate(edits.values[value.tensor.path][1].shape))
    return remaining.sizes(value)


def _resized(info: ValueInfoProto, sizes: Mapping[int, int]) -> ValueInfoProto | None:
    """A copy with other sizes; None if nothing changes. Names of sizes stay."""
    copy = ValueInfoProto()
    copy.CopyFrom(info)
    dims = copy.type.tensor_type.shape.dim if info.type.HasField("tensor_type") else []
    changed = False
    for axis, dim in enumerate(dims):
        if dim.HasField("dim_value") and axis in sizes and dim.dim_value != sizes[axis]:
            dim.dim_value, changed = sizes[axis], True
    return copy if changed else None
