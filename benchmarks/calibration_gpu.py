"""Wanda and SparseGPT on a GPU, beside what its libraries need for the work that can't be avoided.

python benchmarks/calibration_gpu.py RESULT.json ROUNDS [--quick]

The floor of SparseGPT: Cholesky of the Hessian by cuSOLVER, one product of that size by cuBLAS, which is what the
triangle's inverse comes to at least, and for each block of features the product that brings the rest up to date. The
floor of Wanda: one sort of the scores by CuPy. Results are compared with those of the CPU before.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from calibration_torch import BLOCK, RULES, WAYS, Layer
from common import Candidate, interleaved

SHAPES, SMALL = ((4096, 4096), (11008, 4096)), ((512, 256),)
ROUNDING = 0.001
"""Share of the elements that rounding may decide differently."""


def sparsegpt_floor(xp: Any, layer: Layer) -> None:
    factor = xp.linalg.cholesky(layer.hessian)
    product = factor @ factor
    single, left = product.astype(layer.weight.dtype), layer.weight.T.copy()
    for stop in range(BLOCK, len(left), BLOCK):
        left[stop:] -= single[stop - BLOCK : stop, stop:].T @ left[stop - BLOCK : stop]


def wanda_floor(xp: Any, layer: Layer) -> None:
    xp.sort(xp.abs(layer.weight), axis=1)


FLOORS: dict[str, Callable[[Any, Layer], None]] = {"wanda": wanda_floor, "sparsegpt": sparsegpt_floor}


def rows_of(xp: Any, shape: tuple[int, int], rounds: int) -> Iterator[dict[str, Any]]:
    """A row for each method and rule."""
    host = Layer.of(*shape)
    layer = Layer(xp.asarray(host.weight), xp.asarray(host.hessian))
    for method in FLOORS:
        for rule in RULES:
            what = f"{method} {rule}, {shape[0]}x{shape[1]}"
            check(what, WAYS[method][0](host, rule)[1], host_of(WAYS[method][0](layer, rule)[1]))
            yield {"what": what, "seconds": timed(xp, layer, method, rule, rounds)}


def check(what: str, mask: Any, found: Any) -> None:
    differing = np.count_nonzero(mask != found)
    if differing > ROUNDING * mask.size:
        sys.exit(f"{what}: the masks of the GPU and the CPU differ in {differing} elements")


def timed(xp: Any, layer: Layer, method: str, rule: str, rounds: int) -> dict[str, list[float | None]]:
    ours, floor = WAYS[method][0], FLOORS[method]
    candidates = [
        Candidate("oxiprune", lambda: waited(xp, lambda: ours(layer, rule))),
        Candidate("floor", lambda: waited(xp, lambda: floor(xp, layer))),
    ]
    return interleaved(candidates, rounds)


def host_of(array: Any) -> Any:
    return array.get() if hasattr(array, "get") else array


def waited(xp: Any, work: Callable[[], object]) -> None:
    work()
    if hasattr(xp, "cuda"):
        xp.cuda.Device().synchronize()


def main() -> None:
    path, rounds, *quick = sys.argv[1:]
    cupy: Any = importlib.import_module("cupy")
    rows = [row for shape in (SMALL if quick else SHAPES) for row in rows_of(cupy, shape, int(rounds))]
    Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
