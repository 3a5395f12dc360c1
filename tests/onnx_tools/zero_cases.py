"""What tests of zero and constant channels share: a model in a file with its weights, and what can leave it."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.compaction.removing.removal import write_without
from onnx_tools.compaction.zeros import Removable, removable
from onnx_tools.model_file import ModelFile
from tests.channel_oracle import Feeds, random_feeds
from tests.onnx_tools.compacting import compare

Array = NDArray[Any]
Weights = Mapping[str, Array]

HEADER = '<ir_version: 10, opset_import: ["": %d]>\n'


class Case(NamedTuple):
    """A model in a file, its channels, and what can leave."""

    model: ModelFile
    channels: ChannelMap
    found: Removable

    def gone(self, name: str, axis: int = 1) -> list[int]:
        """The entries that leave along an axis of a value."""
        value = self.channels.index.scopes[0].values[name]
        masks = self.channels.without(self.found.gone).masks(self.channels.of(value))
        return np.flatnonzero(~masks[axis]).tolist() if axis in masks else []


def case_of(folder: pathlib.Path, text: str, weights: Weights, *, opset: int = 20, **options: Any) -> Case:
    """Writes a model with weights, and asks what can leave."""
    model = onnx.parser.parse_model(HEADER % opset + text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items())
    return case_of_model(folder, model, **options)


def case_of_model(folder: pathlib.Path, model: onnx.ModelProto, **options: Any) -> Case:
    path = folder / "model.onnx"
    onnx.save(model, path)
    file = ModelFile.open(path)
    channels = map_channels(file.skeleton)
    return Case(file, channels, removable(file, channels, **options))


def assert_the_same_without(case: Case, feeds: Feeds | None = None, tolerance: float = 1e-5) -> None:
    """The model without the channels that may leave gives the same in onnxruntime."""
    model = onnx.load(case.model.path)
    output = case.model.path.with_name("without.onnx")
    write_without(case.model, case.channels, case.found.gone, case.found.folds, output, force=True)
    compare(case.model.path, output, feeds or random_feeds(model, np.random.default_rng(5)), tolerance)


def values(*shape: int, seed: int = 3) -> Array:
    """Positive floats."""
    return np.random.default_rng(seed).uniform(0.1, 1.0, shape).astype(np.float32)


def with_zeros(array: Array, *places: Any) -> Array:
    """The array, zero at these places."""
    for place in places:
        array[place] = 0
    return array
