"""Quantised weights: pruned like the real values they stand for, to the zero point, wherever the parameters lie."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_tools import inspect_file, prune_file, verify_files
from onnx_tools.weights import find_weights
from oxiprune_gpu import PruningConfig
from tests.onnx_tools.quantised_models import (
    EVERY_SIZE,
    FLOATS,
    INTEGERS,
    dequantised,
    expected_codes,
    model_of,
    pruned_both_ways,
    random_codes,
    stored,
    tensor,
)

HALF = PruningConfig(0.5)
DQ = "v = DequantizeLinear(w, s, z) y = MatMul(x, v)"


def assert_pruned_as_floats(
    model: onnx.ModelProto,
    folder: pathlib.Path,
    codes: NDArray[Any],
    scale: NDArray[Any],
    zero: NDArray[Any] | None,
    config: PruningConfig = HALF,
) -> None:
    """`scale` and `zero` broadcast to the shape of the codes."""
    pruned, report = pruned_both_ways(model, folder, config)
    expected = expected_codes(codes, scale, zero, config)
    assert stored(pruned, "w").tobytes() == expected.tobytes()
    reals = dequantised(expected, scale, zero)
    assert (report.weights[0].parameters, report.weights[0].nonzero_after) == (codes.size, np.count_nonzero(reals))
    assert not [c for c in verify_files(folder / "model.onnx", folder / "pruned.onnx", runtime=False).checks
                if c.name == "bytes" and c.outcome != "passed"]  # fmt: skip


@pytest.mark.parametrize("raw", [True, False], ids=["raw_data", "int32_data"])
@pytest.mark.parametrize("shape", [(16, 33), (3, 5)], ids=str)
@pytest.mark.parametrize("data_type", INTEGERS, ids=TensorProto.DataType.Name)
def test_integers_behind_dequantize_linear(
    data_type: int, shape: tuple[int, ...], raw: bool, tmp_path: pathlib.Path
) -> None:
    rng = np.random.default_rng(data_type)
    codes, zero = random_codes(rng, data_type, shape), random_codes(rng, data_type, ())
    scale = np.float32(0.037)
    model = model_of(DQ, w=tensor(codes, data_type, raw=raw), s=tensor(scale), z=tensor(zero, data_type, raw=raw))
    assert_pruned_as_floats(model, tmp_path, codes, scale, zero)


@pytest.mark.parametrize(
    "body", ["v = Cast <to = 1> (w) y = MatMul(x, v)", "v = DequantizeLinear(w, s) y = MatMul(x, v)"]
)
@pytest.mark.parametrize("data_type", FLOATS, ids=TensorProto.DataType.Name)
def test_narrow_floats(data_type: int, body: str, tmp_path: pathlib.Path) -> None:
    codes = random_codes(np.random.default_rng(data_type), data_type, (9, 21))
    model = model_of(body, w=tensor(codes, data_type, raw="s" in body), s=tensor(np.float32(0.5)))
    assert_pruned_as_floats(model, tmp_path, codes, np.float32(0.5 if "(w, s)" in body else 1), None)


@pytest.mark.parametrize("data_type", [TensorProto.INT8, TensorProto.UINT4, TensorProto.INT16], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_scales_of_an_axis(data_type: int, axis: int, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(3)
    shape = (6, 5, 7)
    codes = random_codes(rng, data_type, shape)
    entries = shape[axis]
    scale, zero = rng.uniform(0.01, 2, entries).astype(np.float32), random_codes(rng, data_type, (entries,))
    body = f"v = DequantizeLinear <axis = {axis}> (w, s, z) y = MatMul(x, v)"
    model = model_of(body, w=tensor(codes, data_type), s=tensor(scale), z=tensor(zero, data_type))
    along = [1, 1, 1]
    along[axis] = entries
    assert_pruned_as_floats(model, tmp_path, codes, scale.reshape(along), zero.reshape(along))


@pytest.mark.parametrize("scale_type", [TensorProto.FLOAT16, TensorProto.FLOAT8E8M0, TensorProto.BFLOAT16], ids=str)
@pytest.mark.parametrize(("axis", "block"), [(0, 4), (0, 3), (1, 2), (1, 5), (2, 2), (2, 7), (2, 32)])
def test_scales_of_blocks(axis: int, block: int, scale_type: int, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(4)
    shape = (8, 5, 7)
    few = list(shape)
    few[axis] = -(-shape[axis] // block)
    codes, zero = random_codes(rng, TensorProto.INT4, shape), random_codes(rng, TensorProto.INT4, tuple(few))
    stored_scale = tensor(2.0 ** rng.integers(-6, 6, few), scale_type)
    body = f"v = DequantizeLinear <axis = {axis}, block_size = {block}> (w, s, z) y = MatMul(x, v)"
    model = model_of(body, w=tensor(codes, TensorProto.INT4), s=stored_scale, z=tensor(zero, TensorProto.INT4))
    scale = onnx.numpy_helper.to_array(stored_scale)
    wide = [np.repeat(each, block, axis).take(range(shape[axis]), axis) for each in (scale, zero)]
    assert_pruned_as_floats(model, tmp_path, codes, *wide)


@pytest.mark.parametrize("granularity", ["row", "column"])
def test_units_see_the_same_values(granularity: str, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(5)
    codes, zero = random_codes(rng, TensorProto.UINT8, (12, 8)), random_codes(rng, TensorProto.UINT8, (8,))
    scale = rng.uniform(0.01, 2, 8).astype(np.float32)
    model = model_of(DQ, w=tensor(codes, TensorProto.UINT8), s=tensor(scale), z=tensor(zero, TensorProto.UINT8))
    seen = {"row": "column", "column": "row"}[granularity]  # MatMul's B is (input, output)
    pruned, _ = pruned_both_ways(model, tmp_path, PruningConfig(0.5, "l1", granularity))
    assert np.array_equal(stored(pruned, "w"), expected_codes(codes, scale, zero, PruningConfig(0.5, "l1", seen)))


@pytest.mark.parametrize("granularity", ["unstructured", "row", "column"])
def test_a_weight_of_many_blocks(granularity: str, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(16)
    codes, zero = (random_codes(rng, TensorProto.INT4, shape) for shape in ((1031, 517), (517,)))
    scale = rng.uniform(0.01, 2, 517).astype(np.float32)
    model = model_of(DQ, w=tensor(codes, TensorProto.INT4), s=tensor(scale), z=tensor(zero, TensorProto.INT4))
    pruned, _ = pruned_both_ways(model, tmp_path, PruningConfig(0.5, "l2", granularity))
    seen = {"row": "column", "column": "row"}.get(granularity, granularity)
    assert np.array_equal(stored(pruned, "w"), expected_codes(codes, scale, zero, PruningConfig(0.5, "l2", seen)))


def test_what_stands_between_dequantisation_and_use(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(6)
    codes, scale = random_codes(rng, TensorProto.INT8, (6, 4, 2)), rng.uniform(0.1, 1, 6).astype(np.float32)
    body = """
      t = Transpose <perm = [1, 2, 0]> (w) v = DequantizeLinear <axis = 2> (t, s) c = Cast <to = 10> (v)
      r = Reshape (c, shape) y = MatMul (x, r)
    """
    model = model_of(body, w=tensor(codes, TensorProto.INT8), s=tensor(scale), shape=tensor([8, 6], TensorProto.INT64))
    assert_pruned_as_floats(model, tmp_path, codes, scale.reshape(6, 1, 1), None)


CALLED = """
  <ir_version: 10, opset_import: ["": 21, "my": 1]>
  g (float[N] x) => (float[N] y) { h = my.lin(x, w, s) y = my.lin(h, w, %s) }
  <opset_import: ["": 21], domain: "my"> lin (a, b, c) => (r) { v = DequantizeLinear(b, c) r = MatMul(a, v) }
"""


@pytest.mark.parametrize(("second", "pruned"), [("s", True), ("other", False)])
def test_weights_and_scales_are_passed_to_functions(second: str, pruned: bool) -> None:
    model = onnx.parser.parse_model(CALLED % second)
    scale = tensor(np.ones(3))
    for name, part in {"w": tensor(np.ones((4, 3)), TensorProto.INT8), "s": scale, "other": scale}.items():
        model.graph.initializer.add().CopyFrom(part)
        model.graph.initializer[-1].name = name
    found = find_weights(model)
    assert [weight.consumers for weight in found.weights] == ([("h/r", "y/r")] if pruned else [])
    reasons = {item.name: item.reason for item in found.left_alone}
    assert reasons.get("w") == (None if pruned else "consumers disagree on its scale or zero point")


def test_external_data(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(7)
    codes, zero = random_codes(rng, TensorProto.UINT4, (65, 65)), random_codes(rng, TensorProto.UINT4, (65,))
    scale = rng.uniform(0.1, 1, 65).astype(np.float32)
    model = model_of(DQ, w=tensor(codes, TensorProto.UINT4), s=tensor(scale), z=tensor(zero, TensorProto.UINT4))
    onnx.save(model, tmp_path / "big.onnx", save_as_external_data=True, size_threshold=0)
    report = prune_file(tmp_path / "big.onnx", tmp_path / "out.onnx", config=HALF, selection=EVERY_SIZE)
    assert report.verification is not None
    assert (report.weights[0].dtype, report.weights[0].bytes) == ("uint4", (65 * 65 + 1) // 2)
    pruned = stored(onnx.load(tmp_path / "out.onnx"), "w")
    assert np.array_equal(pruned, expected_codes(codes, scale, zero, HALF))


def test_a_float_weight_behind_its_own_quantisation_is_pruned_to_zero(tmp_path: pathlib.Path) -> None:
    weight = np.random.default_rng(8).standard_normal((8, 8)).astype(np.float32)
    body = "q = QuantizeLinear(w, s, z) v = DequantizeLinear(q, s, z) y = MatMul(x, v)"
    model = model_of(body, w=tensor(weight), s=tensor(np.float32(0.02)), z=tensor([130], TensorProto.UINT8))
    assert_pruned_as_floats(model, tmp_path, weight, np.float32(1), None)


def test_what_inspect_counts(tmp_path: pathlib.Path) -> None:
    codes = np.array([[7, 7], [7, 0], [1, 7]], np.uint8)
    model = model_of(DQ, w=tensor(codes, TensorProto.UINT8), s=tensor(np.float32(2)), z=tensor(7, TensorProto.UINT8))
    onnx.save(model, tmp_path / "m.onnx")
    weight = inspect_file(tmp_path / "m.onnx").weights[0]
    assert (weight.dtype, weight.parameters, weight.bytes, weight.zeros) == ("uint8", 6, 6, 4)
    assert (weight.zero_columns, weight.zero_rows) == (1, 0)


def test_the_weight_that_was_found() -> None:
    body = "v = DequantizeLinear(w, s) y = MatMul(x, v)"
    weight = find_weights(model_of(body, w=tensor(np.ones((4, 3)), TensorProto.INT4), s=tensor(np.float32(1)))).weights[
        0
    ]
    assert (weight.dtype_name, weight.dtype, weight.bytes, weight.elements) == ("int4", np.float32, 6, 12)
