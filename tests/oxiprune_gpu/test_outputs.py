"""`out` and `mask_out`: results go where the caller says, or the call is refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import oxiprune_gpu as ox

HALF = ox.PruningConfig(0.5, "l1", "unstructured")
SHAPE = (6, 8)


def normal(dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(dtype)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "config", [HALF, ox.PruningConfig(0.5, "l2", "row"), ox.PruningConfig(granularity="2:4")], ids=str
)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_results_go_where_they_should(config, dtype):
    weight, before = normal(dtype), normal(dtype)
    expected, expected_mask = ox.prune_tensor(weight, config)
    out, mask_out = np.empty_like(weight), np.empty(SHAPE, bool)
    pruned, mask = ox.prune_tensor(weight, config, out=out, mask_out=mask_out)
    assert pruned is out
    assert mask is mask_out
    assert out.tobytes() == expected.tobytes()
    assert np.array_equal(mask_out, expected_mask)
    assert weight.tobytes() == before.tobytes()
    mask_out[...] = False
    assert ox.compute_mask(weight, config, out=mask_out) is mask_out
    assert np.array_equal(mask_out, expected_mask)
    mask_out[...] = False
    assert ox.prune_tensor_inplace(weight, config, mask_out=mask_out) is mask_out
    assert np.array_equal(mask_out, expected_mask)
    assert weight.tobytes() == expected.tobytes()


def test_out_may_be_the_weight():
    weight = normal()
    expected, _ = ox.prune_tensor(weight, HALF)
    pruned, _ = ox.prune_tensor(weight, HALF, out=weight)
    assert pruned is weight
    assert weight.tobytes() == expected.tobytes()


def test_a_named_weight_stays_named():
    out = np.empty(SHAPE, np.float32)
    pruned, _ = ox.prune_tensor(ox.WeightTensor("w", normal()), HALF, out=out)
    assert (pruned.name, pruned.data) == ("w", out)


def test_apply_mask():
    weight, mask = normal(), np.random.default_rng(1).random(SHAPE) < 0.5
    expected, out = ox.apply_mask(weight, mask), np.empty(SHAPE, np.float32)
    assert ox.apply_mask(weight, mask, out=out) is out
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (
            np.empty((8, 6), np.float32),
            ox.ShapeMismatch,
            r"out of tensor 'array' has shape \[8, 6\], the weight \[6, 8\]",
        ),
        (np.empty(SHAPE, np.float64), ox.InvalidOption, "has dtype float64: it must be float32"),
        (np.empty((8, 6), np.float32).T, ox.InvalidOption, "not C-contiguous"),
        (read_only(np.empty(SHAPE, np.float32)), ox.InvalidOption, "out of tensor 'array' is read-only"),
        ("text", ox.InvalidOption, "out of tensor 'array' is no array"),
    ],
)
def test_what_does_not_fit_is_refused(out, error, words):
    with pytest.raises(error, match=words):
        ox.prune_tensor(normal(), HALF, out=out)


@pytest.mark.parametrize(
    ("mask_out", "error", "words"),
    [
        (np.empty(48, bool), ox.ShapeMismatch, r"mask_out of tensor 'array' has shape \[48\]"),
        (np.empty(SHAPE, np.uint8), ox.InvalidOption, "has dtype uint8: it must be bool"),
        (read_only(np.empty(SHAPE, bool)), ox.InvalidOption, "mask_out of tensor 'array' is read-only"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask_out, error, words):
    weight = normal()
    for call in (ox.prune_tensor, ox.prune_tensor_inplace):
        with pytest.raises(error, match=words):
            call(weight, HALF, mask_out=mask_out)
    assert weight.tobytes() == normal().tobytes()


def test_memory_shared_with_the_weight_is_refused():
    room = np.zeros(100, np.float32)
    weight = room[:48].reshape(SHAPE)
    with pytest.raises(ox.InvalidOption, match="shares memory with a part of the weight"):
        ox.prune_tensor(weight, HALF, out=room[8:56].reshape(SHAPE))
    with pytest.raises(ox.InvalidOption, match="mask_out of tensor 'array' shares memory"):
        ox.prune_tensor(weight, HALF, mask_out=room.view(bool)[:48].reshape(SHAPE))


def test_arrays_that_are_written_share_no_memory():
    weight, room = normal(), np.zeros(SHAPE, np.float32)
    with pytest.raises(ox.InvalidOption, match="mask_out and out of tensor 'array' share memory"):
        ox.prune_tensor(weight, HALF, out=room, mask_out=room.reshape(-1)[:12].view(bool).reshape(SHAPE))
    gradient = normal() * 2
    with pytest.raises(ox.InvalidOption, match="out and gradient of tensor 'array' share memory"):
        ox.prune_tensor(weight, ox.PruningConfig(0.5, ox.Taylor(gradient)), out=gradient)


def test_nothing_is_written_when_a_check_fails_first():
    out, mask_out = np.full(SHAPE, 7, np.float32), np.zeros((2, 2), bool)
    for config, mask in ((ox.PruningConfig(1.5), None), (HALF, mask_out)):
        with pytest.raises(ox.PruningError):
            ox.prune_tensor(normal(), config, out=out, mask_out=mask)
    assert (out == 7).all()
