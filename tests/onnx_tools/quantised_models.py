"""Models with quantised weights, and the slow truth about them: dequantise all of it, prune the floats."""

from __future__ import annotations

import pathlib
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_tools import Selection, prune_file, prune_model
from onnx_tools.report import PruneReport
from oxiprune_gpu import PruningConfig, prune_tensor

EVERY_SIZE = Selection(min_elements=1)

INTEGERS = [
    TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT4, TensorProto.UINT4,
    TensorProto.INT2, TensorProto.UINT2,
]  # fmt: skip
FLOATS = [
    TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ,
    TensorProto.FLOAT4E2M1,
]  # fmt: skip

OPSETS = '<ir_version: 13, opset_import: ["": 26, "com.microsoft": 1]>'


def model_of(body: str, inputs: str = "float[N] x", **stored: TensorProto) -> onnx.ModelProto:
    """A model from text that stores these tensors."""
    model = onnx.parser.parse_model(f"{OPSETS} g ({inputs}) => (float[N] y) {{ {body} }}")
    for name, tensor in stored.items():
        model.graph.initializer.add().CopyFrom(tensor)
        model.graph.initializer[-1].name = name
    return model


def tensor(values: NDArray[Any] | list[Any], data_type: int = TensorProto.FLOAT, *, raw: bool = True) -> TensorProto:
    """A stored tensor, in raw_data or in its typed field."""
    array = np.asarray(values, helper.tensor_dtype_to_np_dtype(data_type))
    if raw:
        return numpy_helper.from_array(array)
    if data_type in FLOATS:  # make_tensor wants numbers to round
        codes = np.frombuffer(numpy_helper.from_array(array).raw_data, np.uint8)
        return TensorProto(data_type=data_type, dims=array.shape, int32_data=codes.tolist())
    return helper.make_tensor("", data_type, array.shape, array.reshape(-1).tolist())


def random_codes(rng: np.random.Generator, data_type: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Values of the type, of floats only finite ones."""
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    if data_type in INTEGERS:
        limits = ml_dtypes.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    bits = ml_dtypes.finfo(dtype).bits
    values = np.arange(1 << bits, dtype=np.uint8).view(dtype)
    return rng.choice(values[np.isfinite(values.astype(np.float32))], shape)


def dequantised(codes: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None) -> NDArray[np.float32]:
    """The real values; scale and zero point have the shape of the codes, or one that broadcasts."""
    numbers = codes.astype(np.float32)
    return (numbers - (0 if zero is None else zero.astype(np.float32))) * scale.astype(np.float32)


def expected_codes(
    codes: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None, config: PruningConfig
) -> NDArray[Any]:
    """The codes of the weight pruned as floats: zero points where those are pruned."""
    _, mask = prune_tensor(dequantised(codes, scale, zero), config)
    zeros = np.zeros((), codes.dtype) if zero is None else zero
    return np.where(mask, codes, np.broadcast_to(zeros, codes.shape))


def pruned_both_ways(
    model: onnx.ModelProto, folder: pathlib.Path, config: PruningConfig, selection: Selection = EVERY_SIZE
) -> tuple[onnx.ModelProto, PruneReport]:
    """The model pruned in a file, which must equal the one pruned in memory."""
    onnx.save(model, folder / "model.onnx")
    report = prune_file(folder / "model.onnx", folder / "pruned.onnx", config=config, selection=selection)
    pruned = onnx.load(folder / "pruned.onnx")
    in_memory = onnx.ModelProto()
    in_memory.CopyFrom(model)
    prune_model(in_memory, config=config, selection=selection)
    assert in_memory == pruned
    return pruned, report


def stored(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    """The values of an initializer, in onnx's own reading."""
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))
