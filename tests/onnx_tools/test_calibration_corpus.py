"""On real models too, rows times matrices are what the layers give."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from onnx_tools.calibration.instrumented import Tapped
from onnx_tools.calibration.observed import Observed, ObservedWeight, Place, observe
from onnx_tools.graph_index import GraphIndex
from onnx_tools.model_file import ModelFile
from onnx_tools.verification.feeds import InputSpec, random_feeds
from onnx_tools.weight_values import WeightReader
from oxiprune_gpu import InvalidOption
from tests.onnx_tools.calibration_cases import CPU, products, rows_of

pytest.importorskip("onnxruntime")

LAYERS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
OBSERVED = {
    "basic_pitch": 9,
    "digits_cnn_bn": 5,
    "digits_resnet_ext": 16,
    "digits_resnet_fp16": 16,
    "digits_resnet_int8_qdq": 16,
    "digits_vit": 18,
    "gtcrn": 62,
    "magika_v3_3": 3,
    "mnist_cntk": 3,
    "skl_mlp_zipmap": 3,
    "ultraface_rfb320": 52,
}
"""How many weights of real models are observed: all."""

TOLERANCE = {"digits_resnet_fp16": 5e-3, "digits_resnet_int8_qdq": 5e-3}
"""Relative to the largest output: halves are rounded to 11 bits, and onnxruntime computes codes its own way."""


def layers(model: ModelFile, found: Observed) -> dict[str, Place]:
    """What the layers give, by the names of their weights, where each has one reader that is a product."""
    nodes = {node.label: node for node in GraphIndex(model.skeleton).nodes}
    single = [each.weight for each in found.weights if len(each.weight.consumers) == 1]
    readers = {weight.name: nodes[weight.consumers[0]] for weight in single}
    return {name: Place(node.proto.output[0]) for name, node in readers.items() if node.op_type in LAYERS}


def runnable(model: ModelFile, places: list[Place]) -> dict[str, np.ndarray]:
    """A random feed that the model runs on."""
    tapped = Tapped(model, places, CPU)
    inputs = [InputSpec(each.name, each.type, tuple(each.shape)) for each in tapped.inputs]
    for feed in random_feeds(inputs, 1):
        try:
            tapped.run(feed, "random")
        except InvalidOption:
            continue
        return feed
    raise AssertionError("it runs on no random input")


def values(model: ModelFile, seen: ObservedWeight) -> np.ndarray:
    """The elements of a weight as float64."""
    with WeightReader(model) as reader:
        source = reader.weight(seen.weight, seen.weight.shape)
        loaded = source.load(0, seen.weight.elements, np.empty(seen.weight.elements, source.dtype))
        return loaded.astype(np.float64)


def per_row(given: np.ndarray, seen: ObservedWeight) -> np.ndarray:
    """What a layer gives as (groups, samples, outputs)."""
    groups, outputs, _ = seen.view.shape
    if "Conv" in seen.weight.op_types[0]:
        given = given.reshape(given.shape[0], groups, outputs, -1).transpose(1, 0, 3, 2)
    return given.reshape(groups, -1, outputs).astype(np.float64)


@pytest.mark.parametrize("name", OBSERVED)
def test_real_models(name: str, corpus: list[pathlib.Path]) -> None:
    (path,) = [path for path in corpus if path.parent.name == name]
    model = ModelFile.open(path)
    found = observe(model.skeleton)
    assert (len(found.weights), found.unobserved) == (OBSERVED[name], ())
    places = layers(model, found)
    assert len(places) > 2
    feed = runnable(model, list(places.values()))
    given = Tapped(model, list(places.values()), CPU).run(feed, "random")
    for seen in found.weights:
        if seen.weight.name not in places:
            continue
        expected = per_row(given[places[seen.weight.name]], seen)
        computed = products(rows_of(model, seen, feed, 1 << 20), seen.view.matrices(values(model, seen)))
        bias = expected - computed
        assert np.abs(bias - bias[:, :1]).max() <= TOLERANCE.get(name, 1e-4) * np.abs(expected).max(), seen.weight.name
