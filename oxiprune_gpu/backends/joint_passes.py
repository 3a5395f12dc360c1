"""Passes over several weights, whose spans are shared by all threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from oxiprune_gpu.backends.parallel import Span, blocks_of, over_spans, spans_of
from oxiprune_gpu.backends.scored import BlockReader, ScoredWeight

Result = TypeVar("Result")
Measure = Callable[[int, NDArray[Any]], Result]
"""From the number of a weight and the scores of a block of it, good until the next call, to what is wanted of them."""


def over_weights(weights: Sequence[ScoredWeight], make_measure: Callable[[], Measure[Result]]) -> list[list[Result]]:
    """Measure all scores, block by block, and return the measures of each weight's blocks, in their order.

    Each thread makes one measure, so a measure may own scratch memory.
    """
    tasks = [(number, span) for number, weight in enumerate(weights) for span in spans_of(weight.size)]

    def make_worker() -> Callable[[Span], list[Result]]:
        worker = _Worker(weights, make_measure())
        return lambda index: worker.measures(*tasks[index[0]])

    results: list[list[Result]] = [[] for _ in weights]
    found = over_spans(make_worker, [(index, index + 1) for index in range(len(tasks))])
    for (number, _), some in zip(tasks, found, strict=True):
        results[number].extend(some)
    return results


class _Worker:
    """Measures spans of weights. It owns scratch memory: one for each thread."""

    def __init__(self, weights: Sequence[ScoredWeight], measure: Measure[Any]) -> None:
        self._weights = weights
        self._measure = measure
        self._number = -1
        self._reader: BlockReader

    def measures(self, number: int, span: Span) -> list[Any]:
        """The measures of the blocks of a span of weight `number`."""
        if number != self._number:
            self._number, self._reader = number, BlockReader(self._weights[number])
        return [self._measure(number, self._reader.scores(*block)) for block in blocks_of(span)]
