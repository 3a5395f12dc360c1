"""Pictures of weights against slow counting."""

from __future__ import annotations

import itertools
import math

import ml_dtypes
import numpy as np
import pytest

from onnx_tools import pictures
from onnx_tools.operators import UnitAxis
from onnx_tools.pictures import BINS, Album, histogram, mask_picture
from onnx_tools.weights import Weight
from oxiprune_gpu import ArrayBlocks


def values(*shape: int, zeros: float = 0.4, dtype: object = np.float32) -> np.ndarray:
    random = np.random.default_rng(5)
    return (random.standard_normal(shape) * (random.random(shape) >= zeros)).astype(dtype)


def slow_bins(array: np.ndarray, limit: float) -> tuple[int, ...]:
    edges = np.linspace(-limit, limit, BINS + 1)
    finite = array.astype(np.float64)[np.isfinite(array) & (array != 0)]
    return tuple(np.histogram(finite, edges)[0].tolist())


def slow_shades(array: np.ndarray, axis: UnitAxis | None, height: int, width: int) -> list[float]:
    """The fraction of nonzeros of each cell, one element at a time."""
    rows = [array.reshape(-1)] if array.ndim < 2 else list(array)
    if axis is not None:
        parts = np.split(array.reshape(axis.view_shape), axis.groups)
        rows = [unit for part in parts for unit in np.moveaxis(part, axis.axis, 0)]
    kept, total = np.zeros((height, width)), np.zeros((height, width))
    for at, row in enumerate(rows):
        for place, value in enumerate(row.reshape(-1)):
            cell = at * height // len(rows), place * width // row.size
            kept[cell] += value != 0
            total[cell] += 1
    return (kept / total).reshape(-1).tolist()


def as_shade(part: float) -> int:
    return int(255 * part) if part in (0, 1) else min(max(round(255 * part), 1), 254)


def weight_of(name: str, array: np.ndarray) -> Weight:
    path = (("graph", 0), ("initializer", int(name[1:])))
    return Weight(name, path, array.shape, array.dtype, array.size, ("MatMul",), ("m",), None, None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_histogram(dtype):
    array = values(50, 30, dtype=dtype)
    found = histogram(ArrayBlocks(array))
    assert found.limit == float(np.abs(array).max())
    assert sum(np.abs(np.subtract(found.counts, slow_bins(array, found.limit)))) <= 2  # edges round differently
    assert sum(found.counts) + found.zeros == array.size
    assert found.zeros == np.count_nonzero(array == 0)


def test_values_beyond_the_limit_are_in_the_outer_bins():
    found = histogram(ArrayBlocks(np.array([-3, 0.1, 2], np.float32)), limit=1.0)
    assert (found.counts[0], found.counts[-1], sum(found.counts)) == (1, 1, 3)


def test_histogram_up_to_a_limit_from_before():
    assert histogram(ArrayBlocks(np.array([1.0, -1.0, 0.0])), 2.0).counts[15] == 1
    assert histogram(ArrayBlocks(np.array([2.0])), 2.0).counts[-1] == 1


@pytest.mark.parametrize("extreme", [5e-324, 1.7976931348623157e308, math.inf, math.nan, 0.0])
def test_histogram_of_extremes(extreme):
    found = histogram(ArrayBlocks(np.array([extreme, -extreme, 0.0])))
    assert sum(found.counts) + found.zeros + found.not_finite == 3
    assert found.not_finite == (0 if math.isfinite(extreme) else 2)


@pytest.mark.parametrize("bits", [np.uint32(0x7F800001), np.uint64(0x7FF0000000000001)])
def test_nan_that_signals(bits):
    array = np.array([bits, 0, bits], bits.dtype).view(f"f{bits.itemsize}")
    assert histogram(ArrayBlocks(array)).not_finite == 2
    assert mask_picture(ArrayBlocks(array), None).shades == bytes((255, 0, 255))


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((70, 150), None),
        ((70, 150), UnitAxis((70, 150), 0)),
        ((150, 70), UnitAxis((150, 70), 1)),
        ((6, 4, 3, 3), UnitAxis((6, 4, 3, 3), 0)),
        ((6, 4, 3, 3), UnitAxis((6, 4, 3, 3), 1, 2)),
        ((300,), None),
        ((1, 1), None),
    ],
)
def test_mask(shape, axis, monkeypatch):
    monkeypatch.setattr(pictures, "_BLOCK", 97)
    array = values(*shape)
    found = mask_picture(ArrayBlocks(array), axis)
    assert found.height <= 64
    assert found.width <= 128
    assert found.rows * found.columns == array.size
    expected = [as_shade(part) for part in slow_shades(array, axis, found.height, found.width)]
    assert list(found.shades) == expected


def test_the_ends_of_the_shades_are_all_and_none():
    array = np.ones((1, 128 * 1000), np.float32)
    array[0, 0] = 0
    array[0, 1000:2000] = 0
    array[0, 1999] = 1
    assert list(mask_picture(ArrayBlocks(array), None).shades[:3]) == [254, 1, 255]


def test_an_album_has_the_largest_in_the_order_of_the_model(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PICTURES", 2)
    arrays = {name: values(size) for name, size in (("w0", 9), ("w1", 5), ("w2", 7), ("w3", 0))}
    weights = {name: weight_of(name, array) for name, array in arrays.items()}
    album = Album(list(weights.values()))
    for name, weight in reversed(weights.items()):
        with album.pruning(weight, ArrayBlocks(arrays[name])):
            arrays[name][:3] = 0
    assert [picture.name for picture in album.pictures] == ["w0", "w2"]
    for picture in album.pictures:
        assert picture.after is not None
        assert picture.after.zeros >= max(3, picture.before.zeros)
        assert picture.before.limit == picture.after.limit


def test_an_album_without_weights_takes_nothing():
    array = values(4)
    album = Album()
    album.inspecting(weight_of("w0", array), ArrayBlocks(array))
    with album.pruning(weight_of("w0", array), ArrayBlocks(array)):
        pass
    assert album.pictures == ()


def test_every_element_is_in_one_cell():
    for rows, columns in itertools.product((1, 63, 64, 65, 129), (1, 127, 129)):
        grid = pictures._Grid(1, 1, rows, columns)
        counts = np.bincount(grid.cells(np.arange(rows * columns)), minlength=grid.height * grid.width)
        assert counts.tolist() == grid.sizes().tolist()
