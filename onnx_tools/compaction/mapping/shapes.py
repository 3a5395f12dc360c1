"""Shapes of the values of a model, as far as they can be told without running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, TypeProto, ValueInfoProto

from onnx_tools.compaction.mapping.factors import Dims, Size
from onnx_tools.compaction.mapping.shape_numbers import sharpen
from onnx_tools.errors import InvalidInputShape
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import Scope, Value
from onnx_tools.model_file import DTYPES

_LARGEST = (1 << 63) - 1
"""That a file can say."""
_LONGEST = 1 << 24
"""Entries of an axis; a longer one is not followed, whatever a file says."""

InputShapes = Mapping[str, Sequence[int]]


def with_shapes(model: onnx.ModelProto, input_shapes: InputShapes) -> onnx.ModelProto:
    """A copy of a model, or of its skeleton, with the shapes that onnx's shape inference finds.

    `input_shapes`: sizes of graph inputs that the model leaves open. Raises `InvalidInputShape` if they don't fit.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _give_shapes(copy, input_shapes)
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except Exception:  # onnx raises several kinds for models it can't follow; what is written in the model is left
        return copy
    sharpen(copy)
    return copy


class Shapes:
    """The shapes of an index that was made of a model `with_shapes`."""

    def __init__(self, index: GraphIndex) -> None:
        self._known: dict[int, Dims] = {}
        self._types: dict[int, int] = {}
        for scope in index.scopes:
            self._note(scope)
        main = index.scopes[0]
        fed = [main.values.get(info.name) for info in getattr(main.graph, "input", ())]
        shapes = [self.of(value) for value in fed if value is not None and value.tensor is None]
        self._open = any(dims is None or not all(isinstance(size, int) for size in dims) for dims in shapes)
        for tensor in index.tensors:
            for value in tensor.values:
                self._known[id(value)] = tuple(map(_believed, tensor.shape))

    def _note(self, scope: Scope) -> None:
        if isinstance(scope.graph, FunctionProto):
            return
        for info in (*scope.graph.value_info, *scope.graph.output, *scope.graph.input):
            value = scope.values.get(info.name)
            dims = _dims(info.type)
            if value is None or value.duplicated:
                continue
            if dims is not None:
                self._known[id(value)] = dims
            self._types[id(value)] = info.type.tensor_type.elem_type

    @property
    def are_open(self) -> bool:
        """Whether the model leaves the size of an input open."""
        return self._open

    def suppose(self, value: Value, rank: int) -> None:
        """A rule knows how many axes a value has."""
        self._known.setdefault(id(value), (None,) * rank)

    def of(self, value: Value | None) -> Dims | None:
        """Sizes of the axes of a value; None if not even their number is known."""
        return None if value is None else self._known.get(id(value))

    def float_type(self, value: Value | None) -> np.dtype[Any] | None:
        """The dtype of a computed value of floats; None of others, and where it is not known."""
        return None if value is None else DTYPES.get(self._types.get(id(value), 0))


def _dims(kind: TypeProto) -> Dims | None:
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    return tuple(_size(dim) for dim in kind.tensor_type.shape.dim)


def _size(dim: onnx.TensorShapeProto.Dimension) -> Size:
    if dim.HasField("dim_value"):
        return _believed(dim.dim_value)
    return str(dim.dim_param) or None


def _believed(size: int) -> Size:
    """A size that may be worked with; nobody has held it against data yet."""
    return int(size) if 0 < size <= _LONGEST else None


def _give_shapes(model: onnx.ModelProto, input_shapes: InputShapes) -> None:
    inputs = {info.name: info for info in model.graph.input}
    for name, sizes in input_shapes.items():
        if name not in inputs:
            listed = ", ".join(f"'{known}'" for known in list(inputs)[:5])
            raise InvalidInputShape(f"the model has no input '{name}'; it has {listed}")
        _give_shape(inputs[name], tuple(sizes))


def _give_shape(info: ValueInfoProto, sizes: tuple[int, ...]) -> None:
    known = _dims(info.type)
    fits = known is None or (
        len(known) == len(sizes)
        and all(not isinstance(old, int) or old == new for old, new in zip(known, sizes, strict=True))
    )
    shown = "x".join(str(size) for size in sizes)
    if not all(0 < size <= _LARGEST for size in sizes):
        raise InvalidInputShape(f"input '{info.name}' can't have the shape {shown}: sizes are from 1 to {_LARGEST}")
    if not fits or not info.type.HasField("tensor_type"):
        raise InvalidInputShape(f"input '{info.name}' can't have the shape {shown}: the model says {list(known or ())}")
    info.type.tensor_type.ClearField("shape")
    for size in sizes:
        info.type.tensor_type.shape.dim.add(dim_value=size)
