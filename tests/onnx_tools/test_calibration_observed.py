"""`rows @ matrix.T` is what the layer gives: what is observed and the view of the weight are proved by one property."""

from __future__ import annotations

import numpy as np
import pytest

from tests.onnx_tools.calibration_cases import Case, products, rows_of, seen_in, small, written

ort = pytest.importorskip("onnxruntime")

MATRICES = {
    "plain": Case("y = MatMul (x, w)", (6, 5), (3, 6)),
    "batched input": Case("y = MatMul (x, w)", (6, 5), (2, 4, 3, 6)),
    "vector input": Case("y = MatMul (x, w)", (6, 5), (6,)),
    "vector weight": Case("y = MatMul (x, w)", (6,), (4, 3, 6)),
    "batch": Case("y = MatMul (x, w)", (2, 6, 5), (2, 3, 6)),
    "batch in front of samples": Case("y = MatMul (x, w)", (2, 6, 5), (4, 2, 3, 6)),
    "batch with one input": Case("y = MatMul (x, w)", (2, 6, 5), (3, 6)),
    "batch of one": Case("y = MatMul (x, w)", (1, 6, 5), (4, 3, 6)),
    "two batch axes": Case("y = MatMul (x, w)", (2, 3, 6, 5), (2, 1, 4, 6)),
    "left": Case("y = MatMul (w, x)", (5, 6), (6, 3)),
    "left of a batch": Case("y = MatMul (w, x)", (5, 6), (2, 6, 3)),
    "left batch": Case("y = MatMul (w, x)", (2, 5, 6), (2, 6, 3)),
    "left of a vector": Case("y = MatMul (w, x)", (5, 6), (6,)),
    "gemm": Case("y = Gemm (x, w)", (6, 5), (3, 6)),
    "gemm transB": Case("y = Gemm <transB = 1> (x, w)", (5, 6), (3, 6)),
    "gemm transA": Case("y = Gemm <transA = 1> (x, w)", (6, 5), (6, 3)),
    "gemm both": Case("y = Gemm <transA = 1, transB = 1> (x, w)", (5, 6), (6, 3)),
    "gemm left": Case("y = Gemm (w, x)", (5, 6), (6, 3)),
    "gemm left transA": Case("y = Gemm <transA = 1> (w, x)", (6, 5), (6, 3)),
    "gemm left transB": Case("y = Gemm <transB = 1> (w, x)", (5, 6), (3, 6)),
    "transposed": Case("v = Transpose (w) y = MatMul (x, v)", (5, 6), (3, 6)),
    "transposed batch": Case("v = Transpose <perm = [1, 2, 0]> (w) y = MatMul (x, v)", (5, 2, 6), (2, 3, 6)),
    "reshaped": Case("v = Reshape (w, r) y = MatMul (x, v)", (2, 3, 5), (3, 6), {"r": np.array([6, 5])}),
    "reshaped and transposed": Case(
        "u = Reshape (w, r) v = Transpose (u) y = MatMul (x, v)", (5, 2, 3), (3, 6), {"r": np.array([5, 6])}
    ),
    "features of two axes": Case(
        "u = Transpose <perm = [2, 0, 1]> (w) v = Reshape (u, r) y = MatMul (x, v)",
        (2, 5, 3),
        (3, 6),
        {"r": np.array([6, 5])},
    ),
    "einsum": Case('y = Einsum <equation = "abk,kn->abn"> (x, w)', (6, 5), (2, 3, 6)),
    "einsum left": Case('y = Einsum <equation = "nk,abk->abn"> (w, x)', (5, 6), (2, 3, 6)),
    "einsum heads": Case('y = Einsum <equation = "bshd,hde->bse"> (x, w)', (2, 3, 5), (2, 4, 2, 3)),
    "einsum batch": Case('y = Einsum <equation = "gsk,gkn->gsn"> (x, w)', (2, 6, 5), (2, 3, 6)),
    "fused": Case("y = com.microsoft.FusedMatMul (x, w)", (6, 5), (2, 3, 6)),
    "fused transA": Case("y = com.microsoft.FusedMatMul <transA = 1> (x, w)", (6, 5), (2, 6, 3)),
    "fused transB": Case("y = com.microsoft.FusedMatMul <transB = 1> (x, w)", (5, 6), (2, 3, 6)),
    "fused rotated": Case(
        "y = com.microsoft.FusedMatMul <transBatchA = 1, transBatchB = 1> (x, w)", (6, 2, 5), (3, 2, 6)
    ),
    "fused gemm": Case('y = com.microsoft.FusedGemm <activation = "Relu"> (x, w)', (6, 5), (3, 6)),
    "behind Relu": Case("u = Relu (x) y = MatMul (u, w)", (6, 5), (3, 6)),
}
"""Each gives (..., samples, outputs), or with "left" (..., outputs, samples)."""


@pytest.mark.parametrize("name", MATRICES)
def test_products_of_matrices(name, tmp_path):
    case = MATRICES[name]
    given, seen, rows = looked_at(case, tmp_path)
    found = products(rows, seen.view.matrices(small(case.weight, 1)))
    if "Relu" in case.nodes and "Fused" in case.nodes:
        found = np.maximum(found, 0)
    left = "left" in name and "einsum" not in name
    assert same_numbers(found, given, outputs=seen.view.shape[1], left=left)


def looked_at(case, folder):
    """What a model gives for random inputs, its weight `w`, and the rows that were observed."""
    model = case.model()
    file, feed = written(model, folder), {"x": small(case.x, 2)}
    (given,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(["y"], feed)
    seen = seen_in(model)
    return given, seen, rows_of(file, seen, feed)


def same_numbers(found, given, *, outputs, left=False):
    """Whether two results hold the same rows of outputs, in any order of groups and samples."""
    given = np.moveaxis(given, -2, -1) if left and given.ndim > 1 else given
    return sorted(map(tuple, found.reshape(-1, outputs))) == sorted(map(tuple, given.reshape(-1, outputs)))


CONVOLUTIONS = {
    "plain": Case("y = Conv (x, w)", (4, 3, 3, 3), (2, 3, 6, 7)),
    "one axis": Case("y = Conv (x, w)", (4, 3, 3), (2, 3, 8)),
    "three axes": Case("y = Conv (x, w)", (4, 2, 2, 1, 3), (1, 2, 4, 3, 5)),
    "pads": Case("y = Conv <pads = [1, 0, 2, 3]> (x, w)", (4, 3, 3, 2), (2, 3, 6, 7)),
    "strides": Case("y = Conv <strides = [2, 3]> (x, w)", (4, 3, 3, 2), (2, 3, 8, 9)),
    "dilations": Case("y = Conv <dilations = [2, 3], pads = [2, 1, 2, 1]> (x, w)", (4, 3, 3, 2), (2, 3, 8, 9)),
    "groups": Case("y = Conv <group = 2> (x, w)", (6, 2, 3, 3), (2, 4, 6, 7)),
    "depthwise": Case("y = Conv <group = 4> (x, w)", (8, 1, 3, 3), (2, 4, 6, 7)),
    "same upper": Case('y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)', (4, 3, 3, 2), (2, 3, 6, 7)),
    "same lower": Case('y = Conv <auto_pad = "SAME_LOWER", strides = [2, 1]> (x, w)', (4, 3, 3, 2), (2, 3, 6, 7)),
    "valid": Case('y = Conv <auto_pad = "VALID"> (x, w)', (4, 3, 3, 2), (2, 3, 6, 7)),
    "pointwise": Case("y = Conv (x, w)", (4, 3, 1, 1), (2, 3, 6, 7)),
    "reshaped": Case("v = Reshape (w, r) y = Conv (x, v)", (4, 27), (2, 3, 6, 7), {"r": np.array([4, 3, 3, 3])}),
    "transposed": Case("v = Transpose <perm = [3, 2, 0, 1]> (w) y = Conv (x, v)", (3, 3, 3, 4), (2, 3, 6, 7)),
    "fused": Case("y = com.microsoft.FusedConv <pads = [1, 1, 1, 1]> (x, w)", (4, 3, 3, 3), (2, 3, 6, 7)),
    "of transposed": Case("y = ConvTranspose (x, w)", (3, 4, 3, 3), (2, 3, 4, 5)),
    "of transposed, strides": Case("y = ConvTranspose <strides = [2, 3]> (x, w)", (3, 4, 3, 2), (2, 3, 4, 5)),
    "of transposed, pads": Case(
        "y = ConvTranspose <strides = [2, 2], pads = [1, 2, 0, 1]> (x, w)", (3, 4, 3, 2), (2, 3, 4, 5)
    ),
    "of transposed, more behind": Case(
        "y = ConvTranspose <strides = [2, 2], output_padding = [1, 1], pads = [1, 0, 1, 0]> (x, w)",
        (3, 4, 3, 2),
        (2, 3, 4, 5),
    ),
    "of transposed, dilations": Case("y = ConvTranspose <dilations = [2, 3]> (x, w)", (3, 4, 3, 2), (2, 3, 4, 5)),
    "of transposed, groups": Case("y = ConvTranspose <group = 2> (x, w)", (4, 3, 3, 2), (2, 4, 4, 5)),
    "of transposed, shape": Case(
        "y = ConvTranspose <strides = [2, 2], output_shape = [7, 8]> (x, w)", (3, 4, 3, 3), (2, 3, 4, 5)
    ),
    "of transposed, shape upper": Case(
        'y = ConvTranspose <strides = [2, 2], output_shape = [8, 8], auto_pad = "SAME_UPPER"> (x, w)',
        (3, 4, 3, 3),
        (2, 3, 4, 5),
    ),
    "of transposed, same": Case(
        'y = ConvTranspose <strides = [2, 2], auto_pad = "SAME_UPPER"> (x, w)', (3, 4, 3, 3), (2, 3, 4, 5)
    ),
    "of transposed, same lower": Case(
        'y = ConvTranspose <strides = [2, 2], auto_pad = "SAME_LOWER"> (x, w)', (3, 4, 3, 3), (2, 3, 4, 5)
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, tmp_path):
    given, seen, rows = looked_at(CONVOLUTIONS[name], tmp_path)
    found = products(rows, seen.view.matrices(small(CONVOLUTIONS[name].weight, 1)))
    groups, outputs, _ = seen.view.shape
    wanted = given.reshape(given.shape[0], groups, outputs, -1).transpose(1, 0, 3, 2)
    assert np.array_equal(found, wanted.reshape(groups, -1, outputs))


@pytest.mark.parametrize("case", [*MATRICES.values(), *CONVOLUTIONS.values()], ids=[*MATRICES, *CONVOLUTIONS])
def test_matrices_come_back_with_their_bits(case):
    seen = seen_in(case.model())
    stored = np.arange(np.prod(case.weight), dtype=np.float32).reshape(case.weight)
    assert np.array_equal(seen.view.stored(seen.view.matrices(stored)), stored.reshape(-1))


@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_neighbours_are_input_channels(case):
    """A run of `neighbours` features differs in the reduction axis of the operator only."""
    seen = seen_in(case.model())
    columns = seen.weight.columns
    assert columns is not None
    view = np.broadcast_to(
        np.arange(columns.view_shape[columns.axis]).reshape([-1] + [1] * (len(columns.view_shape) - columns.axis - 1)),
        columns.view_shape,
    )
    runs = seen.view.matrices(view).reshape(-1, seen.view.neighbours)
    groups = seen.view.shape[0] if "ConvTranspose" in case.nodes else 1
    assert np.array_equal(runs - runs[:, :1], np.tile(np.arange(seen.view.neighbours), (len(runs), 1))), groups
