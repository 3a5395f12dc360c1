"""For each weight of a model: which values of the graph are its inputs, and how they become rows of features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from onnx import ModelProto

from onnx_tools.calibration.readers import HIDDEN, Seen, scale_in_front, seen_at
from onnx_tools.calibration.rows import Dequantised, ProductRows, Unfold
from onnx_tools.calibration.view import MatrixView, matrix_view
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import ATTRIBUTE, Node, Path, StoredTensor, Value
from onnx_tools.layout import Layout
from onnx_tools.readings import Follower, Reading
from onnx_tools.weights import Weight, find_weights


class Place(NamedTuple):
    """A value of the main graph: its name, or output `output` of the node at `node`, which has no name yet."""

    name: str
    node: Path = ()
    output: int = 0


@dataclass(frozen=True)
class Observation:
    """What is looked at: values, None where a node is given none, and how they become rows.

    `node`: who reads them; `position`: its place among the nodes of the model, which stand in the order of computing.
    Two that are equal in values and unfolding are the same rows, and are looked at once: see `key`.
    """

    values: tuple[Place | None, ...]
    unfold: Unfold
    node: str
    position: int

    @property
    def key(self) -> tuple[tuple[Place | None, ...], Unfold]:
        """Equal for observations of the same rows."""
        return self.values, self.unfold


@dataclass(frozen=True)
class ObservedWeight:
    """A weight, the matrices that it is seen as, and what these are multiplied with, one for each different input.

    For each observation, `rows @ matrix.T` of each group is what the layer gives, without its bias and in the order of
    the samples.
    """

    weight: Weight
    view: MatrixView
    observations: tuple[Observation, ...]


class Unobserved(NamedTuple):
    """A weight whose inputs can't be seen, and the reason."""

    name: str
    reason: str


class Observed(NamedTuple):
    """All weights of a model: the observed ones in the order in which they are first read, others in model order."""

    weights: tuple[ObservedWeight, ...]
    unobserved: tuple[Unobserved, ...]


def observe(model: ModelProto, twins: Mapping[Path, Sequence[Path]] | None = None) -> Observed:
    """Find what to look at; the skeleton of a model will do. Raises nothing, however broken the graph is.

    `twins`: for tensors that lie on the bytes of others all of them, see `shared_bytes.twins`: each weight then counts
    what reads any of them.
    """
    finder = _Finder(model, twins or {})
    found = [finder.find(weight) for weight in find_weights(model).weights]
    seen = [item for item in found if isinstance(item, ObservedWeight)]
    return Observed(
        tuple(sorted(seen, key=lambda item: min(each.position for each in item.observations))),
        tuple(item for item in found if isinstance(item, Unobserved)),
    )


class _Use(NamedTuple):
    """One node that multiplies a weight. `partly`: it reads some of the outputs, or more than them."""

    view: MatrixView
    observation: Observation
    partly: bool = False


class _Finder:
    def __init__(self, model: ModelProto, twins: Mapping[Path, Sequence[Path]]) -> None:
        index = GraphIndex(model)
        self._twins = twins
        self._of_twins: dict[Path, ObservedWeight | Unobserved] = {}
        self._follower = Follower(index)
        self._main = index.scopes[0]
        self._positions = {node: position for position, node in enumerate(index.nodes)}
        self._tensors = {tensor.path: tensor for tensor in index.tensors}

    def find(self, weight: Weight) -> ObservedWeight | Unobserved:
        """Its inputs at all nodes that multiply it; nodes that look entries up in it are not asked."""
        paths = self._twins.get(weight.path, (weight.path,))
        if paths[0] not in self._of_twins:
            self._of_twins[paths[0]] = self._found(weight, paths)
        found = self._of_twins[paths[0]]
        return replace(found, weight=weight) if isinstance(found, ObservedWeight) else found._replace(name=weight.name)

    def _found(self, weight: Weight, paths: Sequence[Path]) -> ObservedWeight | Unobserved:
        tensor = self._tensors[weight.path]
        if tensor.place == ATTRIBUTE:
            return self._told(weight, [self._held(tensor, weight)])
        alike = [self._tensors[path] for path in paths if path in self._tensors]
        readings = [each for one in alike for each in self._follower.readings(one) if each.slot is not None]
        summing = [each for each in readings if each.slot is not None and each.slot.reduction is not None]
        if not summing:
            return Unobserved(weight.name, "its entries are looked up and summed with nothing")
        return self._told(weight, [self._reading(each) for each in summing])

    def _told(self, weight: Weight, found: list[_Use | str]) -> ObservedWeight | Unobserved:
        """One weight out of all its uses, which must agree on what its matrices are."""
        seen: list[_Use] = []
        for each in found:
            if isinstance(each, str):
                return Unobserved(weight.name, each)
            seen.append(each)
        readers = ", ".join(f"'{use.observation.node}'" for use in seen[:3])
        if len({use.view for use in seen}) > 1:
            return Unobserved(weight.name, f"{readers} share it and see different matrices in it")
        different = {use.observation.key: use.observation for use in seen}
        if len(different) > 1 and any(use.partly for use in seen):
            return Unobserved(weight.name, f"{readers} read different parts of it and have different inputs")
        return ObservedWeight(weight, seen[0].view, tuple(different.values()))

    def _reading(self, reading: Reading) -> _Use | str:
        seen, node = seen_at(reading), reading.node
        assert node is not None
        if isinstance(seen, str):
            return seen
        values = list(self._values(node, seen))
        if isinstance(seen.unfold, Dequantised) and values[1] is None:
            values[1] = scale_in_front(values[0] if isinstance(values[0], Value) else None)
        use = self._use(node, seen.view, seen.unfold, values)
        axes = reading.layout.axes if reading.layout is not None else None
        return use if isinstance(use, str) else use._replace(partly=any(axis.cut for axis in axes or ()))

    def _held(self, tensor: StoredTensor, weight: Weight) -> _Use | str:
        """A list of coefficients that a node holds itself, (outputs, features)."""
        if weight.rows is None or tensor.node is None:
            return weight.rows_missing
        outputs, features = weight.rows.view_shape
        view = matrix_view(Layout.of((outputs, features)), [], [0], [1])
        value = tensor.node.inputs[0] if tensor.node.inputs else None
        return view if isinstance(view, str) else self._use(tensor.node, view, ProductRows(), [value])

    def _values(self, node: Node, seen: Seen) -> Iterator[Value | Place | None]:
        for place in seen.inputs:
            if place != HIDDEN:
                yield node.inputs[place] if place < len(node.inputs) else None
                continue
            output = node.outputs[0] if node.outputs else None
            yield output if output is not None or node.scope is not self._main else Place("", node.path)

    def _use(self, node: Node, view: MatrixView, unfold: Unfold, values: list[Value | Place | None]) -> _Use | str:
        places: list[Place | None] = []
        for value in values:
            if not isinstance(value, Value):
                places.append(value)
                continue
            if self._main.values.get(value.name) is not value:
                where = f"in {node.scope.label}" if node.scope.label else "in a function"
                return f"'{node.label}' reads it {where}, whose values are not seen from outside"
            if value.duplicated:
                return f"the input of '{node.label}' has a name that is defined twice"
            places.append(Place(value.name))
        if places[0] is None:
            return f"the input of '{node.label}' is not known"
        return _Use(view, Observation(tuple(places), unfold, node.label, self._positions[node]))
