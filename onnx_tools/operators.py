"""What the op table can say of an operator's input or attribute: the kinds of its rows, and the units of a weight.

The table itself is `op_table.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from onnx_tools.graph_parts import Node

CONTRIB = "com.microsoft"

FIRST_AXIS = "axis 0"

EMBEDDING = "embedding"
LINEAR_MODEL = "linear model"
OPTIONAL = {EMBEDDING: "--embeddings", LINEAR_MODEL: "--linear-models"}
"""Kinds of weights that are pruned only if that is asked for, with the option that asks."""


@dataclass(frozen=True)
class UnitAxis:
    """Units of a stored tensor: slices along `axis` of its elements in row-major order, seen with `view_shape`.

    `groups` cuts axis 0 of the view in that many equal parts, each with its own units (axis > 0 then). Unit (g, c) of
    a grouped Conv's input channels is `w.reshape(view_shape)[g * O // groups : (g + 1) * O // groups, c]`.
    """

    view_shape: tuple[int, ...]
    axis: int
    groups: int = 1

    @property
    def units(self) -> int:
        """How many units there are."""
        return self.groups * self.view_shape[self.axis]

    def partition(self) -> tuple[int, ...]:
        """Equal for two axes that cut the tensor into the same units, whatever their view shapes."""
        before, size, after = self.view_shape[: self.axis], self.view_shape[self.axis], self.view_shape[self.axis + 1 :]
        if self.groups > 1:
            return (self.groups, before[0], prod(before[1:]), size, prod(after))
        return (1, 1, prod(before), size, prod(after)) if size > 1 else (1, 1, 1, 1, prod(self.view_shape))


Axes = tuple[int | None, int | None]
"""(output axis, reduction axis) of a weight; None where it has no such axis."""


@dataclass(frozen=True)
class Quantised:
    """The inputs with the scale (None: it is applied later) and the zero point of a quantised weight.

    They hold one element, or one for each entry of the weight's output axis, unless `blocks` is one of the ways below.
    """

    scale: int | None
    zero_point: int
    blocks: str = ""


PACKED_ROWS = "packed rows"
"""Rows of N x K codes, several to a byte, in blocks along K (MatMulNBits)."""
TABLE = "table"
"""Blocks along the attribute quantize_axis; several codes to a byte in a uint8 tensor (GatherBlockQuantized)."""


@dataclass(frozen=True)
class WeightSlot:
    """Input `index` of an operator holds a weight.

    `output`, `reduction`: its axes of output channels and of the sum, negative from the end; a `reduction` of None: the
    operator sums nothing (an entry of a table is looked up). `swapped_by`: the attribute that exchanges them (Gemm's
    transB). `rotated_by`: the attribute that puts axis -2 in front of the batch axes (FusedMatMul's transBatchB).
    `groups`: the attribute that says into how many groups axis 0 is cut, or `FIRST_AXIS` where each entry of axis 0
    stands alone (the directions of an LSTM). `axes_of`: finds the axes where they are not that simple, from (node,
    input, rank); `runs_of`: the same for neighbouring axes that are one only together. `when`: asked of the node, the
    input and the rank (None: not known); no: this is no weight. `kind`: why it is pruned only if it is asked for, one
    of the keys of `OPTIONAL`; "" for the others. `quantised`: the operator reads integers there, which have a scale.
    """

    op_type: str
    index: int
    output: int
    reduction: int | None
    domain: str = ""
    swapped_by: str = ""
    rotated_by: str = ""
    groups: str = ""
    axes_of: Callable[[Node, int, int], Axes] | None = None
    runs_of: Callable[[Node, int, int], tuple[range | None, range | None]] | None = None
    when: Callable[[Node, int, int | None], bool] | None = None
    kind: str = ""
    quantised: Quantised | None = None

    def axes(self, node: Node, rank: int) -> Axes:
        """(output axis, reduction axis) of a weight with `rank` axes; None where it has no such axis.

        A vector (MatMul of one) has nothing but the axis that is summed.
        """
        if self.axes_of is not None:
            return self.axes_of(node, self.index, rank)
        if rank == 1 and self.reduction is not None:
            return None, 0
        swapped = self.swapped_by and node.int_attribute(self.swapped_by, 0)
        rotated = self.rotated_by and node.int_attribute(self.rotated_by, 0)
        pair = (self.reduction, self.output) if swapped else (self.output, self.reduction)
        output, reduction = (0 if rotated and axis == -2 else axis for axis in pair)
        return _within(output, rank), _within(reduction, rank)

    def group_count(self, node: Node, first_axis: int | None) -> int | None:
        """Groups of axis 0, which has `first_axis` entries; None where that is not known."""
        if self.groups == FIRST_AXIS:
            return first_axis
        return node.int_attribute(self.groups, 1) if self.groups else 1

    def is_depthwise(self, node: Node, shape: tuple[int | None, ...]) -> bool:
        """Whether each group of a grouped convolution reads a single channel."""
        groups = self.group_count(node, None)
        if groups is None or groups <= 1 or len(shape) < 2 or self.reduction is None:
            return False
        return shape[self.reduction] == (groups if self.reduction == 0 else 1)


def _within(axis: int | None, rank: int) -> int | None:
    return None if axis is None or not -rank <= axis < rank else axis % rank


@dataclass(frozen=True)
class OtherSlot:
    """Inputs `indices` of an operator, and `what` they are. No indices: every input."""

    op_type: str
    indices: tuple[int, ...]
    what: str
    domain: str = ""


@dataclass(frozen=True)
class AttributeSlot:
    """Attribute `attribute` of an operator holds a weight, as a list: (outputs, inputs) in row-major order."""

    op_type: str
    attribute: str
    outputs: Callable[[Node], int]
    domain: str
    kind: str

    def axes(self, node: Node, elements: int) -> tuple[UnitAxis, UnitAxis] | str:
        """Output channels and inputs of the stored list, or why it has none."""
        outputs = self.outputs(node)
        if outputs < 1 or elements % outputs:
            return f"{elements} coefficients do not divide into {outputs} outputs"
        view = (outputs, elements // outputs)
        return UnitAxis(view, 0), UnitAxis(view, 1)
