"""The jobs that bench_sparse_onnx.py measures, each a command of its own: 2:4 with the peers, and checks of results.

python benchmarks/sparse_jobs.py numpy|onnxsim|onnxsim-global BEFORE AFTER | check BEFORE AFTER reduction|flat|global
python benchmarks/sparse_jobs.py inspect MODEL
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import nm_rule
import numpy as np
import onnx
import onnx_jobs
from commands import beside
from onnx import numpy_helper


def numpy_prune(before: str, after: str) -> None:
    """Load, prune every weight along its reduction axis, save: what a script of one's own does."""
    model = onnx.load(before)
    for node, tensor in onnx_jobs.weights(model):
        values = numpy_helper.to_array(tensor).copy()
        values[~nm_rule.expected(values, reduction_axis(node.op_type))] = 0
        tensor.raw_data = values.tobytes()
    onnx.save(model, after)


def onnxsim_prune(before: str, after: str, **rule: Any) -> None:
    pruning: Any = importlib.import_module("onnxsim.pruning")
    onnx.save(pruning.apply_magnitude_pruning(onnx.load(before), **rule), after)


def check(before: str, after: str, rule: str) -> None:
    """Fail unless AFTER has the right zeros and no other change.

    "reduction": 2:4 along the reduction axis; "flat": 2:4 along channels x kernel of a Conv, which is what onnxsim
    groups; "global": the lowest half of all weights together.
    """
    pairs = list(pairs_of(before, after))
    if rule == "global":
        check_global([(values, pruned) for _, values, pruned in pairs])
        return
    for node, *both in pairs:
        flat = rule == "flat" and node.op_type == "Conv"
        values, pruned = (array.reshape(len(array), -1) if flat else array for array in both)
        found = nm_rule.verdict(values, pruned, reduction_axis(node.op_type))
        assert found == "right", f"{node.name}: {found}"


def pairs_of(before: str, after: str) -> Iterator[tuple[Any, Any, Any]]:
    """Each node that has a weight, and its values before and after."""
    old, new = (onnx_jobs.weights(onnx.load(path)) for path in (before, after))
    for (node, was), (_, now) in zip(old, new, strict=True):
        yield node, numpy_helper.to_array(was), numpy_helper.to_array(now)


def check_global(pairs: list[tuple[Any, Any]]) -> None:
    """Half of all fell, give or take the rounding of float32, and none of them is larger than one that stays."""
    total, fallen = (sum(int(count) for count in some) for some in zip(*map(counts, pairs), strict=True))
    assert abs(fallen - total // 2) <= total * 2**-24, f"{fallen} zeros of {total}"
    assert all(np.array_equal(np.where(pruned == 0, 0, values), pruned) for values, pruned in pairs), "changed values"
    largest = max(np.abs(values[pruned == 0]).max(initial=0) for values, pruned in pairs)
    smallest = min(np.abs(values[pruned != 0]).min(initial=np.inf) for values, pruned in pairs)
    assert largest <= smallest, f"{largest} fell and {smallest} stays"


def counts(pair: tuple[Any, Any]) -> tuple[int, int]:
    return pair[0].size, pair[1].size - np.count_nonzero(pair[1])


def inspect(path: str) -> None:
    """Fail unless polygraphy finds 2:4 in every weight."""
    said = polygraphy_says(path)
    wanted = ["sparse"] * len(onnx_jobs.weights(onnx.load(path, load_external_data=False)))
    assert said == wanted, f"polygraphy inspect sparsity: {said}"


def polygraphy_says(path: str) -> list[str]:
    """What `polygraphy inspect sparsity` says of each weight it looks at: "sparse" or "non-sparse".

    Raises:
        subprocess.CalledProcessError: it has ended with an error.
    """
    ended = subprocess.run(
        [str(beside("polygraphy")), "inspect", "sparsity", path], capture_output=True, text=True, check=True
    )
    return re.findall(r"Found ((?:non-)?sparse) tensor", ended.stdout + ended.stderr)


def reduction_axis(op: str) -> int:
    """Of the weights in the generated model: its Gemm has transB."""
    return 0 if op == "MatMul" else 1


JOBS: dict[str, Callable[..., None]] = {
    "numpy": numpy_prune,
    "onnxsim": partial(onnxsim_prune, n=nm_rule.KEEP, m=nm_rule.OF),
    "onnxsim-global": partial(onnxsim_prune, sparsity=0.5, global_sparsity=True),
    "check": check,
    "inspect": inspect,
}


def main() -> None:
    job, *rest = sys.argv[1:]
    JOBS[job](*rest)


if __name__ == "__main__":
    main()
