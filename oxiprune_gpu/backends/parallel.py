"""Blocks over threads. numpy releases the GIL inside its loops, so threads help where blocks are large enough."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")
Span = tuple[int, int]

BLOCK = 1 << 17
"""Elements worked on at a time: a few arrays of this length stay in a core's cache; a multiple of `CHUNK`."""

CHUNK = 1 << 14
"""Spans begin at multiples of this, the unit of the documented order of addition."""

_SPANS_PER_THREAD = 8


def thread_count() -> int:
    """Threads to use: `OXIPRUNE_NUM_THREADS`, or else the processors this process may run on."""
    configured = os.environ.get("OXIPRUNE_NUM_THREADS", "")
    if configured.isdigit() and int(configured) > 0:
        return int(configured)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def blocks_of(span: Span) -> list[Span]:
    """Cut a span into blocks."""
    start, stop = span
    return [(first, min(first + BLOCK, stop)) for first in range(start, stop, BLOCK)]


def spans_of(size: int) -> list[Span]:
    """Cut 0..size into runs of whole blocks, a few for each thread; one run when `size` is a block or less."""
    if size <= BLOCK:
        return [(0, size)]
    wanted = thread_count() * _SPANS_PER_THREAD
    length = max(1, -(-size // (wanted * BLOCK))) * BLOCK
    return [(start, min(start + length, size)) for start in range(0, size, length)]


def over_spans(make_worker: Callable[[], Callable[[Span], Result]], spans: list[Span]) -> list[Result]:
    """Call a worker on every span, on several threads, and return the results in the order of the spans.

    Each thread makes one worker, so a worker may own scratch memory. The first exception is raised again.
    """
    threads = min(thread_count(), len(spans))
    if threads <= 1:
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

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(drain) for _ in range(threads)]:
            future.result()
    return [results[index] for index in range(len(spans))]
