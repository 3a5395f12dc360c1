"""Layers of random networks: moves that make new channels, and the table of all moves."""

from __future__ import annotations

from collections.abc import Callable

from tests.random_net import Net

Move = Callable[[Net, str], str | None]
"""Takes a value and makes another one, or gives up (None)."""

MOVES: list[tuple[Move, tuple[int, ...]]] = []


def move(*ranks: int, often: int = 1) -> Callable[[Move], Move]:
    """Put a move into the table, for values of these ranks, `often` times."""

    def register(function: Move) -> Move:
        MOVES.extend([(function, ranks)] * often)
        return function

    return register


@move(3, 4, often=2)
def conv(net: Net, x: str) -> str | None:
    _, channels, *space = net.shape(x)
    group = net.pick(1, 1, *(each for each in (2, 3, channels) if channels % each == 0))
    out = group * net.pick(1, 2, 3) if group > 1 else net.pick(2, 4, 6)
    kernel = [net.pick(1, 3) for _ in space]
    dilation = net.pick(1, 1, 2)
    pads = [net.pick(0, 1)] * 2 * len(space)
    if any(size + 2 * pads[0] < dilation * (k - 1) + 1 for size, k in zip(space, kernel, strict=True)):
        return None
    w = net.weight(out, channels // group, *kernel)
    attrs = {"pads": pads, "dilations": [dilation] * len(space), "strides": [net.pick(1, 1, 2)] * len(space)}
    return net.node("Conv", x, w, *bias(net, out), group=group, **attrs)


@move(3, 4)
def conv_transpose(net: Net, x: str) -> str:
    _, channels, *space = net.shape(x)
    group = net.pick(1, *(each for each in (2, channels) if channels % each == 0))
    per = net.pick(1, 2, 3)
    w = net.weight(channels, per, *(net.pick(1, 2) for _ in space), axis=net.pick(0, 1))
    return net.node("ConvTranspose", x, w, *bias(net, group * per), group=group, strides=[net.pick(1, 2)] * len(space))


@move(2, often=2)
def gemm(net: Net, x: str) -> str:
    trans_a, trans_b, out = net.pick(0, 0, 1), net.pick(0, 1), net.pick(2, 3, 6)
    rows, inner = net.shape(x)[:: -1 if trans_a else 1]
    w = net.weight(out, inner) if trans_b else net.weight(inner, out, axis=1)
    shape = net.pick((out,), (), (1, out), (rows, 1), (1,), (rows, out), None)
    more = [] if shape is None else [net.numbers(*shape)]
    return net.node(
        "Gemm", x, w, *more, transA=trans_a, transB=trans_b, alpha=net.pick(1.0, 0.5), beta=net.pick(1.0, 2.0)
    )


@move(2, 3, 4, often=2)
def matmul(net: Net, x: str) -> str:
    *batch, inner = net.shape(x)
    out = net.pick(2, 4, 6)
    batch = net.pick((), (), batch[:-1], [1] * len(batch[:-1]), [3, 1] if len(batch) == 1 else ())
    made = net.node("MatMul", x, net.weight(*batch, inner, out, axis=len(batch) + 1))
    return net.node("Add", made, net.numbers(out)) if net.pick(True, False) else made


@move(2, 3, 4)
def matmul_left(net: Net, x: str) -> str:
    *batch, inner, _ = net.shape(x)
    batch = net.pick((), batch)
    return net.node("MatMul", net.weight(*batch, net.pick(2, 3), inner, axis=len(batch)), x)


@move(3)
def recurrent(net: Net, x: str) -> str:
    """LSTM, GRU, RNN over (time, batch, features), the directions side by side or one chosen."""
    op, gates = net.pick(("LSTM", 4), ("GRU", 3), ("RNN", 1))
    hidden, both = net.pick(2, 3), net.pick(1, 2)
    time_first = net.node("Transpose", x, perm=[1, 0, 2]) if net.pick(True, False) else x
    w = net.weight(both, gates * hidden, net.shape(x)[2], axis=1)
    r = net.numbers(both, gates * hidden, hidden)
    more = [net.numbers(both, 2 * gates * hidden)] if net.pick(True, False) else []
    attrs = {"linear_before_reset": net.pick(0, 1)} if op == "GRU" else {}
    direction = "bidirectional" if both == 2 else net.pick("forward", "reverse")
    y, h = net.node(op, time_first, w, r, *more, outputs=2, hidden_size=hidden, direction=direction, **attrs)
    kind = net.pick("all", "last", "chosen")
    if kind == "last":
        return net.node("Transpose", h, perm=[1, 0, 2])
    if both == 2 and kind == "all":
        side = net.node("Transpose", y, perm=[0, 2, 1, 3])
        return net.node("Reshape", side, net.ints(0, 0, -1))
    return net.node("Squeeze", net.node("Slice", y, net.ints(0), net.ints(1), net.ints(1)), net.ints(1))


@move(3)
def attention(net: Net, x: str) -> str:
    batch, time, features = net.shape(x)
    heads, width = net.pick(1, 2), net.pick(2, 3)
    size = heads * width
    if net.pick(True, False):
        parts = [_biased(net, net.node("MatMul", x, net.weight(features, size, axis=1)), size) for _ in range(3)]
    else:
        joint = _biased(net, net.node("MatMul", x, net.weight(features, 3 * size, axis=1)), 3 * size)
        parts = net.node("Split", joint, net.ints(size, size, size), outputs=3, axis=2)
    shape = net.ints(*net.pick((batch, time, heads, width), (0, 0, heads, width), (-1, time, heads, width)))
    q, k, v = (net.node("Reshape", part, shape) for part in parts)
    q, v = (net.node("Transpose", each, perm=[0, 2, 1, 3]) for each in (q, v))
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 3, 1]))
    if net.pick(True, False):
        scores = net.node("Mul", scores, net.numbers())
    if net.pick(True, False):
        scores = net.node("Add", scores, net.numbers(*net.pick((time, time), (1, heads, time, time))))
    mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
    back = net.node("Transpose", mixed, perm=[0, 2, 1, 3])
    return net.node("Reshape", back, net.ints(*net.pick((0, 0, size), (batch, time, size), (0, 0, -1))))


def layer(net: Net, x: str) -> str:
    """A plain layer that sees all channels."""
    if net.rank(x) not in (3, 4):
        return gemm(net, x) if net.rank(x) == 2 else x
    if net.pick(False, False, True):
        net.features_last = not net.features_last
    return (matmul if net.features_last else conv)(net, x) or x


def bias(net: Net, size: int) -> list[str]:
    """Stored numbers, or none."""
    return [net.numbers(size)] if net.pick(True, False) else []


def _biased(net: Net, x: str, size: int) -> str:
    return net.node("Add", *net.pick((x, shift := net.numbers(size)), (shift, x))) if net.pick(True, False) else x
