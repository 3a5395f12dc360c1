"""What goes with the weights in a repair: biases, and the statistics of batch normalisations."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tools import ChannelConfig, DataMethod, Selection, prune_channels, prune_file, verify_files
from onnx_tools.calibration.shifts import Additions
from onnx_tools.model_file import ModelFile
from oxiprune_gpu import PruningConfig

EVERY_SIZE = Selection(min_elements=0)
HEAD = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4, 6, 6] x) => (float[N, 5] y)'
BODY = """{ c = Conv (x, w) n = BatchNormalization (c, s, t, m, q) r = Relu (n) p = GlobalAveragePool (r)
    f = Flatten (p) h = MatMul (f, v) y = Add (h, b) }"""
SHAPES = {"w": (8, 4, 3, 3), "s": (8,), "t": (8,), "m": (8,), "q": (8,), "v": (8, 5), "b": (5,)}


def written(path: pathlib.Path, body: str = BODY, **more: tuple[int, ...]) -> pathlib.Path:
    model = onnx.parser.parse_model(f"{HEAD} {body}")
    random = np.random.default_rng(1)
    for name, shape in {**SHAPES, **more}.items():
        values = random.standard_normal(shape).astype(np.float32)
        values = np.abs(values) + 0.5 if name in "sq" else values
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(model, path)
    return path


@pytest.fixture
def images() -> NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal((64, 4, 6, 6)).astype(np.float32) + 0.7


def tensors(path: pathlib.Path) -> dict[str, NDArray[Any]]:
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


def pruned(model: pathlib.Path, images: Any, *repair: str, sparsity: float = 0.5, **words: Any) -> pathlib.Path:
    output = model.with_name("pruned.onnx")
    words = {"choice": None, **words}
    values = DataMethod({"x": images}, repair=repair, **words).new_values(model, PruningConfig(sparsity), EVERY_SIZE)
    prune_file(model, output, config=values, force=True)
    assert verify_files(model, output, runtime=False).checks[0].outcome == "passed"
    return output


def inside(model: pathlib.Path, images: Any, name: str) -> NDArray[np.float64]:
    """A value of the graph on the data."""
    import onnxruntime

    proto = onnx.load(model)
    proto.graph.output.append(onnx.ValueInfoProto(name=name))
    (found,) = onnxruntime.InferenceSession(proto.SerializeToString()).run([name], {"x": images})
    return np.asarray(found, np.float64)


@pytest.mark.parametrize("order", ["once", "layers"])
@pytest.mark.parametrize("choice", [None, "sparsegpt", "wanda"])
def test_the_mean_of_the_first_layer_stays(tmp_path, images, order, choice):
    model = written(tmp_path / "m.onnx")
    after = pruned(model, images, "bias", order=order, choice=choice)
    centred = [inside(p, images, "c").mean(axis=(0, 2, 3)) - tensors(p)["m"] for p in (model, after)]
    np.testing.assert_allclose(centred[1], centred[0], atol=1e-5)


def test_in_layers_the_mean_of_every_layer_stays(tmp_path, images):
    model = written(tmp_path / "m.onnx")
    after = pruned(model, images, "bias", "least-squares")
    means = [inside(p, images, "y").mean(axis=0) for p in (model, after)]
    np.testing.assert_allclose(means[1], means[0], atol=1e-5)
    assert not np.array_equal(tensors(after)["b"], tensors(model)["b"])


def test_least_squares_with_a_bias_is_a_regression_with_an_intercept(tmp_path, images):
    model = written(tmp_path / "m.onnx")
    after = tensors(pruned(model, images, "bias", "least-squares", order="once", damping=1e-9))
    inputs = inside(model, images, "f")
    wanted = inputs @ tensors(model)["v"] + tensors(model)["b"]
    for output in range(5):
        kept = np.flatnonzero(after["v"][:, output])
        design = np.column_stack([inputs[:, kept], np.ones(len(inputs))])
        best = np.linalg.lstsq(design, wanted[:, output], rcond=None)[0]
        np.testing.assert_allclose([*after["v"][kept, output], after["b"][output]], best, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("order", ["once", "layers"])
def test_statistics_move_with_what_a_normalisation_reads(tmp_path, images, order):
    model = written(tmp_path / "m.onnx")
    after = pruned(model, images, "batch-norm", order=order)
    old, new = (inside(path, images, "c") for path in (model, after))
    before, moved = tensors(model), tensors(after)
    np.testing.assert_allclose(moved["m"], before["m"] + (new - old).mean(axis=(0, 2, 3)), atol=1e-5)
    ratio = new.var(axis=(0, 2, 3)) / old.var(axis=(0, 2, 3))
    np.testing.assert_allclose(moved["q"], before["q"] * ratio, rtol=1e-5)


def test_bias_and_normalisation_together_move_the_mean_once(tmp_path, images):
    model = written(tmp_path / "m.onnx")
    after = pruned(model, images, "bias", "batch-norm")
    gap = (inside(after, images, "c") - inside(model, images, "c")).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(tensors(after)["m"], tensors(model)["m"] + gap, atol=1e-5)


def test_channels_that_fall_stay_gone(tmp_path, images):
    model, output = written(tmp_path / "m.onnx"), tmp_path / "masked.onnx"
    prune_channels(model, output, config=ChannelConfig(0.5))
    gone = np.flatnonzero(~tensors(output)["w"].any(axis=(1, 2, 3)))
    from onnx_tools import masks_of

    names = [name for name, array in tensors(output).items() if not array.all()]
    values = DataMethod({"x": images}, None, repair=("least-squares", "bias", "batch-norm")).new_values(
        model, masks_of(output, names), EVERY_SIZE
    )
    prune_file(model, output, config=values, force=True)
    after = tensors(output)
    assert len(gone) == 4
    for name in ("w", "s", "t", "v"):
        assert not after[name][gone].any()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("{ c = Conv (x, w, t) r = Relu (c) p = GlobalAveragePool (r) f = Flatten (p) y = Gemm (f, v, b) }", "tb"),
        ("{ c = Conv (x, w) d = Identity (c) p = GlobalAveragePool (d) f = Flatten (p) y = MatMul (f, v) }", ""),
        ("{ c = Conv (x, w, t) d = Add (c, t) p = GlobalAveragePool (c) f = Flatten (p) y = Gemm (f, v, b) }", "b"),
        ("{ p = GlobalAveragePool (x) f = Flatten (p) h = MatMul (f, u) k = Add (b, h) y = Add (h, k) }", ""),
        ("{ p = GlobalAveragePool (x) f = Flatten (p) y = Gemm <alpha = 2.0> (f, u, b) }", ""),
    ],
    ids=["of their own", "none", "shared", "read twice", "scaled"],
)
def test_what_may_be_shifted(tmp_path, body, found):
    model = ModelFile.open(written(tmp_path / "m.onnx", body, u=(4, 5)))
    assert sorted(each.tensor.name for each in Additions(model.skeleton).shifts.values()) == sorted(found)
