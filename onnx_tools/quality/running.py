"""Models in onnxruntime, as they are measured: run on feeds, and a reference whose outputs are kept."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from onnx_tools.calibration.data import Feeds
from onnx_tools.errors import InvalidModelFile, RuntimeMissing
from onnx_tools.verification.feeds import Feed, InputSpec, one_line
from onnx_tools.verification.runtime_check import NOT_INSTALLED, open_session
from oxiprune_gpu.errors import InvalidOption

_MOST_KEPT = 1 << 28
"""Bytes of the reference's outputs that are kept; what is more is computed again for each model."""

Outputs = list[Any]
"""As onnxruntime gives them: arrays, and lists or maps of models of ONNX-ML."""


class Loaded:
    """A model in onnxruntime: one thread, so that equal models give equal bits."""

    def __init__(self, path: pathlib.Path) -> None:
        """Load it. Raises `RuntimeMissing`, and `InvalidModelFile` if onnxruntime does not load it."""
        self.path = path
        try:
            self._session: Any = open_session(path)
        except ImportError as error:
            missing = error.name == "onnxruntime"
            raise RuntimeMissing(
                NOT_INSTALLED if missing else f"onnxruntime cannot be imported: {one_line(error)}"
            ) from None
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise InvalidModelFile(f"{path}: onnxruntime does not load it: {one_line(error)}") from None
        self.inputs = [InputSpec(each.name, each.type, tuple(each.shape)) for each in self._session.get_inputs()]
        self.outputs = [each.name for each in self._session.get_outputs()]

    def run(self, feed: Feed, source: str) -> Outputs:
        """What the model gives; `feed` may hold more, such as labels. Raises `InvalidOption` if it does not run."""
        try:
            outputs: Outputs = self._session.run(None, {each.name: feed[each.name] for each in self.inputs})
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise InvalidOption(f"{source}: the model {self.path} cannot run on it: {one_line(error)}") from None
        return outputs

    def runs(self, feed: Feed) -> bool:
        """Whether the model runs on a feed."""
        try:
            self.run(feed, "")
        except InvalidOption:
            return False
        return True


class Reference:
    """The model that others are compared with, and the data. `pairs` gives what both make of it."""

    def __init__(self, model: Loaded, feeds: Feeds) -> None:
        self.model = model
        self.feeds = feeds
        self._kept: dict[int, Outputs] = {}
        self._free = _MOST_KEPT

    def pairs(self, path: pathlib.Path) -> Iterator[tuple[Outputs, Outputs]]:
        """What the reference and the model at `path` give, feed by feed."""
        other = Loaded(path)
        if other.outputs != self.model.outputs:
            raise InvalidOption(f"{path}: its outputs {other.outputs} are not those of {self.model.path}")
        for number, feed in enumerate(self.feeds):
            yield self._outputs(number, feed), other.run(feed, self.feeds.source)

    def _outputs(self, number: int, feed: Feed) -> Outputs:
        if number in self._kept:
            return self._kept[number]
        outputs = self.model.run(feed, self.feeds.source)
        if all(isinstance(output, np.ndarray) for output in outputs):
            size = sum(output.nbytes for output in outputs)
            if size <= self._free:
                self._kept[number] = outputs
                self._free -= size
        return outputs
