"""Blocks over threads. numpy releases the GIL inside its loops, so threads help where blocks are large enough."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from operator import itemgetter
from queue import Empty, SimpleQueue
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")
Span = tuple[int, int]

BLOCK = 1 << 19
"""Elements worked on at a time, a multiple of `CHUNK`: small enough for the processor's shared cache, large enough
that a thread seldom waits for the GIL between two numpy calls."""

CHUNK = 1 << 14
"""Spans begin at multiples of this, the unit of the documented order of addition."""

SPAN = 4 * BLOCK
"""Most elements handed to a thread at a time: their part of a fresh mask is a large page, which one thread touches
first. Two that touch it at once would both have it zeroed."""


quietly = np.errstate(all="ignore")
"""Decorates what computes scores: they overflow, underflow and meet infinities as they must."""


def thread_count() -> int:
    """Threads to use: `OXIPRUNE_NUM_THREADS`, or else the processors this process may run on."""
    configured = os.environ.get("OXIPRUNE_NUM_THREADS", "")
    if configured.isascii() and configured.isdecimal() and int(configured) > 0:
        return int(configured)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cut(span: Span, length: int) -> list[Span]:
    """Cut a span into pieces of `length`; the last may be shorter."""
    start, stop = span
    return [(first, min(first + length, stop)) for first in range(start, stop, length)]


def blocks_of(span: Span) -> list[Span]:
    """Cut a span into blocks."""
    return cut(span, BLOCK)


def spans_of(size: int) -> list[Span]:
    """Cut 0..size into runs of whole blocks, at least one for each thread where there are so many blocks."""
    if size <= BLOCK:
        return [(0, size)] if size else []
    length = min(SPAN, max(1, size // (thread_count() * BLOCK)) * BLOCK)
    return cut((0, size), length)


def over_spans(make_worker: Callable[[], Callable[[Span], Result]], spans: list[Span]) -> list[Result]:
    """Call a worker on every span, on several threads, and return the results in the order of the spans.

    Each thread makes one worker, so a worker may own scratch memory. The threads work `quietly`, as the caller must
    where scores are computed. After an exception no span is begun any more, and it is raised again.
    """
    threads = min(thread_count(), len(spans)) if len(spans) > 1 else 1
    if threads == 1:
        worker = make_worker()
        return [worker(span) for span in spans]
    queue = _SpanQueue(spans)

    def drain() -> list[tuple[int, Result]]:
        with queue.closing_on_error(), np.errstate(all="ignore"):
            worker = make_worker()
            return [(index, worker(span)) for index, span in queue]

    from concurrent.futures import ThreadPoolExecutor  # takes as long to import as a small model to prune

    with ThreadPoolExecutor(threads) as pool, queue.closing_on_error():
        done = [future.result() for future in [pool.submit(drain) for _ in range(threads)]]
    return [result for _, result in sorted(chain(*done), key=itemgetter(0))]


class _SpanQueue:
    """Spans with their numbers, handed to several threads until one fails."""

    def __init__(self, spans: list[Span]) -> None:
        self._items: SimpleQueue[tuple[int, Span]] = SimpleQueue()
        for item in enumerate(spans):
            self._items.put(item)

    def __iter__(self) -> Iterator[tuple[int, Span]]:
        with suppress(Empty):
            while True:
                yield self._items.get_nowait()

    @contextmanager
    def closing_on_error(self) -> Iterator[None]:
        """Hand out no more when the block fails or is interrupted."""
        try:
            yield
        except BaseException:
            for _ in self:
                pass
            raise
