"""Known numbers through operators that move elements, or make of equal ones the same again.

Where an element goes is said by its channel: the result has the known number at the entries of the same channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from onnx_tools.compaction.constants.values import Array, Known, KnownValues, Mask
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.factors import Factor
from onnx_tools.graph_parts import Node, Value

_MEANS = {"MaxPool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean", "ReduceMax", "ReduceMin", "Resize", "Upsample"}
"""They make of equal numbers the same number."""

_SUMS = {"LpPool", "GlobalLpPool", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "CumSum", "Trilu"}
"""They make zero of zeros."""

MOVING = {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Split", "Slice", "Expand", "Tile"}
MOVING |= {"DepthToSpace", "SpaceToDepth"}
POOLING = {*_MEANS, *_SUMS, "AveragePool", "Pad"}


def moved(values: KnownValues, node: Node) -> None:
    """Elements of input 0, in another order or place."""
    for output in node.outputs:
        _carry(values, node.inputs[:1], output, only_zeros=False)


def pooled(values: KnownValues, node: Node) -> None:
    """Many elements become one: the same if they are equal, or only if they are zero."""
    outside = node.text_attribute("coordinate_transformation_mode") == "tf_crop_and_resize"
    if not outside and not (node.op_type == "Pad" and _pads_with_another(values, node)):
        _carry(values, node.inputs[:1], node.outputs[0], only_zeros=not _keeps_numbers(node))


def concatenated(values: KnownValues, node: Node) -> None:
    """Concat: what lies along its axis comes from one input each, what lies along others from all of them."""
    dims = values.channels.shapes.of(node.outputs[0])
    computed = [value for value in node.inputs if value is not None and not value.constant]
    for factor in values.channels.of(node.outputs[0]) if dims else ():
        there = [any(own.axes == factor.axes for own in values.channels.of(value)) for value in computed]
        from_all = len(computed) == len(node.inputs) and all(there)
        if from_all or factor.axes == (node.int_attribute("axis", 1) % len(dims or ()),):
            _carry_to(values, computed, node.outputs[0], factor, only_zeros=False)


def _keeps_numbers(node: Node) -> bool:
    if node.op_type == "AveragePool":
        pads = any(node.ints_attribute("pads") or ()) or node.text_attribute("auto_pad").startswith("SAME")
        return not node.int_attribute("count_include_pad", 0) or not (pads or node.int_attribute("ceil_mode", 0))
    return node.op_type in _MEANS or (node.op_type == "Pad" and node.text_attribute("mode") not in ("", "constant"))


def _pads_with_another(values: KnownValues, node: Node) -> bool:
    """Whether a Pad may put something there that is not zero."""
    given = values.evaluator.constant(node.inputs[2]) if node.has_input(2) else np.zeros(1)
    old = node.attributes.get("value")
    return given is None or bool((given != 0).any()) or (old is not None and old.f != 0)


def _carry(values: KnownValues, sources: Sequence[Value | None], output: Value | None, *, only_zeros: bool) -> None:
    for factor in values.channels.of(output):
        _carry_to(values, sources, output, factor, only_zeros=only_zeros)


def _carry_to(
    values: KnownValues, sources: Sequence[Value | None], output: Value | None, factor: Factor, *, only_zeros: bool
) -> None:
    """Give a factor of the result what is known of the same channels in the sources.

    Channels that are tied may have become one, whose elements are then those of all of them: they must agree.
    """
    pairs = [(own, values.of(value, own)) for value in sources for own in values.channels.of(value)]
    dtypes = [known.numbers.dtype for _, known in pairs if known.known.any()]
    if not dtypes:
        return
    ids = np.concatenate([own.ids.reshape(-1) for own, _ in pairs])
    numbers = np.concatenate([known.numbers.reshape(-1) for _, known in pairs])
    sure = np.concatenate([(known.zero if only_zeros else known.known).reshape(-1) for _, known in pairs])
    groups = values.channels.groups.of
    hidden = ~np.isin(ids, factor.ids)
    own = _Agreed.of(ids, numbers, sure)
    tied = _Agreed.of(groups[ids[hidden]], numbers[hidden], sure[hidden])
    here, at = own.at(factor.ids)
    beside, tied_at = tied.at(groups[factor.ids])
    result = np.where(here, own.numbers[at], tied.numbers[tied_at])
    known = np.where(here, own.sure[at], beside & tied.sure[tied_at])
    known &= ~beside | (tied.sure[tied_at] & (tied.numbers[tied_at] == result))
    values.give(output, factor, Known(result.astype(dtypes[0]), known))


class _Agreed(NamedTuple):
    """For each key, ascending, the number that all entries with that key have; not `sure` if they differ."""

    keys: Ids
    numbers: Array
    sure: Mask

    @classmethod
    def of(cls, keys: Ids, numbers: Array, sure: Mask) -> Self:
        """Entries that are not `sure` make their key unsure."""
        order = np.argsort(keys, kind="stable")
        found, starts = np.unique(keys[order], return_index=True)
        if not len(keys):
            return cls(np.array([-1]), np.zeros(1, numbers.dtype), np.zeros(1, bool))
        lowest = np.minimum.reduceat(numbers[order], starts)
        agreed = np.logical_and.reduceat(sure[order], starts) & (lowest == np.maximum.reduceat(numbers[order], starts))
        return cls(found, lowest, agreed)

    def at(self, keys: Ids) -> tuple[Mask, Ids]:
        """Whether each of `keys` is there, and where."""
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return self.keys[places] == keys, places
