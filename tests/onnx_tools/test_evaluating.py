"""Nodes run one by one on a few numbers give what onnxruntime gives, in every version of their operators."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnx_tools.compaction.constants.evaluating import Evaluator
from onnx_tools.compaction.mapping.rules.elementwise import OF_ONE, OF_SEVERAL
from onnx_tools.graph_index import GraphIndex
from onnx_tools.model_file import ModelFile
from onnx_tools.values import ValueReader

FIRST = np.array([0.0, -0.7, 0.3, 1.9, -2.5, 4.0, 0.1], np.float32)
SECOND = np.array([1.0, 0.5, -0.3, 2.0, 2.0, 3.0, -0.1], np.float32)

GIVEN = {
    **dict.fromkeys(("Log", "Sqrt"), (abs(FIRST) + 0.1,)),
    **dict.fromkeys(("Acos", "Asin", "Atanh"), (FIRST / 5,)),
    **dict.fromkeys(("And", "Or", "Xor"), (FIRST > 0, SECOND > 0)),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift"), (np.uint8([1, 7]), np.uint8([3, 2]))),
    "Acosh": [abs(FIRST) + 1],
    "BitwiseNot": [np.uint8([1, 7])],
    "Clip": [FIRST, np.float32(-0.5), np.float32(1.0)],
    "Equal": [np.int32([1, 2]), np.int32([1, 3])],
    "Not": [FIRST > 0],
    "Pow": [abs(FIRST) + 0.1, SECOND],
    "Where": [FIRST > 0, FIRST, SECOND],
}
ATTRIBUTES = {"Cast": {"to": TensorProto.DOUBLE}, "BitShift": {"direction": "LEFT"}, "Mod": {"fmod": 1}}
TWO = {*OF_SEVERAL.split(), "Add", "Sub", "Mul", "Sum", "CastLike"}


def versions(op: str) -> list[int]:
    """The opsets in which an operator changed, those that onnxruntime still runs."""
    found = {onnx.defs.get_schema(op, opset, "").since_version for opset in range(7, 22) if _is_there(op, opset)}
    return sorted(max(version, 7) for version in found)


def _is_there(op: str, opset: int) -> bool:
    try:
        return bool(onnx.defs.get_schema(op, opset, "").name)
    except onnx.defs.SchemaError:
        return False


@functools.cache
def every_case() -> list[tuple[str, int]]:
    names = (*OF_ONE.split(), *OF_SEVERAL.split(), "Add", "Sub", "Mul", "Sum")
    return [(op, opset) for op in names for opset in versions(op)]


@pytest.mark.parametrize(("op", "opset"), every_case())
def test_element_by_element(op, opset, tmp_path):
    inputs = [np.asarray(each) for each in GIVEN.get(op, [FIRST, SECOND] if op in TWO else [FIRST])]
    attributes = ATTRIBUTES.get(op, {})
    if op == "Clip" and opset < 11:
        inputs, attributes = inputs[:1], {"min": -0.5, "max": 1.0}
    names = [f"x{at}" for at in range(len(inputs))]
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, inputs, strict=True)
    ]
    node = helper.make_node(op, names, ["y"], **attributes)
    graph = helper.make_graph([node], "g", infos, [helper.make_empty_tensor_value_info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, dict(zip(names, inputs, strict=True)))
    file = ModelFile.open(tmp_path / "model.onnx")
    with ValueReader(file) as reader:
        found = Evaluator(file, reader).run(GraphIndex(model).nodes[0], inputs)
    assert found is not None
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
