"""Parity with the Rust reference, by bits; where we differ on purpose (docs/design.md, section 3) it is bounded."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

import oxiprune_gpu as ox
from oxiprune_gpu.selection import wanted_units
from tests import golden, oracles
from tests.golden import Case, GoldenSet, bits_of, single

SUM_TAGS = {"sum_order", "pool_sum_order", "pool_sqrt_ties"}
"""Cases made so that the order of addition decides. We add in float64, the reference in float32."""

MOST_UNIT_FLIPS = 66
"""How many cases of the full set that changes."""

EPSILON = float(np.finfo(np.float32).eps)

pytestmark = pytest.mark.usefixtures("verbs_backend")


def strict(kind: str) -> pytest.MarkDecorator:
    return golden.parametrize(lambda case: case.kind == kind and case.strict and case.fits)


def is_strict_prune(case: Case) -> bool:
    return case.kind == "prune" and case.strict and case.fits


def sum_order_decides(case: Case) -> bool:
    return case.structured and case.tag in SUM_TAGS


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def error_of(call, *arguments) -> str:
    with pytest.raises(ox.PruningError) as caught:
        call(*arguments)
    return str(caught.value)


def units_of(case: Case, tensor: ox.WeightTensor) -> list[np.ndarray]:
    return oracles.axis_units(tensor.shape, 0 if case.params["granularity"] == "row" else 1)


def prune_both_ways(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """(pruned, mask), after checking that pruning a copy and pruning in place agree."""
    tensor = case.tensor
    pruned, mask = ox.prune_tensor(tensor, case.config)
    assert tensor.data.tobytes() == case.tensor.data.tobytes(), "prune_tensor changed its argument"
    assert np.array_equal(ox.prune_tensor_inplace(tensor, case.config), mask)
    assert tensor.data.tobytes() == pruned.data.tobytes()
    assert mask.shape == tensor.shape == pruned.shape
    return pruned.data, mask


def has_reference_mask(case: Case, mask: np.ndarray) -> bool:
    return np.array_equal(mask.reshape(-1), case.array("mask").astype(bool))


def has_reference_data(case: Case, data: np.ndarray) -> bool:
    return sha256(data) == case.expect["pruned_sha256"]


@golden.parametrize(lambda case: is_strict_prune(case) and not case.fails and not sum_order_decides(case))
def test_prune(case: Case):
    pruned, mask = prune_both_ways(case)
    assert has_reference_mask(case, mask)
    assert has_reference_data(case, pruned)


@golden.parametrize(lambda case: is_strict_prune(case) and case.fails)
def test_prune_errors(case: Case):
    tensor = case.tensor
    assert error_of(ox.prune_tensor, tensor, case.config) == case.expect["error"]
    assert error_of(ox.prune_tensor_inplace, tensor, case.config) == case.expect["error"]
    assert error_of(ox.compute_mask, tensor, case.config) == case.expect["error"]
    assert tensor.data.tobytes() == case.tensor.data.tobytes()


@golden.parametrize(lambda case: is_strict_prune(case) and not case.fails and sum_order_decides(case))
def test_unit_sums(case: Case):
    """Where the order of addition decides: our documented rule, and scores close to the reference's."""
    tensor = case.tensor
    pruned, mask = prune_both_ways(case)
    units = units_of(case, tensor)
    scores = oracles.unit_scores(tensor.data, units, case.metric)
    k = case.expect["num_pruned"] // len(units[0])
    assert np.array_equal(~mask.reshape(-1), oracles.fallen_units(mask.size, units, scores, k))
    assert pruned.tobytes() == oracles.zeroed(tensor.data, ~mask).tobytes()


@golden.parametrize(lambda case: is_strict_prune(case) and case.structured and "scores" in case.expect)
def test_unit_scores_are_near_the_reference(case: Case, backend):
    """Adding n float32 terms one after another in float32 errs by at most n * eps, relatively."""
    tensor, config = case.tensor, case.config
    view = config.granularity.unit_view(tensor.shape)
    ours = backend.unit_scores(backend.adopt(tensor.data), view, config.metric, "weight")
    reference = case.array("scores").view(np.float32)
    in_range = np.isfinite(reference)  # a float32 sum overflows on the way where ours does not
    assert np.allclose(ours[in_range], reference[in_range], rtol=view.unit_size * EPSILON, atol=0)
    if config.metric.name == "random":
        assert ours.tobytes() == reference.tobytes()


def test_only_the_order_of_addition_makes_a_difference(golden_set: GoldenSet):
    structured = golden_set.where(lambda case: is_strict_prune(case) and case.structured and not case.fails)
    differing = [case for case in structured if not has_reference_mask(case, ox.compute_mask(case.tensor, case.config))]
    assert {case.tag for case in differing} <= SUM_TAGS
    assert len(differing) <= MOST_UNIT_FLIPS


@strict("importance")
def test_element_scores(case: Case):
    scores = ox.compute_importance(case.tensor, case.metric)
    assert sha256(scores.scores) == case.expect["scores_sha256"]
    assert bits_of(scores.threshold) == case.expect["threshold_default_bits"]
    check_questions(case, scores)


@strict("scores_raw")
def test_scores_as_given(case: Case):
    check_questions(case, ox.ImportanceScores(case.tensor.data))


def check_questions(case: Case, scores: ox.ImportanceScores) -> None:
    for k, key in case.expect["top_k"].items():
        assert scores.top_k(int(k)).tobytes() == case.golden.array(key).tobytes()
    check_statistics(scores.stats(), case.expect["stats_bits"], scores.scores)
    for threshold, expected in zip(case.params["thresholds_bits"], case.expect["sparsity_bits"], strict=True):
        scores.threshold = single(threshold)
        assert bits_of(scores.sparsity()) == expected


def check_statistics(stats: ox.ScoreStats, expected: dict[str, str], scores: np.ndarray) -> None:
    """Order statistics by bits. Mean and deviation against sums without rounding: the reference sums in float32."""
    reference = {key: single(bits) for key, bits in expected.items()}
    for key in ("min", "max", "median"):
        assert bits_of(getattr(stats, key)) == bits_of(reference[key]), key
    if not np.isfinite(scores).all() or not scores.size:
        assert bits_of(stats.mean) == bits_of(reference["mean"])
        assert bits_of(stats.std_dev) == bits_of(reference["std_dev"])
        return
    values = scores.reshape(-1).astype(np.float64)
    assert ulps_between(stats.mean, math.fsum(values) / values.size) <= 1
    check_deviation(stats, values)
    if np.isfinite(reference["mean"]):
        assert abs(stats.mean - float(reference["mean"])) <= values.size * EPSILON * np.abs(values).max()


def check_deviation(stats: ox.ScoreStats, values: np.ndarray) -> None:
    """As exact as float32 squares of deviations allow, which under- and overflow as the reference's do."""
    with np.errstate(all="ignore"):
        deviations = values.astype(np.float32) - np.float32(stats.mean)
        squares = deviations * deviations
    assert ulps_between(stats.std_dev, math.sqrt(math.fsum(squares) / values.size)) <= 1
    if squares.max() < np.inf and squares.max() > 1e-30:
        exact = math.sqrt(math.fsum((values - math.fsum(values) / values.size) ** 2) / values.size)
        assert ulps_between(stats.std_dev, exact) <= 4


def ulps_between(got: float, exact: float) -> float:
    with np.errstate(over="ignore"):
        nearest = np.float32(exact)
    return 0.0 if got == nearest else abs(got - exact) / float(np.spacing(np.abs(nearest)))


@strict("report")
def test_report(case: Case):
    check_report(ox.SparsityReport.compute(case.tensor), case.expect["report"])


def check_report(report: ox.SparsityReport, expected: dict) -> None:
    assert report.summary() == expected["summary"]
    assert list(report.shape) == expected["shape"]
    for key in ("name", "total_params", "nonzero_params"):
        assert getattr(report, key) == expected[key]
    for key in ("sparsity", "zero_fraction", "density"):
        assert bits_of(getattr(report, key)) == expected[key]


@strict("model_summary")
def test_model_summary(case: Case):
    summary = ox.model_sparsity_report(case.tensors)
    assert summary.summary() == case.expect["summary"]
    assert (summary.total_params, summary.total_nonzero) == (case.expect["total_params"], case.expect["total_nonzero"])
    assert bits_of(summary.overall_sparsity) == case.expect["overall_sparsity"]
    for layer, expected in zip(summary.layers, case.expect["layers"], strict=True):
        check_report(layer, expected)


@strict("model_prune")
def test_prune_model(case: Case):
    if case.fails:
        assert error_of(ox.prune_model, case.tensors, case.config) == case.expect["error"]
        return
    pruned = [tensor for tensor, _ in ox.prune_model(case.tensors, case.config)]
    assert [sha256(tensor.data) for tensor in pruned] == case.expect["pruned_sha256"]
    assert ox.model_sparsity_report(pruned).summary() == case.expect["summary_after"]
    in_place = case.tensors
    ox.prune_model(in_place, case.config, inplace=True)
    assert [sha256(tensor.data) for tensor in in_place] == case.expect["pruned_sha256"]


@strict("lcg_at")
def test_random_scores(case: Case):
    metric, places = ox.Random(int(case.params["seed"])), case.params["index"]
    jumped = np.empty(len(places), np.float32)
    metric.score(jumped, np.array(places), jumped)
    assert [bits_of(score) for score in jumped] == case.expect["bits"]
    for place, expected in zip(places, case.expect["bits"], strict=True):
        metric.score(jumped[:1], slice(place, place + 1), jumped[:1])
        assert bits_of(jumped[0]) == expected


@strict("count")
def test_how_many(case: Case):
    sparsity = case.array("sparsity_bits").view(np.float32)
    counts = [wanted_units(s, n) for s, n in zip(sparsity, case.array("n").tolist(), strict=True)]
    assert counts == case.array("count").tolist()


@strict("fmt4")
def test_four_decimals(case: Case):
    assert [f"{float(single(bits)):.4f}" for bits in case.params["bits"]] == case.expect["text"]


@strict("ctor")
def test_constructors(case: Case):
    sparsity = single(case.params["sparsity_bits"])
    name, arguments = case.params["ctor"], case.params["args"]
    make = ox.PruningConfig if name == "new" else getattr(ox.PruningConfig, name)
    config = make(sparsity, *arguments)
    assert bits_of(config.sparsity) == case.expect["sparsity"]
    assert type(config.metric).__name__ == case.expect["metric"]
    assert type(config.granularity).__name__ == case.expect["granularity"]
    assert config.min_nonzero == case.expect["min_nonzero"]


@golden.parametrize(lambda case: case.tag == "informational_nan")
def test_nan_is_refused(case: Case):
    """The reference compares NaN as equal to everything, or panics. We refuse."""
    tensor = case.tensor
    with pytest.raises(ox.NonFiniteWeight) as caught:
        ox.prune_tensor_inplace(tensor, case.config)
    assert caught.value.count == np.isnan(tensor.data).sum()
    assert tensor.data.tobytes() == case.tensor.data.tobytes()


@golden.parametrize(lambda case: not case.fits)
def test_shape_that_does_not_fit_is_refused(case: Case):
    """The reference does not look at the shape until it panics, or never. c1860 is strict, yet has such a shape."""
    with pytest.raises(ox.ShapeMismatch):
        _ = case.tensors
