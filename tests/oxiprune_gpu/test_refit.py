"""Least-squares repair, against solutions one output at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oxiprune_gpu import InvalidOption, ShapeMismatch
from oxiprune_gpu.calibrated import least_squares, low_rank, refit
from tests.layers import Matrix, layer


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_refit_is_the_least_squares_solution(dtype: Any) -> None:
    weight, inputs = layer(7, 20, dtype=dtype)
    mask = np.random.default_rng(1).random(weight.shape) < 0.6
    mask[2] = False
    found = refit(weight, mask, inputs.T @ inputs, damping=1e-12, tolerance=1e-12).pruned
    assert found.dtype == dtype
    targets = inputs @ weight.T.astype(np.float64)
    for row, kept in enumerate(mask):
        best = np.linalg.lstsq(inputs[:, kept], targets[:, row], rcond=None)[0]
        np.testing.assert_allclose(found[row, kept], best, rtol=2e-3 if dtype == np.float16 else 1e-4, atol=1e-3)
        assert not found[row, ~kept].any()


def test_refit_to_what_the_layer_gave_on_other_inputs() -> None:
    weight, inputs = layer(7, 20, dtype=np.float64)
    random = np.random.default_rng(3)
    others = inputs + 0.3 * random.standard_normal(inputs.shape) * inputs.std(axis=0)
    others[:, 4] = 0
    mask = random.random(weight.shape) < 0.6
    mask[:, 4] = True
    found = refit(weight, mask, others.T @ others, cross=others.T @ inputs, damping=1e-12, tolerance=1e-12).pruned
    targets = inputs @ weight.T
    for row, kept in enumerate(mask):
        seen = kept & (np.arange(20) != 4)
        np.testing.assert_allclose(found[row, seen], np.linalg.lstsq(others[:, seen], targets[:, row])[0], rtol=1e-6)
        assert not found[row, ~kept].any()
    np.testing.assert_allclose(found[:, 4], weight[:, 4])


def test_refit_on_the_same_inputs_needs_no_cross() -> None:
    weight, inputs = layer(5, 16, dtype=np.float64)
    hessian, mask = inputs.T @ inputs, np.arange(80).reshape(5, 16) % 3 > 0
    plain, crossed = (refit(weight, mask, hessian, cross=cross, tolerance=1e-12).pruned for cross in (None, hessian))
    np.testing.assert_allclose(crossed, plain, rtol=1e-8)


def loss_above_the_least(weight: Matrix, found: Matrix, mask: Matrix, hessian: Matrix, damping: float) -> float:
    """The largest of all outputs, in parts of what is gained on the plainly masked weight."""
    matrix = hessian + damping * np.diag(hessian).mean() * np.eye(len(hessian))
    shares = []
    for row, new, kept in zip(weight.astype(np.float64), found, mask, strict=True):
        best = np.zeros(len(row))
        best[kept] = np.linalg.solve(matrix[np.ix_(kept, kept)], (row @ matrix)[kept])
        of_new, of_best, of_start = ((off - row) @ matrix @ (off - row) for off in (new, best, row * kept))
        shares.append((of_new - of_best) / (of_start - of_best))
    return float(max(shares))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-2), (np.float32, 1e-5), (np.float64, 1e-9)])
@pytest.mark.parametrize("samples", [60, 2000])
def test_refit_of_many_features_keeps_its_bound(dtype: Any, tolerance: float, samples: int) -> None:
    weight, inputs = layer(150, 300, dtype=dtype)
    hessian = inputs[:samples].T @ inputs[:samples]
    mask = np.random.default_rng(1).random(weight.shape) < 0.6
    found = refit(weight, mask, hessian, damping=0.01, tolerance=tolerance).pruned
    assert loss_above_the_least(weight, found, mask, hessian, 0.01) <= tolerance
    assert not found[~mask].any()


def test_refit_solves_directly_what_is_not_done_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(least_squares, "_MOST_STEPS", 2)
    test_refit_of_many_features_keeps_its_bound(np.float64, 1e-9, 60)


def test_outputs_that_keep_all_or_nothing() -> None:
    weight, inputs = layer(90, 300)
    mask = np.random.default_rng(1).random(weight.shape) < 0.5
    mask[3], mask[7] = True, False
    found = refit(weight, mask, inputs.T @ inputs).pruned
    np.testing.assert_array_equal(found[3], weight[3])
    np.testing.assert_array_equal(found[7], 0)


def test_outputs_that_keep_the_same_features() -> None:
    weight, inputs = layer(90, 300, dtype=np.float64)
    kept = np.random.default_rng(1).random(300) < 0.5
    found = refit(weight, np.tile(kept, (90, 1)), inputs.T @ inputs, damping=1e-12).pruned
    best = np.linalg.lstsq(inputs[:, kept], inputs @ weight.T)[0].T
    np.testing.assert_allclose(found[:, kept], best, rtol=1e-6, atol=1e-6)


def test_the_low_rank_part_is_below_the_matrix() -> None:
    _, inputs = layer(1, 200)
    matrix = np.corrcoef(inputs[:50].T) + 0.01 * np.eye(200)
    matrix /= matrix[0, 0]
    near = low_rank.LowRank(matrix, 0.009, np.float64)
    dense = np.linalg.inv(near.of(np.ones((200, 200))).solve(np.eye(200)))
    shares = np.linalg.eigvals(np.linalg.solve(dense, matrix)).real
    assert near.lowest <= shares.min()
    assert shares.max() < 20


def test_bad_options() -> None:
    weight, inputs = layer(4, 8)
    hessian = inputs.T @ inputs
    with pytest.raises(InvalidOption, match="tolerance nan must be a number above 0"):
        refit(weight, np.ones((4, 8), bool), hessian, tolerance=float("nan"))
    with pytest.raises(ShapeMismatch, match="mask of weight"):
        refit(weight, np.ones((8, 4), bool), hessian)
    with pytest.raises(ShapeMismatch, match=r"wants \[8, 8\]"):
        refit(weight, np.ones((4, 8), bool), hessian, cross=hessian[:, :7])


def test_damping_that_grew_is_told() -> None:
    weight, mask = np.ones((2, 3), np.float32), np.array([[True, False, True]] * 2)
    indefinite = np.array([[1.0, 3.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert refit(weight, mask, np.eye(3), damping=0.01).damping == 0.01
    assert refit(weight, mask, indefinite, damping=0.01).damping == pytest.approx(10)
