"""What tests of removal share: channels zeroed in a model in memory, removed in its file, and both models run."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools.compaction.constants.folds import Fold
from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.compaction.removing.removal import write_without
from onnx_tools.model_file import ModelFile, message_at

onnxruntime = pytest.importorskip("onnxruntime")

Feeds = dict[str, np.ndarray]


def half(channels: ChannelMap) -> np.ndarray:
    """Every second free group of each family."""
    groups = channels.groups
    families = groups.families[groups.free]
    own = [groups.free[families == family] for family in np.unique(families)]
    return np.sort(np.concatenate([each[::2][: len(each) // 2] for each in own]))


def zero(model: onnx.ModelProto, channels: ChannelMap, gone: np.ndarray) -> None:
    """Zero what reads these groups: nothing of them reaches any other channel then."""
    remaining = channels.without(gone)
    for member in channels.members:
        if member.role is Role.READS:
            tensor = message_at(model, member.tensor.path)
            values = numpy_helper.to_array(tensor).copy()
            for axis, mask in remaining.masks((member.factor,)).items():
                np.moveaxis(values, axis, 0)[~mask] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def save(model: onnx.ModelProto, path: pathlib.Path, *, external: bool = False) -> ModelFile:
    """A model as a file, with `external` its larger tensors in `PATH.weights`."""
    kept = onnx.ModelProto.FromString(model.SerializeToString())
    options: dict[str, Any] = {"location": f"{path.name}.weights", "size_threshold": 64} if external else {}
    onnx.save(kept, path, save_as_external_data=external, **options)
    return ModelFile.open(path)


def removed(
    file: ModelFile,
    gone: np.ndarray | None = None,
    folds: Sequence[Fold] = (),
    channels: ChannelMap | None = None,
    name: str = "out.onnx",
) -> pathlib.Path:
    """The model in `file` without half of its free groups, or without `gone`. `channels`: those that `folds` are of."""
    channels = channels or map_channels(file.skeleton)
    output = file.file.with_name(name)
    return write_without(file, channels, half(channels) if gone is None else gone, folds, output).model


def run(path: pathlib.Path, feeds: Feeds) -> list[np.ndarray]:
    """The outputs of a model in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found: list[np.ndarray] = onnxruntime.InferenceSession(path, options).run(None, feeds)
    return found


def check(path: pathlib.Path) -> bool:
    """Whether onnx's checker and strict shape inference pass."""
    with contextlib.suppress(onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        onnx.checker.check_model(path, full_check=True)
        return True
    return False


def compare(before: pathlib.Path, after: pathlib.Path, feeds: Feeds, tolerance: float = 1e-5) -> None:
    """See that both models give the same, up to `tolerance` of the largest output, and that the second is valid."""
    assert check(after) or not check(before)
    for expected, found in zip(run(before, feeds), run(after, feeds), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1.0, float(np.abs(expected).max())))


def halved(model: onnx.ModelProto, folder: pathlib.Path, feeds: Feeds, *, external: bool = False) -> onnx.ModelProto:
    """Zero half of the channels, remove them, see that the two agree, and return the second."""
    channels = map_channels(model)
    gone = half(channels)
    assert len(gone)
    zero(model, channels, gone)
    file = save(model, folder / "zeroed.onnx", external=external)
    output = removed(file, gone)
    compare(file.path, output, feeds)
    return onnx.load(output)


def with_weights(text: str, *, seed: int = 0) -> onnx.ModelProto:
    """A model as text, in which each value that nobody makes becomes a stored tensor of random values."""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    inside = [attribute.g for node in model.graph.node for attribute in node.attribute if attribute.HasField("g")]
    for graph in (model.graph, *inside):
        made = {name for node in graph.node for name in node.output}
        for info in [info for info in graph.value_info if info.name not in made]:
            kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            values = rng.standard_normal([dim.dim_value for dim in info.type.tensor_type.shape.dim])
            graph.initializer.append(numpy_helper.from_array(values.astype(kind), info.name))
            graph.value_info.remove(info)
    return model


def feeds_of(model: onnx.ModelProto, *, seed: int = 1) -> Feeds:
    """Random inputs, names of sizes taken as 3."""
    stored = {tensor.name for tensor in model.graph.initializer}
    rng = np.random.default_rng(seed)
    found = {}
    for info in (info for info in model.graph.input if info.name not in stored):
        kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        values = rng.standard_normal([dim.dim_value or 3 for dim in info.type.tensor_type.shape.dim])
        found[info.name] = np.asarray(values > 0 if kind == np.bool_ else values).astype(kind)
    return found
