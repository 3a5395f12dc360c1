"""Pruning by what the inputs were, against the methods written down plainly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oxiprune_gpu import InvalidOption, InvalidSparsity, NonFiniteWeight, PruningConfig, ShapeMismatch, WeightTensor
from oxiprune_gpu.calibrated import hessian, prune_sparsegpt, prune_wanda, refit, triangles, wanda
from tests.layers import Matrix, layer

CONFIGS = [PruningConfig(0.5), PruningConfig(0.7), PruningConfig(granularity="2:4"), PruningConfig(granularity="4:8")]


def lowest_plainly(scores: list[float], count: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda place: (scores[place], place))[:count]


def fallen_plainly(scores: Matrix, config: PruningConfig) -> Matrix:
    """Row by row, element by element."""
    keep, of = (int(n) for n in config.granularity.text.split(":")) if ":" in config.granularity.text else (0, 0)
    fallen = np.zeros(scores.shape, bool)
    for row, line in enumerate(scores):
        if not of:
            count = int(np.float32(config.sparsity) * np.float32(len(line)))
            fallen[row, lowest_plainly(line.tolist(), count)] = True
        for start in range(0, len(line) - of + 1, of) if of else ():
            fallen[row, [start + place for place in lowest_plainly(line[start : start + of].tolist(), of - keep)]] = (
                True
            )
    return fallen


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.sparsity}-{config.granularity.text}")
@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (17, 50), (40, 128)])
def test_wanda_against_its_definition(shape: tuple[int, int], config: PruningConfig) -> None:
    weight, inputs = layer(*shape)
    squares = (inputs**2).sum(axis=0)
    pruned, mask = prune_wanda(weight, squares, config)
    scores = np.abs(weight) * np.sqrt(squares).astype(np.float32)
    np.testing.assert_array_equal(~mask, fallen_plainly(scores, config))
    np.testing.assert_array_equal(pruned, np.where(mask, weight, 0))


@pytest.mark.parametrize("slab", [1, 100, 1 << 20])
def test_wanda_works_on_slabs(monkeypatch: pytest.MonkeyPatch, slab: int) -> None:
    monkeypatch.setattr(wanda, "_SLAB", slab)
    test_wanda_against_its_definition((17, 50), PruningConfig(0.5))


@pytest.mark.parametrize("panel", [1, 7, 50, 1000])
def test_the_factor_of_the_inverse(monkeypatch: pytest.MonkeyPatch, panel: int) -> None:
    monkeypatch.setattr(triangles, "_PANEL", panel)
    _, inputs = layer(1, 50)
    matrix, factor = (hessian.damped("w", inputs.T @ inputs, 0.01) for _ in range(2))
    wanted = np.linalg.cholesky(np.linalg.inv(matrix.matrix())).T
    np.testing.assert_allclose(factor.inverse_factor(), wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("panel", [1, 7, 50, 1000])
def test_the_hessian_is_there_again_after_its_factors(monkeypatch: pytest.MonkeyPatch, panel: int) -> None:
    """The first dampings do not do: then too, nothing of the factors that were tried stays."""
    monkeypatch.setattr(triangles, "_PANEL", panel)
    _, inputs = layer(1, 50)
    bad = inputs.T @ inputs
    bad[3, 20] = bad[20, 3] = 2 * bad.max()
    found = hessian.damped("w", bad, 0.01)
    assert found.damping > 0.01
    np.testing.assert_array_equal(found.matrix(), bad + np.diag(found.added))


def test_the_weight_that_was_given_stays() -> None:
    weight, inputs = layer(1, 8)
    before = weight.copy()
    prune_sparsegpt(weight, inputs.T @ inputs, PruningConfig(0.5))
    np.testing.assert_array_equal(weight, before)


def test_wanda_ties_fall_by_the_lowest_index() -> None:
    _, mask = prune_wanda(np.ones((2, 6), np.float32), np.array([1, 1, 0, 1, 1, 1.0]), PruningConfig(0.5))
    np.testing.assert_array_equal(mask, [[False, False, False, True, True, True]] * 2)


def sparsegpt_plainly(weight: Matrix, hessian: Matrix, config: PruningConfig, block: int, damping: float) -> Matrix:
    """The algorithm of the paper, one element at a time, in float64. The mask, True = kept."""
    left = weight.astype(np.float64)
    matrix = hessian.astype(np.float64) + damping * np.diag(hessian).mean() * np.eye(len(hessian))
    factor = np.linalg.cholesky(np.linalg.inv(matrix)).T
    keep, of = (int(n) for n in config.granularity.text.split(":")) if ":" in config.granularity.text else (0, 0)
    kept = np.ones(weight.shape, bool)
    for start in range(0, left.shape[1], block):
        stop = min(start + block, left.shape[1])
        if not of:
            scores = (left[:, start:stop] / np.diag(factor)[start:stop]) ** 2
            count = int(np.float32(config.sparsity) * np.float32(scores.size))
            fallen = np.ones(scores.size, bool)
            fallen[lowest_plainly(scores.reshape(-1).tolist(), count)] = False
            kept[:, start:stop] = fallen.reshape(scores.shape)
        for j in range(start, stop):
            if of and j % of == 0 and j + of <= left.shape[1]:
                scores = (left[:, j : j + of] / np.diag(factor)[j : j + of]) ** 2
                for row, line in enumerate(scores):
                    kept[row, [j + place for place in lowest_plainly(line.tolist(), of - keep)]] = False
            error = np.where(kept[:, j], 0, left[:, j]) / factor[j, j]
            left[:, j:] -= np.outer(error, factor[j, j:])
    return np.where(kept, left, 0.0)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.sparsity}-{config.granularity.text}")
@pytest.mark.parametrize(("shape", "block"), [((5, 16), 16), ((24, 96), 32), ((40, 150), 128), ((8, 50), 24)])
def test_sparsegpt_against_the_paper(shape: tuple[int, int], block: int, config: PruningConfig) -> None:
    weight, inputs = layer(*shape, dtype=np.float64)
    hessian = inputs.T @ inputs
    found = prune_sparsegpt(weight, hessian, config, block=block)
    wanted = sparsegpt_plainly(weight, hessian, config, block, 0.01)
    np.testing.assert_array_equal(found.mask, wanted != 0)
    np.testing.assert_allclose(found.pruned, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("shape", "block"), [((5, 16), 16), ((40, 150), 128), ((8, 50), 24)])
def test_sparsegpt_with_a_mask_against_the_paper(shape: tuple[int, int], block: int) -> None:
    weight, inputs = layer(*shape, dtype=np.float64)
    mask = np.random.default_rng(5).random(shape) < 0.4
    hessian = inputs.T @ inputs
    left = weight.copy()
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(len(hessian))
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    for j in range(shape[1]):
        left[:, j:] -= np.outer(np.where(mask[:, j], 0, left[:, j]) / factor[j, j], factor[j, j:])
    found = prune_sparsegpt(weight, hessian, mask=mask, block=block)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_allclose(found.pruned, np.where(mask, left, 0), rtol=1e-8, atol=1e-10)


def test_sparsegpt_makes_up_for_the_mask_of_another_method() -> None:
    weight, inputs = layer(32, 64)
    hessian = inputs.T @ inputs
    pruned, mask = prune_wanda(weight, np.diag(hessian), PruningConfig(0.6))
    made_up = prune_sparsegpt(weight, hessian, mask=mask).pruned
    errors = [error_of(weight, each, inputs) for each in (pruned, made_up, refit(weight, mask, hessian).pruned)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("text", ["2:4", "2:4+pad", "1:4+pad"])
def test_neighbours_that_fill_no_group(text: str) -> None:
    weight, inputs = layer(6, 11)
    config = PruningConfig(granularity=text)
    wanted = 3 if "pad" not in text else config.granularity.keep
    for mask in (
        prune_wanda(weight, np.diag(inputs.T @ inputs), config)[1],
        prune_sparsegpt(weight, inputs.T @ inputs, config).mask,
    ):
        np.testing.assert_array_equal(mask[:, 8:].sum(axis=1), wanted)
        np.testing.assert_array_equal(mask[:, :4].sum(axis=1), config.granularity.keep)


def error_of(weight: Matrix, pruned: Matrix, inputs: Matrix) -> float:
    return float(np.linalg.norm(inputs @ (pruned - weight).T.astype(np.float64)))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.sparsity}-{config.granularity.text}")
def test_each_method_loses_less_than_the_one_before(config: PruningConfig) -> None:
    weight, inputs = layer(64, 96)
    hessian = inputs.T @ inputs
    magnitude = np.where(~fallen_plainly(np.abs(weight), config), weight, 0)
    wanda, mask = prune_wanda(weight, np.diag(hessian), config)
    repaired = refit(weight, mask, hessian).pruned
    errors = [error_of(weight, pruned, inputs) for pruned in (magnitude, wanda, repaired)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.8 * errors[1]
    assert error_of(weight, prune_sparsegpt(weight, hessian, config).pruned, inputs) < errors[1]


def test_a_singular_hessian_gets_more_damping() -> None:
    weight, inputs = layer(6, 32)
    few = inputs[:3].copy()
    few[:, 5] = 0
    found = prune_sparsegpt(weight, few.T @ few, PruningConfig(0.5), damping=1e-20)
    assert found.damping > 1e-20
    assert np.isfinite(found.pruned).all()
    assert not found.pruned[:, 5].any()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"weight": np.ones((2, 3, 4), np.float32)}, ShapeMismatch, "'w' has shape .2, 3, 4.: it must be a matrix"),
        ({"weight": np.full((4, 8), np.nan, np.float32)}, NonFiniteWeight, "'w'"),
        ({"statistic": np.ones(7)}, ShapeMismatch, "'w' have shape"),
        ({"statistic": np.full(8, np.inf)}, InvalidOption, "'w' hold NaN or infinity"),
        ({"statistic": -np.ones(8)}, InvalidOption, "one is negative"),
        ({"config": PruningConfig(1.5)}, InvalidSparsity, "1.5"),
        ({"config": PruningConfig(0.5, granularity="row")}, InvalidOption, "granularity row does not go with"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], text: str) -> None:
    given = {"weight": np.ones((4, 8), np.float32), "statistic": np.ones(8), "config": PruningConfig(0.5), **change}
    with pytest.raises(error, match=text):
        prune_wanda(WeightTensor("w", given["weight"]), given["statistic"], given["config"])


def test_bad_options_of_sparsegpt() -> None:
    weight, inputs = layer(4, 8)
    hessian = inputs.T @ inputs
    with pytest.raises(InvalidOption, match="block 6 must be a multiple of 4"):
        prune_sparsegpt(weight, hessian, PruningConfig(granularity="2:4"), block=6)
    with pytest.raises(InvalidOption, match="'array': either a config or a mask"):
        prune_sparsegpt(weight, hessian)
    with pytest.raises(InvalidOption, match="'array': either a config or a mask"):
        prune_sparsegpt(weight, hessian, PruningConfig(0.5), mask=weight > 0)
    with pytest.raises(ShapeMismatch, match=r"mask of weight 'array' has shape \[8, 4\]"):
        prune_sparsegpt(weight, hessian, mask=weight.T > 0)
    with pytest.raises(InvalidOption, match="damping 0 must be a number above 0"):
        prune_sparsegpt(weight, hessian, PruningConfig(0.5), damping=0)
