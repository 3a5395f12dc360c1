"""Compile every kernel for this GPU in several processes, into CuPy's cache on disk. A program: scripts/gpu-check."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time

from oxiprune_gpu.backends.cuda_tables import kernel_instances
from oxiprune_gpu.backends.kernels import source_of

MOST_PROCESSES = 12


def compile_one(instance: tuple[str, dict[str, str]]) -> str:
    """Compile one family as the loader does; what went wrong, or nothing."""
    import cupy

    family, defines = instance
    options = ("-std=c++17", *(f"-D{key}={value}" for key, value in sorted(defines.items())))
    try:
        cupy.RawModule(code=source_of(family), options=options).compile()
    except Exception as error:
        return f"{family} {defines}: {type(error).__name__}: {error}"
    return ""


def main() -> int:
    work = list(kernel_instances())
    processes = max(1, min(MOST_PROCESSES, os.cpu_count() or 1, len(work)))
    start, failed = time.monotonic(), 0
    with multiprocessing.get_context("spawn").Pool(processes) as pool:  # a CUDA context does not survive a fork
        for number, problem in enumerate(pool.imap_unordered(compile_one, work), 1):
            failed += bool(problem)
            if problem or number % 50 == 0:
                print(problem or f"{number} of {len(work)}", flush=True)
    print(f"{len(work)} modules in {time.monotonic() - start:.0f} s, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
