"""What rules work with: the channels of one model, where they lie, and what must be adjusted when some leave.

The rule of an operator (`rules`) reads the factors of the inputs, ties and fixes channels, lets stored inputs meet them
(they are cut when channels leave), and says the factors of the outputs. A stored input that is read and meets nothing
keeps its shape.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnx_tools.compaction.adjustments import Adjustment
from onnx_tools.compaction.channels import Channels, Ids
from onnx_tools.compaction.factors import Dims, Factor, Traced, factor_on, joined, narrowed
from onnx_tools.compaction.roles import Role
from onnx_tools.compaction.shapes import Shapes
from onnx_tools.graph_parts import Node, Value


@dataclass(frozen=True, eq=False)
class Claim:
    """A node reads a stored input, or one computed from stored data, with channels along some of its axes."""

    node: Node
    index: int
    factor: Factor
    role: Role


@dataclass(frozen=True, eq=False)
class Meeting:
    """A node multiplies two computed values and sums over an axis of both: channels leave only where one is zero."""

    node: Node
    first: tuple[int, int]
    """Input and axis."""
    second: tuple[int, int]


class Trace:
    """The channels of one model while they are followed."""

    def __init__(self, shapes: Shapes) -> None:
        self.channels = Channels()
        self.adjustments: list[Adjustment] = []
        self.meetings: list[Meeting] = []
        self._shapes = shapes
        self._traced: dict[int, Traced] = {}
        self._claims: dict[int, list[Claim]] = {}

    def dims(self, value: Value | None) -> Dims | None:
        """The sizes of a value's axes; None if not even their number is known."""
        return self._shapes.of(value)

    def of(self, value: Value | None) -> Traced:
        """The factors of a value; of a constant those that its readers gave it so far."""
        return () if value is None else self._traced.get(id(value), ())

    def all_traced(self) -> dict[int, Traced]:
        """The factors of all values, by the identity of the value."""
        return self._traced

    def claims_on(self, value: Value) -> list[Claim]:
        """Who reads a constant with channels."""
        return self._claims.get(id(value), [])

    def give(self, node: Node, traced: Traced, index: int = 0) -> None:
        """Say the factors of an output. What leaves the graph there stays."""
        value = node.outputs[index] if index < len(node.outputs) else None
        if value is None or not traced:
            return
        if value.output_of or value.handed_to or value.duplicated:
            what = "an output of the model" if not value.handed_to else "handed to another graph"
            what = "defined twice" if value.duplicated else what
            self.fix(traced, f"'{value.name}' is {what}")
        self._traced[id(value)] = traced

    def fix(self, traced: Iterable[Factor], reason: str) -> None:
        """All channels of these factors stay."""
        for factor in traced:
            self.channels.fix(factor.ids, reason)

    def narrow(self, node: Node, index: int, without: Iterable[int], why: str) -> Traced:
        """The factors of an input of `node`, with nothing apart along the axes `without`. `why`: what it does there."""
        traced = self.of(node.inputs[index])
        return narrowed(self.channels, traced, without, f"{said(node)} {why}") if traced else ()

    def only(self, node: Node, index: int, axes: Iterable[int], why: str) -> Traced:
        """The same with nothing apart along any axis but `axes`."""
        found = {axis for factor in self.of(node.inputs[index]) for axis in factor.axes}
        return self.narrow(node, index, found - set(axes), why)

    def along(self, node: Node, index: int, axis: int, why: str) -> Ids | None:
        """The channels along one axis of an input, nothing else apart; None if it has none there."""
        factor = factor_on(self.only(node, index, (axis,), why), axis)
        return None if factor is None else factor.ids

    def meet(self, node: Node, index: int, factor: Factor, role: Role) -> None:
        """Input `index` has these channels along these axes of its own; its kind of data decides what follows."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return
        if value.constant:
            self._claims.setdefault(id(value), []).append(Claim(node, index, factor, role))
            self._traced[id(value)] = joined(self.channels, self.of(value), factor)
            return
        known = {axis for each in self.of(value) for axis in each.axes}
        if role is Role.READS:
            self.channels.fix(factor.ids, f"{said(node)} reads it with '{value.name}', which is computed")
        elif set(factor.axes) <= known:
            self._traced[id(value)] = joined(self.channels, self.of(value), factor)
        else:
            self.channels.fix(factor.ids, f"{said(node)} takes '{value.name}' with it, which stays as it is")

    def bar(self, node: Node, reason: str) -> None:
        """Everything that comes into `node` stays."""
        for value in node.inputs:
            self.fix(self.of(value), reason)


def said(node: Node) -> str:
    """A node in a reason."""
    return f"{node.op_type} '{node.label}'"
