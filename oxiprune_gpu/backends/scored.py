"""A weight together with the metric that scores it, read block by block."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.parallel import BLOCK, Span, blocks_of, cut, over_spans, spans_of
from oxiprune_gpu.blocks import BlockSource
from oxiprune_gpu.errors import DenormalsFlushed, NonFiniteScore, NonFiniteWeight
from oxiprune_gpu.metrics import ImportanceMetric, Positions

Array = NDArray[Any]


_SINGLE = np.dtype(np.float32), np.dtype(np.uint32), 0x7F80_0000
_DOUBLE = np.dtype(np.float64), np.dtype(np.uint64), 0x7FF0_0000_0000_0000
"""Score dtype, key dtype, and the key of infinity."""


_PIECE = 1 << 13
"""Elements sampled at a time: what is allocated for them stays with the allocator and is not paged in anew."""

_TINY, _ONE = np.float32(1e-40), np.float32(1)
"""Their product is 0 only where the processor flushes denormal numbers."""


class ScoredWeight:
    """A weight seen through its scores, and through the integer keys of its scores.

    A key is the bits of a score as an unsigned integer. Scores are not negative, so keys have the order of scores;
    a NaN has a key above `infinity`.
    """

    def __init__(self, source: BlockSource, metric: ImportanceMetric, name: str) -> None:
        if _TINY * _ONE == 0:
            raise DenormalsFlushed(name)
        self.source = source
        self.metric = metric
        self.name = name
        self.size = math.prod(source.shape)
        self.dtype = source.dtype
        kinds = _DOUBLE if source.dtype == np.float64 else _SINGLE
        self.score_dtype: np.dtype[Any] = kinds[0]
        self.key_dtype: np.dtype[Any] = kinds[1]
        self.infinity = kinds[2]

    def keys_at(self, places: NDArray[np.intp]) -> Array:
        """Keys of the elements at `places`, which ascend."""
        return self._keys_of(self.source.take(places), places)

    def keys_of_runs(self, runs: NDArray[np.intp], length: int) -> Array:
        """Keys, (len(runs), length), of the elements run * length.. of each of `runs`, which ascend."""
        keys = np.empty((len(runs), length), self.key_dtype)
        for first, stop in cut((0, len(runs)), max(1, _PIECE // length)):
            some = runs[first:stop]
            places = (some * length)[:, None] + np.arange(length)
            values = self.source.take_runs(some, length)
            keys[first:stop] = self._keys_of(values.reshape(-1), places.reshape(-1)).reshape(places.shape)
        return keys

    def _keys_of(self, values: Array, places: NDArray[np.intp]) -> Array:
        values = values.astype(self.score_dtype, copy=False)
        scores = np.empty(values.shape, self.score_dtype)
        self.score(values, places, scores)
        return scores.view(self.key_dtype)

    def score(self, values: Array, positions: Positions, out: Array) -> None:
        """Write the scores of `values`, in the score dtype, to `out`; NaN in a value is NaN in its score."""
        self.metric.score(values, positions, out)
        if not self.metric.reads_weight:
            out[np.isnan(values)] = np.nan

    def score_of(self, key: Any) -> Any:
        """The score that has this key."""
        return np.array(key, self.key_dtype).view(self.score_dtype)[()]

    def raise_if_nan(self, top: Any) -> None:
        """Raise the right error when `top`, the highest key seen, belongs to a NaN."""
        if top <= self.infinity:
            return
        in_weight = sum(over_spans(lambda: BlockReader(self).count_nan_values, spans_of(self.size)))
        if in_weight:
            raise NonFiniteWeight(self.name, in_weight)
        if in_gradient := self.metric.count_nan():
            raise NonFiniteWeight(self.name, in_gradient, "gradient")
        raise NonFiniteScore(
            self.name, sum(over_spans(lambda: BlockReader(self).count_nan_scores, spans_of(self.size)))
        )


class BlockReader:
    """Loads blocks of a weight and computes their scores. It owns scratch memory: one for each thread."""

    def __init__(self, weight: ScoredWeight, block: int | None = None) -> None:
        block = min(block or BLOCK, weight.size)
        self._weight = weight
        self._raw = np.empty(block, weight.dtype)
        self._wide = self._raw if weight.dtype == weight.score_dtype else np.empty(block, weight.score_dtype)
        self._scores = np.empty(block, weight.score_dtype)

    def load(self, start: int, stop: int) -> Array:
        """Elements start..stop in the weight's own dtype; change them only to `store` them."""
        return self._weight.source.load(start, stop, self._raw)

    def scores_of(self, values: Array, start: int) -> Array:
        """Scores of loaded `values`, whose first is element `start`; good until the next call."""
        wide = self._widened(values)
        scores = self._scores[: len(values)]
        self._weight.score(wide, slice(start, start + len(values)), scores)
        return scores

    def keys_of(self, values: Array, start: int) -> Array:
        """Keys of loaded `values`; good until the next call."""
        return self.scores_of(values, start).view(self._weight.key_dtype)

    def keys(self, start: int, stop: int) -> Array:
        """Keys of the elements start..stop; good until the next call."""
        return self.keys_of(self.load(start, stop), start)

    def scores(self, start: int, stop: int) -> Array:
        """Scores of the elements start..stop; good until the next call."""
        return self.scores_of(self.load(start, stop), start)

    def count_nan_values(self, span: Span) -> int:
        """NaN among the values of a span."""
        return sum(int(np.count_nonzero(np.isnan(self._widened(self.load(*block))))) for block in blocks_of(span))

    def count_nan_scores(self, span: Span) -> int:
        """NaN among the scores of a span."""
        return sum(int(np.count_nonzero(np.isnan(self.scores(*block)))) for block in blocks_of(span))

    def _widened(self, values: Array) -> Array:
        if values.dtype == self._weight.score_dtype:
            return values
        wide = self._wide[: len(values)]
        np.copyto(wide, values)
        return wide
