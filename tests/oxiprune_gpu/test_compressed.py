"""2:4 matrices as values and metadata: against a slow oracle, pinned words, and torch where it is installed."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

import oxiprune_gpu as ox

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]
HALVES = DTYPES[1:3]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
halves = pytest.mark.parametrize("dtype", HALVES, ids=lambda dtype: np.dtype(dtype).name)

PLACES = {
    (): (2, 3),
    (0,): (0, 2),
    (1,): (1, 2),
    (2,): (2, 3),
    (3,): (2, 3),
    **{pair: pair for pair in itertools.combinations(range(4), 2)},
}
"""Which members of a group are not zero -> which are stored."""


def matrix_of(rows: int, columns: int, dtype: type = np.float32) -> np.ndarray:
    """A 2:4 matrix in which every pattern comes up."""
    rng = np.random.default_rng((rows, columns))
    matrix = np.zeros((rows, columns // 4, 4), dtype)
    patterns = list(PLACES)
    for group, pattern in zip(matrix.reshape(-1, 4), rng.permutation(matrix.size // 4) % len(patterns), strict=True):
        group[list(patterns[pattern])] = rng.standard_normal(len(patterns[pattern])).astype(dtype)
    return matrix.reshape(rows, columns)


def slow(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values, and four bits for each group, one group after another."""
    values, places = [], []
    for group in matrix.reshape(-1, 4):
        first, second = PLACES[tuple(np.flatnonzero(group).tolist())]
        values.append(group[[first, second]])
        places.append(first | second << 2)
    return np.array(values).reshape(matrix.shape[0], -1), np.array(places).reshape(matrix.shape[0], -1)


def cutlass_place(row: int, column: int, rows: int) -> int:
    """Where the word of a row and column is stored, by the description of CUTLASS's reordering."""
    row_there = row // 32 * 32 + row % 8 * 4 + row % 32 // 8
    if row_there % 2 != column % 2:
        row_there, column = (row_there + 1, column - 1) if column % 2 else (row_there - 1, column + 1)
    return column // 2 * rows * 2 + row_there * 2 + column % 2


@dtypes
@pytest.mark.parametrize("shape", [(1, 8), (3, 8), (5, 40), (64, 96), (0, 8)])
def test_plain(dtype, shape):
    matrix = matrix_of(*shape, dtype)
    values, places = slow(matrix) if matrix.size else (np.zeros((0, 4), dtype), np.zeros((0, 2), int))
    compressed = ox.compress_2_4(matrix)
    assert compressed.layout == "plain"
    assert (compressed.values.dtype, compressed.values.tobytes()) == (dtype, values.astype(dtype).tobytes())
    words = (places[:, ::2] | places[:, 1::2] << 4).astype(np.uint8)
    assert (compressed.metadata.dtype, compressed.metadata.tolist()) == (np.uint8, words.tolist())
    assert ox.decompress_2_4(compressed).tobytes() == matrix.tobytes()


@halves
@pytest.mark.parametrize("shape", [(32, 32), (64, 32), (32, 96), (96, 160)])
def test_cutlass(dtype, shape):
    matrix = matrix_of(*shape, dtype)
    values, places = slow(matrix)
    compressed = ox.compress_2_4(matrix, "cutlass")
    assert compressed.values.tobytes() == values.tobytes()
    words = sum(places[:, group::4] << 4 * group for group in range(4)).astype(np.uint16).view(np.int16)
    expected = np.empty(words.size, np.int16)
    for (row, column), word in np.ndenumerate(words):
        expected[cutlass_place(row, column, shape[0])] = word
    assert compressed.metadata.dtype == np.int16
    assert compressed.metadata.tolist() == expected.reshape(words.shape).tolist()
    assert ox.decompress_2_4(compressed).tobytes() == matrix.tobytes()


def test_words_that_torch_makes():
    """Of torch 2.13's sparse_semi_structured_from_dense_cutlass: group n has pattern n, in the order of PLACES."""
    matrix, patterns = np.zeros((32 * 8, 4), np.float16), list(PLACES)
    for number, group in enumerate(matrix):
        group[list(patterns[number % len(patterns)])] = 1
    metadata = ox.compress_2_4(matrix.reshape(32, 32), "cutlass").metadata
    assert metadata.reshape(-1).tolist() == TORCH_WORDS


TORCH_WORDS = [
    *(-5746, -28947, -14258, 20201, -4708, -25468, -5746, -28947, -4391, -9784, -4456, -26386, -14258, 20201, -4391),
    *(-9784, -25468, -31506, -28947, -4708, -4456, -26386, -25468, -31506, 20201, -5746, -9784, -14258, -28947, -4708),
    *(20201, -5746, -26386, -4391, -31506, -4456, -9784, -14258, -26386, -4391, -4708, -25468, -5746, -28947, -31506),
    *(-4456, -4708, -25468, -14258, 20201, -4391, -9784, -5746, -28947, -14258, 20201, -4456, -26386, -25468, -31506),
    *(-4391, -9784, -4456, -26386),
]


@halves
@pytest.mark.parametrize("shape", [(32, 64), (128, 96)])
def test_as_torch_does(dtype, shape):
    torch = pytest.importorskip("torch")
    conversions = pytest.importorskip("torch.sparse._semi_structured_conversions")
    dense = torch.from_numpy(matrix_of(*shape)).to(getattr(torch, np.dtype(dtype).name))
    values, metadata = conversions.sparse_semi_structured_from_dense_cutlass(dense)
    compressed = ox.compress_2_4(dense, "cutlass")
    assert torch.equal(compressed.values, values)
    assert torch.equal(compressed.metadata, metadata)
    assert torch.equal(ox.decompress_2_4(ox.Compressed24(values, metadata, "cutlass")), dense)


def test_what_pruning_leaves_is_compressed():
    weight = np.random.default_rng(1).standard_normal((16, 64)).astype(np.float32)
    pruned, _ = ox.prune_tensor(weight, ox.PruningConfig(granularity="2:4"))
    compressed = ox.compress_2_4(np.asfortranarray(pruned))
    assert compressed.values.size == np.count_nonzero(pruned)
    assert ox.decompress_2_4(compressed).tobytes() == pruned.tobytes()


def test_values_that_compare_oddly():
    """NaN and denormal numbers are values, whichever the sign; -0.0 is none."""
    matrix = np.array([[np.nan, -0.0, 1e-45, -0.0, -0.0, -1e-45, np.inf, 0.0]], np.float32)
    compressed = ox.compress_2_4(matrix)
    assert compressed.metadata.tolist() == [[0 | 2 << 2 | 1 << 4 | 2 << 6]]
    assert compressed.values.tobytes() == matrix[:, [0, 2, 5, 6]].tobytes()
    assert np.array_equal(ox.decompress_2_4(compressed), matrix, equal_nan=True)


def test_the_first_group_that_is_not_2_4_is_named():
    matrix = matrix_of(6, 16)
    matrix[4, 9:12] = matrix[5, :4] = 1
    with pytest.raises(ox.NotTwoOfFour, match=r"'w': row 4, group 2 \(columns 8 to 11\) has more") as caught:
        ox.compress_2_4(ox.WeightTensor("w", matrix))
    assert (caught.value.row, caught.value.group) == (4, 2)


REFUSED = {
    "one axis": (np.zeros(8, np.float32), "plain", ox.ShapeMismatch, r"\[8\]"),
    "no axis": (np.array(1.0), "plain", ox.ShapeMismatch, "matrices"),
    "three axes": (np.zeros((1, 2, 8), np.float32), "plain", ox.ShapeMismatch, "matrices"),
    "columns": (np.zeros((2, 12), np.float32), "plain", ox.ShapeMismatch, "columns of 8"),
    "rows": (np.zeros((16, 32), np.float16), "cutlass", ox.ShapeMismatch, "multiple of 32"),
    "float32": (np.zeros((32, 32), np.float32), "cutlass", ox.InvalidOption, "float32.*'plain'"),
    "layout": (np.zeros((32, 32), np.float32), "cusparselt", ox.InvalidOption, "'plain' or 'cutlass'"),
    "integers": (np.zeros((32, 32), np.int8), "plain", ox.UnsupportedDtype, "int8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    matrix, layout, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        ox.compress_2_4(matrix, layout)


VALUES = np.ones((2, 4), np.float32)
NOT_COMPRESSED = {
    "shape": (VALUES, np.full((2, 2), 0x44, np.uint8), "plain", ox.ShapeMismatch, r"\[2, 2\].*\[2, 1\]"),
    "dtype": (VALUES, np.full((2, 1), 0x44, np.int16), "plain", ox.ShapeMismatch, "int16"),
    "values": (np.ones((2, 3), np.float32), np.full((2, 1), 0x44, np.uint8), "plain", ox.ShapeMismatch, "6"),
    "no axis": (np.array(1.0), np.full((2, 1), 0x44, np.uint8), "plain", ox.ShapeMismatch, "values"),
    "places": (VALUES, np.array([[0x44], [0x54]], np.uint8), "plain", ox.NotTwoOfFour, "metadata: row 1, group 1"),
    "layout": (VALUES, np.full((2, 1), 0x44, np.uint8), "torch", ox.InvalidOption, "torch"),
}


@pytest.mark.parametrize("case", NOT_COMPRESSED)
def test_what_was_not_compressed(case):
    values, metadata, layout, error, text = NOT_COMPRESSED[case]
    with pytest.raises(error, match=text):
        ox.decompress_2_4(ox.Compressed24(values, metadata, layout))


@dtypes
def test_arrays_of_cupy(cupy, dtype):
    check_on_device(cupy.asarray, matrix_of(64, 96, dtype))


def test_values_and_metadata_on_two_devices(cupy):
    compressed = ox.compress_2_4(matrix_of(2, 8))
    with pytest.raises(ox.InvalidOption, match=r"values lie on .*GPU 0.*metadata on .*CPU"):
        ox.decompress_2_4(ox.Compressed24(cupy.asarray(compressed.values), compressed.metadata))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_on_a_gpu(dtype):
    import cupy

    check_on_device(cupy.asarray, matrix_of(64, 96, dtype))


def check_on_device(upload, matrix: np.ndarray) -> None:
    for layout in ("plain", "cutlass") if matrix.itemsize == 2 else ("plain",):
        expected, compressed = ox.compress_2_4(matrix, layout), ox.compress_2_4(upload(matrix), layout)
        assert compressed.values.get().tobytes() == expected.values.tobytes()
        assert compressed.metadata.get().tobytes() == expected.metadata.tobytes()
        assert ox.decompress_2_4(compressed).get().tobytes() == matrix.tobytes()
