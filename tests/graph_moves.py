"""Moves by which random networks grow, beside those that make layers."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.graph_layers import bias, layer, move
from tests.random_net import Net

CUSTOM = "custom"
"""Domain of an operator that nobody knows, `Mix`."""

_ANY = (1, 2, 3, 4, 5)


# What works channel by channel, or over channels.


@move(2, 3, 4, often=2)
def batch_norm(net: Net, x: str) -> str:
    size = net.shape(x)[1]
    numbers = [net.numbers(size) for _ in range(3)]
    return net.node("BatchNormalization", x, *numbers, net.positive(size))


@move(3, 4)
def instance_norm(net: Net, x: str) -> str:
    return net.node("InstanceNormalization", x, net.numbers(net.shape(x)[1]), net.numbers(net.shape(x)[1]))


@move(2, 3, 4)
def layer_norm(net: Net, x: str) -> str:
    axis = net.pick(-1, net.rank(x) - 1, 1)
    size = net.shape(x)[axis:]
    return net.node(
        "LayerNormalization", x, net.numbers(*size), *([net.numbers(*size)] if net.pick(1, 0) else []), axis=axis
    )


@move(3, 4)
def group_norm(net: Net, x: str) -> str | None:
    channels = net.shape(x)[1]
    groups = net.pick(*(each for each in (1, 2, 3, channels) if channels % each == 0))
    size = channels if net.opset >= 21 else groups
    if net.opset < 18:
        return None
    return net.node("GroupNormalization", x, net.numbers(size), net.numbers(size), num_groups=groups)


@move(*_ANY, often=3)
def activation(net: Net, x: str) -> str:
    op = net.pick(
        "Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "Elu", "Abs", "Neg", "Softplus", "Identity", "Erf"
    )
    return net.node(op, x)


@move(*_ANY)
def clip(net: Net, x: str) -> str:
    return net.node("Clip", x, *(net.stored(np.array(bound, net.dtype)) for bound in (-0.5, 0.7)))


@move(*_ANY)
def gelu_by_hand(net: Net, x: str) -> str:
    one = net.node("Add", net.node("Erf", net.node("Mul", x, net.numbers())), net.numbers(*net.pick((), (1,))))
    return net.node("Mul", x, one)


@move(3, 4)
def prelu(net: Net, x: str) -> str:
    channels, *space = net.shape(x)[1:]
    return net.node("PRelu", x, net.numbers(*net.pick((channels, *[1] * len(space)), (1, *[1] * len(space)))))


@move(2, 3, 4, often=2)
def with_stored(net: Net, x: str) -> str:
    """Add, Mul ... of a stored operand: of any shape that is broadcast, on either side."""
    shape = [net.pick(size, 1) for size in net.shape(x)]
    shape = shape[net.pick(0, 1, len(shape) - 1, len(shape)) :]
    op = net.pick("Add", "Mul", "Sub", "Div", "Max", "Min")
    operand = net.numbers(*shape)
    return net.node(op, *([x, operand] if op == "Div" or net.pick(True, False) else [operand, x]))


@move(*_ANY, often=2)
def residual(net: Net, x: str) -> str | None:
    """Two computed values together, broadcast if need be."""
    others = [value for value in net.values if value != x and _fits(net.shape(value), net.shape(x))]
    if not others:
        return None
    other = net.pick(*others[::-1])
    return net.node(net.pick("Add", "Mul", "Sub", "Max", "Mean"), *net.pick((x, other), (other, x)))


def _fits(some: tuple[int, ...], others: tuple[int, ...]) -> bool:
    return all(1 in pair or pair[0] == pair[1] for pair in zip(some[::-1], others[::-1], strict=False))


@move(2, 3, 4, often=2)
def branches(net: Net, x: str) -> str | None:
    """Two layers side by side, added or concatenated; the same weight in both, perhaps."""
    first, second = layer(net, x), layer(net, net.node("Relu", x))
    joins = ["Add", "Mul"] if net.shape(first) == net.shape(second) else []
    if (op := net.pick(*joins, "Concat")) != "Concat":
        return net.node(op, first, second)
    axes = [axis for axis in range(net.rank(x)) if _beside(net.shape(first), net.shape(second), axis)]
    return net.node("Concat", first, second, axis=net.pick(*axes)) if axes else None


def _beside(some: tuple[int, ...], others: tuple[int, ...], axis: int) -> bool:
    return all(at == axis or a == b for at, (a, b) in enumerate(zip(some, others, strict=True)))


@move(2, 3)
def tied(net: Net, x: str) -> str:
    """One weight in two layers, there and back."""
    w = net.weight(net.shape(x)[-1], net.pick(3, 4), axis=1)
    h = net.node("Tanh", net.node("MatMul", x, w))
    if net.pick(True, False):
        return net.node("MatMul", h, net.node("Transpose", w, perm=[1, 0]))
    return net.node("Add", h, net.node("MatMul", net.node("Relu", x), w))


@move(4)
def squeeze_excite(net: Net, x: str) -> str:
    channels = net.shape(x)[1]
    y = net.node("GlobalAveragePool", x)
    y = net.node("Relu", net.node("Conv", y, net.weight(2, channels, 1, 1), *bias(net, 2)))
    y = net.node("Sigmoid", net.node("Conv", y, net.weight(channels, 2, 1, 1), *bias(net, channels)))
    return net.node("Mul", x, y)


@move(*_ANY)
def softmax(net: Net, x: str) -> str:
    return net.node(net.pick("Softmax", "LogSoftmax"), x, axis=net.pick(-1, *range(net.rank(x))))


@move(2, 3, 4, 5)
def reduction(net: Net, x: str) -> str | None:
    axes = net.subset(range(net.rank(x)))
    op = net.pick("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2")
    keep = net.pick(1, 0)
    if not keep and net.rank(x) - len(axes) < 1:
        return None
    if op == "ReduceSum" or net.opset >= 18:
        return net.node(op, x, net.ints(*axes), keepdims=keep)
    return net.node(op, x, axes=axes, keepdims=keep)


@move(*_ANY)
def arg_max(net: Net, x: str) -> str | None:
    if net.half:
        return None
    found = net.node("ArgMax", x, axis=net.pick(*range(net.rank(x))), keepdims=1)
    return net.node("Add", net.node("Cast", found, to=TensorProto.FLOAT), x)


@move(*_ANY)
def fake_quantised(net: Net, x: str) -> str | None:
    """QuantizeLinear and back: one scale, or one a channel."""
    if net.half:
        return None
    axis = net.pick(None, *range(net.rank(x)))
    shape = () if axis is None else (net.shape(x)[axis],)
    scale, point = net.positive(*shape, size=0.03), net.stored(net.rng.integers(-3, 4, shape).astype(np.int8))
    attrs = {} if axis is None else {"axis": axis}
    return net.node("DequantizeLinear", net.node("QuantizeLinear", x, scale, point, **attrs), scale, point, **attrs)


@move(*_ANY)
def unknown(net: Net, x: str) -> str:
    return net.node("Mix", x, domain=CUSTOM, like=x)


@move(2, 3, 4)
def branch_if(net: Net, x: str) -> str:
    """If: one branch scales each channel, the other hands out what it sees."""
    flag = net.input((), TensorProto.BOOL) if net.pick(True, False) else net.stored(np.array(True))
    axis = net.pick(*range(net.rank(x)))
    scale = net.rng.standard_normal([size if at == axis else 1 for at, size in enumerate(net.shape(x))])
    graphs = [_branch(net, x, "yes", scale), _branch(net, x, "no", None)]
    return net.node("If", flag, then_branch=graphs[0], else_branch=graphs[1])


def _branch(net: Net, x: str, name: str, scale: np.ndarray | None) -> onnx.GraphProto:
    out = f"{x}_{name}"
    info = helper.make_tensor_value_info(out, net.kind, net.shape(x))
    if scale is None:
        return helper.make_graph([helper.make_node("Neg", [x], [out])], name, [], [info])
    stored = onnx.numpy_helper.from_array(scale.astype(net.dtype), f"{out}_scale")
    return helper.make_graph([helper.make_node("Mul", [x, stored.name], [out])], name, [], [info], [stored])


@move(2, 3, 4)
def shape_as_data(net: Net, x: str) -> str:
    """Reshape to a size that is computed, or a value that is divided by how many channels there are."""
    shape = net.node("Shape", x)
    if net.pick(True, False):
        return net.node("Reshape", net.node("Relu", x), shape, like=x)
    size = net.node("Gather", shape, net.ints(net.pick(1, -1)))
    return net.node("Div", x, net.node("Cast", size, to=net.kind))


# What moves elements.


@move(3, 4)
def pool(net: Net, x: str) -> str | None:
    space = net.shape(x)[2:]
    op = net.pick("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
    if op.startswith("Global"):
        return net.node(op, x)
    pads = net.pick(0, 1)
    if min(space) < 2:
        return None
    attrs = {"count_include_pad": net.pick(0, 1)} if op == "AveragePool" else {}
    kernel = [2] * len(space)
    return net.node(
        op, x, kernel_shape=kernel, strides=[net.pick(1, 2)] * len(space), pads=[pads] * 2 * len(space), **attrs
    )


@move(3, 4)
def resize(net: Net, x: str) -> str:
    rank = net.rank(x)
    if net.pick(True, False):
        scales = np.array([1, 1, *[2] * (rank - 2)], np.float32)
        return net.node("Resize", x, "", net.stored(scales), mode=net.pick("nearest", "linear"))
    return net.node("Resize", x, "", "", net.ints(*net.shape(x)[:2], *[5] * (rank - 2)), mode="nearest")


@move(4)
def depth_to_space(net: Net, x: str) -> str | None:
    channels, *space = net.shape(x)[1:]
    if net.pick(True, False) and channels % 4 == 0:
        return net.node("DepthToSpace", x, blocksize=2, mode=net.pick("DCR", "CRD"))
    return None if any(size % 2 for size in space) else net.node("SpaceToDepth", x, blocksize=2)


@move(2, 3, 4)
def pad(net: Net, x: str) -> str:
    rank = net.rank(x)
    pads = [net.pick(0, 0, 1) for _ in range(2 * rank)]
    more = [net.numbers()] if net.pick(True, False) else []
    mode = net.pick("constant", "edge")
    return net.node("Pad", x, net.ints(*pads), *(more if mode == "constant" else []), mode=mode)


@move(2, 3, 4, 5, often=2)
def transpose(net: Net, x: str) -> str:
    return net.node("Transpose", x, perm=net.subset(range(net.rank(x)), net.rank(x)))


@move(3, 4, 5)
def flatten(net: Net, x: str) -> str:
    return net.node("Flatten", x, axis=net.pick(1, *range(net.rank(x))))


@move(2, 3, 4, 5, often=2)
def joined(net: Net, x: str) -> str:
    """Reshape: neighbouring axes become one."""
    shape = list(net.shape(x))
    at = net.pick(*range(1, len(shape) - 1)) if len(shape) > 2 else 0
    return _reshaped(net, x, [*shape[:at], prod(shape[at : at + 2]), *shape[at + 2 :]])


@move(2, 3, 4, often=2)
def blocks(net: Net, x: str) -> str | None:
    """Reshape: an axis is cut into blocks; behind something in between it is joined again, perhaps."""
    shape = list(net.shape(x))
    at = net.pick(*range(1, len(shape)))
    parts = net.pick(*(each for each in (2, 3, 4, 1) if shape[at] % each == 0))
    y = _reshaped(net, x, [*shape[:at], parts, shape[at] // parts, *shape[at + 1 :]])
    between = net.pick("nothing", "shuffle", "norm", "activation")
    if between == "shuffle":
        order = list(range(len(shape) + 1))
        order[at], order[at + 1] = at + 1, at
        y = net.node("Transpose", y, perm=order)
    elif between == "norm" and net.rank(y) <= 4:
        y = net.node("InstanceNormalization", y, *(net.numbers(net.shape(y)[1]) for _ in range(2)))
    elif between == "activation":
        y = net.node("Relu", y)
    return _reshaped(net, y, shape) if net.pick(True, False) else y


def _reshaped(net: Net, x: str, shape: list[int]) -> str:
    form = net.pick("plain", "batch kept", "rest", "batch open")
    given = {"plain": shape, "batch kept": [0, *shape[1:]], "batch open": [-1, *shape[1:]], "rest": [*shape[:-1], -1]}
    if form == "batch kept" and shape[0] != net.shape(x)[0]:
        form = "plain"
    return net.node("Reshape", x, net.ints(*given[form]))


@move(1, 2, 3, 4)
def unsqueeze(net: Net, x: str) -> str:
    return net.node("Unsqueeze", x, net.ints(net.pick(0, 1, -1, net.rank(x))))


@move(2, 3, 4, 5)
def squeeze(net: Net, x: str) -> str | None:
    ones = [axis for axis, size in enumerate(net.shape(x)) if size == 1]
    return net.node("Squeeze", x, net.ints(net.pick(*ones))) if ones and net.rank(x) > 1 else None


@move(2, 3, 4, often=2)
def split(net: Net, x: str) -> str | None:
    """Split: the parts are multiplied, concatenated the other way round, or one is dropped."""
    axis = net.pick(1, net.rank(x) - 1, *range(net.rank(x)))
    size = net.shape(x)[axis]
    if size < 2:
        return None
    first = size // 2 if size % 2 == 0 and net.pick(True, False) else net.pick(*range(1, size))
    if first * 2 == size and net.opset < 18 and net.pick(True, False):
        parts = net.node("Split", x, outputs=2, axis=axis)
    else:
        parts = net.node("Split", x, net.ints(first, size - first), outputs=2, axis=axis)
    if first * 2 == size and net.pick(True, False):
        return net.node("Mul", parts[0], net.node("Sigmoid", parts[1]))
    kind = net.pick("swapped", "first", "second")
    return net.node("Concat", *reversed(parts), axis=axis) if kind == "swapped" else parts[kind == "second"]


@move(2, 3, 4)
def slice_(net: Net, x: str) -> str | None:
    axis = net.pick(1, *range(net.rank(x)))
    size = net.shape(x)[axis]
    start, end, step = net.pick(0, 1, -2), net.pick(size, 2, -1, 999), net.pick(1, 1, 2, -1)
    if len(range(size)[start:end:step]) == 0:
        return None
    return net.node("Slice", x, net.ints(start), net.ints(end), net.ints(axis), net.ints(step))


@move(2, 3, 4)
def gather(net: Net, x: str) -> str:
    axis = net.pick(1, *range(net.rank(x)))
    indices = np.array([net.pick(*range(net.shape(x)[axis])) for _ in range(net.pick(3, 1, 2))])
    single = len(indices) == 1 and net.rank(x) > 1 and net.pick(True, False)
    return net.node("Gather", x, net.stored(indices[0] if single else indices), axis=axis)


@move(2, 3, 4, often=2)
def concat(net: Net, x: str) -> str | None:
    """With another value, with itself, or with stored numbers."""
    axis = net.pick(1, *range(net.rank(x)))
    shape = net.shape(x)
    others = [v for v in net.values if net.rank(v) == len(shape) and _beside(net.shape(v), shape, axis)]
    other = net.pick(*reversed(others)) if net.pick(True, True, False) else net.numbers(*shape)
    return net.node("Concat", *net.pick((x, other), (other, x)), axis=axis)


@move(1, 2, 3)
def expand(net: Net, x: str) -> str:
    shape = [net.pick(2, 3) if size == 1 else size for size in net.shape(x)]
    return net.node("Expand", x, net.ints(*shape))


@move(1, 2, 3)
def tile(net: Net, x: str) -> str:
    return net.node("Tile", x, net.ints(*(net.pick(1, 1, 2) for _ in net.shape(x))))


@move(3, 4)
def matmul_computed(net: Net, x: str) -> str:
    """Two computed values are multiplied: x by itself transposed."""
    order = list(range(net.rank(x)))
    order[-1], order[-2] = order[-2], order[-1]
    other = net.node("Transpose", net.node(net.pick("Relu", "Sigmoid"), x), perm=order)
    return net.node("MatMul", *net.pick((x, other), (other, x)))


@move(3, 4)
def einsum(net: Net, x: str) -> str:
    """Features are summed, or the axis in front of them; or two computed values meet."""
    *_, time, features = net.shape(x)
    kind = net.pick("features", "heads", "time", "meeting")
    if kind == "features":
        return net.node("Einsum", x, net.numbers(features, net.pick(2, 4)), equation="...ij,jk->...ik")
    if kind == "time":
        return net.node("Einsum", net.numbers(net.pick(2, 3), time), x, equation="kt,...tf->...kf")
    if kind == "heads":
        made = net.node("Einsum", x, net.numbers(features, 2, 3), equation="...tf,fhd->...htd")
        return net.node("Einsum", made, net.numbers(2, 3, 4), equation="...htd,hdo->...to")
    return net.node("Einsum", x, net.node("Sigmoid", x), equation="...if,...jf->...ij")


@move(2, 3, 4)
def where(net: Net, x: str) -> str:
    shape = [net.pick(size, 1) for size in net.shape(x)]
    computed = net.pick(True, False) and not net.half
    condition = net.node("Less", x, net.numbers(*shape)) if computed else _flags(net, shape)
    return net.node("Where", condition, x, net.numbers(*net.pick(shape, ())))


def _flags(net: Net, shape: list[int]) -> str:
    return net.stored(net.rng.random(shape) < 0.5)


@move(2, 3)
def integer_product(net: Net, x: str) -> str | None:
    """MatMulInteger of what is quantised as it comes: one scale for all."""
    if net.half:
        return None
    code, scale, point = net.node("DynamicQuantizeLinear", x, outputs=3)
    out = net.pick(2, 4)
    weight = net.stored(net.rng.integers(-9, 10, (net.shape(x)[-1], out)).astype(np.int8))
    summed = net.node("Cast", net.node("MatMulInteger", code, weight, point), to=TensorProto.FLOAT)
    return net.node("Mul", summed, net.node("Mul", scale, net.positive(*net.pick((), (out,)), size=0.1)))


@move(2, 3, 4)
def over_axis(net: Net, x: str) -> str:
    """What mixes or chooses along one axis."""
    op = net.pick("CumSum", "LpNormalization", *(["LRN"] if net.rank(x) == 4 else []), *([] if net.half else ["TopK"]))
    axis = net.pick(*range(net.rank(x)))
    if op == "CumSum":
        return net.node("CumSum", x, net.stored(np.array(axis)))
    if op == "TopK":
        return net.node("TopK", x, net.ints(net.pick(1, net.shape(x)[axis])), outputs=2, axis=axis)[0]
    return net.node(op, x, axis=axis) if op == "LpNormalization" else net.node(op, x, size=3)


@move(2)
def gemm_computed(net: Net, x: str) -> str:
    """Gemm of two computed values, one of them transposed."""
    side = net.pick("transA", "transB")
    return net.node("Gemm", x, net.node("Tanh", x), **{side: 1})


@move(2, 3)
def table(net: Net, x: str) -> str:
    """A row of a stored table for each entry, added: an embedding of positions."""
    rows = net.stored(net.rng.integers(0, 5, net.shape(x)[:-1]))
    return net.node("Add", x, net.node("Gather", net.numbers(5, net.shape(x)[-1]), rows))
