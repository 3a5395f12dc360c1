"""What rules work with: the channels of one model, where they lie, and what must be adjusted when some leave.

The rule of an operator (`rules`) reads the factors of the inputs, ties and fixes channels, lets stored inputs meet them
(they are cut when channels leave), and says the factors of the outputs. A stored input that is read and meets nothing
keeps its shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx_tools.compaction.mapping.adjustments import Adjustment
from onnx_tools.compaction.mapping.channels import Channels, Ids
from onnx_tools.compaction.mapping.factors import Dims, Factor, Traced, factor_on, joined, narrowed
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.shapes import Shapes
from onnx_tools.graph_parts import Node, Scope, Value


@dataclass(frozen=True, eq=False)
class Claim:
    """A node reads a stored input, or one computed from stored data, with channels along some of its axes."""

    node: Node
    index: int
    factor: Factor
    role: Role


@dataclass(frozen=True, eq=False)
class Meeting:
    """A node sums over an axis of a computed value, or of the product of two: channels leave only where one is zero."""

    node: Node
    ends: tuple[tuple[int, int], ...]
    """Input and axis."""


@dataclass(frozen=True, eq=False)
class SizeOf:
    """A number that is the size of an axis of a value."""

    value: Value
    axis: int


@dataclass(frozen=True, eq=False)
class Said:
    """A stored number: entry `at` of the list that `node` reads as input `index`."""

    number: int
    node: Node
    index: int
    at: int


Sizes = tuple[SizeOf | Said | None, ...]
"""A list of numbers, or one, of which some are sizes. None: a number that is the same whatever leaves."""


HINT = "; --input-shape may tell"
"""How the advice starts that a reason ends with."""


class Trace:
    """The channels of one model while they are followed.

    `opset`: its version of ai.onnx. `branches`: the graphs of each If whose results channels may leave by, by the
    identity of the node.
    """

    def __init__(self, shapes: Shapes, opset: int, branches: Mapping[int, Sequence[Scope]]) -> None:
        self.opset = opset
        self.branches = branches
        self.channels = Channels()
        self.adjustments: list[Adjustment] = []
        self.meetings: list[Meeting] = []
        self._shapes = shapes
        self._traced: dict[int, Traced] = {}
        self._claims: dict[int, dict[tuple[int, int, tuple[int, ...], Role], Claim]] = {}
        self._roles: dict[tuple[int, int], set[Role]] = {}
        self._sizes: dict[int, Sizes] = {}
        self._looked_at: dict[int, set[int] | None] = {}

    def dims(self, value: Value | None) -> Dims | None:
        """The sizes of a value's axes; None if not even their number is known."""
        return self._shapes.of(value)

    def of(self, value: Value | None) -> Traced:
        """The factors of a value; of a constant those that its readers gave it so far."""
        if value is None:
            return ()
        self._looked_at[id(value)] = None
        return self._traced.get(id(value), ())

    def begin(self) -> None:
        """A rule begins: from here on is noted which inputs it looks at."""
        self._looked_at.clear()

    def overlooked(self, node: Node) -> Iterator[Factor]:
        """Factors of inputs of `node` that are computed, which its rule neither asked for nor let meet anything."""
        for value in node.inputs:
            axes = None if value is None or value.constant else self._looked_at.get(id(value), set())
            if value is not None and axes is not None:
                yield from (factor for factor in self._traced.get(id(value), ()) if not axes.issuperset(factor.axes))

    def all_traced(self) -> dict[int, Traced]:
        """The factors of all values, by the identity of the value."""
        return self._traced

    def claims_on(self, value: Value) -> list[Claim]:
        """Who reads a constant with channels: one claim for each role and axes, those of others like it are tied."""
        return list(self._claims.get(id(value), {}).values())

    def roles(self, node: Node, index: int) -> set[Role]:
        """What input `index` of a node, which is a constant, does for channels."""
        return self._roles.get((id(node), index), set())

    def give(self, node: Node, traced: Traced, index: int = 0, rank: int | None = None) -> None:
        """Say the factors of an output, and of how many axes if that is known. What leaves the graph there stays."""
        value = node.outputs[index] if index < len(node.outputs) else None
        if value is not None and rank is not None:
            self._shapes.suppose(value, rank)
        if value is None or not traced:
            return
        dims = self.dims(value)
        self.fix((each for each in traced if not each.fits(dims)), f"{said(node)} doesn't fit the shape of its output")
        traced = tuple(each for each in traced if each.fits(dims))
        if what := self._why_held(value):
            self.fix(traced, f"'{value.name}' is {what}")
        self._traced[id(value)] = traced

    def _why_held(self, value: Value) -> str:
        """What makes all channels of a value stay; "" if nothing does."""
        if value.duplicated or value.handed_to:
            return "defined twice" if value.duplicated else "handed to another graph"
        scope = next((each for each in value.output_of if id(each.owner) not in self.branches), None)
        if scope is None:
            return ""
        return "an output of the model" if scope.owner is None else f"an output of the subgraph {scope.label}"

    def results(self, node: Node) -> list[list[Value | None]]:
        """What the branches of an If give, a list a branch; empty for other nodes."""
        scopes = self.branches.get(id(node), ())
        return [[scope.resolve(output.name) for output in scope.graph.output] for scope in scopes]

    def sizes_in(self, value: Value | None) -> Sizes | None:
        """What is known of the numbers in a value that holds sizes; None for all other values."""
        return None if value is None else self._sizes.get(id(value))

    def give_sizes(self, node: Node, sizes: Sizes) -> None:
        """Say of which sizes output 0 consists. One that leaves the graph there stays."""
        value = node.outputs[0]
        if value is not None:
            self._sizes[id(value)] = sizes
            if value.output_of or value.handed_to or value.duplicated:
                self.hold_sizes(sizes, f"'{value.name}', which has its size, leaves the graph")

    def hold_sizes(self, sizes: Sizes, reason: str) -> None:
        """The axes whose sizes are among these keep them."""
        for each in sizes:
            if isinstance(each, SizeOf) and (factor := factor_on(self.of(each.value), each.axis)) is not None:
                narrowed(self.channels, (factor,), (each.axis,), reason)

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
        if not factor.fits(self.dims(value) if value.tensor is None else value.tensor.shape):
            self.channels.fix(factor.ids, f"'{value.name}' doesn't fit {said(node)}")
        elif value.constant:
            claims = self._claims.setdefault(id(value), {})
            claims.setdefault((id(node), index, factor.axes, role), Claim(node, index, factor, role))
            self._roles.setdefault((id(node), index), set()).add(role)
            self._traced[id(value)] = joined(self.channels, self.of(value), factor)
        else:
            self._meet_computed(node, value, factor, role)

    def _meet_computed(self, node: Node, value: Value, factor: Factor, role: Role) -> None:
        traced = self._traced.get(id(value), ())
        if (axes := self._looked_at.setdefault(id(value), set())) is not None:
            axes.update(factor.axes)
        known = {axis for each in traced for axis in each.axes}
        if role is Role.READS:
            why = why_whole(value, "which is computed")
            self.channels.fix(factor.ids, f"{said(node)} reads it with '{value.name}', {why}")
        elif set(factor.axes) <= known:
            self._traced[id(value)] = joined(self.channels, traced, factor)
        else:
            self.channels.fix(factor.ids, f"{said(node)} takes '{value.name}' with it, {why_whole(value)}")

    def rank(self, value: Value | None) -> int | None:
        """How many axes a value has, if that is known."""
        dims = self.dims(value)
        return None if dims is None else len(dims)

    def axes(self, node: Node, given: Sequence[int] | None) -> tuple[int, ...] | None:
        """Axes of input 0 that may count from the end; None where they can't be told; `ValueError` for none."""
        dims = self.dims(node.inputs[0])
        if given is None or (dims is None and min(given, default=0) < 0):
            return None
        rank = 0 if dims is None else len(dims)
        if dims is not None and not all(-rank <= axis < rank for axis in given):
            raise ValueError(f"axes {given} of {rank}")
        return tuple(axis + rank if axis < 0 else axis for axis in given)

    def bar(self, node: Node, reason: str) -> None:
        """Everything that comes into `node` stays."""
        for value in (*node.inputs, *(value for values in self.results(node) for value in values)):
            self.fix(self.of(value), reason)


def why_whole(value: Value | None, other: str = "which stays as it is") -> str:
    """Why a value that is not constant is not cut, in a reason."""
    overridden = value is not None and value.fed and value.tensor is not None
    return "an input that callers may override" if overridden else other


def said(node: Node) -> str:
    """A node in a reason."""
    return f"{node.op_type} '{node.label}'"
