"""Shapes that depend on numbers computed from other shapes: worked out node by node, once those are known.

onnx's own inference carries such numbers through few operators, and knows none of onnxruntime's. Here a node that
computes a few numbers from known ones is run, and what it says goes into the inference of those that read it; others
stand in for operators that it does not know. One pass over the main graph.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, numpy_helper, shape_inference

from onnx_tools.compaction.mapping.stand_ins import inferred_by_another

_MOST_NUMBERS = 1024
"""In a value that is computed here."""

_RUN_NAMES = (
    "Abs Add And Cast Ceil Concat ConstantOfShape Div Equal Expand Floor Gather Greater Identity Less Max Min Mod Mul "
    "Neg Not Or Range ReduceMax ReduceProd Reshape Size Slice Sqrt Squeeze Sub Transpose Unsqueeze Where"
)
_RUN = frozenset(_RUN_NAMES.split())
"""What is done with sizes."""


def sharpen(model: ModelProto) -> None:
    """Complete the shapes of the values of the main graph, as `infer_shapes` left them, in place."""
    numbers = _Numbers(model)
    if all(numbers.is_known(name) for node in model.graph.node for name in node.output):
        return
    for node in model.graph.node:
        numbers.visit(node)
    for info in (*model.graph.value_info, *model.graph.output):
        info.type.CopyFrom(numbers.types[info.name])
    listed = {info.name for info in (*model.graph.value_info, *model.graph.output, *model.graph.input)}
    for name in dict.fromkeys(name for node in model.graph.node for name in node.output):
        if name in numbers.types and name not in listed:
            model.graph.value_info.add(name=name, type=numbers.types[name])


class _Numbers:
    """The types and the small known data of a graph's values, by name."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.types: dict[str, TypeProto] = {tensor.name: _type_of(tensor) for tensor in graph.initializer}
        for info in (*graph.input, *graph.value_info, *graph.output):
            self.types[info.name] = info.type
        self._data = {tensor.name: array for tensor in graph.initializer if (array := small_array(tensor)) is not None}
        self._opsets = list(model.opset_import)
        self._versions = {opset.domain: opset.version for opset in model.opset_import}

    def is_known(self, name: str) -> bool:
        """Whether all sizes are known, or it is no tensor's name."""
        kind = self.types.get(name)
        return not name or (kind is not None and _sizes(kind) is not None)

    def visit(self, node: NodeProto) -> None:
        """Find the types of a node's outputs, and the numbers in output 0 if they are few."""
        if not all(self.is_known(name) for name in node.output):
            self._infer(node)
        if node.domain in ("", "ai.onnx") and len(node.output) == 1:
            array = self._computed(node)
            if array is not None:
                self._data[node.output[0]] = array

    def _infer(self, node: NodeProto) -> None:
        types = {name: self.types[name] for name in node.input if name in self.types}
        known = {name: numpy_helper.from_array(self._data[name]) for name in node.input if name in self._data}
        if len(types) < len(set(node.input) - {""}) or any(attribute.HasField("g") for attribute in node.attribute):
            return
        try:
            found = self._inferred(node, types, known)
        except Exception:  # onnx raises several kinds for what it can't infer; it stays unknown
            return
        for name, kind in found.items():
            if not self.is_known(name) and _is_better(kind, self.types.get(name)):
                self.types[name] = kind

    def _inferred(
        self, node: NodeProto, types: dict[str, TypeProto], known: dict[str, TensorProto]
    ) -> dict[str, TypeProto]:
        version = self._versions.get(node.domain, 1)
        if not onnx.defs.has(node.op_type, version, node.domain):
            kind = inferred_by_another(node, types)
            return {} if kind is None else {node.output[0]: kind}
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        return dict(shape_inference.infer_node_outputs(schema, node, types, known, opset_imports=self._opsets))

    def _computed(self, node: NodeProto) -> NDArray[Any] | None:
        if node.op_type == "Constant":
            return next((small_array(each.t) for each in node.attribute if each.name == "value"), None)
        sizes = _sizes(self.types.get(node.output[0]))
        if sizes is None or prod(sizes) > _MOST_NUMBERS:
            return None
        if node.op_type == "Shape":
            shape = _sizes(self.types.get(node.input[0]))
            start, end = (next((a.i for a in node.attribute if a.name == name), None) for name in ("start", "end"))
            return None if shape is None else np.array(shape[start:end], np.int64)
        known = all(name in self._data for name in node.input if name)
        return self._run(node) if node.op_type in _RUN and node.input and known else None

    def _run(self, node: NodeProto) -> NDArray[Any] | None:
        from onnx.reference import ReferenceEvaluator

        graph = onnx.helper.make_graph(
            [node],
            "one",
            [onnx.helper.make_value_info(name, self.types[name]) for name in dict.fromkeys(node.input) if name],
            [onnx.helper.make_value_info(node.output[0], self.types[node.output[0]])],
        )
        try:
            one = onnx.helper.make_model(graph, opset_imports=[o for o in self._opsets if not o.domain])
            (found,) = ReferenceEvaluator(one).run(None, {name: self._data[name] for name in node.input if name})
        except Exception:  # whatever numbers make no sense for this operator: its results stay unknown
            return None
        return np.asarray(found)


def _type_of(tensor: TensorProto) -> TypeProto:
    return onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))


def _sizes(kind: TypeProto | None) -> tuple[int, ...] | None:
    """All sizes of a tensor type; None if one is unknown."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def _is_better(found: TypeProto, old: TypeProto | None) -> bool:
    """Whether a type says more than what was known, which has an open size or no shape."""
    if not found.tensor_type.HasField("shape"):
        return False
    if old is None or not old.tensor_type.HasField("shape"):
        return True
    return _count(found) > _count(old) and len(found.tensor_type.shape.dim) == len(old.tensor_type.shape.dim)


def _count(kind: TypeProto) -> int:
    return sum(dim.HasField("dim_value") for dim in kind.tensor_type.shape.dim)


def small_array(tensor: TensorProto) -> NDArray[Any] | None:
    """The data of a small tensor that is there."""
    if tensor.data_location == TensorProto.EXTERNAL or not 0 <= prod(tensor.dims) <= _MOST_NUMBERS:
        return None
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (KeyError, TypeError, ValueError):  # a skeleton has no large data, a damaged model too little, or no type
        return None
