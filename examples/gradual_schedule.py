"""Prunes gradually, by the cubic schedule of Zhu and Gupta 2017 (arXiv 1710.01878): much at first, ever less later.

It shows: a schedule is a loop that makes a new `PruningConfig` now and then; between two prunings the weights are
trained (here: moved at random) and the last mask holds. Runs on a GPU with CuPy where there is one, else with numpy:

    python examples/gradual_schedule.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

from oxiprune_gpu import PruningConfig, apply_mask, prune_tensor_inplace

FIRST, LAST = 0.0, 0.9
STEPS, EVERY = 100, 10


def sparsity_at(step: int) -> float:
    """s(t) = last + (first - last) * (1 - t / steps) ** 3."""
    return LAST + (FIRST - LAST) * (1 - min(step, STEPS) / STEPS) ** 3


def array_module() -> Any:
    """CuPy where a GPU is present, else numpy."""
    try:
        import cupy

        return cupy if cupy.cuda.runtime.getDeviceCount() else np
    except (ImportError, RuntimeError):
        return np


def main() -> None:
    xp = array_module()
    random = np.random.default_rng(0)
    weight = xp.asarray(random.standard_normal((256, 256), dtype=np.float32))
    mask = xp.ones(weight.shape, np.bool_)
    print(f"with {xp.__name__}")
    for step in range(STEPS + 1):
        update = xp.asarray(random.normal(0, 0.01, weight.shape).astype(np.float32))
        weight[...] = weight + update  # your training step
        if step % EVERY == 0:
            prune_tensor_inplace(weight, PruningConfig(sparsity_at(step), "l1", "unstructured"), mask_out=mask)
            zeros = weight.size - int(xp.count_nonzero(weight))
            print(f"step {step:3}: asked for {sparsity_at(step):.4f}, reached {zeros / weight.size:.4f}")
        else:
            apply_mask(weight, mask, out=weight)


if __name__ == "__main__":
    main()
