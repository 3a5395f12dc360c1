"""Prunes CuPy arrays where they lie, on a stream of your own, and waits once for all of them.

It shows: work goes to CuPy's current stream; `mask_out` takes the mask, so nothing is allocated for it; inside
`deferred_checks` no call waits for the GPU, and a NaN is reported at the end, by the name of its weight.

Needs a GPU and CuPy (pip install 'oxiprune-gpu[gpu]'):

    python examples/cupy_in_place.py
"""

from __future__ import annotations

import sys

import numpy as np

from oxiprune_gpu import NonFiniteWeight, PruningConfig, WeightTensor, deferred_checks, prune_tensor_inplace

try:
    import cupy
except ImportError:
    sys.exit("this example needs CuPy and an NVIDIA GPU: pip install 'oxiprune-gpu[gpu]'; `oxiprune doctor` says more")

SHAPES = {"up": (256, 64), "down": (64, 256), "head": (10, 64)}


def main() -> None:
    random = np.random.default_rng(0)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        weights = {
            name: cupy.asarray(random.standard_normal(shape, dtype=np.float32)) for name, shape in SHAPES.items()
        }
        masks = {name: cupy.empty(shape, np.bool_) for name, shape in SHAPES.items()}
        prune_all(weights, masks)
        for name, weight in weights.items():
            kept = int(cupy.count_nonzero(masks[name]))
            print(f"{name}: {weight.size - int(cupy.count_nonzero(weight)):,} zeros, {kept:,} of {weight.size:,} kept")

        weights["down"][3, 5] = np.nan
        try:
            prune_all(weights, masks)
        except NonFiniteWeight as error:
            print(f"refused: {error}")


def prune_all(weights: dict[str, cupy.ndarray], masks: dict[str, cupy.ndarray]) -> None:
    config = PruningConfig(0.5, "l1", "unstructured")
    with deferred_checks():
        for name, weight in weights.items():
            prune_tensor_inplace(WeightTensor(name, weight), config, mask_out=masks[name])
        # here the GPU has all its work, and the host has waited for none of it


if __name__ == "__main__":
    main()
