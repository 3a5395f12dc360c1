"""Blocks over threads. numpy releases the GIL inside its loops, so threads help where blocks are large enough."""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")
Span = tuple[int, int]

BLOCK = 1 << 18
"""Elements worked on at a time, a multiple of `CHUNK`: small enough for a core's cache, large enough that a thread
seldom waits for the GIL between two numpy calls."""

CHUNK = 1 << 14
"""Spans begin at multiples of this, the unit of the documented order of addition."""

SPAN = 8 * BLOCK
"""Most elements handed to a thread at a time."""


def thread_count() -> int:
    """Threads to use: `OXIPRUNE_NUM_THREADS`, or else the processors this process may run on."""
    configured = os.environ.get("OXIPRUNE_NUM_THREADS", "")
    if configured.isdigit() and int(configured) > 0:
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

    Each thread makes one worker, so a worker may own scratch memory. The first exception is raised again.
    """
    threads = min(thread_count(), len(spans)) if len(spans) > 1 else 1
    if threads == 1:
        worker = make_worker()
        with np.errstate(all="ignore"):
            return [worker(span) for span in spans]
    numbered: SimpleQueue[tuple[int, Span]] = SimpleQueue()
    for item in enumerate(spans):
        numbered.put(item)
    results: dict[int, Result] = {}

    def drain() -> None:
        worker = make_worker()
        with np.errstate(all="ignore"):
            while True:
                try:
                    index, span = numbered.get_nowait()
                except Empty:
                    return
                results[index] = worker(span)

    from concurrent.futures import ThreadPoolExecutor  # takes as long to import as a small model to prune

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(drain) for _ in range(threads)]:
            future.result()
    return [results[index] for index in range(len(spans))]
