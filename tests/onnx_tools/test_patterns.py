"""N:M, blocks and kernels on the weights of models, in every layout, against slow oracles that know the layout."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tools import Selection, inspect_file, prune_file, prune_model
from onnx_tools.errors import NothingSelected, TiedAxes
from onnx_tools.report import PruneReport
from oxiprune_gpu import InvalidOption, PruningConfig
from tests.command import refused, run

Array = NDArray[Any]
EVERY_SIZE = Selection(min_elements=0)


class Layout(NamedTuple):
    """A node that reads `w`, of this shape, whose reduction axis and output axis these are; and into how many groups
    its first axis is cut.
    """

    node: str
    shape: tuple[int, ...]
    reduction: int
    output: int
    groups: int = 1


LAYOUTS = {
    "MatMul": Layout("y = MatMul (x, w)", (8, 12), 0, 1),
    "MatMul, left": Layout("y = MatMul (w, x)", (8, 12), 1, 0),
    "MatMul, batched": Layout("y = MatMul (x, w)", (3, 8, 12), 1, 2),
    "Gemm": Layout("y = Gemm (x, w)", (8, 12), 0, 1),
    "Gemm, transB": Layout("y = Gemm <transB = 1> (x, w)", (8, 12), 1, 0),
    "Gemm, transA, left": Layout("y = Gemm <transA = 1> (w, x)", (8, 12), 0, 1),
    "Conv": Layout("y = Conv (x, w)", (4, 8, 3, 3), 1, 0),
    "Conv, grouped": Layout("y = Conv <group = 2> (x, w)", (4, 8, 3, 3), 1, 0, 2),
    "ConvTranspose": Layout("y = ConvTranspose (x, w)", (8, 4, 3, 3), 0, 1),
    "ConvTranspose, grouped": Layout("y = ConvTranspose <group = 2> (x, w)", (8, 4, 3, 3), 0, 1, 2),
    "LSTM": Layout("y = LSTM <hidden_size = 4> (x, w, x)", (1, 16, 8), 2, 1),
    "behind Transpose": Layout("t = Transpose (w) y = MatMul (x, t)", (12, 8), 1, 0),
    "behind Cast": Layout("t = Cast <to = 10> (w) y = MatMul (x, t)", (8, 12), 0, 1),
    "behind Reshape": Layout(
        "s = Constant <value_ints = [8, 12]> () t = Reshape (w, s) y = MatMul (x, t)", (8, 3, 4), 0, 1
    ),
}


def model_of(node: str, weight: Array) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[N] x) => (float[N] y) {{ {node} }}'
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model


def normals(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


def pruned(node: str, weight: Array, granularity: str, sparsity: float | None = None) -> Array:
    model = model_of(node, weight)
    prune_model(model, config=PruningConfig(sparsity, granularity=granularity), selection=EVERY_SIZE)
    return numpy_helper.to_array(model.graph.initializer[0])


def report_of(node: str, weight: Array, granularity: str) -> PruneReport:
    return prune_model(model_of(node, weight), config=PruningConfig(granularity=granularity), selection=EVERY_SIZE)


def groups_zeroed(weight: Array, keep: int, of: int, axis: int, *, pad: bool = False) -> Array:
    """Each group of neighbours along `axis`, one after the other; of equal magnitudes the first falls."""
    result = np.moveaxis(weight.copy(), axis, -1)
    length = result.shape[-1]
    for place in np.ndindex(result.shape[:-1]):
        for start in range(0, length if pad else length // of * of, of):
            group = result[place][start : start + of]
            falls = np.argsort(np.abs(group.astype(np.float32)), kind="stable")[: max(len(group) - keep, 0)]
            group[falls] = 0
    return np.moveaxis(result, -1, axis)


def slices_zeroed(weight: Array, slices: list[tuple[Any, ...]], count: int) -> Array:
    """The `count` slices with the smallest sums of magnitudes."""
    result = weight.copy()
    sums = [np.abs(weight[place].astype(np.float64)).sum() for place in slices]
    for number in np.argsort(sums, kind="stable")[:count]:
        result[slices[number]] = 0
    return result


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_groups_lie_along_the_reduction_axis(layout: Layout, pattern: str) -> None:
    weight = normals(*layout.shape)
    keep, of = map(int, pattern.split(":"))
    assert np.array_equal(pruned(layout.node, weight, pattern), groups_zeroed(weight, keep, of, layout.reduction))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_groups_of_every_dtype(dtype: Any) -> None:
    weight = normals(16, 6, dtype=dtype)
    assert np.array_equal(pruned("y = MatMul (x, w)", weight, "2:4"), groups_zeroed(weight, 2, 4, 0))


def test_a_remainder_stays_dense_and_is_told() -> None:
    weight = normals(11, 6)
    report = report_of("y = MatMul (x, w)", weight, "2:4")
    assert np.array_equal(pruned("y = MatMul (x, w)", weight, "2:4"), groups_zeroed(weight, 2, 4, 0))
    assert report.weights[0].dense_remainder == 18
    assert report.warnings == (
        "18 elements of 'w' fill no group of 2:4 and stay dense; granularity 2:4+pad prunes them as if zeros followed",
    )
    assert report_of("y = MatMul (x, w)", normals(10, 6), "2:4").warnings == (
        "12 elements of 'w' fill no group of 2:4 and stay dense",
    )


def test_an_axis_that_padding_can_not_prune() -> None:
    with pytest.raises(NothingSelected, match="no 2:4\\+pad groups: its reduction axis has 2 elements"):
        pruned("y = MatMul (x, w)", normals(2, 8), "2:4+pad")


@pytest.mark.parametrize("length", [3, 5, 6, 7, 11])
def test_a_remainder_is_padded_on_request(length: int) -> None:
    weight = normals(length, 6)
    report = report_of("y = MatMul (x, w)", weight, "2:4+pad")
    assert np.array_equal(pruned("y = MatMul (x, w)", weight, "2:4+pad"), groups_zeroed(weight, 2, 4, 0, pad=True))
    assert (report.weights[0].dense_remainder, report.warnings) == (0, ())


def test_what_inspect_says_of_the_result(tmp_path: pathlib.Path) -> None:
    for name, layout in LAYOUTS.items():
        source, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
        source.write_bytes(model_of(layout.node, normals(*layout.shape)).SerializeToString())
        prune_file(source, output, config=PruningConfig(granularity="2:4"), selection=EVERY_SIZE, force=True)
        assert [weight.is_2_4 for weight in inspect_file(output).weights] == [True], name
        assert [weight.is_2_4 for weight in inspect_file(source).weights] == [False], name


def test_an_axis_too_short_for_a_group() -> None:
    with pytest.raises(NothingSelected, match="no 2:4 groups: its reduction axis has 3 elements"):
        pruned("y = MatMul (x, w)", normals(3, 8), "2:4")


def test_a_tie_that_wants_two_axes() -> None:
    with pytest.raises(TiedAxes, match=r"weight 'w' is shared by 'a', 'y', which sum over different axes.*--exclude"):
        pruned("a = MatMul (x, w) t = Transpose (w) y = MatMul (a, t)", normals(8, 8), "2:4")


def test_a_tie_that_wants_one_axis() -> None:
    weight = normals(8, 12)
    both = pruned("a = MatMul (x, w) y = Gemm (x, w)", weight, "2:4")
    assert np.array_equal(both, groups_zeroed(weight, 2, 4, 0))


def test_an_axis_of_the_users_own_means_nothing_here() -> None:
    with pytest.raises(InvalidOption, match="2:4@0: on a model the groups lie along the reduction axis"):
        pruned("y = MatMul (x, w)", normals(8, 8), "2:4@0")
    with pytest.raises(InvalidOption, match=r"axis:0 is for arrays only; on a model use .* N:M"):
        pruned("y = MatMul (x, w)", normals(8, 8), "axis:0", 0.5)


APART = Layout("t = Transpose <perm = [1, 0, 2]> (w) y = MatMul (x, t)", (8, 3, 12), 0, 2)
MATRICES = {name: layout for name, layout in LAYOUTS.items() if name != "behind Reshape"}


def block_slices(layout: Layout, height: int, width: int) -> list[tuple[Any, ...]]:
    """Slices of `height` output by `width` input channels, in the order of the stored tensor; kernels stay whole."""
    sides = {layout.output: height, layout.reduction: width}
    rank = len(layout.shape)
    first = min(sides)
    ranges = [range(0, n, sides.get(axis, 1)) if axis <= first + 1 else range(1) for axis, n in enumerate(layout.shape)]
    whole = [slice(None)] * (rank - first - 2)
    return [
        (*(slice(at, at + sides.get(axis, 1)) for axis, at in enumerate(place[: first + 2])), *whole)
        for place in itertools.product(*ranges)
    ]


@pytest.mark.parametrize("layout", MATRICES.values(), ids=MATRICES)
def test_blocks_are_output_by_input_channels(layout: Layout) -> None:
    weight = normals(*layout.shape)
    slices = block_slices(layout, 2, 4)
    expected = slices_zeroed(weight, slices, len(slices) // 2)
    assert np.array_equal(pruned(layout.node, weight, "block:2x4", 0.5), expected)


@pytest.mark.parametrize(
    ("layout", "blocks", "reason"),
    [
        (LAYOUTS["MatMul"], "block:16x2", r"12 x 8 \(output x input\) can't be cut into blocks of 16x2"),
        (LAYOUTS["MatMul"], "block:2x16", r"12 x 8 \(output x input\) can't be cut into blocks of 2x16"),
        (LAYOUTS["Conv, grouped"], "block:4x2", r"2 x 8 \(output x input\) can't be cut into blocks of 4x2"),
        (APART, "block:2x2", "its output and input channels do not lie beside each other"),
        (LAYOUTS["MatMul"], "kernel", "they would be single elements"),
    ],
)
def test_a_weight_that_has_no_such_units_is_left_alone(layout: Layout, blocks: str, reason: str) -> None:
    with pytest.raises(NothingSelected, match=reason):
        pruned(layout.node, normals(*layout.shape), blocks, 0.5)


CONVOLUTIONS = {name: layout for name, layout in LAYOUTS.items() if "Conv" in name}


@pytest.mark.parametrize("layout", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_kernels_fall_whole(layout: Layout) -> None:
    weight = normals(*layout.shape)
    expected = slices_zeroed(weight, list(np.ndindex(layout.shape[:2])), 16)
    assert np.array_equal(pruned(layout.node, weight, "kernel", 0.5), expected)


def test_the_command_prunes_2_4_without_a_sparsity(tmp_path: pathlib.Path) -> None:
    source, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    weight = normals(64, 64)
    source.write_bytes(model_of("y = MatMul (x, w)", weight).SerializeToString())
    result = run("prune", source, "-o", output, "--granularity", "2:4")
    assert result.exit_code == 0, result.output
    assert np.array_equal(numpy_helper.to_array(onnx.load(output).graph.initializer[0]), groups_zeroed(weight, 2, 4, 0))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--granularity", "2:4", "-s", "0.3"], ["sparsity 0.3", "2:4", "leave it out"]),
        (["--granularity", "4:2"], ["4:2", "N:M with 0 < N < M"]),
        (["--granularity", "2:64"], ["M <= 32"]),
        (["--granularity", "2:4@0"], ["2:4@0", "reduction axis"]),
        (["--granularity", "axis:1", "-s", "0.5"], ["axis:1", "for arrays"]),
        (["--granularity", "block:4", "-s", "0.5"], ["block:4", "block:HxW"]),
        (["--granularity", "block:4x4"], ["how much", "--sparsity"]),
        ([], ["how much", "--policy"]),
    ],
)
def test_wrong_patterns_are_refused(tmp_path: pathlib.Path, words: list[str], parts: list[str]) -> None:
    source = tmp_path / "in.onnx"
    source.write_bytes(model_of("y = MatMul (x, w)", normals(64, 64)).SerializeToString())
    refused(run("prune", source, "-o", tmp_path / "out.onnx", *words), 2, *parts)
    assert not (tmp_path / "out.onnx").exists()
