"""Why a stored tensor is no weight, in words for reports."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import TensorProto

from onnx_tools import graph_parts
from onnx_tools.graph_parts import StoredTensor
from onnx_tools.layout import MOST_AXES
from onnx_tools.model_file import DTYPES
from onnx_tools.readings import Reading, dtype_name_of, op_name

PIECE = "part of a weight stored packed: decode the model first (oxiprune decode)"
"""The reason of what an encoded weight is rebuilt from; pruned, it would give another weight."""


def why_unusable(tensor: StoredTensor) -> str:
    """Why a tensor can't be a weight, whoever reads it; "" if nothing speaks against it."""
    is_list = tensor.place == graph_parts.LITERAL and tensor.data_type in DTYPES and tensor.shape != ()
    if not is_list and tensor.place not in (graph_parts.INITIALIZER, graph_parts.CONSTANT):
        return _place_reason(tensor)
    if len(tensor.shape) > MOST_AXES or min(tensor.shape, default=1) < 0:
        return "impossible shape"
    if 0 in tensor.shape:
        return "empty tensor"
    if any(value.duplicated for value in tensor.values):
        return _place_reason(tensor) if _has_sparse_twin(tensor) else "its name is defined twice in one graph"
    return "overridden by an input of its subgraph" if any(value.fed for value in tensor.values) else ""


def _place_reason(tensor: StoredTensor) -> str:
    """The reason that lies in where the tensor is stored; initializers come here when a sparse one has their name."""
    if tensor.zeros is not None or tensor.place == graph_parts.SPARSE:
        return "stored sparse: decode it first" if tensor.path[-1][0] == "values" else "indices of a sparse tensor"
    if tensor.place in (graph_parts.ATTRIBUTE, graph_parts.LITERAL):
        repeated = tensor.node is not None and (tensor.node.domain, tensor.node.op_type) == ("", "ConstantOfShape")
        return f"{tensor.what}, one value repeated: no part of it can be zero" if repeated else tensor.what
    if tensor.place == graph_parts.FUNCTION:
        return "inside a local function that no call reaches"
    if tensor.place == graph_parts.TRAINING:
        return f"inside {tensor.place}"
    return "a sparse initializer has its name"


def _has_sparse_twin(tensor: StoredTensor) -> bool:
    if tensor.scope is None or tensor.value is None or tensor.place != graph_parts.INITIALIZER:
        return False
    return tensor.value.name in tensor.scope.sparse_names


def reason_of_use(readings: list[Reading]) -> str:
    """Why a tensor is no weight; "" if every reader reads it as one, and as the same."""
    weights = [reading for reading in readings if reading.is_weight]
    others = [reading for reading in readings if not reading.is_weight]
    if not readings:
        return "unused by any node"
    if others and not weights:
        return _summary(others)
    if others:
        return f"weight of {op_name(weights[0].node)}, but also {_listed(_with_label(other) for other in others)}"
    alike = len({reading.passage.quantisation for reading in readings}) == 1
    return "" if alike else "consumers disagree on its scale or zero point"


def _summary(readings: list[Reading]) -> str:
    """What a tensor is that no node reads as a weight."""
    known = [_what(reading) for reading in readings if reading.known]
    unknown = dict.fromkeys(op_name(reading.node) for reading in readings if not reading.known)
    if unknown:
        only = "" if known else "only "
        known.append(f"read {only}by {_listed(unknown, ', ')} (not a weight slot)")
    return _listed(known)


def _what(reading: Reading) -> str:
    if reading.slot is None or not reading.passage.why:
        return reading.what
    return f"quantised weight of {op_name(reading.node)} ({reading.passage.text}): {reading.passage.why}"


def _with_label(reading: Reading) -> str:
    text = _what(reading) if reading.known else f"read by {op_name(reading.node)}"
    return f"{text} '{reading.node.label}'" if reading.node is not None and not reading.passage.text else text


def _listed(texts: Iterable[str], separator: str = " and ") -> str:
    """The first few of the different texts."""
    different = list(dict.fromkeys(texts))
    more = [f"{len(different) - 3} more"] if len(different) > 3 else []
    return separator.join(different[:3] + more)


def reason_of_type(tensor: StoredTensor, readings: list[Reading]) -> str:
    """Why a tensor of another type is left alone: what it is if that is known, else its type."""
    dtype = dtype_name_of(tensor.data_type)
    told = [reading for reading in readings if reading.known]
    direct = [reading.node for reading in readings if reading.slot is not None and not reading.passage.text]
    if direct:
        return f"weight of {op_name(direct[0])} with unsupported dtype {dtype}"
    if told and _looks_quantised(tensor, told):
        return _summary(told)
    if not readings and not dtype.startswith(("int64", "bool", "string")):
        return "unused by any node"
    return f"unsupported dtype {dtype}" if dtype.startswith(("float", "complex")) else f"not floating point ({dtype})"


def _looks_quantised(tensor: StoredTensor, readings: list[Reading]) -> bool:
    """Narrow integers are weights of quantised operators; wide ones only behind DequantizeLinear."""
    wide = (TensorProto.INT64, TensorProto.UINT64, TensorProto.BOOL, TensorProto.STRING)
    return tensor.data_type not in wide or any(reading.passage.text for reading in readings)
