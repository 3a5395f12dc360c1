"""Slow truth about channels: what a map of channels says of a model, held against onnxruntime.

A channel is dead when all that reads it is zero there, and one of the two values that meet in it is. Then it may hold
anything. So the oracle fills all that makes dead channels with random numbers, makes every value an output of the
model, and wants the same numbers wherever no dead channel is said to lie.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from onnx_tools.compaction.mapping.channel_map import ChannelMap, Member
from onnx_tools.compaction.mapping.factors import Traced, factor_on
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.trace import Meeting
from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.graph_parts import Path, StoredTensor

Feeds = dict[str, np.ndarray]

_ZERO_POINTS = {"DequantizeLinear": (2, 0), "QLinearConv": (5, 3), "QLinearMatMul": (5, 3), "ConvInteger": (3, 1)}
_ZERO_POINTS |= {"MatMulInteger": (3, 1), "DynamicQuantizeMatMul": (3, 1), "QGemm": (5, 3)}
"""Which input is the zero point of which input."""


def check_channels(model: ModelProto, *, fewest: int = 1, seed: int = 0, feeds: Feeds | None = None) -> ChannelMap:
    """Each free group alone, and a random set of them, can be dead without being seen. There are `fewest` or more."""
    channels = map_channels(model)
    free = channels.groups.free
    assert len(free) >= fewest, f"{len(free)} free groups; held: {channels.groups.reasons}"
    rng = np.random.default_rng(seed)
    feeds = random_feeds(model, rng) if feeds is None else feeds
    sets = [free[[at]] for at in range(len(free))]
    for gone in [*sets, some_of(channels, free, rng)] if len(free) else []:
        check_dead(model, channels, gone, feeds, rng)
    return channels


def check_dead(
    model: ModelProto, channels: ChannelMap, gone: np.ndarray, feeds: Feeds, rng: np.random.Generator
) -> None:
    """What lies outside the groups `gone` is the same whatever is in them, once nothing reads them."""
    before = every_value(masked(model, channels, gone), feeds)
    after = every_value(masked(scrambled(model, channels, gone, rng), channels, gone), feeds)
    values = channels.index.scopes[0].values
    for name, array in before.items():
        traced = channels.of(values[name]) if name in values else ()
        outside = ~_entries(channels, traced, gone, array.shape)
        np.testing.assert_allclose(
            after[name][outside],
            array[outside],
            rtol=1e-5,
            atol=1e-6,
            err_msg=f"'{name}' without {_told(channels, gone)}",
        )


def some_of(channels: ChannelMap, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random set of groups that leaves every axis of every value something."""
    gone = groups[rng.random(len(groups)) < rng.random()]
    for traced in channels.traced.values():
        for factor in traced:
            found = channels.groups.of[factor.ids]
            if np.isin(found, gone).all():
                gone = gone[gone != found.flat[0]]
    return gone


def masked(model: ModelProto, channels: ChannelMap, gone: np.ndarray) -> ModelProto:
    """A copy in which the groups `gone` are dead: readers are zero, and so is the first of two that meet."""
    copy = _copy(model)
    for member in channels.members:
        if member.role is Role.READS:
            array = stored(copy, member.tensor)
            _store(copy, member.tensor, np.where(_dead(channels, member, gone), _zero(copy, member.tensor), array))
    for meeting in sorted(channels.meetings, key=lambda each: each.node.path, reverse=True):
        _multiply(copy, channels, meeting, gone)
    return copy


def scrambled(model: ModelProto, channels: ChannelMap, gone: np.ndarray, rng: np.random.Generator) -> ModelProto:
    """A copy in which all that makes and describes the groups `gone` is random."""
    copy = _copy(model)
    for member in channels.members:
        if member.role is not Role.READS:
            array = stored(copy, member.tensor)
            mask = _dead(channels, member, gone)
            _store(copy, member.tensor, np.where(mask, _random(array, member.role, rng), array).astype(array.dtype))
    return copy


def _random(array: np.ndarray, role: Role, rng: np.random.Generator) -> np.ndarray:
    if array.dtype.kind == "f" and role is not Role.DESCRIBES:
        return rng.standard_normal(array.shape)
    if role is Role.DESCRIBES:
        return array * rng.uniform(0.5, 2, array.shape) if array.dtype.kind == "f" else array
    return rng.integers(0, 8, array.shape)


def random_feeds(model: ModelProto, rng: np.random.Generator) -> Feeds:
    """Random data for all inputs; open sizes are 2."""
    stored_names = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for info in model.graph.input:
        kind = info.type.tensor_type
        shape = [dim.dim_value or 2 for dim in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        drawn = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        if info.name not in stored_names:
            feeds[info.name] = drawn.astype(dtype)
    return feeds


def outputs(model: ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    """What the model computes in onnxruntime, by the names of its outputs."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def every_value(model: ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    """What all nodes of the main graph compute."""
    copy = _copy(model)
    known = {output.name for output in model.graph.output}
    names = dict.fromkeys(name for node in model.graph.node for name in node.output if name and name not in known)
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return outputs(copy, feeds)


def stored(model: ModelProto, tensor: StoredTensor) -> np.ndarray:
    """The values of a stored tensor of the map, out of the model."""
    return numpy_helper.to_array(_at(model, tensor.path))


def _store(model: ModelProto, tensor: StoredTensor, array: np.ndarray) -> None:
    proto = _at(model, tensor.path)
    proto.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), proto.name))


def _at(model: ModelProto, path: Path) -> TensorProto:
    """The message at a path."""
    message = model
    for name, index in path:
        found = getattr(message, name)
        message = found[index] if hasattr(found, "add") else found
    return message


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _dead(channels: ChannelMap, member: Member, gone: np.ndarray) -> np.ndarray:
    return _entries(channels, (member.factor,), gone, member.tensor.shape)


def _entries(channels: ChannelMap, traced: Traced, gone: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which entries of a value of this shape lie in the groups `gone`."""
    found = np.zeros(shape, bool)
    for factor in traced:
        found |= np.isin(channels.groups.of[factor.over(range(len(shape)))], gone)
    return found


def _zero(model: ModelProto, tensor: StoredTensor) -> np.ndarray:
    """What means zero in a stored tensor, shaped for broadcasting against it."""
    for value in tensor.values:
        for node, index in value.readers:
            at, of = _ZERO_POINTS.get(node.op_type, (0, -1))
            point = node.inputs[at] if index == of and node.has_input(at) else None
            if point is not None and point.tensor is not None:
                zero = stored(model, point.tensor)
                axis = node.int_attribute("axis", 1) if node.op_type == "DequantizeLinear" else 0
                return zero if zero.ndim == 0 else np.expand_dims(zero, tuple(set(range(len(tensor.shape))) - {axis}))
    return np.zeros((), stored(model, tensor).dtype)


def _multiply(model: ModelProto, channels: ChannelMap, meeting: Meeting, gone: np.ndarray) -> None:
    """Make the dead channels of one of two values that meet zero, by a Mul in front of the node."""
    index, axis = meeting.ends[0]
    value = meeting.node.inputs[index]
    factor = factor_on(channels.of(value), axis)
    mask = channels.without(gone).masks((factor,)).get(axis) if factor is not None else None
    rank = len(channels.shapes.of(value) or ())
    if mask is None:
        return
    *above, (_, at) = meeting.node.path
    graph = _at(model, tuple(above))
    node = graph.node[at]
    name = f"{node.input[index]}_masked_{at}_{index}"
    dtype = channels.shapes.float_type(value) or np.float32
    shaped = np.expand_dims(mask.astype(dtype), [each for each in range(rank) if each != axis])
    graph.initializer.append(numpy_helper.from_array(shaped, f"{name}_by"))
    before = NodeProto(op_type="Mul", input=[node.input[index], f"{name}_by"], output=[name])
    node.input[index] = name
    graph.node.insert(at, before)


def _told(channels: ChannelMap, gone: np.ndarray) -> str:
    origins = (channels.groups.origins.get(int(channels.groups.families[group]), ("?",)) for group in gone)
    return "; ".join(f"{group} of {', '.join(names)}" for group, names in zip(gone.tolist(), origins, strict=True))
