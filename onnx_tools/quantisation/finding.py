"""How a weight is quantised, read from the graph: where its scale and zero point are stored, and which is whose.

A tensor that passes DequantizeLinear, or a Cast, or that a quantised operator reads, gets a `Quantisation`, or the
reason why there is none. No value is looked at but those of small zero points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from onnx_tools.graph_parts import Node, StoredTensor, Value
from onnx_tools.layout import Layout
from onnx_tools.model_file import DTYPES
from onnx_tools.operators import FIRST_AXIS, PACKED_ROWS, TABLE, WeightSlot
from onnx_tools.quantisation.kinds import KINDS, SCALE_DTYPES, Kind
from onnx_tools.quantisation.packed import packed_quantisation, table_quantisation
from onnx_tools.quantisation.parameters import Sharing, input_value, quantisation_of, scale_at, zero_point_at
from onnx_tools.quantisation.scales_behind import dequantiser_behind, entries_of, scale_behind
from onnx_tools.quantisation.scheme import Parameter, Quantisation

_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
_MOST_ZERO_POINTS = 1 << 12


@dataclass(frozen=True)
class Passage:
    """What a tensor has passed on its way. `why`: it can't be pruned for this reason, whoever reads it then.

    `quantised_by`: the QuantizeLinear that floats are behind. `text`: like "int8 behind DequantizeLinear".
    """

    quantisation: Quantisation | None = None
    why: str = ""
    quantised_by: Node | None = None
    text: str = ""

    def is_float(self, tensor: StoredTensor) -> bool:
        """Whether the tensor, or what it has been dequantised to, is of floats."""
        return tensor.data_type in DTYPES or self.quantisation is not None

    def refused(self, why: str) -> Passage:
        """The same passage, with the first reason against it."""
        return replace(self, why=self.why or why)

    def found(self, quantisation: Quantisation | str) -> Passage:
        """The same passage with the quantisation, or with the reason why there is none."""
        if isinstance(quantisation, str):
            return self.refused(quantisation)
        return replace(self, quantisation=quantisation)


NOTHING_PASSED = Passage()


def passed(passage: Passage, node: Node, layout: Layout, tensor: StoredTensor, type_name: str) -> Passage:
    """The passage of `tensor`, which the pass-through `node` sees in `layout`, behind that node."""
    if node.op_type not in (_QUANTISE, _DEQUANTISE, "Cast"):
        return passage
    if node.op_type != "Cast":
        passage = replace(passage, text=passage.text or f"{type_name} behind {node.op_type}")
    if passage.is_float(tensor):
        return passage if node.op_type == "Cast" else _float_passed(passage, node)
    kind = KINDS.get(tensor.data_type)
    if passage.why:
        return passage
    if kind is None:
        return passage if node.op_type == "Cast" else passage.refused(f"no weights are expected in {type_name}")
    if node.op_type == "Cast":
        return passage.found(Quantisation(kind, tensor.shape))
    return passage.found(_dequantised(node, layout, kind) if node.op_type == _DEQUANTISE else "quantised twice")


def read_at(passage: Passage, node: Node, slot: WeightSlot, layout: Layout, tensor: StoredTensor) -> Passage:
    """The passage of a tensor that `node` reads as a weight at `slot`."""
    if passage.is_float(tensor):
        return _float_read(passage, node, slot)
    kind = KINDS.get(tensor.data_type)
    if kind is None or passage.why:
        return passage
    if slot.quantised is None:
        behind = dequantiser_behind(node) if slot.op_type == "Gather" else None
        if behind is None:
            return passage.refused(f"{node.op_type} reads no {kind.name}")
        passage = replace(passage, text=f"{kind.name} before {_DEQUANTISE}")
        return passage.found(_looked_up(behind, layout, kind))
    return replace(passage, text=passage.text or kind.name).found(_read_codes(node, slot, layout, kind))


def _read_codes(node: Node, slot: WeightSlot, layout: Layout, kind: Kind) -> Quantisation | str:
    assert slot.quantised is not None
    if slot.quantised.blocks == TABLE:
        return table_quantisation(node, slot.quantised, layout, kind)
    if kind.bits != 8 or kind.is_float:
        return f"{node.op_type} reads no {kind.name}"
    if slot.quantised.blocks == PACKED_ROWS:
        return packed_quantisation(node, slot.quantised, layout)
    return _of_operator(node, slot, layout, kind)


def _float_passed(passage: Passage, node: Node) -> Passage:
    """A float weight may be quantised and dequantised: its zero stays an exact zero if the zero points agree."""
    if node.op_type == _QUANTISE:
        again = passage.quantised_by is not None
        return passage.refused("quantised twice") if again else replace(passage, quantised_by=node)
    if passage.quantised_by is None:
        return passage.refused("floats are dequantised")
    same = _same_zero(passage.quantised_by, node, 2)
    passage = replace(passage, quantised_by=None)
    return passage if same else passage.refused(f"{_QUANTISE} and {_DEQUANTISE} have different zero points")


def _float_read(passage: Passage, node: Node, slot: WeightSlot) -> Passage:
    if passage.quantised_by is None:
        return passage if slot.quantised is None else passage.refused(f"{node.op_type} reads no floats")
    if slot.quantised is None or slot.quantised.blocks:
        return passage.refused(f"{node.op_type} reads what was quantised")
    if _same_zero(passage.quantised_by, node, slot.quantised.zero_point):
        return passage
    return passage.refused(f"{_QUANTISE} and {node.op_type} have different zero points")


def _dequantised(node: Node, layout: Layout, kind: Kind) -> Quantisation | str:
    """How DequantizeLinear reads a tensor."""
    sharing = Sharing(layout, node.int_attribute("axis", 1), node.int_attribute("block_size", 0))
    scale = scale_at(node, 1, sharing.grid_of)
    return quantisation_of(Quantisation(kind, layout.stored), scale, zero_point_at(node, 2, kind, sharing.grid_of))


def _looked_up(node: Node, layout: Layout, kind: Kind) -> Quantisation | str:
    """How DequantizeLinear reads what Gather took out of a table; with one scale, since the axes are others by then."""
    whole = Sharing(layout, None)
    scale = scale_at(node, 1, whole.grid_of)
    return quantisation_of(Quantisation(kind, layout.stored), scale, zero_point_at(node, 2, kind, whole.grid_of))


def _of_operator(node: Node, slot: WeightSlot, layout: Layout, kind: Kind) -> Quantisation | str:
    """How an operator with inputs for scale and zero point reads a tensor; they go along its output axis."""
    assert slot.quantised is not None
    axis = None if layout.axes is None else slot.axes(node, len(layout.axes))[0]
    sharing = Sharing(layout, axis, lines=slot.groups == FIRST_AXIS)
    zero_point = zero_point_at(node, slot.quantised.zero_point, kind, sharing.grid_of)
    scale: Parameter | str | None = _behind(node, slot, sharing) if slot.quantised.scale is None else None
    if slot.quantised.scale is not None:
        scale = scale_at(node, slot.quantised.scale, sharing.grid_of)
    return quantisation_of(Quantisation(kind, layout.stored, unscaled=scale is None), scale, zero_point)


def _behind(node: Node, slot: WeightSlot, sharing: Sharing) -> Parameter | None:
    """The scale that a Mul behind the operator applies; None where it is not plain to see."""
    scale, shape = scale_behind(node), sharing.layout.shape
    if scale is None or shape is None or scale.data_type not in SCALE_DTYPES:
        return None
    # Of what MatMul gives, the last axes are those of the weights; what a convolution gives has channels second.
    entries = entries_of(scale, -1 - slot.output if slot.output < 0 else len(shape) - 2)
    grid = "" if entries is None else sharing.grid_of(entries)
    return None if isinstance(grid, str) else Parameter(scale.path, scale.data_type, prod(scale.shape), grid)


def _same_zero(one: Node, other: Node, index: int) -> bool:
    """Whether a QuantizeLinear and the node with its zero point at `index` have the same, as far as can be seen."""
    first, second = input_value(one, 2), input_value(other, index)
    if first is second:
        return True
    data = _zero_data(first)
    return data is not None and data == _zero_data(second)


def _zero_data(value: Value | None) -> bytes | None:
    """The bytes of a small zero point, none if it is 0 or not given; None where they are not known."""
    if value is None:
        return b""
    proto = value.tensor.proto if value.tensor is not None and not value.duplicated and not value.fed else None
    kind = KINDS.get(proto.data_type) if proto is not None else None
    if proto is None or kind is None or len(proto.dims) > 1 or len(proto.int32_data) > _MOST_ZERO_POINTS:
        return None
    data = (np.array(proto.int32_data, np.int32) & 0xFF).astype(np.uint8).tobytes() or proto.raw_data
    if kind.bits > 8 or len(data) != kind.bytes_for(prod(proto.dims)):
        return None
    return data if data.strip(b"\0") else b""
