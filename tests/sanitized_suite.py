"""The self-test on a GPU, small enough for compute-sanitizer. A program: scripts/gpu-check runs it."""

from __future__ import annotations

import sys

import numpy as np

from oxiprune_gpu.backends import backend_on_gpu, cuda_tables, self_test


def main() -> int:
    import cupy

    cupy.cuda.set_allocator(None)  # every array its own allocation, so that its ends are known
    cuda_tables._SAMPLE_FROM, cuda_tables._SAMPLES = 20_000, 1 << 11
    outcomes = list(self_test.run(backend_on_gpu(), cupy, dtypes=[np.float32, np.float16], large=40_003))
    for outcome in outcomes:
        print(*(outcome.family, outcome.dtype, outcome.metric, outcome.problem or "ok"), sep="  ", flush=True)
    return 1 if any(not outcome.ok for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
