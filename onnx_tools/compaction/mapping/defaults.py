"""Stored tensors that are inputs of the model too: since IR version 4 a caller may give others.

Before, every stored tensor had to be an input, and none could be overridden. Exporters went on like that for a while: a
model all of whose stored tensors are inputs is taken as one of those.
"""

from __future__ import annotations

import onnx

_DEFAULTS_SINCE = 4
"""The IR version."""


def overridable(model: onnx.ModelProto) -> frozenset[str]:
    """The names of stored tensors that callers may be meant to override; none in a model that lists all of them."""
    stored, inputs = _names(model)
    return frozenset() if stored <= inputs or model.ir_version < _DEFAULTS_SINCE else stored & inputs


def lists_all(model: onnx.ModelProto) -> bool:
    """Whether callers may override all stored tensors, although nobody may have meant it."""
    stored, inputs = _names(model)
    return bool(stored) and stored <= inputs and model.ir_version >= _DEFAULTS_SINCE


def _names(model: onnx.ModelProto) -> tuple[frozenset[str], frozenset[str]]:
    """Of stored tensors, and of inputs."""
    graph = model.graph
    sparse = (each.values.name for each in graph.sparse_initializer)
    return frozenset([*(each.name for each in graph.initializer), *sparse]), frozenset(e.name for e in graph.input)
