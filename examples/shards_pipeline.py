"""Prunes the shards of a large model on a GPU as they arrive: one is copied while the one before is pruned.

It shows: two streams and page-locked memory let copies and pruning overlap; a call waits for its own stream only.

Needs a GPU and CuPy (pip install 'oxiprune-gpu[gpu]'); prints how long the parts take alone, and all together:

    python examples/shards_pipeline.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter

import numpy as np

from oxiprune_gpu import PruningConfig, WeightTensor, prune_tensor_inplace

try:
    import cupy
except ImportError:
    sys.exit("this example needs CuPy and an NVIDIA GPU: pip install 'oxiprune-gpu[gpu]'; `oxiprune doctor` says more")


def main(shards: int = 8, elements: int = 32 << 20) -> None:
    config = PruningConfig(0.5, "l1", "unstructured")
    *waiting, spare = [page_locked(elements) for _ in range(shards + 1)]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    rooms = [cupy.empty(elements, np.float32) for _ in streams]

    def pipeline(shards: list[np.ndarray]) -> None:
        rooms[0].set(shards[0], streams[0])
        for number, shard in enumerate(shards):
            here, there = number % 2, (number + 1) % 2
            if number + 1 < len(shards):  # the next one sets out; on its stream, after the one that left that room
                rooms[there].set(shards[number + 1], streams[there])
            with streams[here]:
                prune_tensor_inplace(WeightTensor(f"shard {number}", rooms[here]), config)
            rooms[here].get(streams[here], out=shard, blocking=False)

    def timed(what: str, work: Callable[[], object]) -> float:
        started = perf_counter()
        work()
        cupy.cuda.runtime.deviceSynchronize()
        seconds = perf_counter() - started
        print(f"{what:16} {seconds * 1e3:9.2f} ms")
        return seconds

    timed("first shard", lambda: pipeline(waiting[:1]))  # compiles the kernels
    alone = timed("copies in alone", lambda: [rooms[0].set(shard, streams[0]) for shard in waiting])
    alone += timed("pruning alone", lambda: [prune_tensor_inplace(rooms[0], config) for _ in waiting])
    alone += timed("copies out alone", lambda: [rooms[0].get(streams[0], out=spare, blocking=False) for _ in waiting])
    print(f"as a pipeline {alone / timed('all three', lambda: pipeline(waiting)):.2f} times as fast as one by one")


def page_locked(elements: int) -> np.ndarray:
    shard = np.frombuffer(cupy.cuda.alloc_pinned_memory(4 * elements), np.float32, elements)
    np.random.default_rng(0).standard_normal(out=shard, dtype=np.float32)
    return shard


if __name__ == "__main__":
    main()
