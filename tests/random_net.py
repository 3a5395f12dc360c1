"""A network that grows node by node: it keeps the shapes of its values by onnx's own shape inference for one node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, TypeProto, helper, numpy_helper


class Net:
    """A network that grows. `draw` takes from a strategy; weights are random, from a seed that was drawn."""

    half: bool
    """Whether its floats are float16: it then has no operator that jumps where a rounding differs."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self.draw = draw
        self.half = self.pick(False, False, False, False, True)
        self.opset = 21 if self.half else self.pick(17, 21)
        self.rng = np.random.default_rng(draw(st.integers(0, 999)))
        self.features_last = self.pick(False, True)
        self.inputs: list[str] = []
        self.values: list[str] = []
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[TensorProto] = []
        self._types: dict[str, TypeProto] = {}
        self._data: dict[str, TensorProto] = {}
        self._names = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its floats."""
        return np.dtype(np.float16 if self.half else np.float32)

    @property
    def kind(self) -> int:
        """Of its floats, as ONNX numbers it."""
        return TensorProto.FLOAT16 if self.half else TensorProto.FLOAT

    def pick(self, *choices: Any) -> Any:
        """One of these; a failing example shrinks to the first."""
        return self.draw(st.sampled_from(choices))

    def subset(self, choices: Sequence[Any], fewest: int = 1) -> list[Any]:
        """Some of these, in an order."""
        return self.draw(st.lists(st.sampled_from(choices), min_size=fewest, unique=True))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(dim.dim_value for dim in self._types[name].tensor_type.shape.dim)

    def rank(self, name: str) -> int:
        return len(self.shape(name))

    def new(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def input(self, shape: Sequence[int], kind: int | None = None) -> str:
        name = self.new()
        self.inputs.append(name)
        self._types[name] = helper.make_tensor_type_proto(self.kind if kind is None else kind, shape)
        return name

    def stored(self, array: np.ndarray) -> str:
        """An initializer, or a Constant node."""
        name = self.new()
        tensor = numpy_helper.from_array(array, name)
        self._types[name] = helper.make_tensor_type_proto(tensor.data_type, array.shape)
        self._data[name] = tensor
        if self.pick(True, True, True, False):
            self.tensors.append(tensor)
        else:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def ints(self, *values: int) -> str:
        return self.stored(np.array(values, np.int64))

    def numbers(self, *shape: int) -> str:
        """Stored floats, none of them zero."""
        drawn = self.rng.uniform(0.25, 1, shape) * self.rng.choice([-1, 1], shape)
        return self.stored(drawn.astype(self.dtype))

    def positive(self, *shape: int, size: float = 1) -> str:
        return self.stored((size * self.rng.uniform(0.5, 1.5, shape)).astype(self.dtype))

    def weight(self, *shape: int, axis: int = 0) -> str:
        """A weight: as it is, quantised along `axis`, or behind a Transpose."""
        form = self.pick("plain", "plain", "plain", "quantised", "transposed")
        if form == "quantised":
            codes = self.rng.integers(1, 100, shape).astype(np.int8)
            scale, point = self.positive(shape[axis], size=0.01), np.zeros(shape[axis], np.int8)
            extra = [self.stored(point + self.pick(0, 3))] if self.pick(True, False) else []
            return self.node("DequantizeLinear", self.stored(codes), scale, *extra, axis=axis)
        if form == "transposed":
            return self.node("Transpose", self.numbers(*reversed(shape)))
        return self.numbers(*shape)

    def node(
        self,
        op: str,
        *inputs: str,
        outputs: int = 1,
        like: str | Sequence[int] = "",
        unused: Sequence[int] = (),
        **attrs: Any,
    ) -> Any:
        """A node; the name of its output, or a list of names if there are several.

        `like`: where onnx can't infer it, a value of the same type, or the shape. `unused`: outputs without a name.
        """
        names = ["" if at in unused else self.new() for at in range(outputs)]
        node = helper.make_node(op, inputs, names, **attrs)
        if like:
            kind = self._types[like] if isinstance(like, str) else helper.make_tensor_type_proto(self.kind, like)
            self._types.update(dict.fromkeys(names, kind))
        else:
            schema = onnx.defs.get_schema(op, self.opset, "")
            opsets = [helper.make_opsetid("", self.opset)]
            types = {name: self._types[name] for name in inputs if name}
            data = {name: self._data[name] for name in inputs if name in self._data}
            self._types.update(onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=opsets))
        assert all(min(self.shape(name), default=1) > 0 for name in names), f"of unknown size: {node}"
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def graph(self, outputs: Sequence[str], name: str = "g") -> onnx.GraphProto:
        inputs = [onnx.ValueInfoProto(name=each, type=self._types[each]) for each in self.inputs]
        results = [onnx.ValueInfoProto(name=each, type=self._types[each]) for each in outputs]
        return helper.make_graph(self.nodes, name, inputs, results, self.tensors)
