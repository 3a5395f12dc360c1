"""A model in onnxruntime with values of its graph as outputs, or their shapes. Its data is read where it lies."""

from __future__ import annotations

import contextlib
import ctypes
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_tools.calibration.cuts import element_type, reduce_to
from onnx_tools.calibration.observed import Place
from onnx_tools.errors import InvalidModelFile, RuntimeMissing
from onnx_tools.model_file import ModelFile, put_back, tensor_at
from onnx_tools.values import encode
from onnx_tools.verification.feeds import Feed, one_line
from onnx_tools.verification.referring import FOLDER, common_folder, is_initializer, referring
from onnx_tools.verification.runtime_check import NOT_INSTALLED
from onnx_tools.wire import Path
from oxiprune_gpu.errors import InvalidOption

_FATAL = 4
_LONG = 1 << 16
_OF_NUMPY = (np.float32, np.float64, np.float16)
"""What onnxruntime takes from numpy without being told the type."""
_SPINNING = "session.intra_op.allow_spinning"


class Tapped:
    """A session of `model` that gives the values at `places`, or their shapes.

    `changed`: other values of stored tensors, by their path, in the shape and dtype that they are stored in. `given`:
    values of the graph that are fed, beside its inputs, with their element types. What the places do not need is left
    out, but for shapes.
    """

    def __init__(
        self,
        model: ModelFile,
        places: Sequence[Place],
        providers: Sequence[str],
        *,
        shapes: bool = False,
        changed: Mapping[Path, NDArray[Any]] | None = None,
        given: Mapping[str, int] | None = None,
    ) -> None:
        folder = common_folder(model)
        proto = referring(model, folder)
        large = _put(proto, changed or {})
        self._places = list(dict.fromkeys(places))
        self._names = _tap(proto, self._places, shapes=shapes)
        if self._names and not shapes:
            reduce_to(proto.graph, self._names, given or {})
            stored = {tensor.name for tensor in proto.graph.initializer}
            large = {name: values for name, values in large.items() if name in stored}
        self._session: Any = _session(proto, folder, model.path, providers, large, shapes=shapes)

    @property
    def inputs(self) -> list[Any]:
        """What onnxruntime tells of the inputs of the model."""
        return list(self._session.get_inputs())

    @property
    def types(self) -> dict[Place, int | None]:
        """The element types of the values; None for what is no array of numpy."""
        told = {each.name: each.type for each in self._session.get_outputs()}
        return {place: element_type(told[name]) for place, name in zip(self._places, self._names, strict=True)}

    def run(self, feed: Feed, source: str) -> dict[Place, Any]:
        """The values for one feed. Raises `InvalidOption`, naming its source, if the model does not run on it."""
        _trim()
        try:
            found = self._session.run(self._names, feed) if self._names else []
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise InvalidOption(f"{source}: the model cannot run on it: {one_line(error)}") from None
        return dict(zip(self._places, found, strict=True))

    def close(self) -> None:
        """Give back the memory that the session takes."""
        self._session = None
        _trim()


def _trim() -> None:
    """Give the system back what was freed: the C library of Linux keeps large pieces, and takes more of other sizes."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _session(
    proto: onnx.ModelProto,
    folder: pathlib.Path,
    path: pathlib.Path,
    providers: Sequence[str],
    large: Mapping[str, NDArray[Any]],
    *,
    shapes: bool,
) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        missing = error.name == "onnxruntime"
        raise RuntimeMissing(
            NOT_INSTALLED if missing else f"onnxruntime cannot be imported: {one_line(error)}"
        ) from None
    _check_providers(providers, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.enable_cpu_mem_arena = False
    if shapes:  # each is asked for as soon as its value is there, which then need not wait
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry(FOLDER, str(folder))
    options.add_session_config_entry(_SPINNING, "0")  # its threads would keep the processor busy while we add up
    if large:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in large.values()]
        options.add_external_initializers(list(large), values)
    try:
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=list(providers))
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise InvalidModelFile(f"{path}: onnxruntime does not load it: {one_line(error)}") from None


def _check_providers(providers: Sequence[str], available: Sequence[str]) -> None:
    missing = [name for name in providers if name not in available]  # onnxruntime would only warn
    if missing or not providers:
        what = f"this onnxruntime has no provider '{missing[0]}'" if missing else "no provider of onnxruntime is given"
        raise InvalidOption(f"{what}; there are: {', '.join(available)}")


def _put(proto: onnx.ModelProto, changed: Mapping[Path, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Give stored tensors other values; those that are too large for a message are returned, by their name."""
    large: dict[str, NDArray[Any]] = {}
    for path, values in changed.items():
        tensor = tensor_at(proto, path)
        external = tensor.data_location == TensorProto.EXTERNAL
        if external and is_initializer(path) and values.dtype in _OF_NUMPY and values.nbytes > _LONG:
            large[tensor.name] = values
            continue
        if external:
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.raw_data = b""
        encode(tensor, values)
        put_back(proto, path, tensor)
    return large


def _tap(proto: onnx.ModelProto, places: Sequence[Place], *, shapes: bool) -> list[str]:
    """Add outputs for values, or for their shapes; returns their names. What no node gives comes through Identity."""
    if not any(entry.domain in ("", "ai.onnx") for entry in proto.opset_import):
        proto.opset_import.add(version=13)
    prefix = _unused(proto)
    made = {name for node in proto.graph.node for name in node.output}
    outputs = {output.name for output in proto.graph.output}
    names = []
    for number, place in enumerate(places):
        source = name = place.name or _named(proto, place, f"{prefix}value{number}")
        if shapes or (place.name and source not in made):
            name = f"{prefix}{number}"
            proto.graph.node.append(helper.make_node("Shape" if shapes else "Identity", [source], [name]))
        if name not in outputs:
            outputs.add(name)
            proto.graph.output.append(onnx.ValueInfoProto(name=name))
        names.append(name)
    return names


def _named(proto: onnx.ModelProto, place: Place, name: str) -> str:
    """Give the output of a node that has no name one."""
    node: Any = proto
    for field, index in place.node:
        node = getattr(node, field) if field == "graph" else getattr(node, field)[index]
    if not node.output:
        node.output.append("")
    node.output[place.output] = name
    return name


def _unused(proto: onnx.ModelProto) -> str:
    """What no name of the main graph starts with."""
    prefix = "oxiprune_"
    taken = [name for node in proto.graph.node for name in (*node.input, *node.output)]
    while any(name.startswith(prefix) for name in taken):
        prefix = f"_{prefix}"
    return prefix
