"""inspect_file: zeros by element, row, column and group of four, against counting them one by one."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tools import InvalidModelFile, find_weights, inspect_file, prune_file
from onnx_tools.report import InspectedWeight
from oxiprune_gpu import PruningConfig

Array = NDArray[Any]


def inspect(folder: pathlib.Path, body: str, weight: Array) -> InspectedWeight:
    """What inspect_file says of the weight `w` of a model given as text."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[N] x) => (float[N] y) {{ {body} }}'
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    (found,) = inspect_file(path).weights
    return found


def sparse(*shape: int) -> Array:
    """Half of it is zero, and so are whole slices along each axis."""
    rng = np.random.default_rng(sum(shape))
    array = rng.standard_normal(shape).astype(np.float32) * (rng.random(shape) < 0.5)
    for axis in range(array.ndim):
        array.swapaxes(0, axis)[rng.integers(shape[axis])] = 0
    return array


def zero_units(units: list[Array]) -> tuple[int, int]:
    return len(units), sum(not unit.any() for unit in units)


def fours(lines: Array) -> tuple[int, int]:
    """Groups of four neighbours on the last axis, and those with two zeros or more."""
    groups = [line[i : i + 4] for line in lines.reshape(-1, lines.shape[-1]) for i in range(0, len(line) // 4 * 4, 4)]
    return len(groups), sum(int((group == 0).sum() >= 2) for group in groups)


def assert_counts(found: InspectedWeight, weight: Array, rows: list[Array], columns: list[Array], last: Array) -> None:
    """`last`: the weight with the reduction axis at the end."""
    assert found.zeros == weight.size - np.count_nonzero(weight)
    assert (found.rows, found.zero_rows) == zero_units(rows)
    assert (found.columns, found.zero_columns) == zero_units(columns)
    assert (found.groups_2_4, found.satisfying_2_4) == fours(last)


def test_gemm(tmp_path: pathlib.Path) -> None:
    w = sparse(13, 10)
    assert_counts(inspect(tmp_path, "y = Gemm(x, w)", w), w, list(w.T), list(w), w.T)
    assert_counts(inspect(tmp_path, "y = Gemm <transB = 1> (x, w)", w), w, list(w), list(w.T), w)


def test_batched_matmul(tmp_path: pathlib.Path) -> None:
    w = sparse(3, 9, 6)
    found = inspect(tmp_path, "y = MatMul(x, w)", w)
    assert_counts(found, w, [w[..., i] for i in range(6)], [w[:, i] for i in range(9)], w.swapaxes(1, 2))


def test_grouped_conv(tmp_path: pathlib.Path) -> None:
    w = sparse(6, 9, 3, 3)
    found = inspect(tmp_path, "y = Conv <group = 2> (x, w)", w)
    columns = [part[:, i] for part in np.split(w, 2) for i in range(9)]
    assert_counts(found, w, list(w), columns, np.moveaxis(w, 1, 3))
    assert not found.depthwise


def test_conv_transpose(tmp_path: pathlib.Path) -> None:
    w = sparse(8, 6, 5)
    found = inspect(tmp_path, "y = ConvTranspose(x, w)", w)
    assert_counts(found, w, [w[:, i] for i in range(6)], list(w), np.moveaxis(w, 0, 2))


def test_bidirectional_lstm(tmp_path: pathlib.Path) -> None:
    w = sparse(2, 12, 5)
    found = inspect(tmp_path, 'y = LSTM <hidden_size = 3, direction = "bidirectional"> (x, w, x)', w)
    assert_counts(found, w, [*w[0], *w[1]], [*w[0].T, *w[1].T], w)


def test_what_has_no_rows_and_no_groups(tmp_path: pathlib.Path) -> None:
    found = inspect(tmp_path, "y = MatMul(x, w)", np.array([0, 1, 0, 2, 0, 0], np.float32))
    assert (found.rows, found.zero_rows) == (None, None)
    assert (found.columns, found.zero_columns) == (6, 4)
    assert (found.groups_2_4, found.satisfying_2_4, found.is_2_4) == (1, 1, True)
    found = inspect(tmp_path, "y = MatMul(x, w)", np.ones((3, 8), np.float32))
    assert (found.groups_2_4, found.satisfying_2_4, found.is_2_4) == (None, None, None)


def test_two_of_four(tmp_path: pathlib.Path) -> None:
    w = np.ones((8, 16), np.float32)
    w[:, ::2] = 0
    assert inspect(tmp_path, "y = Gemm <transB = 1> (x, w)", w).is_2_4
    assert not inspect(tmp_path, "y = Gemm(x, w)", w).is_2_4


def test_a_depthwise_kernel_is_listed_and_marked(tmp_path: pathlib.Path) -> None:
    found = inspect(tmp_path, "y = Conv <group = 6> (x, w)", sparse(6, 1, 3, 3))
    assert found.depthwise
    assert (found.rows, found.columns) == (6, 6)


def test_negative_zeros_are_zeros_and_denormals_are_not(tmp_path: pathlib.Path) -> None:
    found = inspect(tmp_path, "y = MatMul(x, w)", np.array([[-0.0, 0.0], [1e-45, -1e-45]], np.float32))
    assert (found.zeros, found.zero_columns) == (2, 1)


@pytest.mark.parametrize("slab", [8, 96, 1 << 22])
@pytest.mark.parametrize(
    ("body", "shape", "reduction"),
    [
        ("y = MatMul(x, w)", (30, 41), 0),
        ("y = Gemm <transB = 1> (x, w)", (5, 41), 1),
        ("y = MatMul(x, w)", (3, 9, 20), 1),
        ("y = Conv <group = 3> (x, w)", (6, 9, 3, 3), 1),
        ("y = ConvTranspose(x, w)", (12, 2, 5, 2), 0),
    ],
)
def test_weights_larger_than_a_slab(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    slab: int,
    body: str,
    shape: tuple[int, ...],
    reduction: int,
) -> None:
    w = sparse(*shape)
    whole = inspect(tmp_path, body, w)
    monkeypatch.setattr("onnx_tools.zero_patterns._SLAB", slab)
    found = inspect(tmp_path, body, w)
    assert found == whole
    assert (found.groups_2_4, found.satisfying_2_4) == fours(np.moveaxis(w, reduction, -1))
    assert (found.reduction_axis, found.reduction) == (reduction, shape[reduction])


def pruned_along(w: Array, axis: int, keep: int, of: int) -> Array:
    """A copy in which any `keep` of every `of` neighbours are left; what fills no group stays."""
    lines = np.moveaxis(w.copy(), axis, -1)
    order = np.random.default_rng(0).random(lines.shape)
    for start in range(0, lines.shape[-1] // of * of, of):
        group = slice(start, start + of)
        lines[..., group][order[..., group].argsort(-1).argsort(-1) >= keep] = 0
    return np.moveaxis(lines, -1, axis)


@pytest.mark.parametrize(
    ("body", "shape", "axis", "others"),
    [
        ("y = MatMul(x, w)", (16, 8), 0, ("axis 1",)),
        ("y = Gemm(x, w)", (16, 8), 0, ("axis 1",)),
        ("y = Gemm <transB = 1> (x, w)", (8, 16), 1, ("axis 0",)),
        ("y = MatMul(x, w)", (4, 16, 8), 1, ("axis 0", "axes 1 to 2 as one", "axis 2")),
        ("y = Conv(x, w)", (8, 16, 3, 3), 1, ("axis 0", "axes 1 to 3 as one")),
        ("y = Conv(x, w)", (8, 16, 1, 1), 1, ("axis 0",)),
    ],
)
def test_along_which_axis_a_weight_is_2_4(
    tmp_path: pathlib.Path, body: str, shape: tuple[int, ...], axis: int, others: tuple[str, ...]
) -> None:
    w = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    right = inspect(tmp_path, body, pruned_along(w, axis, 2, 4))
    assert (right.is_2_4, right.patterns, right.other_axes_2_4) == (True, ("2:4", "4:8"), ())
    for name in others:
        flat = w.reshape(shape[0], -1)
        wrong = pruned_along(flat if "as one" in name else w, 1 if "as one" in name else int(name[5:]), 2, 4)
        found = inspect(tmp_path, body, wrong.reshape(shape))
        assert not found.is_2_4
        assert name in found.other_axes_2_4
        assert found.reduction_axis == axis


@pytest.mark.parametrize(
    ("keep", "of", "patterns"), [(1, 4, ("1:4", "2:4", "4:8")), (3, 4, ()), (4, 8, ("4:8",)), (3, 8, ("4:8",))]
)
def test_other_patterns_along_the_reduction_axis(
    tmp_path: pathlib.Path, keep: int, of: int, patterns: tuple[str, ...]
) -> None:
    w = pruned_along(np.ones((18, 4), np.float32), 0, keep, of)
    found = inspect(tmp_path, "y = MatMul(x, w)", w)
    assert (found.patterns, found.remainder_2_4) == (patterns, 2)


def test_an_axis_behind_a_transpose_is_the_stored_one(tmp_path: pathlib.Path) -> None:
    w = pruned_along(np.ones((8, 16), np.float32), 1, 2, 4)
    found = inspect(tmp_path, "t = Transpose <perm = [1, 0]> (w) y = MatMul(x, t)", w)
    assert (found.reduction_axis, found.is_2_4) == (1, True)


def test_a_wrong_axis_is_a_warning(tmp_path: pathlib.Path) -> None:
    w = pruned_along(np.ones((8, 16), np.float32), 1, 2, 4)
    inspect(tmp_path, "y = MatMul(x, w)", w)
    (warning,) = inspect_file(tmp_path / "model.onnx").warnings
    assert warning.startswith("'w' is 2:4 along axis 1, not along the reduction axis 0: sparse tensor cores")
    inspect(tmp_path, "y = Gemm <transB = 1> (x, w)", w)
    assert inspect_file(tmp_path / "model.onnx").warnings == ()


def test_the_report(external_file: pathlib.Path) -> None:
    told: list[tuple[str, int, int]] = []
    before = {file.name: file.read_bytes() for file in external_file.parent.iterdir()}
    report = inspect_file(external_file, hashes=True, compressed=True, progress=lambda *what: told.append(what))
    assert {file.name: file.read_bytes() for file in external_file.parent.iterdir()} == before
    (weight,) = report.weights
    assert (weight.name, weight.op_types, weight.consumers) == ("weight", ("MatMul",), ("h",))
    assert (weight.shape, weight.dtype, weight.parameters, weight.bytes) == ((16, 32), "float32", 512, 2048)
    assert told[0] == ("weight", 0, 512)
    left = find_weights(onnx.load(external_file)).left_alone
    assert [(item.name, item.reason) for item in report.left_alone] == [(item.name, item.reason) for item in left]
    assert [(file.role, file.name_before, file.bytes_before, file.name_after) for file in report.files] == [
        ("model", "model.onnx", external_file.stat().st_size, None),
        ("data", "weights.bin", 64 + 2048 + 10, None),
    ]
    assert all(file.sha256_before and file.compressed_before for file in report.files)


def test_small_weights_are_inspected_though_pruning_leaves_them_alone(small_file: pathlib.Path) -> None:
    assert [weight.name for weight in inspect_file(small_file).weights] == ["weight"]


def test_nan_does_not_stop_an_inspection(tmp_path: pathlib.Path) -> None:
    assert inspect(tmp_path, "y = MatMul(x, w)", np.array([[np.nan, 0], [1, 0]], np.float32)).zeros == 2


def test_not_a_model(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(InvalidModelFile):
        inspect_file(tmp_path / "model.onnx")


def test_real_models(corpus: list[pathlib.Path]) -> None:
    for path in corpus:
        report = inspect_file(path)
        found = find_weights(onnx.load(path, load_external_data=False))
        assert [weight.name for weight in report.weights] == [weight.name for weight in found.weights]
        assert [item.name for item in report.left_alone] == [item.name for item in found.left_alone]
        assert all(weight.rows and weight.columns for weight in report.weights)


@pytest.mark.parametrize("granularity", ["row", "column"])
def test_pruned_units_of_real_models_are_seen(
    corpus: list[pathlib.Path], tmp_path: pathlib.Path, granularity: str
) -> None:
    """What pruning calls a row, inspection finds as a row."""
    names = ("digits_cnn_bn", "silero_vad", "mnist_cntk")
    for path in (path for path in corpus if path.parent.name in names):
        output = tmp_path / f"{path.parent.name}.onnx"
        report = prune_file(path, output, config=PruningConfig(0.5, "l1", granularity))
        seen = {weight.name: weight for weight in inspect_file(output).weights}
        for weight in report.weights:
            found = seen[weight.name]
            units, zero = (found.rows, found.zero_rows) if granularity == "row" else (found.columns, found.zero_columns)
            assert units is not None
            assert zero is not None
            assert zero >= units // 2
            assert found.zeros == weight.zeros_after
