"""Numbers that stored data comes to: what nodes make of it, run one by one by onnx's reference implementation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnx_tools.compaction.removing.elements import packed, read
from onnx_tools.errors import InvalidTensor
from onnx_tools.graph_parts import Node, StoredTensor, Value, element_count
from onnx_tools.model_file import DTYPES, ModelFile, opset_of
from onnx_tools.values import ValueReader
from oxiprune_gpu import ArrayBlocks, BlockSource

Array = NDArray[Any]

_LARGEST = 1 << 26
"""Elements of a tensor that is read in one piece."""

_DEEPEST = 8
"""Nodes in a row between stored data and what is computed of it."""

_QUANTISATION = ("QuantizeLinear", "DequantizeLinear")
_QUANTISATION_SINCE = 19
"""The opset from which on they are implemented. What was possible before is the same since."""


class Evaluator:
    """Computes with the stored data of a model."""

    def __init__(self, model: ModelFile, reader: ValueReader) -> None:
        self._opsets = list(model.skeleton.opset_import)
        self._opset = opset_of(model.skeleton)
        self._reader = reader
        self._runners: dict[bytes, Any] = {}

    def constant(self, value: Value | None) -> Array | None:
        """What a stored value holds, or one that is computed of stored data; None if that can't be told."""
        return self._constant(value, _DEEPEST, {})

    def blocks(self, value: Value) -> BlockSource | None:
        """The same for reading in blocks: floats that are stored stay where they are."""
        tensor = value.tensor
        if tensor is not None and tensor.data_type in DTYPES and not value.duplicated and not value.fed:
            try:
                return self._reader.blocks(tensor.path, tensor.shape)
            except (InvalidTensor, KeyError, ValueError):
                return None
        array = self.constant(value)
        return None if array is None else ArrayBlocks(np.ascontiguousarray(array))

    def run(self, node: Node, inputs: Sequence[Array | None]) -> Array | None:
        """Output 0 of a node for these inputs, None for one that is not given; None if it can't be run."""
        names = ["" if array is None else f"input_{at}" for at, array in enumerate(inputs)]
        feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                (result,) = self._runner(node, names).run(None, feeds)
            except Exception:  # whatever an implementation raises for what it was not made for
                return None
        return result if isinstance(result, np.ndarray) else None

    def _runner(self, node: Node, names: Sequence[str]) -> Any:
        """What runs nodes like this one; making it takes longer than running it."""
        from onnx.reference import ReferenceEvaluator

        proto = NodeProto(op_type=node.proto.op_type, domain=node.proto.domain, attribute=node.proto.attribute)
        proto.input[:] = names
        proto.output[:] = [f"output_{at}" for at in range(len(node.proto.output))]
        key = proto.SerializeToString(deterministic=True)
        if key not in self._runners:
            given = [_untyped(name) for name in names if name]
            graph = helper.make_graph([proto], "g", given, [_untyped("output_0")])
            self._runners[key] = ReferenceEvaluator(helper.make_model(graph, opset_imports=self._opsets_for(node)))
        return self._runners[key]

    def _opsets_for(self, node: Node) -> list[onnx.OperatorSetIdProto]:
        """Those of the model, or what `node` is implemented for."""
        if node.domain or node.op_type not in _QUANTISATION:
            return self._opsets
        return [helper.make_opsetid("", max(self._opset, _QUANTISATION_SINCE))]

    def _constant(self, value: Value | None, depth: int, known: dict[int, Array | None]) -> Array | None:
        if value is None or not value.constant or value.duplicated or value.fed:
            return None
        if id(value) not in known:
            tensor = value.tensor
            known[id(value)] = self._computed(value, depth, known) if tensor is None else self._stored(tensor)
        return known[id(value)]

    def _computed(self, value: Value, depth: int, known: dict[int, Array | None]) -> Array | None:
        node = value.producer
        if node is None or node.local or not depth or node.outputs[0] is not value:
            return None
        inputs = [self._constant(each, depth - 1, known) for each in node.inputs]
        given = [node.has_input(at) for at in range(len(inputs))]
        return None if given != [array is not None for array in inputs] else self.run(node, inputs)

    def _stored(self, tensor: StoredTensor) -> Array | None:
        if element_count(tensor.shape) > _LARGEST:
            return None
        try:
            data = bytes(packed(read(self._reader, tensor), tensor.data_type))
        except (InvalidTensor, KeyError):
            return None
        return numpy_helper.to_array(TensorProto(dims=tensor.shape, data_type=tensor.data_type, raw_data=data))


def _untyped(name: str) -> onnx.ValueInfoProto:
    return helper.make_empty_tensor_value_info(name)
