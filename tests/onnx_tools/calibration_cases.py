"""Models with one weight `w` that a node multiplies with what `x` becomes, and the rows that are observed there."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tools.calibration.instrumented import Tapped
from onnx_tools.calibration.observed import Observed, ObservedWeight, observe
from onnx_tools.model_file import ModelFile

Array = NDArray[Any]
CPU = ("CPUExecutionProvider",)


@dataclass(frozen=True)
class Case:
    """`nodes` in ONNX's text syntax read the input `x` and stored tensors, and give `y`."""

    nodes: str
    weight: tuple[int, ...]
    x: tuple[int, ...]
    more: dict[str, Any] = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        """The model with random integers, small enough that all sums are exact in float32."""
        dims = ", ".join(map(str, self.x))
        header = '<ir_version: 9, opset_import: ["": 19, "com.microsoft": 1]>'
        model = onnx.parser.parse_model(f"{header} g (float[{dims}] x) => (float y) {{ {self.nodes} }}")
        stored = {"w": small(self.weight, 1), **self.more}
        model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()
        )
        return model


def small(shape: tuple[int, ...], seed: int) -> Array:
    """Random integers from -4 to 4 as float32."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def written(model: onnx.ModelProto, folder: pathlib.Path) -> ModelFile:
    """The model as a file."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return ModelFile.open(path)


def only(observed: Observed) -> ObservedWeight:
    """The weight `w`, which must be observed."""
    assert [weight.weight.name for weight in observed.weights] == ["w"], observed.unobserved
    return observed.weights[0]


def rows_of(model: ModelFile, seen: ObservedWeight, feed: dict[str, Array], most: int = 64) -> Array:
    """All rows of all observations of a weight, (groups, samples, features)."""
    places = [place for each in seen.observations for place in each.values if place is not None]
    values = Tapped(model, places, CPU).run(feed, "test")
    blocks = []
    for each in seen.observations:
        given = [None if place is None else values[place] for place in each.values]
        blocks += each.unfold.rows(given).blocks(most)
    return np.concatenate([np.broadcast_to(block, (seen.view.shape[0], *block.shape[1:])) for block in blocks], 1)


def products(rows: Array, matrices: Array) -> Array:
    """What each group of rows and its matrix come to, (groups, samples, outputs)."""
    return np.einsum("gsf,gof->gso", rows.astype(np.float64), matrices.astype(np.float64))


def seen_in(model: onnx.ModelProto) -> ObservedWeight:
    """The weight `w` of a model in memory."""
    return only(observe(model))
