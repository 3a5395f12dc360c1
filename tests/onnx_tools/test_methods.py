"""Methods with data on models: which elements fall, what is fitted, and what each layer is fitted to."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tools import Masks, NothingSelected, Policy, Selection, masks_of, prune_file, verify_files
from onnx_tools.calibration.methods import DataMethod
from oxiprune_gpu import InvalidOption, NonFiniteWeight, PruningConfig, WeightTensor, prune_sparsegpt, prune_wanda

EVERY_SIZE = Selection(min_elements=0)
MODEL = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 12] x) => (float[N, 6] y)
    { h = MatMul (x, w) r = Relu (h) y = MatMul (r, v) }"""
ALL = {"w": np.ones((12, 16), bool), "v": np.ones((16, 6), bool)}
WORDS = [("sparsegpt", False), ("wanda", True), (None, True)]


def written(path: pathlib.Path, text: str, external: bool = False, **tensors: NDArray[Any]) -> pathlib.Path:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    onnx.save_model(model, path, save_as_external_data=external, location="data", size_threshold=0)
    return path


@pytest.fixture
def weights() -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(1)
    return {name: random.standard_normal(shape).astype("f4") for name, shape in {"w": (12, 16), "v": (16, 6)}.items()}


@pytest.fixture(params=[False, True], ids=["inside", "external"])
def model(tmp_path: pathlib.Path, weights: Any, request: pytest.FixtureRequest) -> pathlib.Path:
    return written(tmp_path / "model.onnx", MODEL, request.param, **weights)


@pytest.fixture
def x() -> NDArray[Any]:
    """Inputs that go together, as real ones do."""
    random = np.random.default_rng(2)
    return (random.standard_normal((200, 12)) @ random.standard_normal((12, 12))).astype("f4")


def pruned(model: pathlib.Path, method: DataMethod, config: Any = None) -> dict[str, NDArray[Any]]:
    output = model.with_name("pruned.onnx")
    values = method.new_values(model, config or PruningConfig(0.5), EVERY_SIZE)
    report = prune_file(model, output, config=values, force=True)
    assert report.configuration.calibration is not None
    assert verify_files(model, output, runtime=False).checks[0].outcome == "passed"
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(output).graph.initializer}


def gap(x: NDArray[Any], before: dict[str, Any], after: dict[str, Any]) -> float:
    """How far the outputs move, squared."""
    y, z = (np.maximum(x @ each["w"], 0) @ each["v"] for each in (before, after))
    return float(((y - z) ** 2).sum())


def inputs_of_v(x: NDArray[Any], weights: dict[str, Any]) -> NDArray[np.float64]:
    return np.maximum(x @ weights["w"], 0).astype(np.float64)


@pytest.mark.parametrize("order", ["once", "layers"])
def test_each_layer_sees_the_inputs_of_its_order(model, weights, x, order):
    config = PruningConfig(0.5)
    after = pruned(model, DataMethod({"x": x}, "sparsegpt", order=order, damping=0.01), config)
    first = prune_sparsegpt(WeightTensor("w", weights["w"].T.copy()), x.astype("f8").T @ x, config)
    np.testing.assert_array_equal(after["w"].T != 0, first.mask)
    np.testing.assert_allclose(after["w"].T, first.pruned, rtol=2e-4, atol=1e-5)
    inputs = inputs_of_v(x, after if order == "layers" else weights)
    second = prune_sparsegpt(WeightTensor("v", weights["v"].T.copy()), inputs.T @ inputs, config)
    np.testing.assert_array_equal(after["v"].T != 0, second.mask)
    np.testing.assert_allclose(after["v"].T, second.pruned, rtol=2e-4, atol=1e-5)


def test_wanda_in_layers_sees_the_pruned_inputs(model, weights, x):
    after = pruned(model, DataMethod({"x": x}, "wanda", order="layers"))
    squares = (inputs_of_v(x, after) ** 2).sum(axis=0)
    mask = prune_wanda(weights["v"].T.copy(), squares, PruningConfig(0.5))[1]
    np.testing.assert_array_equal(after["v"].T, np.where(mask, weights["v"].T, 0))


def test_repair_in_layers_is_least_squares_to_the_dense_layer(model, weights, x):
    after = pruned(model, DataMethod({"x": x}, None, repair=True, damping=1e-9))
    wanted = inputs_of_v(x, weights) @ weights["v"]
    inputs = inputs_of_v(x, after)
    for output in range(6):
        kept = np.flatnonzero(after["v"][:, output])
        best = np.linalg.lstsq(inputs[:, kept], wanted[:, output], rcond=None)[0]
        np.testing.assert_allclose(after["v"][kept, output], best, rtol=5e-3, atol=5e-3)


def test_masks_are_repaired_as_they_are(model, weights, x, tmp_path):
    prune_file(model, tmp_path / "half.onnx", config=PruningConfig(0.6), selection=EVERY_SIZE)
    masks = masks_of(tmp_path / "half.onnx")
    after = pruned(model, DataMethod({"x": x}, None, repair=True), masks)
    for name in ("w", "v"):
        assert not after[name][~masks[name]].any()
    magnitude = {name: np.where(masks[name], weights[name], 0) for name in weights}
    assert gap(x, weights, after) < 0.5 * gap(x, weights, magnitude)


def test_masks_that_were_repaired_pass_the_check_of_masks(model, weights, x):
    masks = {name: array > 0 for name, array in weights.items()}
    pruned(model, DataMethod({"x": x}, None, repair=True), Masks.of(masks))
    output = model.with_name("pruned.onnx")
    check = verify_files(model, output, runtime=False, masks=masks).checks[-1]
    assert (check.outcome, "but for those of 2 that were refitted" in check.detail) == ("passed", True)
    masks["w"] = ~masks["w"]
    assert verify_files(model, output, runtime=False, masks=masks).checks[-1].outcome == "failed"


@pytest.mark.parametrize("choice", ["wanda", "sparsegpt"])
def test_so_many_elements_stay_as_is_asked_for(model, x, choice):
    after = pruned(model, DataMethod({"x": x}, choice), PruningConfig(0.9, min_nonzero=90))
    assert np.count_nonzero(after["w"]) >= 90
    assert np.count_nonzero(after["v"]) >= 90


@pytest.mark.parametrize("order", ["once", "layers"])
def test_new_values_that_the_dtype_has_no_room_for(tmp_path, order):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float16[N, 12] x) => (float16[N, 6] y)
        { h = MatMul (x, w) y = MatMul (h, v) }"""
    tensors = {"w": np.full((12, 16), 6e4, np.float16), "v": np.ones((16, 6), np.float16)}
    model = written(tmp_path / "m.onnx", text, **tensors)
    data = {"x": np.full((20, 12), 1e-3, np.float16)}
    with pytest.raises(NonFiniteWeight, match=r"new values of tensor 'w' are NaN, or too large for float16"):
        DataMethod(data, "sparsegpt", order=order).new_values(model, PruningConfig(0.9), EVERY_SIZE)


def test_inputs_that_never_change_are_left_to_the_bias(tmp_path, weights):
    text = MODEL.replace("h = MatMul (x, w)", "h = Gemm (x, w, b)")
    model = written(tmp_path / "m.onnx", text, b=np.zeros(16, "f4"), **weights)
    x = np.repeat(np.random.default_rng(6).random((1, 12)), 50, axis=0).astype("f4")
    values = DataMethod({"x": x}, "sparsegpt", repair=True).new_values(model, PruningConfig(0.8), EVERY_SIZE)
    assert values.notes == ()
    prune_file(model, tmp_path / "pruned.onnx", config=values)
    after = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "pruned.onnx").graph.initializer}
    np.testing.assert_allclose(x @ after["w"] + after["b"], x @ weights["w"], rtol=1e-4, atol=1e-5)


def test_rows_that_fall_are_repaired_for(model, weights, x):
    after = pruned(model, DataMethod({"x": x}, None, repair=True), PruningConfig(0.25, granularity="column"))
    assert (~after["v"].any(axis=1)).sum() == 4


@pytest.mark.parametrize(("choice", "repair"), WORDS)
def test_every_method_moves_the_output_less_than_magnitude(model, weights, x, choice, repair):
    prune_file(model, model.with_name("half.onnx"), config=PruningConfig(0.5), selection=EVERY_SIZE)
    half = {
        each.name: numpy_helper.to_array(each) for each in onnx.load(model.with_name("half.onnx")).graph.initializer
    }
    after = pruned(model, DataMethod({"x": x}, choice, repair))
    assert gap(x, weights, after) < gap(x, weights, half)
    assert np.count_nonzero(after["w"]) == after["w"].size // 2


def test_an_allocation_says_how_much_falls(model, x):
    after = pruned(model, DataMethod({"x": x}, "sparsegpt"), Policy(sparsity=0.5, allocation="erk"))
    zeros = [np.mean(after[name] == 0) for name in ("w", "v")]
    assert zeros[0] > zeros[1]


@pytest.mark.parametrize("choice", ["wanda", "sparsegpt"])
def test_groups_of_n_m(model, x, choice):
    after = pruned(model, DataMethod({"x": x}, choice, repair=True), PruningConfig(granularity="2:4"))
    assert (np.count_nonzero(after["w"].reshape(3, 4, 16), axis=1) == 2).all()


def test_groups_that_do_not_fill_a_run_of_channels_stay_inside_it(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 6, 8, 8] x) => (float[N, 5, 6, 6] y)
        { y = Conv (x, w) }"""
    random = np.random.default_rng(3)
    model = written(tmp_path / "m.onnx", text, w=random.standard_normal((5, 6, 3, 3)).astype("f4"))
    x = random.standard_normal((8, 6, 8, 8)).astype("f4")
    after = pruned(model, DataMethod({"x": x}, "sparsegpt"), PruningConfig(granularity="2:4"))["w"]
    assert (np.count_nonzero(after[:, :4], axis=1) == 2).all()
    assert np.count_nonzero(after[:, 4:]) == after[:, 4:].size


def test_what_is_not_observed_is_left_dense_or_loses_what_masks_say(tmp_path, weights, x):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 12] x, bool c) => (float[N, 6] y)
        { h = MatMul (x, w) y = If (c) <then_branch = t () => (a) { r = Relu (h) a = MatMul (r, v) },
                                        else_branch = e () => (b) { b = MatMul (h, v) }> }"""
    model = written(tmp_path / "m.onnx", text, **weights)
    data = {"x": x, "c": np.array(True)}
    values = DataMethod(data, "wanda").new_values(model, PruningConfig(0.5), EVERY_SIZE)
    report = prune_file(model, tmp_path / "out.onnx", config=values)
    assert [each.name for each in report.weights] == ["w"]
    assert "not seen from outside" in report.left_alone[0].reason
    values = DataMethod(data, None, repair=True).new_values(model, PruningConfig(0.5), EVERY_SIZE)
    report = prune_file(model, tmp_path / "out.onnx", config=values, force=True)
    assert {each.name: (each.pruned, each.refitted > 0) for each in report.weights} == {
        "w": (96, True),
        "v": (48, False),
    }


def test_quantised_weights_lose_what_wanda_says(tmp_path, x):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 12] x) => (float[N, 16] y)
        { d = DequantizeLinear (w, s) y = MatMul (x, d) }"""
    codes = np.random.default_rng(4).integers(-99, 99, (12, 16)).astype(np.int8)
    model = written(tmp_path / "m.onnx", text, w=codes, s=np.array(0.1, np.float32))
    after = pruned(model, DataMethod({"x": x}, "sparsegpt", repair=True))["w"]
    assert set(np.count_nonzero(after, axis=0)) == {6}
    assert np.array_equal(after[after != 0], codes[after != 0])


@pytest.mark.parametrize(
    ("words", "config", "error", "message"),
    [
        ({"choice": "gptq"}, PruningConfig(0.5), InvalidOption, "unknown method 'gptq': use wanda, sparsegpt"),
        ({"order": "random"}, PruningConfig(0.5), InvalidOption, "unknown order 'random': use layers or once"),
        ({"choice": None}, PruningConfig(0.5), InvalidOption, "a method that looks at it, or a repair"),
        ({}, Masks.of(ALL), InvalidOption, "'w': masks say what falls, and sparsegpt chooses"),
        ({}, PruningConfig(0.5, granularity="row"), InvalidOption, "'w': wanda and sparsegpt prune elements or N:M"),
    ],
)
def test_bad_input(model, x, words, config, error, message):
    with pytest.raises(error, match=message):
        DataMethod({"x": x}, **words).new_values(model, config, EVERY_SIZE)


def test_too_little_memory_is_told_as_it_was_given(model, x):
    method = DataMethod({"x": x}, "wanda", order="layers", memory=90_000_000)
    with pytest.raises(InvalidOption, match=r"weight 'v': .* takes 11\d,\d{3},\d{3} bytes, and 90,000,000 are allowed"):
        method.new_values(model, PruningConfig(0.5), EVERY_SIZE)


def test_nothing_selected(model, x):
    with pytest.raises(NothingSelected):
        DataMethod({"x": x}).new_values(model, PruningConfig(0.5))
