"""Where the axes of a stored tensor go on its way to a consumer.

`PASS_THROUGH` lists the operators that a weight may pass, with what they do to its axes: a row per operator.

`Layout` follows the axes of a stored tensor through them. Each axis of the tensor seen by a consumer is a list of
pieces (stride, size) over the stored elements, so that Transpose and Reshape in any order stay exact: an axis is found
again whenever its pieces join to one stride.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from operator import mul

from onnx_tools.graph_parts import Node
from onnx_tools.operators import CONTRIB, UnitAxis

Piece = tuple[int, int]


@dataclass(frozen=True)
class TracedAxis:
    """One axis as a consumer sees it. `pieces`: the stored axes it runs over, (stride, size) from the outermost.

    No pieces: a new axis of size 1. `pieces` None: its origin is lost. `cut`: only a part of its pieces, or more than
    them (Slice, Concat), so that it can be handed on whole but not be reshaped. `size` None: not known.
    """

    size: int | None
    pieces: tuple[Piece, ...] | None
    cut: bool = False

    def run(self) -> Piece | None:
        """(stride, size) of the axis in the stored elements; size 1 for a new axis, None if it has no one stride."""
        if self.pieces is None:
            return None
        joined = joined_pieces(self.pieces)
        return (joined or ((1, 1),))[0] if len(joined) <= 1 else None


@dataclass(frozen=True)
class Layout:
    """A stored tensor of shape `stored` as a consumer sees it. `axes` None: nothing is known any more, and `why`."""

    stored: tuple[int, ...]
    axes: tuple[TracedAxis, ...] | None
    why: str = ""

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Layout:
        """A tensor as it is stored."""
        found = zip(_strides(shape), shape, strict=True)
        return cls(shape, tuple(TracedAxis(n, ((stride, n),) if n != 1 else ()) for stride, n in found))

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """The shape that the consumer sees."""
        return None if self.axes is None else tuple(axis.size for axis in self.axes)

    def row_major_shape(self) -> tuple[int, ...] | None:
        """The shape that the consumer sees if it numbers the elements as they are stored; else None."""
        if self.axes is None or not self._is_row_major():
            return None
        sizes = tuple(axis.size for axis in self.axes if axis.size is not None)
        return sizes if len(sizes) == len(self.axes) else None

    def lost(self, why: str) -> Layout:
        """The same tensor, its axes no longer known."""
        return Layout(self.stored, None, why)

    def joined(self, run: range) -> Layout:
        """The same tensor with neighbouring axes seen as one, which stands at the first of them."""
        if self.axes is None or any(axis.size is None for axis in self.axes):
            return self.lost("a size is not known")
        sizes: list[int | None] = [axis.size for axis in self.axes]
        together = prod(size for size in sizes[run.start : run.stop] if size is not None)
        return _regroup(self, [*sizes[: run.start], together, *sizes[run.stop :]], "joining axes")

    def split(self, axis: int, outer: int) -> Layout:
        """The same tensor with one axis seen as two, the first of `outer` entries."""
        if self.axes is None or not self.axes[axis].size:
            return self.lost(self.why or "a size is not known")
        sizes: list[int | None] = [each.size for each in self.axes]
        inner = (sizes[axis] or 0) // outer
        return _regroup(self, [*sizes[:axis], outer, inner, *sizes[axis + 1 :]], "splitting an axis")

    def unit_axis(self, axis: int, groups: int = 1) -> UnitAxis | str:
        """The units of axis `axis` in the stored tensor, or the reason why there is no such view."""
        if self.axes is None:
            return self.why
        groups = groups if axis > 0 else 1
        sizes = self.row_major_shape()
        if sizes is not None:
            return _checked(UnitAxis(sizes, axis, groups))
        run = self.axes[axis].run()
        if run is None:
            return "the axis is mixed with others by Reshape"
        return self._ungrouped(*run) if groups == 1 else self._grouped(*run, groups)

    def _is_row_major(self) -> bool:
        assert self.axes is not None
        if any(axis.cut or axis.pieces is None for axis in self.axes):
            return False
        joined = joined_pieces(tuple(piece for axis in self.axes for piece in axis.pieces or ()))
        return not joined or joined == ((1, prod(self.stored)),)

    def _ungrouped(self, stride: int, size: int) -> UnitAxis:
        for i, found in enumerate(zip(_strides(self.stored), self.stored, strict=True)):
            if found == (stride, size) and size > 1:
                return UnitAxis(self.stored, i)
        before = prod(self.stored) // (stride * size) if size > 1 else 1
        after = stride if size > 1 else prod(self.stored)
        return UnitAxis((before, size, after), 1)

    def _grouped(self, stride: int, size: int, groups: int) -> UnitAxis | str:
        assert self.axes is not None
        first = self.axes[0].run()
        total = prod(self.stored)
        if first is None or self.axes[0].cut or first[0] * first[1] != total:
            return "the axis of its groups can't be traced to the stored tensor"
        stride = stride if size > 1 else first[0]
        if first[0] % (stride * size):
            return "its groups do not lie outside the axis"
        return _checked(UnitAxis((first[1], first[0] // (stride * size), size, stride), 2, groups))


def _strides(shape: tuple[int, ...]) -> list[int]:
    return list(accumulate(reversed(shape[1:]), mul, initial=1))[::-1] if shape else []


def _checked(units: UnitAxis) -> UnitAxis | str:
    if units.groups < 1 or units.view_shape[0] % units.groups:
        return f"{units.view_shape[0]} channels do not divide into {units.groups} groups"
    return units


def joined_pieces(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """Join neighbours that are one longer run; an outer piece whose stride is the inner one's extent."""
    joined: list[Piece] = []
    for stride, size in pieces:
        if joined and joined[-1][0] == stride * size:
            joined[-1] = (stride, joined[-1][1] * size)
        elif size != 1:
            joined.append((stride, size))
    return tuple(joined)


Follow = Callable[[Node, int, Layout], Layout]
"""(node, output index, layout of the input) -> layout of that output."""


@dataclass(frozen=True)
class PassThrough:
    """An operator that hands its input on.

    `inputs`: how many of its inputs it hands on, from the first (None: all). `outputs`: to how many of its outputs.
    `joins`: they become one tensor, which is stored data only if all of them are. `when`: asked of the node and the
    input first.
    """

    op_type: str
    follow: Follow
    inputs: int | None = 1
    outputs: int | None = 1
    joins: bool = False
    domain: str = ""
    when: Callable[[Node, int], bool] = lambda _, __: True


def pass_through(node: Node, index: int) -> PassThrough | None:
    """The row for `node` if it hands on its input `index`; a function of the model does what its own nodes do."""
    row = None if node.local else _PASS_THROUGH.get((node.domain, node.op_type))
    if row is None or (row.inputs is not None and index >= row.inputs) or not row.when(node, index):
        return None
    return row


def _same(node: Node, output: int, layout: Layout) -> Layout:
    return layout


def _transpose(node: Node, output: int, layout: Layout) -> Layout:
    assert layout.axes is not None
    rank = len(layout.axes)
    perm = node.ints_attribute("perm") or tuple(reversed(range(rank)))
    if sorted(perm) != list(range(rank)):
        return layout.lost(f"Transpose '{node.label}' does not fit the tensor")
    return replace(layout, axes=tuple(layout.axes[i] for i in perm))


def _reshape(node: Node, output: int, layout: Layout) -> Layout:
    assert layout.axes is not None
    target = node.ints("shape", 1)
    if target is None:
        return layout.lost(f"the target of Reshape '{node.label}' is not a small constant")
    if len(target) > MOST_AXES:
        return layout.lost("too many axes")
    sizes: list[int | None] = list(target)
    if not node.int_attribute("allowzero", 0):
        old = [axis.size for axis in layout.axes]
        sizes = [(old[i] if i < len(old) else None) if n == 0 else n for i, n in enumerate(target)]
    return _regroup(layout, sizes, f"Reshape '{node.label}'")


def _flatten(node: Node, output: int, layout: Layout) -> Layout:
    assert layout.axes is not None
    sizes, rank = [axis.size for axis in layout.axes], len(layout.axes)
    axis = node.int_attribute("axis", 1)
    known = [n for n in sizes if n is not None]
    if len(known) < rank or not -rank <= axis <= rank:
        return layout.lost(f"Flatten '{node.label}' does not fit the tensor")
    axis += rank if axis < 0 else 0
    return _regroup(layout, [prod(known[:axis]), prod(known[axis:])], f"Flatten '{node.label}'")


def _regroup(layout: Layout, target: list[int | None], where: str) -> Layout:
    """The same elements in the same order with other axes. One entry of `target` may be -1."""
    assert layout.axes is not None
    old, new = [axis.size for axis in layout.axes if axis.size is not None], [n for n in target if n is not None]
    if len(old) < len(layout.axes) or len(new) < len(target):
        return layout.lost(f"{where}: a size is not known here")
    total, rest = prod(old), prod(n for n in new if n != -1)
    if new.count(-1) == 1 and rest > 0:
        new[new.index(-1)] = total // rest
    if min(new, default=1) < 1 or prod(new) != total:
        return layout.lost(f"{where} does not fit the tensor")
    return replace(layout, axes=tuple(_dealt(layout.axes, new)))


def _dealt(old: tuple[TracedAxis, ...], new: list[int]) -> list[TracedAxis]:
    """Deal the old axes to the new sizes (equal products), in the smallest blocks of equal extent."""
    result: list[TracedAxis] = []
    source = [axis for axis in old if axis.size != 1]
    sizes = [n for n in new if n != 1]
    while source:
        here, there = [source.pop(0)], [sizes.pop(0)]
        a, b = here[0].size or 1, there[0]
        while a != b:
            if a < b:
                here.append(source.pop(0))
                a *= here[-1].size or 1
            else:
                there.append(sizes.pop(0))
                b *= there[-1]
        result += _dealt_block(here, there)
    dealt = iter(result)
    return [next(dealt) if n != 1 else TracedAxis(1, ()) for n in new]


def _dealt_block(old: list[TracedAxis], new: list[int]) -> list[TracedAxis]:
    if len(old) == len(new) == 1:
        return old
    pieces = [piece for axis in old for piece in axis.pieces or ()]
    if any(axis.cut or axis.pieces is None for axis in old):
        return [TracedAxis(n, None) for n in new]
    left = list(reversed(joined_pieces(tuple(pieces))))
    return [TracedAxis(n, _take(left, n)) for n in new]


def _take(left: list[Piece], wanted: int) -> tuple[Piece, ...] | None:
    """Take `wanted` elements off the front of the pieces in `left` (outermost last); None if they don't divide."""
    taken: list[Piece] = []
    while wanted > 1 and left:
        stride, size = left.pop()
        count = size if wanted % size == 0 else wanted
        if size % count:
            left.clear()
            return None
        taken.append((stride * (size // count), count))
        wanted //= count
        if count < size:
            left.append((stride, size // count))
    return tuple(taken) if wanted == 1 else None


def _squeeze(node: Node, output: int, layout: Layout) -> Layout:
    assert layout.axes is not None
    axes, rank = node.ints("axes", 1), len(layout.axes)
    if axes is None and (node.has_input(1) or any(axis.size is None for axis in layout.axes)):
        return layout.lost(f"the axes of Squeeze '{node.label}' are not known")
    if axes is None:
        axes = tuple(i for i, axis in enumerate(layout.axes) if axis.size == 1)
    dropped = {axis + rank if axis < 0 else axis for axis in axes}
    return replace(layout, axes=tuple(axis for i, axis in enumerate(layout.axes) if i not in dropped))


def _unsqueeze(node: Node, output: int, layout: Layout) -> Layout:
    assert layout.axes is not None
    axes = node.ints("axes", 1)
    if axes is None:
        return layout.lost(f"the axes of Unsqueeze '{node.label}' are not known")
    rank = len(layout.axes) + len(axes)
    added = {axis + rank if axis < 0 else axis for axis in axes}
    if rank > MOST_AXES:
        return layout.lost("too many axes")
    if len(added) < len(axes) or not added <= set(range(rank)):
        return layout.lost(f"Unsqueeze '{node.label}' does not fit the tensor")
    old = iter(layout.axes)
    return replace(layout, axes=tuple(TracedAxis(1, ()) if i in added else next(old) for i in range(rank)))


def _slice(node: Node, output: int, layout: Layout) -> Layout:
    assert layout.axes is not None
    starts, ends, steps = node.ints("starts", 1), node.ints("ends", 2), node.input_ints(4)
    axes = node.ints("axes", 3)
    if axes is None and (starts is None or node.has_input(3)):
        return replace(layout, axes=tuple(replace(axis, size=None, cut=True) for axis in layout.axes))
    rank = len(layout.axes)
    axes = tuple(range(len(starts or ()))) if axes is None else axes
    found = list(layout.axes)
    for i, axis in enumerate(axes):
        if not -rank <= axis < rank:
            return layout.lost(f"Slice '{node.label}' does not fit the tensor")
        known = starts is not None and ends is not None and (steps is not None or not node.has_input(4))
        bounds = tuple(part[i] if i < len(part) else 1 for part in (starts or (), ends or (), steps or ()))
        found[axis] = _sliced(found[axis], bounds if known else None)
    return replace(layout, axes=tuple(found))


def _sliced(axis: TracedAxis, bounds: tuple[int, ...] | None) -> TracedAxis:
    if bounds is None or axis.size is None or bounds[2] == 0:
        return replace(axis, size=None, cut=True)
    size = len(range(*slice(*bounds).indices(axis.size)))
    return axis if size == axis.size and bounds[2] == 1 else replace(axis, size=size, cut=True)


def _expand(node: Node, output: int, layout: Layout) -> Layout:
    """Expand to the shape that the tensor has already, but for new axes of size 1 in front."""
    assert layout.axes is not None
    target, rank = node.input_ints(1), len(layout.axes)
    if target is None or len(target) > MOST_AXES:
        return layout.lost(f"the target of Expand '{node.label}' is not a small constant")
    new = max(len(target) - rank, 0)
    wanted = (1,) * (rank - len(target)) + target
    sizes = (1,) * new + tuple(axis.size for axis in layout.axes)
    if any(n not in (1, size) for n, size in zip(wanted, sizes, strict=True)):
        return layout.lost(f"Expand '{node.label}' repeats the tensor")
    return replace(layout, axes=(TracedAxis(1, ()),) * new + layout.axes)


def _picked(node: Node, output: int, layout: Layout) -> Layout:
    """Gather by stored indices: entries of one axis, or one entry and the axis is gone."""
    assert layout.axes is not None
    shape, axis, rank = node.input_shape(1), node.int_attribute("axis", 0), len(layout.axes)
    if shape is None or len(shape) > 1 or not -rank <= axis < rank:
        return layout.lost(f"the entries that Gather '{node.label}' picks are not known")
    if shape:
        return _recut(layout, axis, shape[0])
    return replace(layout, axes=tuple(found for i, found in enumerate(layout.axes) if i != axis % rank))


def _split(node: Node, output: int, layout: Layout) -> Layout:
    assert layout.axes is not None
    sizes, axis = node.ints("split", 1), node.int_attribute("axis", 0)
    if not -len(layout.axes) <= axis < len(layout.axes):
        return layout.lost(f"Split '{node.label}' does not fit the tensor")
    size = sizes[output] if sizes is not None and output < len(sizes) else None
    return _recut(layout, axis, size)


def _concat(node: Node, output: int, layout: Layout) -> Layout:
    assert layout.axes is not None
    rank, axis = len(layout.axes), node.int_attribute("axis", 1)
    if not -rank <= axis < rank:
        return layout.lost(f"Concat '{node.label}' does not fit the tensor")
    if len(node.inputs) == 1:
        return layout
    shapes = [node.input_shape(i) for i in range(min(len(node.inputs), _MOST_JOINED))]
    parts = [shape[axis] for shape in shapes if shape is not None and len(shape) == rank]
    return _recut(layout, axis, sum(parts) if len(parts) == len(node.inputs) else None)


def _recut(layout: Layout, axis: int, size: int | None) -> Layout:
    assert layout.axes is not None
    axes = list(layout.axes)
    axes[axis] = replace(axes[axis], size=size, cut=True)
    return replace(layout, axes=tuple(axes))


def _to_float(node: Node, index: int) -> bool:
    return node.int_attribute("to", 0) in FLOAT_TYPES


def _at_inference(node: Node, index: int) -> bool:
    return not node.has_input(2)


def _scaled(node: Node, index: int) -> bool:
    """Whether the other operand is one stored number: zeros stay zeros, and the order of the magnitudes stays."""
    return len(node.inputs) == 2 and node.input_shape(1 - index) in ((), (1,))


_MOST_JOINED = 64
MOST_AXES = 64
FLOAT_TYPES = frozenset({1, 10, 11, 16})
"""TensorProto's FLOAT, FLOAT16, DOUBLE and BFLOAT16: what can be pruned, and what a weight may be cast to."""

PASS_THROUGH = (
    PassThrough("Identity", _same),
    PassThrough("Cast", _same, when=_to_float),
    PassThrough("CastLike", _same),
    PassThrough("Dropout", _same, when=_at_inference),
    PassThrough("Mul", _same, inputs=2, when=_scaled),
    PassThrough("Div", _same, when=_scaled),
    PassThrough("Transpose", _transpose),
    PassThrough("Reshape", _reshape),
    PassThrough("Flatten", _flatten),
    PassThrough("Squeeze", _squeeze),
    PassThrough("Unsqueeze", _unsqueeze),
    PassThrough("Slice", _slice),
    PassThrough("Split", _split, outputs=None),
    PassThrough("Expand", _expand),
    PassThrough("Gather", _picked, when=lambda node, _: node.constant),
    PassThrough("Concat", _concat, inputs=None, joins=True),
    *(
        PassThrough(f"{way}Linear", _same, domain=domain)
        for way in ("Quantize", "Dequantize")
        for domain in ("", CONTRIB)
    ),
)

_PASS_THROUGH = {(row.domain, row.op_type): row for row in PASS_THROUGH}
