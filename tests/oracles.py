"""Slow truth: what docs/design.md says, written down again without the ways that make it fast.

Nothing here is shared with `oxiprune_gpu`, so an error would have to be made twice to stay hidden.
"""

from __future__ import annotations

import math

import numpy as np

CHUNK = 16_384
LANES = 128


def score_dtype(dtype: np.dtype) -> np.dtype:
    """float64 weights are scored in float64, all others in float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def element_scores(weight: np.ndarray, metric: str, gradient: np.ndarray | None = None) -> np.ndarray:
    """Scores of the elements, flat. `metric` is l1, l2, taylor (with a gradient: the real one) or random:SEED."""
    values = weight.reshape(-1).astype(score_dtype(weight.dtype))
    with np.errstate(all="ignore"):
        if gradient is not None:
            return np.abs(values * gradient.reshape(-1).astype(values.dtype))
        if metric == "l1":
            return np.abs(values)
        if metric in ("l2", "taylor"):
            return values * values
    return random_stream(int(metric.removeprefix("random:")), values.size).astype(values.dtype)


def random_stream(seed: int, count: int) -> np.ndarray:
    """The first `count` random scores, step by step."""
    scores = np.empty(count, np.float32)
    state = seed
    for index in range(count):
        state, scores[index] = random_step(state)
    return scores


def random_step(state: int) -> tuple[int, np.float32]:
    """The next state of the generator, and the score it gives."""
    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
    return state, np.float32(state >> 32) * np.float32(2.0**-32)


def lowest(scores: np.ndarray, k: int) -> np.ndarray:
    """Which of some scores fall: the k lowest, of equal ones the first. NaN is not allowed."""
    fallen = np.zeros(len(scores), bool)
    fallen[np.argsort(scores, kind="stable")[:k]] = True
    return fallen


def lowest_of_all(weights: list[np.ndarray], metric: str, k: int) -> list[np.ndarray]:
    """Which elements (flat) of each weight fall when all compete: scored apart, compared in the widest score dtype."""
    scores = np.concatenate([element_scores(weight, metric) for weight in weights])
    ends = np.cumsum([weight.size for weight in weights])
    return np.split(lowest(scores, k), ends[:-1])


def axis_units(shape: tuple[int, ...], axis: int, groups: int = 1) -> list[np.ndarray]:
    """Flat element numbers of each slice along an axis, when axis 0 is cut into groups with slices of their own."""
    numbers = np.arange(math.prod(shape)).reshape(shape)
    parts = np.split(numbers, groups, axis=0)
    return [part.take(unit, axis).reshape(-1) for part in parts for unit in range(part.shape[axis])]


def unit_scores(weight: np.ndarray, units: list[np.ndarray], metric: str, **options: np.ndarray) -> np.ndarray:
    """Score of each unit: the sum of its elements' scores in the documented order; random: the first of seed + unit."""
    if metric.startswith("random:"):
        seed = int(metric.removeprefix("random:"))
        exact = [float(random_step((seed + unit) % 2**64)[1]) for unit in range(len(units))]
    else:
        scores = element_scores(weight, metric, **options)
        exact = [ordered_sum(scores[unit]) for unit in units]
    if metric == "l2" or (metric == "taylor" and not options):
        exact = [math.sqrt(total) for total in exact]
    with np.errstate(over="ignore"):
        return np.array(exact, np.float64).astype(score_dtype(weight.dtype))


def ordered_sum(terms: np.ndarray) -> float:
    """Sum in float64: chunks of 16,384; term i of a chunk to lane i mod 128; lanes folded in halves; chunks in turn."""
    total = 0.0
    for start in range(0, len(terms), CHUNK):
        lanes = [0.0] * LANES
        for index, term in enumerate(terms[start : start + CHUNK].tolist()):
            lanes[index % LANES] += term
        width = LANES
        while width > 1:
            width //= 2
            for lane in range(width):
                lanes[lane] += lanes[lane + width]
        total += lanes[0]
    return total


def fallen_units(size: int, units: list[np.ndarray], scores: np.ndarray, k: int) -> np.ndarray:
    """Which elements (flat) fall when the k lowest units do."""
    fallen = np.zeros(size, bool)
    for unit in np.flatnonzero(lowest(scores, k)):
        fallen[units[unit]] = True
    return fallen


def block_units(shape: tuple[int, ...], height: int, width: int) -> list[np.ndarray]:
    """Flat element numbers of each block of the first two axes, from left to right, then downwards."""
    numbers = np.arange(math.prod(shape)).reshape(shape)
    corners = [(row, column) for row in range(0, shape[0], height) for column in range(0, shape[1], width)]
    return [numbers[row : row + height, column : column + width].reshape(-1) for row, column in corners]


def fallen_of_groups(scores: np.ndarray, keep: int, of: int, axis: int, pad: bool = False) -> np.ndarray:
    """Which elements fall when of every `of` neighbours along an axis the `keep` highest stay.

    Whole groups only; with `pad` lines are first filled up to whole groups by elements that fall before all others.
    """
    fallen = np.zeros(scores.shape, bool)
    lines, marks = np.moveaxis(scores, axis, -1), np.moveaxis(fallen, axis, -1)
    for place in np.ndindex(lines.shape[:-1]):
        line = lines[place].tolist() + [-1.0] * (-lines.shape[-1] % of if pad else 0)
        for first in range(0, len(line) - of + 1, of):
            falls = lowest(np.array(line[first : first + of]), of - keep)
            marks[place][first : first + of] = falls[: lines.shape[-1] - first]
    return fallen


def zeroed(weight: np.ndarray, fallen: np.ndarray) -> np.ndarray:
    """A copy of the weight in which the fallen elements are +0.0."""
    result = weight.copy(order="C")
    result.reshape(-1)[fallen.reshape(-1)] = 0
    return result


def statistics(scores: np.ndarray) -> dict[str, float]:
    """Statistics of scores: sums in the documented order, one rounding to the score dtype."""
    scalar = scores.dtype.type
    ordered = np.sort(scores)
    middle = len(scores) // 2
    with np.errstate(all="ignore"):
        mean = scalar(ordered_sum(scores) / len(scores))
        deviation = scores - mean
        variance = ordered_sum(deviation * deviation) / len(scores)
        median = ordered[middle] if len(scores) % 2 else (ordered[middle - 1] + ordered[middle]) / scalar(2)
        std_dev = scalar(math.sqrt(variance)) if variance >= 0 else scalar(math.nan)
    return {"minimum": ordered[0], "maximum": ordered[-1], "mean": mean, "median": median, "std_dev": std_dev}
